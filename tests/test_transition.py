"""Crossings and extrapolations: exact on lines, honest where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.transition import Status, crossing, extrapolate

EPS = jnp.array([0.0, 1.0, 2.0, 4.0])
each = pytest.mark.parametrize("method", [crossing, extrapolate])


@each
def test_exact_on_a_line_whatever_the_order(method):
    for order in ([0, 1, 2, 3], [3, 0, 2, 1]):
        found = method(EPS[jnp.array(order)], 0.1 + 0.2 * EPS[jnp.array(order)], 0.7)
        np.testing.assert_allclose(found.eps_star, 3.0, rtol=1e-6)
        assert found.status == Status.CROSSES


def test_statuses_keep_the_numbers_that_results_are_stored_with():
    assert list(Status) == [0, 1, 2, 3, 4]


def test_crossing_interpolates_between_neighbours():
    found = crossing(EPS, jnp.array([0.1, 0.2, 0.6, 0.8]), 0.4)
    np.testing.assert_allclose(found.eps_star, 1.5)
    at_a_point = crossing(EPS, jnp.array([0.1, 0.2, 0.6, 0.8]), 0.2)
    np.testing.assert_allclose(at_a_point.eps_star, 1.0)


def test_a_curve_that_is_not_monotone_gives_the_supremum():
    found = crossing(EPS, jnp.array([0.1, 0.5, 0.3, 0.7]), 0.4)
    np.testing.assert_allclose(found.eps_star, 2.5)
    # Below the threshold later on counts even if the first point is above it.
    found = crossing(EPS, jnp.array([0.5, 0.3, 0.6, 0.7]), 0.4)
    np.testing.assert_allclose(found.eps_star, 1 + 1 / 3)


@pytest.mark.parametrize(
    ("losses", "status"),
    [
        ([0.5, 0.6, 0.7, 0.8], Status.BELOW_FIRST_POINT),
        ([0.1, 0.2, 0.3, 0.4], Status.NEVER_CROSSES),
        ([0.1, jnp.nan, 0.3, 0.6], Status.NOT_A_NUMBER),
        ([0.1, 0.2, 0.3, jnp.inf], Status.NOT_A_NUMBER),
    ],
)
def test_without_a_crossing_there_is_a_status_and_no_number(losses, status):
    found = crossing(EPS, jnp.array(losses), 0.45)
    assert jnp.isnan(found.eps_star)
    assert found.status == status


@pytest.mark.parametrize(
    ("losses", "status"),
    [
        ([0.5, 0.6, 0.7, 0.9], Status.BELOW_FIRST_POINT),
        ([0.4, 0.3, 0.2, 0.1], Status.NOT_RISING),
        ([0.1, 0.1, 0.1, 0.1], Status.NOT_RISING),
        ([0.9, 0.8, 0.8, 0.7], Status.NOT_RISING),
        ([0.1, jnp.nan, 0.3, 0.6], Status.NOT_A_NUMBER),
        ([0.1, 0.2, 0.3, jnp.inf], Status.NOT_A_NUMBER),
    ],
)
def test_a_line_without_a_crossing_says_so(losses, status):
    found = extrapolate(EPS, jnp.array(losses), 0.45)
    assert jnp.isnan(found.eps_star)
    assert found.status == status


@each
@pytest.mark.parametrize("plain", [list, tuple, np.asarray, np.float64, jnp.asarray])
def test_lists_and_arrays_of_numpy_are_as_good_as_those_of_jax(method, plain):
    eps, losses = [2.0, 0.0, 4.0], [0.5, 0.1, 0.9]
    found = method(plain(eps), plain(losses), 0.7)
    np.testing.assert_allclose(found.eps_star, 3.0, rtol=1e-6)
    found = method(plain([2, 0, 4]), plain([5, 1, 9]), 7)
    np.testing.assert_allclose(found.eps_star, 3.0, rtol=1e-6)
    assert Status(int(found.status)) is Status.CROSSES
    jitted = jax.jit(method)([2.0, 0.0, 4.0], [0.5, 0.1, 0.9], np.float64(0.7))
    np.testing.assert_allclose(jitted.eps_star, 3.0, rtol=1e-6)


@each
@pytest.mark.parametrize("threshold", [[0.4], np.full(4, 0.4), jnp.full((4, 1), 0.4)])
def test_several_thresholds_are_for_vmap(method, threshold):
    with pytest.raises(ValueError, match="threshold has shape"):
        method(EPS, EPS, threshold)


def test_equal_radii_determine_no_line():
    found = extrapolate(jnp.ones(2), jnp.array([0.1, 0.2]), 0.45)
    assert jnp.isnan(found.eps_star)
    assert found.status == Status.NOT_A_NUMBER


@each
def test_curves_of_other_shapes_are_refused(method):
    for losses in (jnp.zeros(3), jnp.zeros(5), jnp.zeros((4, 2))):
        with pytest.raises(ValueError, match=r"eps has shape \(4,\) and losses"):
            method(EPS, losses, 0.4)
    with pytest.raises(ValueError, match="at least 2 radii"):
        extrapolate(EPS[:1], EPS[:1], 0.4)


def test_extrapolation_is_least_squares():
    losses = jnp.array([0.1, 0.35, 0.4, 0.9])
    slope, intercept = np.polyfit(EPS, losses, 1)
    found = extrapolate(EPS, losses, 2.0)
    np.testing.assert_allclose(found.eps_star, (2.0 - intercept) / slope, rtol=1e-5)


def test_two_points_give_the_line_through_them():
    found = extrapolate(jnp.array([0.0, 0.5]), jnp.array([0.0403, 0.0829]), 0.441)
    np.testing.assert_allclose(
        found.eps_star, 0.5 * (0.441 - 0.0403) / 0.0426, rtol=1e-4
    )


@each
def test_maps_over_seeds(method):
    losses = 0.1 + jnp.outer(jnp.array([0.1, 0.2, 0.3]), EPS)
    thresholds = jnp.array([0.3, 0.2, 5.0])
    found = jax.jit(jax.vmap(method, (None, 0, 0)))(EPS, losses, thresholds)
    for i in range(3):
        one = method(EPS, losses[i], thresholds[i])
        np.testing.assert_allclose(found.eps_star[i], one.eps_star, rtol=1e-6)
        assert found.status[i] == one.status
