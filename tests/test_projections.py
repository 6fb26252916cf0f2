"""Projections onto balls and hyperplanes in a box, against solvers of SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import NORMS
from scipy import optimize

from advjax import norms
from advjax.attacks import projections

N, D = 30, 6
each_norm = pytest.mark.parametrize("norm_name", NORMS)


def _box(rng, n=N, d=D):
    low, high = (rng.uniform(0, 0.5, (n, d)).astype(np.float32) for _ in range(2))
    low[rng.uniform(size=low.shape) < 0.2] = 0  # at a wall
    high[rng.uniform(size=high.shape) < 0.1] = np.inf
    return -low, high


def _in_halves(low, high):
    """Bounds of the positive and of the negative part of a vector."""
    return [(0, x if np.isfinite(x) else None) for x in (*high, *-low)]


def _nearest(norm_name, v, radius, low, high):
    """The squared distance to the nearest point, in double precision."""
    options = {"method": "SLSQP", "options": {"maxiter": 500, "ftol": 1e-14}}
    if norm_name == "l1":

        def distance(z):
            return np.sum((z[:D] - z[D:] - v) ** 2)

        inside = {"type": "ineq", "fun": lambda z: radius - z.sum()}
        bounds, start = _in_halves(low, high), np.zeros(2 * D)
    else:

        def distance(u):
            return np.sum((u - v) ** 2)

        most = radius if norm_name == "linf" else np.inf
        inside = {"type": "ineq", "fun": lambda u: radius**2 - u @ u}
        inside = inside if norm_name == "l2" else ()
        bounds = [*zip(np.maximum(low, -most), np.minimum(high, most), strict=True)]
        start = np.zeros(D)
    found = optimize.minimize(
        distance, start, bounds=bounds, constraints=inside, **options
    )
    return found.fun


@each_norm
def test_the_nearest_point_of_ball_and_box_is_that_of_a_solver(norm_name):
    norm, rng = NORMS[norm_name], np.random.default_rng(0)
    v = rng.normal(size=(N, D)).astype(np.float32)
    low, high = _box(rng)
    radius = rng.uniform(0.05, 1.5, N).astype(np.float32)
    onto = jax.jit(jax.vmap(projections.onto_ball(norm)))
    u = onto(v, radius, low, high)
    assert ((u >= low) & (u <= high)).all()
    assert (jax.vmap(norm.value)(u) <= radius * (1 + 2e-6)).all()
    np.testing.assert_allclose(onto(u, radius, low, high), u, atol=1e-6)
    for i in range(N):
        nearest = _nearest(norm_name, v[i].astype(float), radius[i], low[i], high[i])
        distance = np.sum((np.asarray(u[i], float) - v[i]) ** 2)
        np.testing.assert_allclose(distance, nearest, rtol=1e-5, atol=1e-6)
    if norm_name == "l2":
        other = onto(v + 0.1, radius, low, high)
        moved = np.linalg.norm(other - u, axis=1)
        assert (moved <= np.linalg.norm(np.full((N, D), 0.1), axis=1) + 1e-5).all()


def test_thresholding_in_l1_leaves_exact_zeros():
    v = jnp.array([3.0, -2.0, 0.1, 0.05])
    onto = jax.jit(projections.onto_ball(norms.l1))
    u = onto(v, jnp.float32(1.5), -jnp.ones(4), jnp.ones(4))
    np.testing.assert_array_equal(u, [1.0, -0.5, 0.0, 0.0])


@each_norm
def test_projections_without_a_radius_and_of_nothing(norm_name):
    onto = jax.jit(projections.onto_ball(NORMS[norm_name]))
    box = (-jnp.ones(3), jnp.ones(3))
    v = jnp.array([2.0, -2.0, 0.0])
    np.testing.assert_array_equal(onto(v, jnp.float32(0.0), *box), jnp.zeros(3))
    np.testing.assert_array_equal(onto(0 * v, jnp.float32(1.0), *box), jnp.zeros(3))
    assert jnp.isnan(onto(v, jnp.float32(np.nan), *box)).all()
    gradient = jax.jit(jax.grad(lambda v: onto(v, jnp.float32(0.7), *box).sum()))(v)
    assert jnp.isfinite(gradient).all()


def _shortest(norm_name, w, c, low, high):
    """The least norm of a move in the box with <w, d> = c."""
    if norm_name == "l2":
        plane = {"type": "eq", "fun": lambda d: w @ d - c}
        options = {"method": "SLSQP", "options": {"maxiter": 500, "ftol": 1e-14}}
        bounds = [*zip(low, np.where(np.isfinite(high), high, 1e3), strict=True)]
        found = optimize.minimize(
            lambda d: d @ d, np.zeros(D), bounds=bounds, constraints=plane, **options
        )
        return found.fun**0.5
    bounds = _in_halves(low, high)
    cost, rows = np.ones(2 * D), None
    plane = [np.r_[w, -w]]
    if norm_name == "linf":
        cost, bounds, plane = np.r_[np.zeros(2 * D), 1], [*bounds, (0, None)], None
        plane = [np.r_[w, -w, 0]]
        rows = np.hstack([np.eye(D), np.eye(D), -np.ones((D, 1))])
    limits = None if rows is None else np.zeros(D)
    return optimize.linprog(
        cost, A_ub=rows, b_ub=limits, A_eq=plane, b_eq=[c], bounds=bounds
    ).fun


@each_norm
def test_the_shortest_move_onto_a_plane_is_that_of_a_solver(norm_name):
    norm, rng = NORMS[norm_name], np.random.default_rng(1)
    w = rng.normal(size=(N, D)).astype(np.float32)
    w[rng.uniform(size=w.shape) < 0.1] = 0
    c = (0.7 * rng.normal(size=N)).astype(np.float32)
    low, high = _box(rng)
    d = jax.jit(jax.vmap(projections.onto_plane(norm)))(w, c, low, high)
    assert ((d >= low) & (d <= high)).all()
    reached = np.sum(w * np.asarray(d, float), axis=1)
    rises = w * np.sign(c)[:, None]
    rooms = np.where(rises > 0, high, np.where(rises < 0, -low, 0))
    most = np.sum(np.abs(w) * np.where(w == 0, 0, rooms), axis=1)
    is_corner = most < np.abs(c)
    assert is_corner.any()
    assert not is_corner.all()
    expected = np.where(is_corner, np.sign(c) * most, c)
    np.testing.assert_allclose(reached, expected, atol=1e-6)
    for i in np.flatnonzero(~is_corner):
        shortest = _shortest(norm_name, w[i].astype(float), c[i], low[i], high[i])
        np.testing.assert_allclose(norm.value(d[i]), shortest, rtol=1e-4, atol=1e-6)
    # The plane of a gradient of any size is the same.
    tiny = jax.vmap(projections.onto_plane(norm))(1e-20 * w, 1e-20 * c, low, high)
    np.testing.assert_allclose(tiny, d, atol=1e-5)


def test_another_projection_is_refused():
    with pytest.raises(ValueError, match="project = 'fast': choose from exact, clip"):
        projections.named(norms.l2, "fast")
    with pytest.raises(ValueError, match=r"choose norms\.l1"):
        projections.onto_ball("l2")
    with pytest.raises(ValueError, match=r"choose norms\.l1"):
        projections.onto_plane("l2")
