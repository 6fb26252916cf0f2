"""Balls and boxes, and rounding into them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import regions

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_rounding_never_goes_beyond_the_perturbation(dtype):
    x = jnp.asarray(RNG.uniform(-1, 1, (1000, 7)), dtype)
    wide = x.astype(jnp.float32)
    for size in (1e-4, 1e-2, 0.3):
        delta = jnp.asarray(RNG.uniform(-size, size, x.shape), jnp.float32)
        x_adv = regions.inwards(wide, wide + delta, delta, dtype)
        moved = np.asarray(x_adv, np.float64) - np.asarray(x, np.float64)
        # The comparison itself is in single precision.
        assert (np.abs(moved) <= np.abs(np.asarray(delta)) * (1 + 6e-8)).all()
        # Nor is it more than a unit in the last place short.
        ulp = np.maximum(np.abs(np.asarray(x_adv, np.float64)), 1e-3)
        ulp = ulp * float(jnp.finfo(dtype).eps)
        assert (np.abs(np.asarray(delta)) - np.abs(moved) <= 2 * ulp).all()


def test_rounding_has_the_gradient_of_the_point():
    x, delta = jnp.float32(0.3), jnp.float32(0.1)
    slope = jax.grad(lambda d: regions.inwards(x, x + d, d, jnp.float32))(delta)
    assert slope == 1


def test_an_input_outside_of_the_bounds_is_its_own_bound():
    x = jnp.array([[0.5, 2.0], [0.5, 0.5], [-1.0, 1.0]])
    region, outside = regions.region(x, 0.1, (0.0, 1.0))
    np.testing.assert_array_equal(outside, [True, False, True])
    np.testing.assert_array_equal(region.low, [[0, 0], [0, 0], [-1, 0]])
    np.testing.assert_array_equal(region.high, [[1, 2], [1, 1], [1, 1]])
    assert regions.region(x, 0.1).outside is None


def test_bounds_are_rounded_as_the_inputs_are():
    """0.1 is no number of half precision, and the nearest one is not outside."""
    x = jnp.full((1, 2), 0.1, jnp.bfloat16)
    assert float(x[0, 0]) > 0.1
    region, outside = regions.region(x, 0.1, (0.0, 0.1))
    assert not outside.any()
    assert float(region.high[0, 0]) == float(x[0, 0])


def test_radii_of_features_are_one_radius_and_weights():
    x = jnp.zeros((2, 3))
    eps = jnp.array([[0.0, 0.2, 0.1], [0.0, 0.0, 0.0]])
    radius, weights = regions.radii(x, eps)
    np.testing.assert_allclose(radius, [0.2, 0.0])
    np.testing.assert_allclose(weights, [[0, 1, 0.5], [0, 0, 0]])
    for eps in (0.2, jnp.array([0.2, 0.2]), jnp.full((1, 3), 0.2)):
        radius, weights = regions.radii(x, eps)
        np.testing.assert_allclose(radius, 0.2)
        np.testing.assert_array_equal(weights, 1)
    radius, _ = regions.radii(x, jnp.array([-0.1, 0.1]))
    np.testing.assert_array_equal(jnp.isnan(radius), [True, False])


def test_the_box_of_u_is_the_box_of_x():
    x = jnp.array([[0.25, 0.5]])
    region, _ = regions.region(x, jnp.array([[0.2, 0.1]]), (0.0, 1.0))
    low, high = region.box()
    np.testing.assert_allclose(low, [[-0.25, -1.0]])
    np.testing.assert_allclose(high, [[0.75, 1.0]])
    np.testing.assert_allclose(region.place(high, jnp.float32), 1.0)
    held, _ = regions.region(x, jnp.array([[0.2, 0.0]]), (0.0, 1.0))
    assert jnp.isinf(held.box()[1][0, 1])
    np.testing.assert_allclose(held.place(jnp.ones((1, 2)), jnp.float32), [[1.0, 0.5]])
    np.testing.assert_allclose(held.unweighted(jnp.ones((1, 2))), [[1.0, 0.0]])


@pytest.mark.parametrize("wide", [jnp.inf, 3e38])
def test_a_radius_that_would_freeze_the_other_features_is_nan(wide):
    x = jnp.zeros((2, 2), jnp.float32)
    radius, _ = regions.radii(x, jnp.array([[wide, 0.1], [0.2, 0.1]]))
    np.testing.assert_array_equal(jnp.isnan(radius), [True, False])
    assert jnp.isfinite(regions.radii(x, jnp.inf)[0]).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_perturbation_is_not_lost_by_the_weights_of_features(dtype):
    """A warm start from a fooled point must be that point."""
    key = jax.random.key(0)
    x = jax.random.uniform(key, (50, 40)).astype(dtype)
    eps = 0.1 * jax.random.uniform(jax.random.fold_in(key, 1), (50, 40), minval=0.1)
    region, _ = regions.region(x, eps)
    u = jax.random.uniform(key, (50, 40), minval=-1) * region.radius[:, None]
    point = region.place(u, dtype)
    delta = regions.promoted(point) - regions.promoted(x)
    larger, _ = regions.region(x, 1.5 * eps)
    for each in (region, larger):
        again = each.place(each.unweighted(delta), dtype)
        # In single precision x + delta itself may round near 0.
        assert (again == point).mean() >= (0.99 if dtype == jnp.float32 else 1)


def test_where_every_feature_is_held_no_gradient_has_vanished():
    x = jnp.ones((2, 3))
    region, _ = regions.region(x, jnp.array([[0.0, 0, 0], [0.1, 0, 0]]))
    np.testing.assert_array_equal(region.of_free_features(x), [[1, 1, 1], [1, 0, 0]])
