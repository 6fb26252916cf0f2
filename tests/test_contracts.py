"""Every attack × norm and every objective against the contracts of ``types``.

A new attack or objective gets all these tests for one line in a table.
"""

from contextlib import contextmanager
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from contracts import ATTACKS, BOX, NORMS, RANDOM, REACHES, REACHES_IN, each_case
from contracts import pgd as _pgd
from jax.flatten_util import ravel_pytree

from advjax import attacks, losses, norms, objectives
from advjax.types import AttackInfo, Batch, Model, example_keys

N, SHAPE, K = 6, (3, 2), 4
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(size=(N, *SHAPE)), jnp.float32)
X = X.at[0].set(0.0).at[1].set(1.0)  # two examples in corners of the box
Y = jnp.asarray(RNG.integers(0, K, N))
W1 = jnp.asarray(RNG.normal(size=(6, 8)), jnp.float32)
W2 = jnp.asarray(RNG.normal(size=(8, K)), jnp.float32)
KEY = jax.random.key(0)
EPS = {"l1": 1.0, "l2": 0.5, "linf": 0.2}
PLAIN = {"scale": jnp.ones(N), "offset": jnp.zeros(N)}


@contextmanager
def _without_jit():
    """Op by op, where jax_debug_nans would take a constant nan for a result."""
    with jax.disable_jit(), jax.debug_nans(False):
        yield


def _logits(x, w1=W1):
    x = x.reshape(x.shape[0], -1)
    return jnp.tanh(x @ w1.astype(x.dtype)) @ W2.astype(x.dtype)


def _loss(x, y):
    return losses.cross_entropy(_logits(x), y)


@partial(jax.jit, static_argnums=0)
def _call(attack, eps, key=KEY):
    return attack(key, _loss, X, Y, eps)


@cache
def _attack(name, norm_name):
    """One compiled attack for all tests of a case, and the list of its traces.

    Its call is ``(w1, key, x, y, eps, modifiers)``: the modifiers scale each example's
    loss and shift its logits.
    """
    attack, traces = ATTACKS[name](NORMS[norm_name]), []

    def run(w1, key, x, y, eps, modifiers):
        traces.append(1)

        def loss(x, y):
            labels, scale, offset = y
            logits = _logits(x, w1) + offset[:, None].astype(x.dtype)
            loss = losses.cross_entropy(logits, labels)
            return scale.astype(loss.dtype) * loss

        y = (y, modifiers["scale"], modifiers["offset"])
        return attack(key, loss, x, y, eps)

    return jax.jit(run), traces, run


@each_case
def test_one_trace_serves_every_radius_key_batch_and_model(name, norm_name):
    run, traces, _ = _attack(name, norm_name)
    run(W1, KEY, X, Y, 0.1, PLAIN)
    before = len(traces)
    for i in range(3):
        run(-i * W1, jax.random.key(i), X / (i + 1), (Y + i) % K, 0.1 * i, PLAIN)
    assert len(traces) == before


@each_case
def test_stays_in_the_ball_and_in_the_box(name, norm_name):
    norm, (run, *_) = NORMS[norm_name], _attack(name, norm_name)
    for eps in (
        EPS[norm_name],
        EPS[norm_name] * jnp.linspace(0, 1, N, dtype=jnp.float32),
    ):
        x_adv, info = run(W1, KEY, X, Y, eps, PLAIN)
        radii = jax.vmap(norm.value)(x_adv - X)
        assert (radii <= eps * (1 + 1e-5) + 1e-6).all()
        assert (x_adv >= 0).all()
        assert (x_adv <= 1).all()
        np.testing.assert_allclose(info.loss, _loss(x_adv, Y), rtol=1e-5, atol=1e-6)


@each_case
def test_zero_radius_returns_the_input_and_a_negative_one_nan(name, norm_name):
    run, *_ = _attack(name, norm_name)
    np.testing.assert_array_equal(run(W1, KEY, X, Y, 0.0, PLAIN)[0], X)
    assert jnp.isnan(run(W1, KEY, X, Y, -0.1, PLAIN)[0]).any(axis=(1, 2)).all()


