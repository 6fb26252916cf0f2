"""Every attack × norm on input that makes a weak attack look like a robust model.

Each row of the batch is another kind of trouble, so that one compiled program meets
them all. What is added to ``contracts.ATTACKS`` is held to these for one line.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import ATTACKS, NORMS, each_case, pgd

from advjax import attacks, criteria, evaluate, losses, norms
from advjax.types import AttackInfo

N, K = 6, 4
PLAIN, FLAT, UNDEFINED, OUTSIDE, BROKEN, INFINITE = range(N)
RNG = np.random.default_rng(1)
X = jnp.asarray(RNG.uniform(0.1, 0.9, (N, 3, 2)), jnp.float32)
X = X.at[OUTSIDE, 0].set(jnp.array([1.5, -0.25], X.dtype))
W1 = jnp.asarray(RNG.normal(size=(6, 8)), jnp.float32)
W2 = jnp.asarray(RNG.normal(size=(8, K)), jnp.float32)
KEY = jax.random.key(0)
EPS = {"l1": 1.0, "l2": 0.5, "linf": 0.2}


def _row(i):
    return jnp.arange(N) == i


def _predict(x):
    """Logits with all their trouble in the gradient, none of it in the value."""
    flat = x.reshape(N, -1)
    logits = jnp.tanh(flat @ W1.astype(x.dtype)) @ W2.astype(x.dtype)
    # A constant network, right on one row and wrong on another.
    constant = (_row(FLAT) | _row(BROKEN))[:, None]
    logits = jnp.where(constant, jnp.zeros_like(logits), logits)
    # The norm of a zero vector has no gradient.
    vector = jnp.where(_row(UNDEFINED)[:, None], 0 * flat, 1 + 0 * flat)
    undefined = jnp.linalg.norm(vector, axis=1) - jnp.sqrt(jnp.asarray(6.0, x.dtype))
    undefined = jnp.where(_row(UNDEFINED), undefined + jnp.sqrt(6.0).astype(x.dtype), 0)
    large = jnp.where(_row(INFINITE), 1e38, 0).astype(x.dtype)
    first = flat[:, 0] - jax.lax.stop_gradient(flat[:, 0])
    trouble = undefined + large * (large * first)
    return logits.at[:, 0].add(trouble)


Y = jnp.argmax(_predict(X), axis=1).at[FLAT].set(0).at[BROKEN].set(1)


@cache
def _run(name, norm_name):
    attack = ATTACKS[name](NORMS[norm_name])
    return jax.jit(lambda eps, x: attack(KEY, GOAL, x, Y, eps))


GOAL = criteria.Goal(_predict, losses.cross_entropy)


def _length(norm_name, delta):
    """In double precision, ``[n]``."""
    flat = np.abs(np.asarray(delta, np.float64)).reshape(N, -1)
    order = {"l1": 1, "l2": 2, "linf": np.inf}[norm_name]
    return np.linalg.norm(flat, order, axis=1)


def _difference(x_adv, x):
    return np.asarray(x_adv, np.float64) - np.asarray(x, np.float64)


@each_case
def test_flags_are_raised_where_they_belong(name, norm_name):
    eps = EPS[norm_name]
    x_adv, info = _run(name, norm_name)(jnp.full(N, eps), X)
    np.testing.assert_array_equal(info.zero_grad, _row(FLAT))
    np.testing.assert_array_equal(info.undefined_grad, _row(UNDEFINED) | _row(INFINITE))
    np.testing.assert_array_equal(info.outside, _row(OUTSIDE))
    np.testing.assert_array_equal(
        info.fooled, criteria.misclassified(_predict(x_adv), Y)
    )
    assert jnp.isfinite(x_adv).all()
    assert info.fooled[BROKEN]


@each_case
def test_the_ball_is_not_left_by_rounding_or_by_the_box(name, norm_name):
    eps = np.float32(EPS[norm_name])
    x_adv, _ = _run(name, norm_name)(jnp.full(N, eps), X)
    assert (_length(norm_name, _difference(x_adv, X)) <= eps * (1 + 1e-6)).all()
    assert (x_adv >= jnp.minimum(X, 0)).all()
    assert (x_adv <= jnp.maximum(X, 1)).all()


@each_case
def test_zero_radius_is_the_input_to_the_bit(name, norm_name):
    x_adv, info = _run(name, norm_name)(jnp.zeros(N), X)
    np.testing.assert_array_equal(x_adv, X)
    np.testing.assert_array_equal(info.fooled, criteria.misclassified(_predict(X), Y))


@each_case
def test_a_negative_radius_is_nan_for_its_example_alone(name, norm_name):
    eps = jnp.full(N, EPS[norm_name])
    run = _run(name, norm_name)
    x_adv, _ = run(eps.at[PLAIN].set(-0.1), X)
    expected, _ = run(eps, X)
    assert jnp.isnan(x_adv[PLAIN]).all()
    np.testing.assert_array_equal(x_adv[1:], expected[1:])


@each_case
def test_features_have_radii_of_their_own_and_0_holds_them(name, norm_name):
    run, eps = _run(name, norm_name), EPS[norm_name]
    shares = jnp.asarray(RNG.uniform(0.2, 1.0, X.shape), jnp.float32)
    shares = shares.at[:, 1].set(0.0)
    x_adv, _ = run(eps * shares, X)
    np.testing.assert_array_equal(x_adv[:, 1], X[:, 1])
    scaled = _difference(x_adv, X) / np.where(shares == 0, 1, eps * shares)
    assert (_length(norm_name, scaled) <= 1 + 1e-5).all()
    assert (x_adv != X)[PLAIN].any()
    # A negative radius of one feature is nan, not another radius.
    assert jnp.isnan(run((eps * shares).at[PLAIN, 0, 0].set(-1.0), X)[0][PLAIN]).all()


@each_case
def test_equal_radii_of_features_are_one_radius(name, norm_name):
    run, eps = _run(name, norm_name), EPS[norm_name]
    of_features, _ = run(jnp.full((1 if name == "pgd" else N, 3, 2), eps), X)
    of_examples, _ = run(jnp.full(N, eps), X)
    np.testing.assert_allclose(of_features, of_examples, atol=1e-6)


@each_case
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_stays_in_the_ball_and_in_the_box(name, norm_name, dtype):
    x, eps = X.astype(dtype), np.float32(EPS[norm_name])
    for radius in (eps, np.float32(1e-3)):
        x_adv, info = _run(name, norm_name)(jnp.full(N, radius), x)
        assert (x_adv.dtype, x_adv.shape) == (dtype, x.shape)
        assert info.loss.shape == info.zero_grad.shape == (N,)
        length = _length(norm_name, _difference(x_adv, x))
        assert (length <= radius * (1 + 1e-6)).all()
        assert ((x_adv >= jnp.minimum(x, 0)) & (x_adv <= jnp.maximum(x, 1))).all()


@each_case
def test_infinite_bounds_are_no_bounds(name, norm_name):
    """Also entry by entry: one that is bounded holds, whatever the others are."""
    norm, eps = NORMS[norm_name], jnp.full(N, EPS[norm_name])

    def run(bounds):
        attack = ATTACKS[name](norm, bounds=bounds)
        return jax.jit(lambda eps: attack(KEY, GOAL, X, Y, eps))(eps)[0]

    free = run(None)
    np.testing.assert_allclose(run((-np.inf, np.inf)), free, atol=1e-6)
    low = np.full((3, 2), -np.inf, np.float32)
    low[0, 0] = 0.5
    x_adv = run((low, jnp.inf))
    assert jnp.isfinite(x_adv).all()
    assert (x_adv[:, 0, 0] >= jnp.minimum(X[:, 0, 0], 0.5)).all()


@pytest.mark.parametrize("norm_name", NORMS)
def test_gradients_of_features_that_are_held_do_not_count(norm_name):
    """The model reads the first feature alone, and it is held fixed."""

    def predict(x):
        undefined = jnp.linalg.norm(0 * x[:, :1], axis=1)
        return jnp.stack([5 * x[:, 0] + undefined, 0 * x[:, 0]], axis=1)

    x, y = jnp.ones((4, 3)), jnp.zeros(4, int)
    attack = pgd(NORMS[norm_name], bounds=None)
    mask = jnp.array([[0.0, 1.0, 1.0]])
    goal = criteria.Goal(predict, losses.cross_entropy)
    _, info = attack(KEY, goal, x, y, mask)
    assert info.zero_grad.all()
    assert not info.undefined_grad.any()
    _, info = attack(KEY, goal, x, y, 1.0)
    assert info.undefined_grad.all()


# Kept points --------------------------------------------------------------------------


def _fooled_at_small_loss(x):
    """Right and never confident for x < 0, wrong from x = 0.2 on at a small loss."""
    t = x[:, 0]
    z = jnp.full((10, len(t)), -0.1)
    left = z.at[0].set(0.05 + 0.1 * t)
    right = jnp.full((10, len(t)), -20.0).at[0].set(2 - 10 * t).at[1].set(0.0)
    return jnp.where(t < 0, left, right).T


def _robust_accuracies(attack_of, counts, n=200, eps=0.3):
    x, y = jnp.zeros((n, 1)), jnp.zeros(n, int)

    def robust(count):
        return evaluate.outcome(
            KEY,
            _fooled_at_small_loss,
            losses.cross_entropy,
            attack_of(count),
            *(x, y, eps),
        ).robust

    return [jax.jit(robust, static_argnums=0)(count).mean() for count in counts]


@pytest.mark.parametrize("norm_name", NORMS)
def test_more_restarts_never_leave_more_examples_robust(norm_name):
    norm = NORMS[norm_name]
    base = pgd(
        norm,
        num_steps=10,
        rel_step_size=0.25,
        bounds=None,
        start=attacks.in_ball(norm),
    )
    found = _robust_accuracies(
        lambda count: attacks.best_of(base, num_restarts=count), (1, 3, 10, 30)
    )
    assert (np.diff(found) <= 0).all(), found
    assert found[0] > found[1] > found[2]
    if norm is norms.linf:
        np.testing.assert_allclose(found, [0.505, 0.105, 0.0, 0.0], atol=1e-6)


def test_restarts_of_an_attack_that_knows_no_goals_keep_what_fools():
    start = attacks.in_ball(norms.linf)
    base = pgd(norms.linf, num_steps=10, rel_step_size=0.25, bounds=None, start=start)

    def plain(key, loss_fn, x, y, eps):
        x_adv, info = base(key, lambda x, y: loss_fn(x, y), x, y, eps)
        return x_adv, AttackInfo(info.loss, info.zero_grad)

    found = _robust_accuracies(
        lambda count: attacks.best_of(plain, num_restarts=count), (1, 3, 10)
    )
    np.testing.assert_allclose(found, [0.505, 0.105, 0.0], atol=1e-6)


@pytest.mark.parametrize("norm_name", NORMS)
def test_more_steps_kept_never_leave_more_examples_robust(norm_name):
    norm = NORMS[norm_name]

    def attack(num_steps):
        return pgd(
            norm,
            num_steps=num_steps,
            rel_step_size=0.25,
            bounds=None,
            start=attacks.in_ball(norm),
            keep_best=True,
        )

    found = _robust_accuracies(attack, (0, 1, 2, 5, 10))
    assert (np.diff(found) <= 0).all(), found
    assert found[-1] < found[0] < 1


@pytest.mark.parametrize("norm_name", NORMS)
def test_a_larger_radius_from_a_warm_start_never_leaves_more_examples_robust(norm_name):
    norm = NORMS[norm_name]
    climb = attacks.climb(norm, num_steps=3, rel_step_size=0.3, keep_best=True)
    goal = criteria.Goal(_fooled_at_small_loss, losses.cross_entropy)
    x, y = jnp.zeros((100, 1)), jnp.zeros(100, int)
    start = attacks.starts(KEY, attacks.in_ball(norm), x, 0.3)
    robust, delta = [], start
    for eps in (0.3, 0.4, 0.6, 1.0):
        x_adv, info = climb(goal, x, y, eps, delta)
        robust.append(1 - info.fooled.mean())
        delta = x_adv - x
    assert (np.diff(robust) <= 0).all(), robust
    assert robust[0] < 1


def test_a_plain_loss_keeps_the_largest_loss():
    """Without a goal nothing is known of accuracies, and losses do not fall."""
    attack = pgd(norms.linf, start=attacks.in_ball(norms.linf), bounds=None)
    x, y = jnp.zeros((50, 1)), jnp.zeros(50, int)

    def loss_fn(x, y):
        return losses.cross_entropy(_fooled_at_small_loss(x), y)

    found = [
        attacks.best_of(attack, num_restarts=count)(KEY, loss_fn, x, y, 0.3)[1]
        for count in (1, 3, 10)
    ]
    assert all(info.fooled is None for info in found)
    assert (np.diff([info.loss for info in found], axis=0) >= 0).all()


# Words --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: attacks.pgd("linf", **STEPS), r"norm = 'linf': choose norms\.l1"),
        (lambda: attacks.fgsm(jnp.ones(3)), "choose norms.l1"),
        (
            lambda: attacks.pgd(norms.l2, **STEPS, start=attacks.in_ball),
            r"attacks\.in_ball makes a start: call it first",
        ),
        (
            lambda: attacks.pgd(norms.l2, **STEPS, start="random"),
            r"start = 'random': choose such as",
        ),
        (
            lambda: attacks.pgd(norms.l2, **STEPS, bounds=(1.0, 0.0)),
            r"bounds = \(1.0, 0.0\): choose low ≤ high",
        ),
        (
            lambda: attacks.pgd(norms.l2, **STEPS, bounds=(0.0, float("nan"))),
            "choose low ≤ high, and no nan",
        ),
        (
            lambda: attacks.pgd(norms.l2, **STEPS, bounds=([0.0, 2.0], 1.0)),
            "choose low ≤ high",
        ),
        (lambda: attacks.pgd(norms.l2, **STEPS, bounds=1.0), r"give a pair \(low"),
        (lambda: _called(key=0), r"key = 0 is no PRNG key: give jax.random.key"),
        (lambda: _called(key=jax.random.split(KEY, 3)), "3 keys for 4 examples"),
        (lambda: _called(eps=jnp.ones(3)), r"eps has shape \(3,\), x \(4, 3, 2\)"),
        (lambda: _called(eps=jnp.ones((4, 3, 3))), r"one per feature, \[1, \.\.\.\]"),
        (lambda: _called(bounds=(np.zeros((5, 5)), 1.0)), "must fit an example"),
        (lambda: _called(key=jnp.zeros(3, jnp.uint32)), "is no PRNG key: give jax.ran"),
        (lambda: _called(eps="8/255"), "eps = '8/255': give numbers"),
        (
            lambda: _called(loss_fn=lambda x, y: (_sum(x, y), x)),
            "loss_fn returned tuple",
        ),
        (
            lambda: _called(loss_fn=lambda x, y: y),
            "must return one floating-point arra",
        ),
        (lambda: _climbed(jnp.zeros(3)), r"delta has shape \(3,\): give that of x"),
        (
            lambda: _called(start=lambda key, like, eps: eps),
            r"start returned shape \(\)",
        ),
        (lambda: attacks.in_ball("linf"), r"norm = 'linf': choose norms\.l1"),
        (
            lambda: attacks.pgd(norms.l2, **STEPS, bounds=(0.0, None)),
            "infinite ones wh",
        ),
        (lambda: attacks.pgd(norms.l2, **STEPS, bounds=("0", "1")), "give numbers"),
        (
            lambda: attacks.pgd(norms.l2, num_steps=2, rel_step_size="1"),
            "= '1': choose",
        ),
        (
            lambda: attacks.pgd(norms.l2, num_steps=2, rel_step_size=np.ones(3)),
            r"rel_step_size has shape \(3,\): give one number",
        ),
        (lambda: attacks.best_of(attacks.pgd, num_restarts=2), "give an attack, such"),
        (
            lambda: attacks.best_of("pgd", num_restarts=2),
            "attack = 'pgd' cannot be called",
        ),
        (lambda: _called(x=(X[:4], X[:4])), "x is a tuple: give one array, and close"),
        (lambda: _called(x=X[:4].astype(jnp.uint8)), "x has dtype uint8; convert it"),
        (lambda: _called(loss_fn=lambda x, y: x), r"shape \(4, 3, 2\) for 4 examples"),
        (
            lambda: _called(loss_fn=criteria.Goal(lambda x: {"z": x}, losses.margin)),
            "the model returns a dict: make it return one array",
        ),
        (
            lambda: _called(loss_fn=criteria.Goal(lambda x: (x, x), losses.margin)),
            "the model returns a tuple",
        ),
        (
            lambda: attacks.pgd(norms.l2, **STEPS | {"num_steps": True}),
            "num_steps = Tr",
        ),
        (lambda: attacks.pgd(norms.l2, **STEPS | {"rel_step_size": np.nan}), "= nan:"),
        (
            lambda: attacks.best_of(pgd(norms.l2), num_restarts=2.0),
            "num_restarts = 2.0",
        ),
        (
            lambda: attacks.smooth(pgd(norms.l1), norms.l1, 0.1),
            "norms.l2 and norms.lin",
        ),
    ],
)
def test_a_mistake_is_one_value_error_that_says_what_to_give(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


STEPS = {"num_steps": 2, "rel_step_size": 0.5}


def _sum(x, y):
    del y
    return x.sum(axis=(1, 2))


def _climbed(delta):
    climb = attacks.climb(norms.l2, **STEPS)
    return climb(_sum, X[:4], Y[:4], 0.1, delta)


IN_BALL = attacks.in_ball(norms.l2)


def _called(key=KEY, eps=0.1, bounds=None, loss_fn=_sum, x=X[:4], start=IN_BALL):
    attack = attacks.pgd(norms.l2, **STEPS, start=start, bounds=bounds)
    return attack(key, loss_fn, x, Y[:4], eps)


def test_plain_input_is_welcome():
    attack = attacks.pgd(
        norms.l2,
        num_steps=np.int64(2),
        rel_step_size=np.float64(0.5),
        start=attacks.in_ball(norms.l2),
        bounds=[0, 1],
    )
    attack = attacks.best_of(attack, num_restarts=np.int8(2))

    def loss_fn(x, y):
        return losses.cross_entropy(x.reshape(4, -1), y)

    x, y = np.asarray(X[:4], np.float64), [0, 1, 2, 3]
    found, _ = attack(KEY, loss_fn, x, jnp.asarray(y), np.float64(0.1))
    again, _ = attack(KEY, loss_fn, jnp.asarray(x), jnp.asarray(y), 0.1)
    np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_starts_do_not_depend_on_the_batch_for_any_generator(impl):
    """What ``vmap`` draws from keys of rbg depends on how many there are."""
    key = jax.random.key(0, impl=impl)
    x = jnp.zeros((12, 5))
    start = attacks.in_ball(norms.linf)
    whole = attacks.starts(key, start, x, 1.0)
    np.testing.assert_array_equal(attacks.starts(key, start, x[:4], 1.0), whole[:4])
    keys = jax.random.split(key, 12)
    whole = attacks.starts(keys, start, x, 1.0)
    part = attacks.starts(keys[3:7], start, x[3:7], 1.0)
    np.testing.assert_array_equal(part, whole[3:7])
    others = attacks.starts(jax.random.key(1, impl=impl), start, x, 1.0)
    assert (others != whole).all()
