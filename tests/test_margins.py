"""Margins against linear models, where they are known, and their invariants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, criteria, losses, margins, models, norms

NORMS = {"linf": norms.linf, "l2": norms.l2, "l1": norms.l1}


def _pgd(norm, **options):
    return attacks.pgd(norm, num_steps=20, rel_step_size=0.25, **options)


@pytest.fixture
def problem(key):
    keys = jax.random.split(key, 3)
    theta = jax.random.normal(keys[0], (6,))
    x = jax.random.normal(keys[1], (40, 6))
    y = jnp.sign(x @ theta + 0.5 * jax.random.normal(keys[2], (40,)))
    return theta, x, y


@pytest.mark.parametrize("name", NORMS)
def test_margins_of_a_linear_model_are_exact(name, problem, key):
    norm, (theta, x, y) = NORMS[name], problem
    score = margins.logit_margin(lambda x: x @ theta + 0.1)
    distance = margins.linear(theta, 0.1, norm, x, y)
    for eps in (0.0, 0.1, 0.5):
        found = margins.adversarial(_pgd(norm))(key, score, x, y, eps).value
        expected = (distance - eps) * norm.dual(theta)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_the_boundary_of_a_linear_model_is_found_from_above(name, problem, key):
    norm, (theta, x, y) = NORMS[name], problem
    score = margins.logit_margin(lambda x: x @ theta)
    find = margins.boundary(_pgd(norm), norm, num_halvings=12)
    found, exact = find(key, score, x, y, 2.0), margins.linear(theta, 0.0, norm, x, y)
    wrong, far = exact <= 0, exact > 2
    assert wrong.any()
    assert (~wrong & ~far).any()
    np.testing.assert_array_equal(found.distance[wrong], 0)
    np.testing.assert_array_equal(found.delta[wrong], 0)
    assert found.flags.caveats() == ()
    assert jnp.isinf(found.distance[far]).all()
    near = ~wrong & ~far
    assert (found.distance[near] >= exact[near] * (1 - 1e-5)).all()
    np.testing.assert_allclose(found.distance[near], exact[near], atol=2 / 2**11)
    # What is returned is a point on the other side, at that distance.
    np.testing.assert_allclose(
        jax.vmap(norm.value)(found.delta[near]), found.distance[near], rtol=1e-5
    )
    assert (score(x + found.delta, y)[near] <= 1e-6).all()


def test_proposition_3_1_holds_for_what_is_classified_correctly(problem, key):
    theta, x, y = problem
    score = margins.logit_margin(lambda x: x @ theta)
    eps = 0.1
    found = margins.adversarial(_pgd(norms.l2))(key, score, x, y, eps)
    assert found.flags.caveats() == ()
    is_small = found.value < 0
    distance = jnp.abs(margins.linear(theta, 0.0, norms.l2, x, y))
    right = score(x, y) > 0
    np.testing.assert_array_equal(is_small[right], distance[right] < eps)
    # The others have a negative margin however far the boundary is.
    assert is_small[~right].all()
    assert (distance[~right] >= eps).any()


def test_scores_of_classes_and_of_signs_agree(key):
    f = jax.random.normal(key, (10,))
    y = jnp.sign(f[::-1])
    signs = margins.logit_margin(lambda x: x[:, 0])(f[:, None], y)
    logits = jnp.stack([jnp.zeros(10), f], axis=1)
    labels = (y > 0).astype(int)
    classes = margins.logit_margin(lambda _: logits)(f[:, None], labels)
    np.testing.assert_allclose(signs, classes, rtol=1e-6)
    expected = -losses.margin(logits, labels)
    np.testing.assert_allclose(classes, expected)


def test_margins_of_a_network_fall_with_the_radius(key):
    model = models.make("mlp", num_classes=3, hidden=(16,))
    x = jax.random.uniform(key, (10, 4))
    params, stats = model.init(key, x)
    score = margins.logit_margin(lambda x: model.predict(params, stats, x))
    y = jnp.argmax(model.predict(params, stats, x), axis=1)
    of = margins.adversarial(_pgd(norms.linf, keep_best=True))
    values = jax.vmap(lambda eps: of(key, score, x, y, eps).value)(
        jnp.array([0, 0.1, 0.3])
    )
    np.testing.assert_allclose(values[0], score(x, y), atol=1e-6)
    assert (jnp.diff(values, axis=0) <= 1e-6).all()


def test_bad_numbers_of_halvings_are_refused():
    for number in (-1, 2.5):
        with pytest.raises(ValueError, match=f"num_halvings = {number}"):
            margins.boundary(_pgd(norms.l2), norms.l2, num_halvings=number)


def test_searches_say_where_they_had_no_direction(key):
    x = jnp.array([[0.5], [1.5], [-0.9], [np.nan]])
    y = jnp.ones(4)
    # The first and second have no gradient; the second has crossed, the last is nan.
    score = margins.logit_margin(
        lambda x: jnp.round(jnp.where(x < 1, x + 0.2, -x))[:, 0]
    )
    found = margins.boundary(_pgd(norms.linf, bounds=(0, 1)), norms.linf)(
        key, score, x, y, 0.25
    )
    np.testing.assert_array_equal(found.distance, [np.inf, 0, 0, np.nan])
    np.testing.assert_array_equal(found.flags.zero_grad, [True, False, False, True])
    np.testing.assert_array_equal(found.flags.undefined, [False, False, False, True])
    np.testing.assert_array_equal(found.flags.outside, [False, True, True, False])
    assert len(found.flags.caveats()) == 3
    least = margins.adversarial(_pgd(norms.linf))(key, score, x, y, 0.25)
    assert least.flags.zero_grad[0]
    assert not least.flags.zero_grad[2]


def test_a_gradient_that_vanishes_beyond_the_boundary_is_no_reason_to_distrust(key):
    find = margins.boundary(_pgd(norms.linf), norms.linf, num_halvings=12)
    x, y = jnp.array([[0.5]]), jnp.ones(1)
    found = find(key, lambda x, _: jnp.maximum(x[:, 0], -0.1), x, y, 1.0)
    np.testing.assert_allclose(found.distance, 0.5, atol=1e-3)
    assert found.flags.caveats() == ()


def test_a_margin_that_becomes_nan_is_not_far_without_a_word(key):
    x, y = jnp.ones((2, 3)), jnp.ones(2)
    score = margins.logit_margin(lambda x: jnp.where(x[:, 0] < 0.9, jnp.nan, x[:, 0]))
    found = margins.boundary(_pgd(norms.linf), norms.linf)(key, score, x, y, 0.5)
    assert jnp.isinf(found.distance).all()
    assert found.flags.undefined.all()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_distances_of_half_precision_are_measured_in_single(dtype, key):
    x, y = jnp.full((2, 70_000), 0.5, dtype), jnp.ones(2)
    score = margins.logit_margin(lambda x: jnp.mean(x.astype(jnp.float32), axis=1))
    far = attacks.fgsm(norms.linf)
    found = margins.boundary(far, norms.l1)(key, score, x, y, 1.0)
    assert found.distance.dtype == jnp.float32
    assert (found.distance >= 35_000).all()
    assert (found.distance < 36_000).all()


def test_the_radius_of_half_precision_is_not_rounded(key):
    """In bfloat16, 0.1 would be 0.1001."""
    score = margins.logit_margin(lambda x: x[:, 0].astype(jnp.float32) + 0.1)
    find = margins.boundary(_pgd(norms.linf), norms.linf, num_halvings=0)
    x, y = jnp.zeros((1, 1), jnp.bfloat16), jnp.ones(1)
    assert jnp.isinf(find(key, score, x, y, 0.1).distance).all()
    assert (find(key, score, x, y, 0.101).distance <= 0.101).all()


def test_wrong_arguments_are_refused(key, problem):
    theta, x, y = problem
    score = margins.logit_margin(lambda x: x @ theta)
    for attack in (attacks.pgd, None, "pgd"):
        for factory in (
            margins.adversarial,
            lambda attack: margins.boundary(attack, norms.l2),
        ):
            with pytest.raises(ValueError, match=r"attack = .* cannot be called"):
                factory(attack)
    find = margins.boundary(_pgd(norms.l2), norms.l2)
    with pytest.raises(ValueError, match=r"eps has shape \(40, 6\)"):
        find(key, score, x, y, jnp.ones((40, 6)))
    with pytest.raises(ValueError, match="margin = "):
        find(key, None, x, y, 1.0)
    with pytest.raises(ValueError, match="the model returns a tuple"):
        margins.logit_margin(lambda x: (x, x))(x, y)
    assert jnp.isnan(margins.linear(theta, 0.0, norms.l2, x, 0 * y)).all()


def test_the_boundary_is_that_of_the_present_parameters(key):
    """A program kept for a margin would keep the parameters of its first call."""
    params = {"bias": 0.0}
    score = margins.logit_margin(lambda x: x[:, 0] + params["bias"])
    find = margins.boundary(_pgd(norms.l2), norms.l2, num_halvings=15)
    x, y = jnp.array([[1.0, 0.0], [2.0, 0.0]]), jnp.ones(2)
    for bias in (0.0, -0.9, 1.0):
        params["bias"] = bias
        found = find(key, score, x, y, 5.0).distance
        np.testing.assert_allclose(found, x[:, 0] + bias, atol=1e-3)


def test_an_attack_that_overshoots_is_tried_at_smaller_radii(key):
    def ring(x, y):
        del y
        r = jnp.linalg.norm(x, axis=-1)
        return (r - 0.3) * (r - 0.5)  # wrong between

    x, y = jnp.array([[0.05, 0.0], [0.2, 0.0]]), jnp.zeros(2, int)
    find = margins.boundary(_pgd(norms.l2, keep_best=True), norms.l2, num_halvings=12)
    for eps in (0.4, 1.0, 5.0):
        found = find(key, ring, x, y, eps).distance
        np.testing.assert_allclose(found, [0.25, 0.1], atol=0.01)


def test_distances_have_no_gradient_that_would_pass_for_one(key):
    x, y = jnp.array([[2.0, 0.0]]), jnp.ones(1)
    find = margins.boundary(_pgd(norms.l2), norms.l2)

    def distance(theta):
        return find(key, margins.logit_margin(lambda x: x @ theta), x, y, 4.0)[0].sum()

    assert jnp.isnan(jax.grad(distance)(jnp.array([3.0, -4.0]))).all()


def test_a_goal_is_no_margin(key, problem):
    theta, x, y = problem
    goal = criteria.Goal(lambda x: x @ theta, losses.logistic)
    for search in (
        margins.boundary(_pgd(norms.l2), norms.l2),
        margins.adversarial(_pgd(norms.l2)),
    ):
        with pytest.raises(ValueError, match=r"margin is a criteria.Goal"):
            search(key, goal, x, y, 1.0)


def test_margins_of_half_precision_are_those_of_single():
    theta = jnp.full(3072, 30, jnp.float16)
    x = jnp.full((1, 3072), 0.5, jnp.float16).at[:, ::2].set(0.45)
    found = margins.linear(theta, 0.0, norms.linf, x, jnp.array([-1]))
    np.testing.assert_allclose(found, -0.475, rtol=1e-3)


@pytest.mark.parametrize("name", NORMS)
def test_one_run_of_fab_is_the_curve_of_a_linear_model(name, key):
    """The nearest of the other classes, whatever the loss on the way."""
    norm, keys = NORMS[name], jax.random.split(key, 3)
    w = jax.random.normal(keys[0], (6, 4)) * jnp.asarray([[1.0, 2.0, 4.0, 8.0]])
    x, y = jax.random.normal(keys[1], (40, 6)), jax.random.randint(keys[2], (40,), 0, 4)
    z = np.asarray(x @ w)
    expected = np.zeros(40)
    for n, own in enumerate(np.asarray(y)):
        others = [j for j in range(4) if j != own]
        away = [
            (z[n, own] - z[n, j]) / float(norm.dual(w[:, own] - w[:, j]))
            for j in others
        ]
        expected[n] = max(min(away), 0)
    attack = attacks.fab(norm, num_steps=60, num_targets=3)
    find = margins.nearest(attack, norm)
    found = jax.jit(lambda x: find(key, lambda x: x @ w, x, y))(x)
    assert (found.distance >= expected * (1 - 1e-4)).all()
    # FAB goes 1.05 times the way, comes back, and ends nearer.
    np.testing.assert_allclose(found.distance, expected, rtol=2e-2)
    reached = jax.vmap(norm.value)(found.delta)
    np.testing.assert_allclose(found.distance, reached, rtol=1e-6)
    radius = np.median(expected)
    within = find(key, lambda x: x @ w, x, y, radius)
    np.testing.assert_array_equal(
        np.isinf(within.distance), np.asarray(found.distance) > radius
    )


def test_what_is_wrong_or_not_a_number_has_no_distance_to_be_found(key):
    x, y = jnp.ones((3, 2)), jnp.asarray([0, 1, 0])
    w = jnp.asarray([[1.0, 0.0], [1.0, 0.0]])
    attack = attacks.fab(norms.l2, num_steps=20, num_targets=1)
    find = margins.nearest(attack, norms.l2)
    x = x.at[2].set(jnp.nan)
    found = find(key, lambda x: x @ w, x, y)
    np.testing.assert_allclose(found.distance[:2], [2**0.5, 0.0], rtol=2e-2)
    assert np.isnan(found.distance[2])
    assert found.flags.undefined[2]
    assert np.isnan(find(key, lambda x: x @ w, x, y, -1.0).distance).all()
    with pytest.raises(ValueError, match="one per example"):
        find(key, lambda x: x @ w, x, y, jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="of at least 2 classes"):
        find(key, lambda x: x[:, 0], x, jnp.asarray([1, -1, 1]))


def test_what_is_not_a_number_is_no_boundary(key):
    """A ring of nan around the first input, this side of the boundary at 1."""

    def predict(x):
        away = x[:, 0] - x[:, 1]
        away = jnp.where((away > 0.3) & (away < 0.5), jnp.nan, away)
        return jnp.stack([1 - away, jnp.zeros_like(away)], axis=1)

    x, y = jnp.zeros((1, 2)), jnp.asarray([0])
    attack = attacks.fab(norms.linf, num_steps=40, num_targets=1)
    found = margins.nearest(attack, norms.linf)(key, predict, x, y)
    np.testing.assert_allclose(found.distance, [0.5], rtol=5e-2)
    assert not jnp.isnan(predict(x + found.delta)).any()