@each_case
def test_scalar_radius_equals_the_constant_vector(name, norm_name):
    (run, *_), eps = _attack(name, norm_name), EPS[norm_name]
    chex.assert_trees_all_close(
        run(W1, KEY, X, Y, eps, PLAIN),
        run(W1, KEY, X, Y, jnp.full(N, eps, jnp.float32), PLAIN),
        atol=1e-6,
    )


@each_case
def test_vmap_over_models_keys_and_radii_equals_a_loop(name, norm_name):
    run, *_ = _attack(name, norm_name)
    models, keys = jnp.stack([W1, -W1, 0.5 * W1]), jax.random.split(KEY, 3)
    radii = EPS[norm_name] * jnp.array([0.0, 0.5, 1.0])
    over = jax.vmap(run, (0, 0, None, None, 0, None))
    at_once = over(models, keys, X, Y, radii, PLAIN)
    for i in range(3):
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, i=i: leaf[i], at_once),
            run(models[i], keys[i], X, Y, radii[i], PLAIN),
            atol=1e-5,
        )


@each_case
def test_batch_equals_example_by_example(name, norm_name):
    (run, *_), eps = _attack(name, norm_name), EPS[norm_name]
    together, _ = run(W1, KEY, X, Y, eps, PLAIN)
    keys = example_keys(KEY, N)
    for i in range(N):
        one = slice(i, i + 1)
        modifiers = jax.tree.map(lambda leaf, one=one: leaf[one], PLAIN)
        alone, _ = run(W1, keys[one], X[one], Y[one], eps, modifiers)
        np.testing.assert_allclose(alone[0], together[i], atol=1e-5)


@each_case
def test_padding_a_batch_changes_nobody_else(name, norm_name):
    (run, *_), eps = _attack(name, norm_name), EPS[norm_name]
    plain, _ = run(W1, KEY, X, Y, eps, PLAIN)
    padded = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:3]]), (X, Y, PLAIN))
    longer, _ = run(W1, KEY, *padded[:2], eps, padded[2])
    np.testing.assert_allclose(longer[:N], plain, atol=1e-5)


@each_case
def test_jit_equals_eager(name, norm_name):
    (run, _, eager), eps = _attack(name, norm_name), EPS[norm_name]
    with _without_jit():
        slow = eager(W1, KEY, X, Y, eps, PLAIN)
    chex.assert_trees_all_close(run(W1, KEY, X, Y, eps, PLAIN), slow, atol=1e-5)


@each_case
def test_the_key_decides_the_start_and_nothing_else(name, norm_name):
    (run, *_), eps = _attack(name, norm_name), EPS[norm_name]
    first, again = (run(W1, KEY, X, Y, eps, PLAIN) for _ in range(2))
    chex.assert_trees_all_equal(first, again)
    other = run(W1, jax.random.key(7), X, Y, eps, PLAIN)[0]
    assert bool((other != first[0]).any()) == (name in RANDOM)


@each_case
def test_zero_gradients_are_flagged_and_give_no_nan(name, norm_name):
    run, *_ = _attack(name, norm_name)
    modifiers = PLAIN | {"scale": jnp.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])}
    x_adv, info = run(W1, KEY, X, Y, EPS[norm_name], modifiers)
    assert jnp.isfinite(x_adv).all()
    np.testing.assert_array_equal(info.zero_grad, modifiers["scale"] == 0)


@each_case
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scaling_the_loss_changes_nothing(name, norm_name, scale):
    (run, *_), eps = _attack(name, norm_name), EPS[norm_name]
    plain, _ = run(W1, KEY, X, Y, eps, PLAIN)
    scaled, info = run(
        W1, KEY, X, Y, eps, PLAIN | {"scale": jnp.full(N, scale, jnp.float32)}
    )
    assert not info.zero_grad.any()
    if name == "smooth":
        # The surrogate depends on the size of the gradient: none of it is left, or all.
        shrinks = jnp.abs(scaled - X).max() < 1e-6
        assert shrinks if scale < 1 else jnp.abs(scaled - X).max() > 1e-2
    else:
        np.testing.assert_allclose(scaled, plain, atol=1e-5)


