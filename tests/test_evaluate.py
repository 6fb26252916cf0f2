"""Outcomes, intervals, batches and worst cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from advjax import attacks, evaluate, losses, norms
from advjax.types import example_keys

pytestmark = pytest.mark.usefixtures("unoptimised")

RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
X = jnp.asarray(RNG.normal(size=(23, 4)), jnp.float32)
Y = jnp.argmax(X @ W, axis=1).at[:5].set(0)
ATTACK = attacks.pgd(
    norms.linf, num_steps=3, rel_step_size=0.5, start=attacks.in_ball(norms.linf)
)


def _predict(x):
    return x @ W


def _outcome(key, x, y, attack=ATTACK, eps=0.3):
    return evaluate.outcome(key, _predict, losses.cross_entropy, attack, x, y, eps)


def test_outcome_is_recomputed_from_the_attacked_inputs(key):
    result = _outcome(key, X, Y)
    x_adv, _ = ATTACK(key, lambda x, y: losses.cross_entropy(_predict(x), y), X, Y, 0.3)
    clean, attacked = (jnp.argmax(_predict(x), axis=1) == Y for x in (X, x_adv))
    np.testing.assert_array_equal(result.correct, clean)
    np.testing.assert_array_equal(result.robust, clean & attacked)
    np.testing.assert_allclose(
        result.robust_loss, losses.cross_entropy(_predict(x_adv), Y), rtol=1e-5
    )
    assert result.robust.sum() < result.correct.sum()


def _difference(key, loss_fn, x, eps=2.0, start=norms.l2):
    start = start and attacks.in_ball(start)
    steps = {"num_steps": 100, "rel_step_size": 0.2, "unroll": 1}
    attack = attacks.pgd(norms.l2, start=start, **steps)
    args = (loss_fn, attack, norms.l2.value, x, jnp.zeros(len(x)), eps)
    return evaluate.attack_difference(key, *args)


def test_attacks_with_one_maximum_end_together_and_with_two_apart(key):
    x = jnp.zeros((400, 4))
    w = norms.l2.steepest(W[:, 0])
    together = _difference(key, lambda x, y: x @ w, x)
    np.testing.assert_allclose(together, 0, atol=1e-3)
    apart = _difference(key, lambda x, y: (x @ w) ** 2, x)
    same = apart < 0.1  # both ends of the ball are maxima, found half of the time each
    np.testing.assert_allclose(apart[~same], 4.0, rtol=1e-3)
    np.testing.assert_allclose(same.mean(), 0.5, atol=0.1)


def test_few_steps_remember_the_start(key):
    """Across a linear function a start of unit length keeps sin of its angle."""
    x, w = jnp.zeros((20, 3000)), norms.l2.steepest(jnp.ones(3000))
    attack = attacks.pgd(
        norms.l2, num_steps=5, rel_step_size=0.4, start=attacks.in_ball(norms.l2)
    )
    args = (lambda x, y: x @ w, attack, norms.l2.value, x, jnp.zeros(20), 3.0)
    across, along = 1.0, 0.0
    for _ in range(5):
        length = np.hypot(across, along + 0.4)
        across, along = across / length, (along + 0.4) / length
    expected = 3.0 * np.sqrt(2) * across  # starts are orthogonal in high dimension
    np.testing.assert_allclose(
        evaluate.attack_difference(key, *args), expected, rtol=0.1
    )


def test_without_a_gradient_attacks_differ_by_their_starts(key):
    """Two uniform points of the unit ball: E‖a - b‖² = 2 d/(d + 2)."""
    x, flat = jnp.zeros((4000, 4)), lambda x, y: jnp.zeros(len(x))
    apart = _difference(key, flat, x, eps=1.0)
    np.testing.assert_allclose((apart**2).mean(), 2 * 4 / 6, rtol=0.05)
    np.testing.assert_array_equal(_difference(key, flat, x, start=None), 0)
    slices = [_difference(keys, flat, x[:5]) for keys in (key, example_keys(key, 5))]
    np.testing.assert_array_equal(*slices)


def test_a_binary_linear_margin_decides_robustness_exactly(key):
    """Robust to linf iff the margin exceeds eps ‖w_0 - w_1‖_1."""
    w = W[:, :2]

    def predict(x):
        return x @ w

    y = jnp.argmax(predict(X), axis=1)
    margin = -losses.margin(predict(X), y) / jnp.abs(w[:, 0] - w[:, 1]).sum()
    for eps in (0.05, 0.2, 0.6):
        result = evaluate.outcome(
            key,
            predict,
            losses.cross_entropy,
            attacks.fgsm(norms.linf),
            *(X, y, eps),
        )
        np.testing.assert_array_equal(result.robust, margin > eps)


@pytest.mark.parametrize("batch_size", [4, 23, 50])
def test_the_batch_size_changes_nothing(key, batch_size):
    whole = evaluate.in_batches(_outcome, key, X, Y, batch_size=7)
    parts = evaluate.in_batches(_outcome, key, X, Y, batch_size=batch_size)
    for a, b in zip(whole, parts, strict=True):
        assert a.shape == (23,)
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_no_examples_are_refused(key):
    for n, batch_size in ((0, 4), (23, 0)):
        with pytest.raises(
            ValueError, match=f"{n} examples in batches of {batch_size}"
        ):
            evaluate.in_batches(_outcome, key, X[:n], Y[:n], batch_size=batch_size)


def test_batches_compile_once(key):
    traces = []

    @jax.jit
    def run(key, x, y):
        traces.append(1)
        return _outcome(key, x, y)

    evaluate.in_batches(run, key, X, Y, batch_size=5)
    assert len(traces) == 1


def test_worst_case_over_attacks(key):
    weak = _outcome(key, X, Y, attacks.fgsm(norms.linf), 0.1)
    strong = _outcome(key, X, Y)
    worst = evaluate.worst_case(weak, strong)
    np.testing.assert_array_equal(worst.robust, weak.robust & strong.robust)
    np.testing.assert_allclose(
        worst.robust_loss, jnp.maximum(weak.robust_loss, strong.robust_loss)
    )


def test_summary_counts_and_averages(key):
    result = _outcome(key, X, Y)
    total = evaluate.summary(result)
    assert total.num_examples == 23
    np.testing.assert_allclose(total.accuracy.value, np.mean(result.correct))
    np.testing.assert_allclose(total.robust_accuracy.value, np.mean(result.robust))
    np.testing.assert_allclose(total.robust_loss, np.mean(result.robust_loss))
    assert total.num_zero_grad == 0
    assert total.robust_accuracy.low < total.robust_accuracy.value
    constant = evaluate.outcome(
        key, lambda x: 0 * _predict(x), losses.cross_entropy, ATTACK, X, Y, 0.3
    )
    assert evaluate.summary(constant).num_zero_grad == 23


def test_nan_predictions_count_as_wrong(key):
    result = evaluate.outcome(
        key,
        lambda x: jnp.full((x.shape[0], 3), jnp.nan),
        losses.cross_entropy,
        *(ATTACK, X, jnp.zeros(23, int), 0.1),
    )
    assert not result.correct.any()
    assert not result.robust.any()


def test_outcomes_map_over_radii(key):
    radii = jnp.array([0.0, 0.1, 0.3])
    curve = jax.vmap(lambda eps: _outcome(key, X, Y, eps=eps))(radii)
    share = curve.robust.mean(axis=1)
    np.testing.assert_allclose(share[0], curve.correct[0].mean())
    assert (jnp.diff(share) <= 0).all()


@pytest.mark.parametrize(("k", "n"), [(0, 10), (7, 10), (10, 10), (983, 1000)])
def test_wilson_equals_scipy(k, n):
    ours = evaluate.wilson(k, n, z=stats.norm.ppf(0.975))
    theirs = stats.binomtest(k, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(ours[1:], [theirs.low, theirs.high], atol=1e-12)
    assert ours.value == k / n


def test_wilson_refuses_what_is_no_proportion():
    for k, n in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"{k} correct of {n}"):
            evaluate.wilson(k, n)
