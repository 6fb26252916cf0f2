"""Every loss against its formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

from advjax import losses

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=3, size=(20, 5))
LABELS = RNG.integers(0, 5, 20)


@pytest.mark.parametrize("name", ["cross_entropy", "margin", "dlr"])
def test_classification_losses_equal_the_reference(name):
    ours = getattr(losses, name)(jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LABELS))
    slow = getattr(reference, name)
    theirs = [slow(z, label) for z, label in zip(LOGITS, LABELS, strict=True)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_kl_equals_the_reference_and_vanishes_at_equality():
    other = RNG.normal(size=(20, 5))
    ours = losses.kl(jnp.asarray(LOGITS, jnp.float32), jnp.asarray(other, jnp.float32))
    theirs = [reference.kl(p, q) for p, q in zip(LOGITS, other, strict=True)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    same = jnp.asarray(LOGITS, jnp.float32)
    np.testing.assert_array_equal(losses.kl(same, same), 0)
    for argument in (0, 1):
        grad = jax.grad(lambda p, q: losses.kl(p, q).sum(), argument)(same, same)
        np.testing.assert_allclose(grad, 0, atol=1e-6)


def test_kl_of_half_precision_is_that_of_single():
    p, q = (jnp.asarray(LOGITS + shift, jnp.bfloat16) for shift in (0.0, 0.1 * LOGITS))
    wide = losses.kl(p.astype(jnp.float32), q.astype(jnp.float32))
    np.testing.assert_array_equal(losses.kl(p, q), wide)


@pytest.mark.parametrize("name", ["cross_entropy", "margin", "dlr"])
@pytest.mark.parametrize("offset", [-1e4, 1e4])
def test_a_constant_added_to_all_logits_changes_nothing(name, offset):
    # Multiples of 1/64 stay exact at this offset, so that any change is the loss's own.
    logits = jnp.asarray(np.round(LOGITS * 64) / 64, jnp.float32)
    loss, labels = getattr(losses, name), jnp.asarray(LABELS)
    shifted = loss(logits + offset, labels)
    np.testing.assert_allclose(shifted, loss(logits, labels), rtol=1e-5, atol=1e-6)


def test_cross_entropy_equals_optax_in_value_and_gradient():
    logits, labels = jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LABELS)
    optax_loss = optax.losses.softmax_cross_entropy_with_integer_labels
    for ours, theirs in zip(
        *(
            jax.value_and_grad(lambda z, loss=loss: loss(z, labels).sum())(logits)
            for loss in (losses.cross_entropy, optax_loss)
        ),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("lead", [20.0, 50.0, 80.0])
def test_a_confident_network_keeps_its_loss_and_its_direction(lead):
    # The true gradient is exp(-lead) (p_1, p_2, -1) with p the softmax of the others.
    logits, label = jnp.array([[1.0, 2.0, 2.0 + lead]]), jnp.array([2])
    loss, grad = jax.value_and_grad(lambda z: losses.cross_entropy(z, label).sum())(
        logits
    )
    rivals = np.exp([1.0, 2.0])
    np.testing.assert_allclose(
        loss, rivals.sum() * np.exp(-2.0 - lead), rtol=1e-5, atol=0
    )
    direction = [*(rivals / rivals.sum()), -1.0]
    np.testing.assert_allclose(grad[0] / -grad[0, 2], direction, rtol=1e-5)


def test_saturated_logits_stay_finite():
    z = jnp.array([[1e4, 0.0, -1e4]])
    for label in range(3):
        value = losses.cross_entropy(z, jnp.array([label]))
        np.testing.assert_allclose(value, [[0.0, 1e4, 2e4][label]], rtol=1e-6)
    assert jnp.isfinite(losses.kl(z, -z)).all()


def test_dlr_does_not_depend_on_the_scale_of_the_logits():
    logits, labels = jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LABELS)
    np.testing.assert_allclose(
        losses.dlr(100 * logits, labels), losses.dlr(logits, labels), rtol=1e-5
    )


def test_dlr_needs_three_classes():
    with pytest.raises(ValueError, match=r"at least 3 classes, got 2; use .*margin"):
        losses.dlr(jnp.zeros((4, 2)), jnp.zeros(4, int))


def test_margin_is_positive_exactly_where_misclassified():
    logits, labels = jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LABELS)
    wrong = jnp.argmax(logits, axis=-1) != labels
    np.testing.assert_array_equal(losses.margin(logits, labels) > 0, wrong)


def test_losses_of_a_scalar_output():
    z, y = jnp.array([-2.0, 0.5, 200.0]), jnp.array([1.0, -1.0, -1.0])
    margin = np.asarray(z * y, np.float64)
    np.testing.assert_allclose(losses.logistic(z, y), np.log1p(np.exp(-margin)))
    np.testing.assert_allclose(losses.exponential(z, y)[:2], np.exp(-margin)[:2])
    np.testing.assert_allclose(losses.squared_error(z, y), (z - y) ** 2)


@pytest.mark.parametrize(
    "name", ["squared_error", "logistic", "exponential", "cross_entropy", "margin"]
)
def test_shapes_that_would_broadcast_are_refused(name):
    first = jnp.zeros((4, 3)) if name in ("cross_entropy", "margin") else jnp.zeros(4)
    with pytest.raises(ValueError, match=r"has shape \(4,\), .* \(4, 1\); make them"):
        getattr(losses, name)(first, jnp.zeros((4, 1), int))


def test_labels_that_are_no_class_give_nan():
    for label in (-1, 3, 100):
        loss = losses.cross_entropy(jnp.zeros((2, 3)), jnp.array([label, 0]))
        np.testing.assert_array_equal(jnp.isnan(loss), [True, False])
    with pytest.raises(ValueError, match="logits have 1 class"):
        losses.cross_entropy(jnp.zeros((2, 1)), jnp.zeros(2, int))


def test_dlr_of_tied_logits_is_finite_in_half_precision():
    tied = jnp.ones((1, 4), jnp.float16)
    np.testing.assert_array_equal(losses.dlr(tied, jnp.zeros(1, int)), 0)


def test_second_derivatives_of_the_logistic_loss_keep_their_digits():
    second = jax.vmap(jax.grad(jax.grad(losses.logistic)), (0, None))
    z = jnp.array([-40.0, -20.0, -3.0, 0.0, 3.0, 20.0, 40.0])
    for y in (1.0, -1.0):
        exact = np.exp(-np.abs(np.asarray(z, float)))
        exact = exact / (1 + exact) ** 2
        np.testing.assert_allclose(second(z, jnp.float32(y)), exact, rtol=1e-5)


@pytest.mark.parametrize("labels", [[0.0, 1.0], [False, True]])
def test_labels_are_integers_and_targets_are_not(labels):
    for loss in (losses.cross_entropy, losses.margin):
        with pytest.raises(ValueError, match="labels have dtype"):
            loss(jnp.zeros((2, 3)), jnp.asarray(labels))
    with pytest.raises(ValueError, match=r"y has dtype int\d+: the targets"):
        losses.squared_error(jnp.zeros(2), jnp.array([0, 1]))


@pytest.mark.parametrize("loss", [losses.logistic, losses.exponential])
def test_what_is_no_sign_gives_nan(loss):
    found = loss(jnp.ones(4), jnp.array([-1, 1, 0, 2]))
    np.testing.assert_array_equal(jnp.isnan(found), [False, False, True, True])


def test_masked_classes_do_not_count_and_have_finite_gradients():
    """A logit of minus infinity leaves the loss of the other classes."""
    masked, free = jnp.array([2.0, 1.0, -jnp.inf]), jnp.array([2.0, 1.0])
    other, two = jnp.array([1.0, 1.5, -jnp.inf]), jnp.array([1.0, 1.5])
    np.testing.assert_allclose(
        losses.kl(masked, other), losses.kl(free, two), rtol=1e-6
    )
    for argument in (0, 1):
        grad = jax.grad(losses.kl, argument)(masked, other)
        expected = jax.grad(losses.kl, argument)(free, two)
        np.testing.assert_allclose(grad, [*expected, 0], atol=1e-7)
    assert jnp.isinf(losses.kl(jnp.array([2.0, 1.0, 0.0]), other))
    label = jnp.array(0)
    for loss in (losses.cross_entropy, losses.margin):
        np.testing.assert_allclose(loss(masked, label), loss(free, label), rtol=1e-6)
        grad, expected = jax.grad(loss)(masked, label), jax.grad(loss)(free, label)
        np.testing.assert_allclose(grad, [*expected, 0], atol=1e-7)
    batch = jnp.stack([masked, other])
    assert jnp.isfinite(losses.kl(batch, batch[::-1])).all()


def test_shapes_of_two_distributions_must_agree():
    with pytest.raises(ValueError, match=r"logits_p has shape \(4, 3\), logits_q"):
        losses.kl(jnp.zeros((4, 3)), jnp.zeros((1, 3)))


def test_a_label_or_all_its_rivals_masked():
    """Without a rival the loss is 0, without the label infinite; no gradient is nan."""
    logits = jnp.array([[2.0, -jnp.inf, -jnp.inf], [-jnp.inf, 1.0, 2.0]])
    labels = jnp.zeros(2, int)
    np.testing.assert_array_equal(losses.cross_entropy(logits, labels), [0, jnp.inf])
    grad = jax.grad(lambda z: losses.cross_entropy(z, labels[:1]).sum())(logits[:1])
    np.testing.assert_array_equal(grad, 0)


def test_dlr_does_not_exist_where_masks_leave_two_classes():
    logits = jnp.array([[1.0, 2.0, -jnp.inf, -jnp.inf], [1.0, 2.0, 0.0, -jnp.inf]])
    found = losses.dlr(logits, jnp.array([0, 0]))
    np.testing.assert_array_equal(jnp.isnan(found), [True, False])