@each_case
def test_adding_a_constant_to_all_logits_changes_nothing(name, norm_name):
    (run, *_), eps = _attack(name, norm_name), EPS[norm_name]
    plain, _ = run(W1, KEY, X, Y, eps, PLAIN)
    shifted, _ = run(
        W1, KEY, X, Y, eps, PLAIN | {"offset": jnp.full(N, 100, jnp.float32)}
    )
    # Adding 100 rounds the logits to 2⁻¹⁷.
    np.testing.assert_allclose(shifted, plain, atol=1e-3)


@each_case
@pytest.mark.parametrize("bounds", [None, BOX])
def test_the_maximum_of_a_linear_model_is_reached_and_never_passed(
    name, norm_name, bounds
):
    """Without a box (|r| + eps ‖θ‖_*)²; with one, a linear programme at most."""
    norm, eps, d = NORMS[norm_name], {"l1": 3.0, "l2": 1.0, "linf": 0.3}[norm_name], 16
    rng = np.random.default_rng(1)
    theta = jnp.asarray(rng.normal(size=d), jnp.float32)
    x = jnp.asarray(rng.uniform(0.2, 0.8, size=(N, d)), jnp.float32)
    residual = jnp.array([9.0, -9.0, 8.0, -8.0, 7.0, -7.0])
    steps = {"num_steps": 400, "rel_step_size": 0.02}
    attack = ATTACKS[name](norm, bounds=bounds, **steps)

    @jax.jit
    def attacked(key):
        y = x @ theta - residual
        return attack(key, lambda x, y: (x @ theta - y) ** 2, x, y, eps)[1].loss

    gain = eps * norm.dual(theta)
    if bounds is not None:
        ascent = np.outer(np.sign(residual), theta)
        room = np.where(ascent > 0, 1 - x, x)
        gain = reference.largest_gain(np.abs(ascent), room, eps, norm_name)
    reached = (jnp.sqrt(attacked(KEY)) - jnp.abs(residual)) / gain
    assert (reached <= 1 + 1e-4).all()
    least = REACHES_IN.get((name, norm_name), REACHES.get(name, 1 - 1e-3))
    if bounds is not None and norm_name != "linf":
        # A last step of 0.02 eps is taken back from entries that were at their walls.
        one_step = {"fgsm": 0.8, "fgsm, random start": 0.5}
        least = min(least, one_step.get(name, 0.98))
    assert (reached >= least).all(), reached


@pytest.mark.parametrize("norm_name", NORMS)
def test_climbs_go_on_where_attacks_end(norm_name):
    norm, eps = NORMS[norm_name], EPS[norm_name]
    whole = _call(_pgd(norm, num_steps=6), eps)
    half, _ = _call(_pgd(norm, num_steps=3), eps)
    climb = attacks.climb(norm, num_steps=3, rel_step_size=0.4, bounds=BOX)
    go_on = jax.jit(lambda eps, delta: climb(_loss, X, Y, eps, delta))
    chex.assert_trees_all_close(go_on(eps, half - X), whole, atol=1e-5)
    # From outside of the ball they start on it.
    x_adv, info = go_on(eps, jnp.full_like(X, 9.0))
    lengths = jax.vmap(norm.value)(x_adv - X)
    assert (lengths <= eps * (1 + 1e-5)).all()
    np.testing.assert_allclose(info.loss, _loss(x_adv, Y), rtol=1e-5)
    from_zero = jax.jit(lambda eps: climb(_loss, X, Y, eps))(eps)
    chex.assert_trees_all_equal(from_zero, _call(_pgd(norm, num_steps=3), eps))


@pytest.mark.parametrize("norm_name", NORMS)
def test_more_restarts_are_never_weaker(norm_name):
    base = _pgd(NORMS[norm_name], start=attacks.in_ball(NORMS[norm_name]))
    previous = jnp.full(N, -jnp.inf)
    for num_restarts in (1, 2, 5):
        attack = attacks.best_of(base, num_restarts=num_restarts)
        loss = _call(attack, EPS[norm_name])[1].loss
        assert (loss >= previous - 1e-6).all()
        previous = loss


