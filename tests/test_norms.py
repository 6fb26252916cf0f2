"""Every norm against its definition, NumPy and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import project_l1
from scipy import stats

from advjax import norms

NORMS = {"l1": norms.l1, "l2": norms.l2, "linf": norms.linf}
ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}
DUALS = {"l1": np.inf, "l2": 2, "linf": 1}
SHAPES = ((7,), (2, 3, 4))

each_norm = pytest.mark.parametrize("name", NORMS)
each_shape = pytest.mark.parametrize("shape", SHAPES)


def _draw(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@each_norm
@each_shape
def test_value_and_dual_equal_numpy(name, shape):
    delta = _draw(shape)
    norm = NORMS[name]
    value, dual = (np.linalg.norm(delta.ravel(), o[name]) for o in (ORDERS, DUALS))
    np.testing.assert_allclose(norm.value(delta), value, rtol=1e-6)
    np.testing.assert_allclose(norm.dual(delta), dual, rtol=1e-6)


@each_norm
@each_shape
def test_steepest_attains_the_dual_norm(name, shape):
    g = _draw(shape)
    v = NORMS[name].steepest(g)
    assert v.shape == g.shape
    np.testing.assert_allclose(jnp.sum(g * v), NORMS[name].dual(g), rtol=1e-6)
    assert NORMS[name].value(v) <= 1 + 1e-6


@each_norm
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_steepest_and_values_do_not_depend_on_the_scale(name, scale):
    g = _draw((2, 3, 4))
    norm = NORMS[name]
    scaled = g * np.float32(scale)
    np.testing.assert_allclose(norm.steepest(scaled), norm.steepest(g), rtol=1e-6)
    for function in (norm.value, norm.dual):
        np.testing.assert_allclose(function(scaled) / scale, function(g), rtol=2e-6)


@each_norm
def test_at_zero_nothing_is_nan(name):
    norm, zero = NORMS[name], jnp.zeros((2, 3))
    for function in (norm.value, norm.dual, norm.steepest):
        np.testing.assert_array_equal(function(zero), 0)
        assert jnp.isfinite(jax.jacobian(function)(zero)).all()
    for eps in (0.0, 1.0):
        project = norm.project
        np.testing.assert_array_equal(project(zero, eps), 0)
        assert jnp.isfinite(jax.jacobian(project)(zero, eps)).all()


def test_l1_steepest_takes_the_first_of_ties():
    np.testing.assert_array_equal(norms.l1.steepest(jnp.array([2.0, -2.0])), [1, 0])


@each_norm
@pytest.mark.parametrize("eps", [0.3, 1.0, 30.0])
def test_projection_equals_optax_row_by_row(name, eps):
    rows = np.stack([_draw((12,), seed) for seed in range(20)])
    ball = {
        "l1": optax.projections.projection_l1_ball,
        "l2": optax.projections.projection_l2_ball,
        "linf": lambda x, eps: optax.projections.projection_box(x, -eps, eps),
    }[name]
    ours = jax.vmap(NORMS[name].project, (0, None))(rows, eps)
    theirs = np.stack([ball(jnp.asarray(row), eps) for row in rows])
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@each_norm
@each_shape
def test_projection_is_the_identity_inside(name, shape):
    delta = _draw(shape)
    eps = NORMS[name].value(delta) * 1.000001
    np.testing.assert_array_equal(NORMS[name].project(delta, eps), delta)


@each_norm
@pytest.mark.parametrize("eps", [0.0, 1e-12])
def test_radii_below_the_rounding_of_a_point_project_it_to_zero(name, eps):
    found = NORMS[name].project(_draw((50,)), eps)
    assert NORMS[name].value(found) <= eps * (1 + 1e-5)


@each_norm
def test_projection_is_idempotent_and_reaches_the_boundary(name):
    norm, delta = NORMS[name], _draw((50,))
    once = norm.project(delta, 0.5)
    np.testing.assert_allclose(norm.value(once), 0.5, rtol=1e-6)
    np.testing.assert_allclose(norm.project(once, 0.5), once, atol=1e-7)


@each_norm
def test_projection_is_non_expansive(name):
    project = jax.vmap(NORMS[name].project, (0, None))
    a, b = (np.stack([_draw((9,), s) for s in range(k, k + 100)]) for k in (0, 100))
    before = np.linalg.norm(a - b, axis=-1)
    after = np.linalg.norm(project(a, 0.7) - project(b, 0.7), axis=-1)
    assert (after <= before * (1 + 1e-6)).all()


def test_l1_projection_at_the_size_of_an_image():
    delta = _draw((32, 32, 3))
    ours = norms.l1.project(delta, 12.0)
    np.testing.assert_allclose(ours, project_l1(delta.astype(float), 12), atol=1e-5)
    np.testing.assert_allclose(jnp.sum(jnp.abs(ours)), 12, rtol=1e-5)


def test_soft_threshold_is_the_proximal_operator_of_the_l1_norm():
    """It minimises (u - v)² / 2 + threshold · |u| entry by entry."""
    v, threshold = jnp.array([-2.0, -0.5, -0.3, 0.0, 0.1, 0.5, 0.7]), 0.5
    ours = norms.soft_threshold(v, threshold)
    np.testing.assert_array_equal(ours == 0, jnp.abs(v) <= threshold)
    grid = np.linspace(-3, 3, 60_001)
    values = (grid[None] - np.asarray(v)[:, None]) ** 2 / 2 + threshold * np.abs(grid)
    np.testing.assert_allclose(ours, grid[values.argmin(axis=1)], atol=1e-4)
    np.testing.assert_array_equal(norms.soft_threshold(v, 0.0), v)


def test_l2_projection_of_huge_and_tiny_entries():
    np.testing.assert_allclose(
        norms.l2.project(jnp.array([3e20, 4e20]), 5e18), [3e18, 4e18], rtol=1e-6
    )
    tiny = jnp.array([3e-30, 4e-30])
    np.testing.assert_array_equal(norms.l2.project(tiny, 1e-20), tiny)
    np.testing.assert_allclose(norms.l2.project(tiny, 5e-31), tiny / 10, rtol=1e-5)


@each_norm
@pytest.mark.parametrize("d", [2, 30])
def test_samples_are_uniform_in_the_ball(name, d):
    # P(‖delta‖ ≤ t) = t^d, and the signs and the order of entries are exchangeable.
    norm = NORMS[name]
    keys = jax.random.split(jax.random.key(1), 4000)
    draws = jax.vmap(norm.sample, (0, None))(keys, jnp.zeros(d))
    radii = jax.vmap(norm.value)(draws)
    assert stats.kstest(np.asarray(radii, float) ** d, "uniform").pvalue > 0.01
    assert stats.binomtest(int((draws[:, 0] > 0).sum()), 4000).pvalue > 0.01
    first, last = np.asarray(draws[:, 0]), np.asarray(draws[:, -1])
    assert stats.ks_2samp(np.abs(first), np.abs(last)).pvalue > 0.01


@each_norm
def test_samples_in_two_dimensions_fill_equal_areas_equally(name):
    # Rejection from the square is an independent way to the same distribution.
    norm = NORMS[name]
    keys = jax.random.split(jax.random.key(2), 4000)
    ours = jax.vmap(norm.sample, (0, None))(keys, jnp.zeros(2))
    square = np.random.default_rng(0).uniform(-1, 1, (20000, 2))
    inside = np.linalg.norm(square, ORDERS[name], axis=1) <= 1
    for statistic in (lambda v: v[:, 0], lambda v: v[:, 0] + v[:, 1]):
        theirs = statistic(square[inside])
        assert stats.ks_2samp(statistic(np.asarray(ours)), theirs).pvalue > 0.01


@each_norm
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtype_and_shape_are_kept(name, dtype, key):
    norm, delta = NORMS[name], jnp.asarray(_draw((2, 3)), dtype)
    for result in (
        norm.steepest(delta),
        norm.project(delta, jnp.asarray(0.5, dtype)),
        norm.sample(key, delta),
    ):
        assert result.dtype == dtype
        assert result.shape == delta.shape


@each_norm
def test_a_radius_that_is_not_a_number_gives_none(name):
    found = NORMS[name].project(jnp.array([0.5, 0.0]), jnp.asarray(jnp.nan))
    assert jnp.isnan(found).any()


@pytest.mark.parametrize("xi", [0.0, 0.5])
def test_the_surrogate_factor_is_that_of_the_formula(xi):
    g = _draw((2, 3, 4))
    size = np.linalg.norm(g)
    found = norms.surrogate_factor(norms.l2, g, xi)
    np.testing.assert_allclose(found, np.full_like(g, size / np.hypot(size, xi)))
    found = norms.surrogate_factor(norms.linf, g, xi)
    np.testing.assert_allclose(found, np.abs(g) / (np.abs(g) + xi))
    for norm in (norms.l2, norms.linf):
        found = norms.surrogate_factor(norm, jnp.zeros(3), xi)
        np.testing.assert_array_equal(found, float(xi == 0))


def test_the_surrogate_factor_has_no_overflow_and_a_domain():
    g = jnp.array([3e30, 4e30])
    found = norms.surrogate_factor(norms.l2, g, 12e30)
    np.testing.assert_allclose(found, 5 / 13, rtol=1e-6)
    for norm in (norms.l2, norms.linf):
        assert jnp.isnan(norms.surrogate_factor(norm, g, -0.1)).all()
    with pytest.raises(ValueError, match="defined for norms"):
        norms.surrogate_factor(norms.l1, g, 0.1)
    with pytest.raises(ValueError, match="norm = 'l2': choose"):
        norms.surrogate_factor("l2", g, 0.1)


def test_norms_are_constants_and_arguments_of_transformations():
    dual = jax.jit(lambda norm, g: norm.dual(g))
    assert [dual(norm, jnp.ones(3)) for norm in (norms.linf, norms.l1)] == [3, 1]
    with pytest.raises(AttributeError, match="cannot assign"):
        norms.l2.name = "l1"
