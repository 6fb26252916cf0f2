"""Which outputs are right, and which of two points is the stronger."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import criteria, losses
from advjax.criteria import Judgement

LOGITS = np.array([[1, 3, 2], [0, 0, -1], [np.nan, 1, 2]], np.float32)


def test_classes_are_judged_by_their_largest_output():
    right = criteria.correct(LOGITS, jnp.array([1, 0, 2]))
    # Among equals the first counts, and nan is wrong.
    np.testing.assert_array_equal(right, [True, True, False])
    np.testing.assert_array_equal(
        criteria.correct(LOGITS, jnp.array([2, 1, 0])), [False, False, False]
    )


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32])
def test_integers_of_every_size_are_labels(dtype):
    y = np.array([1, 0, 2], dtype)
    np.testing.assert_array_equal(criteria.correct(LOGITS, y), [True, True, False])
    outputs = jnp.arange(300.0)[None].repeat(2, axis=0)
    y = np.array([299 % 2 ** (8 * np.dtype(dtype).itemsize), 3]).astype(dtype)
    expected = int(y[0]) == 299
    np.testing.assert_array_equal(criteria.correct(outputs, y), [expected, False])


def test_one_logit_is_right_on_its_side_and_wrong_on_the_boundary():
    z = jnp.array([2.0, -2.0, 0.0, 0.0, jnp.nan, jnp.inf])
    y = jnp.array([1, 1, 1, -1, 1, 1])
    expected = [True, False, False, False, False, True]
    np.testing.assert_array_equal(criteria.correct(z, y), expected)
    expected = [False, True, False, False, False, False]
    np.testing.assert_array_equal(criteria.correct(-z, y), expected)


def test_masked_classes_do_not_count():
    logits = jnp.array([[1.0, -jnp.inf, 0.5], [-jnp.inf, -jnp.inf, 0.5]])
    np.testing.assert_array_equal(
        criteria.correct(logits, jnp.array([0, 2])), [True, True]
    )


def test_what_is_no_label_is_wrong_and_undefined_where_it_is_traced():
    y = jnp.array([5, -1, 1])
    np.testing.assert_array_equal(
        jax.jit(criteria.correct)(LOGITS[:, ::-1], y)[:2], False
    )
    np.testing.assert_array_equal(criteria.defined(LOGITS, y), [False, False, False])
    np.testing.assert_array_equal(
        criteria.defined(LOGITS, jnp.array([0, 1, 2])), [True, True, False]
    )
    z, signs = jnp.ones(3), jnp.array([0, 2, 1])
    np.testing.assert_array_equal(
        jax.jit(criteria.correct)(z, signs), [False, False, True]
    )
    np.testing.assert_array_equal(criteria.defined(z, signs), [False, False, True])


@pytest.mark.parametrize(
    ("output", "y", "words"),
    [
        (jnp.ones((4, 1)), jnp.ones(4, int), r"\(4, 1\), y \(4,\) of int"),
        (jnp.ones(4), jnp.ones((4, 1), int), r"\(4,\), y \(4, 1\)"),
        (jnp.ones((4, 3)), jnp.ones((4, 3), int), r"\(4, 3\), y \(4, 3\)"),
        (jnp.ones((4, 3)), jnp.ones(3, int), r"\(4, 3\), y \(3,\)"),
        (jnp.ones((4, 2, 3)), jnp.ones(4, int), r"\(4, 2, 3\), y \(4,\)"),
        (jnp.ones(()), jnp.ones((), int), r"\(\), y \(\)"),
        (jnp.ones((4, 3)), jnp.ones(4), "labels are integers"),
        (jnp.ones(4), jnp.ones(4, bool), "labels have dtype bool: give integers"),
        (jnp.ones(4), jnp.array([0, 1, 1, 0]), r"are \[0, 1\]: give -1 and 1"),
        ((jnp.ones((4, 3)), 1), jnp.ones(4, int), "the model returns a tuple"),
    ],
)
def test_what_does_not_fit_is_one_error(output, y, words):
    with pytest.raises(ValueError, match=words):
        criteria.correct(output, y)


def test_a_goal_is_a_loss_that_also_judges():
    goal = criteria.Goal(lambda x: LOGITS + x, losses.cross_entropy)
    x, y = jnp.zeros((3, 3)), jnp.array([1, 2, 0])
    judged = criteria.judge(goal, x, y)
    np.testing.assert_array_equal(judged.loss, goal(x, y))
    np.testing.assert_array_equal(judged.fooled, [False, True, True])
    plain = criteria.judge(lambda x, y: goal(x, y), x, y)
    assert not plain.fooled.any()
    assert jax.jit(lambda x: criteria.judge(goal, x, y))(x).loss.shape == (3,)
    # A goal is hashable, so that it may be a static argument.
    assert hash(goal) == hash(criteria.Goal(goal.predict, goal.loss))


def test_a_targeted_goal_is_reached_at_the_wanted_class():
    goal = criteria.targeted(lambda x: LOGITS[:2] + x, losses.margin)
    judged = criteria.judge(goal, jnp.zeros((2, 3)), jnp.array([1, 2]))
    np.testing.assert_array_equal(judged.fooled, [True, False])
    np.testing.assert_allclose(judged.loss, [1.0, -1.0])


def test_a_criterion_of_your_own_decides():
    half = lambda output, y: jnp.mean(output > 0, axis=-1) < 0.5  # noqa: E731
    goal = criteria.Goal(lambda x: x, lambda z, y: z.sum(axis=-1), half)
    x = jnp.array([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0]])
    np.testing.assert_array_equal(goal.judge(x, x).fooled, [False, True])


def test_a_fooled_point_comes_first_then_the_larger_loss():
    fooled, right = jnp.array([True]), jnp.array([False])

    def better(new, old):
        return bool(criteria.better(Judgement(*new), Judgement(*old))[0])

    one, two, nan = (jnp.array([value]) for value in (1.0, 2.0, jnp.nan))
    assert better((one, fooled), (two, right))
    assert not better((two, right), (one, fooled))
    assert better((two, right), (one, right))
    assert better((two, fooled), (one, fooled))
    assert not better((one, right), (one, right))
    # nan is the largest loss and stays visible, but does not hide a fooled point.
    assert better((nan, right), (two, right))
    assert not better((two, right), (nan, right))
    assert not better((nan, right), (one, fooled))


def test_wrong_shapes_of_losses_and_criteria_are_refused():
    x, y = jnp.zeros((3, 2)), jnp.zeros(3, int)
    with pytest.raises(ValueError, match=r"loss_fn returned shape \(3, 2\) for 3"):
        criteria.judge(lambda x, y: x, x, y)
    goal = criteria.Goal(lambda x: x, losses.cross_entropy, lambda z, y: z > 0)
    with pytest.raises(ValueError, match=r"criterion returned shape \(3, 2\) for 3"):
        criteria.judge(goal, x, y)