@pytest.mark.parametrize("norm_name", NORMS)
def test_the_best_iterate_is_never_weaker_than_start_or_end(norm_name):
    norm, eps = NORMS[norm_name], EPS[norm_name]
    start = attacks.in_ball(norm)
    options = {"start": start, "rel_step_size": 1.9}  # overshoots, so iterates differ
    best = _call(_pgd(norm, **options, keep_best=True), eps)[1].loss
    for num_steps in range(5):
        attack = _pgd(norm, **options, num_steps=num_steps)
        assert (best >= _call(attack, eps)[1].loss - 1e-6).all()


@pytest.mark.parametrize("norm_name", NORMS)
def test_one_full_step_of_pgd_is_fgsm(norm_name):
    norm, eps = NORMS[norm_name], EPS[norm_name]
    one = _call(_pgd(norm, num_steps=1, rel_step_size=1.0), eps)
    chex.assert_trees_all_equal(one, _call(attacks.fgsm(norm, bounds=BOX), eps))


@pytest.mark.parametrize("norm_name", NORMS)
def test_starts_are_in_the_ball_and_follow_their_law(norm_name):
    norm, eps = NORMS[norm_name], 0.5
    keys = jax.random.split(KEY, 2000)

    def radii(start):
        deltas = jax.vmap(start, (0, None, None))(keys, jnp.zeros(30), eps)
        shares = jax.vmap(norm.value)(deltas) / eps
        assert (shares <= 1 + 1e-6).all()
        return shares

    mean = radii(attacks.in_ball(norm)).mean()
    np.testing.assert_allclose(mean, 30 / 31, rtol=0.005)
    uniform = radii(attacks.radius_uniform(norm))
    np.testing.assert_allclose(uniform.mean(), 0.5, atol=0.03)
    np.testing.assert_allclose(uniform.var(), 1 / 12, rtol=0.1)
    deltas = jax.vmap(attacks.gaussian(1e-3), (0, None, None))(keys, jnp.zeros(30), eps)
    np.testing.assert_allclose(deltas.std(), 1e-3, rtol=0.02)


@pytest.mark.parametrize("norm_name", ["l2", "linf"])
def test_the_surrogate_shrinks_by_the_clean_gradient(norm_name):
    norm, eps, xi = NORMS[norm_name], EPS[norm_name], 0.3
    plain = _pgd(norm, start=attacks.in_ball(norm))
    delta = _call(plain, eps)[0] - X
    g = jax.grad(lambda x: _loss(x, Y).sum())(X)
    length = jnp.sqrt((g**2).sum(axis=(1, 2), keepdims=True))
    factor = {
        "l2": length / jnp.sqrt(length**2 + xi**2),
        "linf": jnp.abs(g) / (jnp.abs(g) + xi),
    }[norm_name]
    smoothed, info = _call(attacks.smooth(plain, norm, xi), eps)
    np.testing.assert_allclose(smoothed - X, factor * delta, atol=1e-6)
    gained = (jnp.abs(g) * factor).sum(axis=(1, 2)) / jnp.abs(g).sum(axis=(1, 2))
    np.testing.assert_allclose(info.factor, gained, rtol=1e-5)
    unchanged, info = _call(attacks.smooth(plain, norm, 0.0), eps)
    np.testing.assert_allclose(unchanged - X, delta, atol=1e-6)
    np.testing.assert_allclose(info.factor, 1.0, rtol=1e-6)
    assert _call(plain, eps)[1].factor is None


@pytest.mark.parametrize("norm_name", ["l2", "linf"])
def test_the_factor_without_a_gradient(norm_name):
    """Nothing is left of the attack for xi > 0, and all of it for xi = 0."""
    norm = NORMS[norm_name]

    def flat(x, y):
        del y
        return jnp.zeros(len(x))

    for xi, expected in ((0.1, 0.0), (0.0, 1.0)):
        smooth = attacks.smooth(_pgd(norm, start=attacks.in_ball(norm)), norm, xi)
        x_adv, info = smooth(KEY, flat, X, Y, 0.1)
        np.testing.assert_array_equal(info.factor, expected)
        assert (x_adv == X).all() == (xi > 0)
        assert info.zero_grad.all()


