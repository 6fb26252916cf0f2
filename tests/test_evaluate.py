"""Outcomes, intervals, batches and worst cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from advjax import attacks, evaluate, losses, norms
from advjax.types import AttackInfo, example_keys

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
    steps = {"num_steps": 100, "rel_step_size": 0.2}
    attack = attacks.pgd(norms.l2, start=start, **steps)
    args = (loss_fn, attack, norms.l2, x, jnp.zeros(len(x)), eps)
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
    args = (lambda x, y: x @ w, attack, norms.l2, x, jnp.zeros(20), 3.0)
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
    whole = _outcome(key, X, Y)
    parts = evaluate.in_batches(_outcome, key, X, Y, batch_size=batch_size)
    assert whole.outside is None
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        assert a.shape == (23,)
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_no_examples_are_refused(key):
    with pytest.raises(ValueError, match="x has no examples"):
        evaluate.in_batches(_outcome, key, X[:0], Y[:0], batch_size=4)
    for batch_size in (0, 2.5, None):
        with pytest.raises(ValueError, match=f"batch_size = {batch_size}"):
            evaluate.in_batches(_outcome, key, X, Y, batch_size=batch_size)


def test_batches_are_cut_along_the_examples_alone(key):
    def several(key, x, y):
        radii = jnp.array([0.1, 0.2])
        return jax.vmap(lambda eps: _outcome(key, x, y, eps=eps))(radii)

    for batch_size in (7, 2):  # 2 is the number of radii
        with pytest.raises(
            ValueError, match=rf"\(2, {batch_size}\) for {batch_size} ex"
        ):
            evaluate.in_batches(several, key, X, Y, batch_size=batch_size)
    with pytest.raises(ValueError, match="returned shapes nothing"):
        evaluate.in_batches(lambda *_: None, key, X, Y, batch_size=7)


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


def test_the_worst_case_joins_every_field_over_all_attacks():
    first = jnp.array([True, True, False, False])
    last = jnp.array([True, False, True, False])
    outcomes = [
        evaluate.Outcome(jnp.zeros(4), each, jnp.where(each, 1.0, 2.0), *[each] * 5)
        for each in (first, last)
    ]
    worst = evaluate.worst_case(*outcomes)
    np.testing.assert_array_equal(worst.loss, 0)
    np.testing.assert_array_equal(worst.robust_loss, [1, 2, 2, 2])
    for every in (worst.correct, worst.robust):
        np.testing.assert_array_equal(every, first & last)
    for some in worst[4:]:
        np.testing.assert_array_equal(some, first | last)


def test_an_answer_that_an_attack_puts_right_is_not_robust():
    def mended(key, loss_fn, x, y, eps):
        del key, eps
        x_adv = jax.nn.one_hot(y, 3)
        return x_adv, AttackInfo(loss_fn(x_adv, y), jnp.zeros(len(x), bool))

    result = _at(jnp.eye(3), jnp.zeros(3, int), lambda x: x, attack=mended)
    np.testing.assert_array_equal(result.robust, [True, False, False])


def test_summary_counts_and_averages(key):
    result = _outcome(key, X, Y)
    total = evaluate.summary(result)
    assert total.num_examples == 23
    np.testing.assert_allclose(total.accuracy.value, np.mean(result.correct))
    np.testing.assert_allclose(total.robust_accuracy.value, np.mean(result.robust))
    mean = np.mean(np.asarray(result.robust_loss), dtype=np.float64)
    np.testing.assert_allclose(total.robust_loss, mean)
    assert total.num_zero_gradients == 0
    assert total.robust_accuracy.low < total.robust_accuracy.value
    constant = evaluate.outcome(
        key, lambda x: 0 * _predict(x), losses.cross_entropy, ATTACK, X, Y, 0.3
    )
    # Gradients count where the network still looks robust; the others are broken.
    total = evaluate.summary(constant)
    assert total.num_zero_gradients == (Y == 0).sum() > 0
    assert any("gradients vanished" in line for line in total.caveats)


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


def test_outcomes_of_several_runs_have_no_one_summary(key):
    several = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), _outcome(key, X, Y))
    with pytest.raises(ValueError, match=r"losses have shape \(3, 23\): give the out"):
        evaluate.summary(several)


def test_wilson_refuses_what_is_no_proportion():
    with pytest.raises(ValueError, match="3 correct of 2"):
        evaluate.wilson(3, 2)
    for k, n in ((-1, 2), (0, 0), (0.9, 10)):
        with pytest.raises(ValueError, match="choose an integer of at least"):
            evaluate.wilson(k, n)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("predict", None),
        ("predict", "mlp"),
        ("loss", "cross_entropy"),
        ("loss", _predict),
        ("attack", attacks.pgd),
        ("attack", attacks.fgsm),
        ("attack", None),
    ],
)
def test_what_cannot_be_called_like_that_is_refused(key, name, value):
    given = {"predict": _predict, "loss": losses.cross_entropy, "attack": ATTACK}
    given[name] = value
    for function in (evaluate.outcome, evaluate.targeted_outcome):
        with pytest.raises(
            ValueError, match=f"^{name} = .* cannot be called as {name}"
        ):
            function(key, *given.values(), X, Y, 0.1)


def test_summaries_are_those_of_outcomes(key):
    result = _outcome(key, X, Y)
    for wrong in ([result, result], result._asdict(), None):
        with pytest.raises(ValueError, match="is no Outcome"):
            evaluate.summary(wrong)
        with pytest.raises(ValueError, match="is no Outcome"):
            evaluate.worst_case(wrong)


def test_one_undefined_row_hides_no_caveat():
    def probabilities(x):
        output = jax.nn.softmax(_predict(x))
        return output.at[0].set(jnp.nan)

    result = _at(X, Y, probabilities, 0.1)
    (caveat,) = (c for c in evaluate.summary(result).caveats if "probabilities" in c)
    assert caveat.startswith("22 of 23")


def test_a_targeted_attack_without_a_gradient_says_so(key):
    def flat(x):
        return jnp.round(_predict(x))

    target = (Y + 1) % 3
    result = evaluate.targeted_outcome(
        key, flat, losses.cross_entropy, ATTACK, X, target, 0.1
    )
    missed = int((~result.reached).sum())
    assert missed
    (caveat,) = result.caveats()
    assert caveat.startswith(f"{missed} of 23 gradients vanished")


def test_distances_of_half_precision_are_measured_in_single(key):
    x = jnp.full((3, 70_000), 0.5, jnp.float16)
    start = attacks.pgd(
        norms.l1, num_steps=0, rel_step_size=1, start=attacks.in_ball(norms.l1)
    )
    found = evaluate.attack_difference(
        key, lambda x, y: x[:, 0] * y, start, norms.l1, x, jnp.ones(3), 70_000.0
    )
    assert found.dtype == jnp.float32
    assert jnp.isfinite(found).all()


# What used to be silently wrong -------------------------------------------------------


def _at(x, y, predict, eps=0.0, loss=losses.cross_entropy, attack=None, **options):
    attack = attack or attacks.pgd(
        norms.linf, num_steps=3, rel_step_size=0.5, **options
    )
    return evaluate.outcome(jax.random.key(0), predict, loss, attack, x, y, eps)


def test_one_logit_is_judged_by_its_sign(key):
    w = jnp.array([1.0, -2.0])
    x = jax.random.normal(key, (100, 2))
    signs = jnp.sign(x @ w).astype(int)
    result = _at(x, signs, lambda x: x @ w, 0.1, losses.logistic)
    margin = jnp.abs(x @ w) / 3
    np.testing.assert_array_equal(result.correct, True)
    np.testing.assert_array_equal(result.robust, margin > 0.1)
    assert evaluate.summary(result).accuracy.value == 1.0
    # Two classes with the same boundary say the same.
    logits = lambda x: jnp.stack([jnp.zeros(len(x)), x @ w], axis=1)  # noqa: E731
    two = _at(x, (signs > 0).astype(int), logits, 0.1)
    np.testing.assert_array_equal(two.robust, result.robust)


def test_a_regression_has_losses_and_no_accuracy():
    w = W[:, 0]
    result = _at(X, X @ w + 1, lambda x: x @ w, 0.1, losses.squared_error)
    assert result.correct is result.robust is None
    # The worst case of a linear model: (|r| + eps ‖w‖_1)², r = -1.
    np.testing.assert_allclose(result.loss, 1, rtol=1e-5)
    np.testing.assert_allclose(
        result.robust_loss, (1 + 0.1 * jnp.abs(w).sum()) ** 2, rtol=1e-5
    )
    total = evaluate.summary(evaluate.worst_case(result, result))
    assert total.accuracy is total.robust_accuracy is None
    np.testing.assert_allclose(total.loss, 1, rtol=1e-5)
    assert not total.caveats


def test_dense_outputs_are_right_where_all_positions_are():
    x = jnp.asarray(RNG.uniform(size=(8, 3, 3, 2)), jnp.float32)
    predict = lambda x: jnp.concatenate([x, 0.5 + 0 * x[..., :1]], -1)  # noqa: E731
    y = jnp.argmax(predict(x), axis=-1)
    y = y.at[:3, 0, 0].set((y[:3, 0, 0] + 1) % 3)
    loss = lambda z, y: losses.cross_entropy(z, y).sum(axis=(1, 2))  # noqa: E731
    result = _at(x, y, predict, loss=loss)
    np.testing.assert_array_equal(result.correct, [False] * 3 + [True] * 5)
    with pytest.raises(ValueError, match=r"shape \(8, 3, 3\) for 8 examples"):
        _at(x, y, predict)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (jnp.zeros((23, 1), int), r"output has shape \(23, 3\), y \(23, 1\)"),
        (jnp.zeros((23, 3), int), r"output has shape \(23, 3\), y \(23, 3\)"),
        (jnp.zeros(10, int), r"x \(23, 4\), y \(10,\)"),
        (jnp.zeros((), int), r"y \(\)"),
        (jnp.zeros(23), "labels have dtype float"),
        (jnp.zeros(23, bool), "labels have dtype bool"),
    ],
)
def test_labels_that_do_not_fit_are_one_error_with_both_shapes(y, words):
    with pytest.raises(ValueError, match=words):
        _at(X, y, _predict)
    with pytest.raises(ValueError, match=words):
        jax.jit(lambda y: _at(X, y, _predict))(y)


def test_outputs_of_one_column_and_labels_0_and_1_of_one_logit_are_refused():
    with pytest.raises(ValueError, match=r"output has shape \(23, 1\), y \(23,\)"):
        _at(X, Y, lambda x: x[:, :1], loss=lambda z, y: z[:, 0] * y)
    with pytest.raises(ValueError, match=r"are \[0, 1\]: give -1 and 1"):
        _at(X, (Y > 0).astype(int), lambda x: x[:, 0], loss=losses.logistic)


def test_labels_that_are_no_class_are_wrong_and_shown():
    y = Y.at[:2].set(jnp.array([7, -1]))
    total = evaluate.summary(jax.jit(lambda y: _at(X, y, _predict))(y))
    assert total.num_undefined == 2
    assert any("not a number" in line for line in total.caveats)
    signs = jnp.sign(X[:, 0]).astype(int).at[0].set(0).at[1].set(3)
    result = jax.jit(lambda y: _at(X, y, lambda x: x[:, 0], loss=losses.logistic))(
        signs
    )
    np.testing.assert_array_equal(result.correct, [False] * 2 + [True] * 21)
    assert evaluate.summary(result).num_undefined == 2


def _undefined_at_zero(x):
    """Finite everywhere, with a gradient that is nan at the origin."""
    length = jnp.linalg.norm(x[:, :2], axis=1)[:, None]
    return jnp.stack([x.sum(1), 1 - x.sum(1)], 1) + 0 * length


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_an_undefined_gradient_is_neither_robust_nor_broken_silently(eps):
    x = jnp.tile(jnp.array([[0.0, 0.0, 0.9]]), (5, 1))
    y = jnp.zeros(5, int)
    total = evaluate.summary(_at(x, y, _undefined_at_zero, eps))
    assert total.accuracy.value == 1
    # The attack moves the third entry alone, which does not suffice: it says so.
    assert total.robust_accuracy.value == 1
    assert total.num_undefined == 5
    assert any("not a number" in line for line in total.caveats)


def test_a_model_behind_a_threshold_does_not_hide_an_undefined_gradient():
    def predict(x):
        z = jnp.where(x > 0.5, 1.0, 0.0) + 0 * jnp.linalg.norm(0 * x, axis=1)[:, None]
        return jnp.stack([z.sum(1), 1.5 - z.sum(1)], 1)

    x = jnp.full((5, 3), 0.9)
    total = evaluate.summary(_at(x, jnp.zeros(5, int), predict, 0.05))
    assert total.num_undefined == 5


def test_an_attack_that_returns_nan_or_infinity_never_leaves_a_model_robust():
    for bad in (jnp.nan, jnp.inf):

        def attack(key, loss_fn, x, y, eps, bad=bad):
            del key, eps
            x_adv = x.at[:5, 0].set(bad)
            return x_adv, AttackInfo(loss_fn(x_adv, y), jnp.zeros(len(x), bool))

        threshold = lambda x: jnp.where(x > 0.5, 1.0, 0.0) @ W  # noqa: E731
        y = jnp.argmax(threshold(X), axis=1)
        result = _at(X, y, threshold, attack=attack)
        np.testing.assert_array_equal(result.robust, [False] * 5 + [True] * 18)
        np.testing.assert_array_equal(result.undefined, [True] * 5 + [False] * 18)


def test_negative_radii_are_never_robust_and_are_shown():
    total = evaluate.summary(_at(X, Y, _predict, -0.1))
    assert total.robust_accuracy.value == 0
    assert total.num_undefined == 23


def test_inputs_outside_of_the_bounds_are_counted_beside_the_number():
    """Images in 0..255 used to be clipped to [0, 1] without a word."""
    x = 255 * jnp.abs(X)
    y = jnp.argmax(_predict(x), axis=1)
    total = evaluate.summary(_at(x, y, _predict, bounds=(0.0, 1.0)))
    assert total.robust_accuracy.value == total.accuracy.value == 1
    assert total.num_outside == 23
    assert any("23 of 23 inputs lie outside" in line for line in total.caveats)


def test_probabilities_in_place_of_logits_are_said():
    soft = lambda x: jax.nn.softmax(_predict(x))  # noqa: E731
    total = evaluate.summary(_at(X, Y, soft))
    assert any("probabilities, not logits" in line for line in total.caveats)
    for logits in (_predict, lambda x: soft(x) / 2, lambda x: 3 * soft(x) - 2 / 3):
        assert not evaluate.summary(_at(X, Y, logits)).caveats


def test_zero_gradients_of_broken_points_are_not_counted():
    """DLR is constant where the label is third: these points are broken already."""
    result = _at(X, jnp.argmin(X @ W, axis=1), _predict, 0.1, losses.dlr)
    assert not result.zero_grad.any()


def test_lengths_that_differ_are_refused_wherever_rows_are_gathered(key):
    with pytest.raises(ValueError, match=r"x \(23, 4\), y \(10,\)"):
        evaluate.in_batches(_outcome, key, X, Y[:10], batch_size=20)
    with pytest.raises(ValueError, match="5 keys for 23 examples"):
        evaluate.in_batches(_outcome, jax.random.split(key, 5), X, Y, batch_size=20)
    whole = _outcome(key, X, Y)
    with pytest.raises(ValueError, match=r"\(23,\), \(4,\)"):
        evaluate.worst_case(whole, jax.tree.map(lambda leaf: leaf[:4], whole))
    with pytest.raises(ValueError, match="give one or more"):
        evaluate.worst_case()


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_the_batch_size_changes_nothing_whatever_the_generator(impl):
    key = jax.random.key(0, impl=impl)
    parts = [
        evaluate.in_batches(_outcome, key, X, Y, batch_size=size) for size in (4, 12)
    ]
    np.testing.assert_allclose(parts[0].robust_loss, parts[1].robust_loss, rtol=1e-5)


def test_plain_input_is_welcome_in_batches(key):
    run = lambda k, x, y: _outcome(k, jnp.asarray(x, jnp.float32), y)  # noqa: E731
    found = evaluate.in_batches(run, key, np.asarray(X), Y.tolist(), batch_size=10)
    expected = evaluate.in_batches(_outcome, key, X, Y, batch_size=10)
    np.testing.assert_allclose(found.robust_loss, expected.robust_loss, rtol=1e-5)


def test_targeted_attacks_have_a_success_rate_of_their_own(key):
    """On a linear model, reached iff the gain of the step covers every gap."""
    target = (Y + 1) % 3
    strong = attacks.pgd(norms.linf, num_steps=20, rel_step_size=0.2, keep_best=True)
    result = evaluate.targeted_outcome(
        key, _predict, losses.margin, strong, X, target, 0.5
    )
    np.testing.assert_array_equal(result.already, jnp.argmax(X @ W, axis=1) == target)
    assert (result.reached | ~result.already).all()
    gaps = (X @ W)[jnp.arange(23)[:, None], target[:, None]] - X @ W
    gains = 0.5 * jnp.abs(W.T[target][:, None] - W.T[None]).sum(axis=-1)
    impossible = (gaps + gains < 0).any(axis=1)
    assert impossible.any()
    assert not (result.reached & impossible).any()
    two_classes = _at(X, Y, _predict, 0.5, attack=strong)
    assert (result.reached & ~result.already).sum() > 0
    tried = ~np.asarray(result.already)
    rate = result.success_rate()
    assert rate.value == (result.reached & tried).sum() / tried.sum()
    # To reach a wrong class is to be misclassified.
    wrong = (target != Y) & result.reached & two_classes.correct
    assert wrong.sum() > 0
    with pytest.raises(ValueError, match="none was tried"):
        evaluate.targeted_outcome(
            key, _predict, losses.margin, strong, X, jnp.argmax(X @ W, axis=1), 0.0
        ).success_rate()


def test_what_is_no_attack_is_one_value_error():
    climb = attacks.climb(norms.linf, num_steps=1, rel_step_size=1)
    with pytest.raises(ValueError, match=r"cannot be called as loss_fn\(x, y\)"):
        _at(X, Y, _predict, 0.1, attack=climb)
    alone = lambda key, goal, x, y, eps: x  # noqa: E731
    with pytest.raises(
        ValueError, match=r"give one that returns \(x_adv, AttackInfo\)"
    ):
        _at(X, Y, _predict, 0.1, attack=alone)


def test_an_undefined_clean_output_is_shown_whatever_the_attack_finds(key):
    x = X.at[0].set(0.0)

    def predict(x):
        return jnp.where(x[:, :1] == 0, jnp.nan, _predict(x))

    start = attacks.in_ball(norms.linf)
    attack = attacks.pgd(norms.linf, num_steps=2, rel_step_size=0.3, start=start)
    for outcome in (evaluate.outcome, evaluate.targeted_outcome):
        target = (Y + 1) % 3
        found = outcome(key, predict, losses.cross_entropy, attack, x, target, 0.5)
        np.testing.assert_array_equal(found.undefined, [True] + [False] * 22)
    assert "not a number" in " ".join(found.caveats())