@pytest.mark.parametrize("norm_name", ["l2", "linf"])
def test_a_schedule_of_xi_compiles_once(norm_name):
    norm = NORMS[norm_name]
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def run(xi):
        return attacks.smooth(_pgd(norm), norm, xi)(KEY, _loss, X, Y, 0.1)[0]

    assert (run(0.1) != run(0.01)).any()


@pytest.mark.parametrize("norm_name", NORMS)
def test_a_negated_loss_makes_a_targeted_attack(norm_name):
    target = (Y + 1) % K
    attack, eps = _pgd(NORMS[norm_name]), EPS[norm_name]
    x_adv, _ = attack(KEY, lambda x, y: -_loss(x, y), X, target, eps)
    assert (_loss(x_adv, target) <= _loss(X, target)).all()


@pytest.mark.parametrize("norm_name", ["l1", "l2"])
def test_attacks_are_differentiable(norm_name):
    def after_attack(w1):
        def loss(x, y):
            return losses.cross_entropy(_logits(x, w1), y)

        attack = _pgd(NORMS[norm_name], bounds=None)
        x_adv, _ = attack(KEY, loss, X, Y, 0.1)
        return x_adv.sum()

    grad = jax.grad(after_attack)(W1)
    assert jnp.isfinite(grad).all()
    assert norm_name == "l1" or (grad != 0).any()


def test_wrong_input_is_refused():
    attack = _pgd(norms.linf)
    with pytest.raises(ValueError, match="dtype int32"):
        attack(KEY, _loss, jnp.zeros((2, 3), jnp.int32), Y[:2], 0.1)
    with pytest.raises(ValueError, match=r"shape \(\) for 6 examples"):
        attack(KEY, lambda x, y: _loss(x, y).mean(), X, Y, 0.1)
    with pytest.raises(ValueError, match=r"num_steps = 1.5"):
        attacks.pgd(norms.linf, num_steps=1.5, rel_step_size=0.1)
    with pytest.raises(ValueError, match="rel_step_size = -1"):
        attacks.pgd(norms.linf, num_steps=1, rel_step_size=-1)
    with pytest.raises(ValueError, match="num_restarts = 0"):
        attacks.best_of(attack, num_restarts=0)
    with pytest.raises(ValueError, match=r"norms\.l2 and norms\.linf only"):
        attacks.smooth(attack, norms.l1, 0.1)


def test_half_precision_attacks_as_strongly_as_single():
    for dtype in (jnp.float16, jnp.bfloat16):
        for norm_name, norm in NORMS.items():
            attack, eps = _pgd(norm), EPS[norm_name]
            x = X.astype(dtype)
            half, info = attack(KEY, _loss, x, Y, eps)
            single, _ = attack(KEY, _loss, x.astype(jnp.float32), Y, eps)
            # One unit in the last place of numbers up to 1, and a few entries whose
            # gradient the precision of the network decides.
            far = jnp.abs(half.astype(jnp.float32) - single)
            far = far > float(jnp.finfo(dtype).eps)
            assert far.mean() < 0.1
            assert not info.zero_grad.any()


def test_a_nan_loss_stays_visible_in_the_best_iterate():
    def undefined_at_the_start(x, y):
        return jnp.where((x == X).all(axis=(1, 2)), jnp.nan, _loss(x, y))

    attack = _pgd(norms.linf, start=attacks.gaussian(0.0), keep_best=True)
    _, info = attack(KEY, undefined_at_the_start, X, Y, 0.1)
    assert jnp.isnan(info.loss).all()


def test_numpy_inputs_are_accepted():
    attack = _pgd(norms.l2)
    plain, _ = attack(KEY, _loss, X, Y, 0.1)
    for dtype in (np.float32, np.float64):
        x_adv, _ = attack(KEY, _loss, np.asarray(X, dtype), np.asarray(Y), 0.1)
        np.testing.assert_allclose(x_adv, plain, atol=1e-6)


def test_old_style_keys_are_accepted():
    attack = _pgd(norms.l2, start=attacks.in_ball(norms.l2))
    chex.assert_trees_all_equal(
        attack(jax.random.PRNGKey(3), _loss, X, Y, 0.1),
        attack(jax.random.key(3), _loss, X, Y, 0.1),
    )


# Objectives ---------------------------------------------------------------------------


def _init(key, x):
    del key, x
    return {"w1": W1, "w2": W2}, {}


def _apply(params, batch_stats, x, *, train, key=None):
    del train, key
    x = x.reshape(x.shape[0], -1)
    return jnp.tanh(x @ params["w1"]) @ params["w2"], batch_stats


MODEL = Model(_init, _apply)
PARAMS = {"w1": W1, "w2": W2}
BATCH = Batch(X, Y)
LASSO = 0.01


def _lasso(w):
    return LASSO * jnp.abs(w).sum()


def _lasso_of_all():
    return _lasso(W1) + _lasso(W2)


OBJECTIVES = {
    "standard": lambda attack: objectives.standard(MODEL, losses.cross_entropy),
    "adversarial": lambda attack: objectives.adversarial(
        MODEL, losses.cross_entropy, attack
    ),
    "trades": lambda attack: objectives.trades(MODEL, attack, beta=6.0),
    "mart": lambda attack: objectives.mart(MODEL, attack, beta=5.0),
    "penalised": lambda attack: objectives.with_penalty(
        objectives.adversarial(MODEL, losses.cross_entropy, attack), _lasso
    ),
    "aligned": lambda attack: objectives.with_alignment(
        objectives.adversarial(MODEL, losses.cross_entropy, attack),
        MODEL,
        losses.cross_entropy,
        strength=0.2,
    ),
}
each_objective = pytest.mark.parametrize("name", OBJECTIVES)
INNER = _pgd(norms.linf, start=attacks.gaussian(1e-3))


def _fixed(x_adv):
    """An attack that returns given points, to look at an objective alone."""

    def attack(key, loss_fn, x, y, eps):
        del key, x, eps
        return x_adv, AttackInfo(loss_fn(x_adv, y), jnp.zeros(x_adv.shape[0], bool))

    return attack


def _spy(attack):
    """``attack``, and the list that its results are appended to."""
    seen = []

    def spying(*args):
        seen.append(attack(*args))
        return seen[-1]

    return spying, seen


@pytest.mark.usefixtures("x64")
@each_objective
def test_gradient_equals_finite_differences(name):
    x_adv = jnp.clip(X + 0.1 * jnp.sign(jnp.sin(37 * X)), 0, 1).astype(float)
    params = jax.tree.map(lambda leaf: leaf.astype(float), PARAMS)
    flat, unravel = ravel_pytree(params)
    objective = OBJECTIVES[name](_fixed(x_adv))

    @jax.jit
    def value(flat):
        batch = Batch(X.astype(float), Y)
        return objective(unravel(flat), {}, KEY, batch, 0.1)[0]

    numerical = reference.finite_difference(value, np.asarray(flat))
    np.testing.assert_allclose(jax.grad(value)(flat), numerical, rtol=1e-5, atol=1e-8)


@each_objective
def test_gradient_holds_the_attack_fixed(name):
    """Danskin: the gradient through the attack equals that at the points it found."""
    spying, seen = _spy(INNER)
    with _without_jit():
        grad = jax.grad(OBJECTIVES[name](spying), has_aux=True)(
            PARAMS, {}, KEY, BATCH, 0.1
        )[0]
    x_adv = jax.lax.stop_gradient(seen[-1][0]) if seen else X
    frozen = jax.grad(OBJECTIVES[name](_fixed(x_adv)), has_aux=True)(
        PARAMS, {}, KEY, BATCH, 0.1
    )[0]
    chex.assert_trees_all_close(grad, frozen, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n != "standard"])
def test_objectives_report_the_factor_of_a_surrogate(name):
    smooth = attacks.smooth(INNER, norms.linf, 0.1)
    _, aux = OBJECTIVES[name](smooth)(PARAMS, {}, KEY, BATCH, 0.1)
    assert aux.attack.factor.shape == (N,)
    assert ((aux.attack.factor < 1) & (aux.attack.factor >= 0)).all()
    _, plain = OBJECTIVES[name](INNER)(PARAMS, {}, KEY, BATCH, 0.1)
    assert plain.attack.factor is None


@each_objective
def test_zero_radius_is_clean_training(name):
    value, aux = OBJECTIVES[name](INNER)(PARAMS, {}, KEY, BATCH, 0.0)
    clean, clean_aux = OBJECTIVES["standard"](None)(PARAMS, {}, KEY, BATCH, 0.0)
    np.testing.assert_allclose(aux.logits, clean_aux.logits, rtol=1e-6)
    if name == "mart":
        # MART's own cross-entropy has a second term, at any radius.
        z = np.asarray(clean_aux.logits, float)
        terms = [reference.mart(a, a, b, 5.0) for a, b in zip(z, Y, strict=True)]
        clean = np.mean(terms)
    if name == "penalised":
        clean = clean + _lasso_of_all()
    np.testing.assert_allclose(value, clean, rtol=1e-5)


@each_objective
def test_value_equals_the_reference(name):
    x_adv = jnp.clip(X + 0.1 * jnp.sign(jnp.sin(37 * X)), 0, 1)
    value, aux = OBJECTIVES[name](_fixed(x_adv))(PARAMS, {}, KEY, BATCH, 0.1)
    clean, adv = (np.asarray(_logits(x), np.float64) for x in (X, x_adv))
    slow = {
        "standard": lambda z, _, y: reference.cross_entropy(z, y),
        "trades": partial(reference.trades, beta=6.0),
        "mart": partial(reference.mart, beta=5.0),
    }.get(name, lambda _, z_adv, y: reference.cross_entropy(z_adv, y))
    terms = [slow(*row) for row in zip(clean, adv, np.asarray(Y), strict=True)]
    np.testing.assert_allclose(aux.losses, terms, rtol=1e-4)
    if name == "aligned":  # test_objectives has the formula of its penalty
        assert 0 < value - np.mean(terms) < 2 * 0.2
        return
    penalty = _lasso_of_all() if name == "penalised" else 0.0
    np.testing.assert_allclose(value, np.mean(terms) + penalty, rtol=1e-5)


@each_objective
def test_objectives_jit_and_map_over_radii(name):
    objective = OBJECTIVES[name](INNER)
    radii = jnp.array([0.0, 0.1, 0.3])
    values = jax.jit(jax.vmap(lambda eps: objective(PARAMS, {}, KEY, BATCH, eps)[0]))(
        radii
    )
    loop = [objective(PARAMS, {}, KEY, BATCH, eps)[0] for eps in radii]
    np.testing.assert_allclose(values, loop, rtol=1e-5)
    assert name == "standard" or (jnp.diff(values) > 0).all()


def test_trades_starts_away_from_the_clean_input_where_it_has_no_gradient():
    def kl_from(start, num_steps):
        attack = _pgd(norms.linf, start=start, num_steps=num_steps)
        clean = _logits(X)
        return attack(KEY, lambda x, p: losses.kl(p, _logits(x)), X, clean, 0.2)[1]

    assert (kl_from(None, 0).loss == 0).all()
    started, attacked = (kl_from(attacks.gaussian(1e-3), steps) for steps in (0, 4))
    grad = jax.grad(lambda x: losses.kl(_logits(X), _logits(x)).sum())(X)
    assert jnp.abs(grad).max() < 1e-6
    assert started.loss.max() > 1e-6
    assert (attacked.loss > 100 * jnp.maximum(started.loss, 1e-6)).all()
    assert not attacked.zero_grad.any()


def test_attack_mode_chooses_what_the_attack_sees():
    def apply(params, batch_stats, x, *, train, key=None):
        del key
        logits, _ = _apply(params, {}, x, train=train)
        return logits * (1.0 if train else -1.0), batch_stats

    model = Model(_init, apply)
    x_advs = []
    for mode in ("train", "eval"):
        spying, seen = _spy(_pgd(norms.linf))
        objective = objectives.adversarial(
            model, losses.cross_entropy, spying, attack_mode=mode
        )
        objective(PARAMS, {}, KEY, BATCH, 0.1)
        x_advs.append(seen[0][0])
    np.testing.assert_allclose(
        x_advs[0], _pgd(norms.linf)(KEY, _loss, X, Y, 0.1)[0], atol=1e-6
    )
    assert (x_advs[0] != x_advs[1]).any()
    with pytest.raises(ValueError, match=r"attack_mode = 'test': choose 'eval' or"):
        objectives.mart(MODEL, INNER, beta=5.0, attack_mode="test")


@pytest.mark.parametrize("name", ["trades", "mart"])
def test_masked_classes_train(name):
    """With a class masked everywhere, values and gradients are those of the others."""
    mask = jnp.array([0.0, 0.0, 0.0, -jnp.inf])

    def masked(params, batch_stats, x, *, train, key=None):
        logits, _ = _apply(params, {}, x, train=train, key=key)
        return logits + mask[None], batch_stats

    def three(params, batch_stats, x, *, train, key=None):
        logits, _ = _apply(params, {}, x, train=train, key=key)
        return logits[:, :3], batch_stats

    batch = Batch(X, Y % 3)
    found = []
    for apply in (masked, three):
        model = Model(_init, apply)
        objective = {
            "trades": lambda model: objectives.trades(model, INNER, beta=6.0),
            "mart": lambda model: objectives.mart(model, INNER, beta=5.0),
        }[name](model)
        found.append(
            jax.value_and_grad(lambda p, f=objective: f(p, {}, KEY, batch, 0.1)[0])(
                PARAMS
            )
        )
    chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["trades", "mart", "adversarial"])
def test_large_logits_of_half_precision_train_as_in_single(name):
    """The guards of MART used to round away, and its gradient was 16 000 times this."""

    def scaled(dtype):
        def apply(params, batch_stats, x, *, train, key=None):
            logits, _ = _apply(params, {}, x, train=train, key=key)
            # The rounding of the network itself is the same on both sides.
            return (50 * jnp.sign(logits)).astype(dtype) * params["scale"].astype(
                dtype
            ), batch_stats

        return Model(_init, apply)

    params = PARAMS | {"scale": jnp.float32(1.0)}
    gradients = []
    for dtype in (jnp.bfloat16, jnp.float32):
        objective = {
            "trades": lambda m: objectives.trades(m, _fixed(X), beta=6.0),
            "mart": lambda m: objectives.mart(m, _fixed(X), beta=5.0),
            "adversarial": lambda m: objectives.adversarial(
                m, losses.cross_entropy, _fixed(X)
            ),
        }[name](scaled(dtype))
        value = lambda p, f=objective: f(p, {}, KEY, BATCH, 0.1)[0]  # noqa: E731
        gradients.append(float(jax.grad(value)(params)["scale"]))
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=0.02)


def test_dropout_has_a_mask_of_its_own_in_every_pass():
    seen = []

    def apply(params, batch_stats, x, *, train, key=None):
        if train:
            seen.append(jax.random.key_data(key).tolist())
        return _apply(params, batch_stats, x, train=train)

    model = Model(_init, apply)
    with _without_jit():
        objectives.trades(model, INNER, beta=6.0)(PARAMS, {}, KEY, BATCH, 0.1)
        objectives.trades(model, INNER, beta=6.0)(PARAMS, {}, KEY, BATCH, 0.1)
    assert seen[:2] == seen[2:]
    assert seen[0] != seen[1]
    seen.clear()
    adversarial = objectives.adversarial(
        model, losses.cross_entropy, _pgd(norms.linf), attack_mode="train"
    )
    with _without_jit():
        adversarial(PARAMS, {}, KEY, BATCH, 0.1)
    # The attack meets the network that is then trained.
    assert len(seen) > 2
    assert len({str(key) for key in seen}) == 1
