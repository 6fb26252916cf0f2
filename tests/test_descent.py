"""Descent in fixed steps against loops of NumPy and scikit-learn's Lasso."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Lasso

from advjax import descent


def _problem(n=30, d=6, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = x @ np.where(np.arange(d) < 2, 1.5, 0.0) + rng.normal(size=n)
    return x, y


def _gradient(x, y):
    return lambda theta: 2 * x.T @ (x @ theta - y) / y.size


def _soft_threshold(v, threshold):
    return np.array([max(a - threshold, 0) - max(-a - threshold, 0) for a in v])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("penalty", [None, 0.3])
def test_step_last_and_path_equal_a_loop_of_numpy(penalty):
    x, y = _problem()
    gradient, eta = _gradient(x, y), 0.1
    theta, expected = np.linspace(-1, 1, 6), []
    for _ in range(8):
        expected.append(theta)
        theta = theta - eta * gradient(theta)
        if penalty is not None:
            theta = _soft_threshold(theta, eta * penalty)

    prox = None if penalty is None else descent.lasso(penalty)
    update = descent.step(gradient, eta, prox=prox)
    start = jnp.asarray(expected[0])
    np.testing.assert_allclose(update(start), expected[1], rtol=1e-12)
    path = descent.path(start, update, num_steps=7)
    np.testing.assert_allclose(path, expected, rtol=1e-12)
    for t in (0, 1, 7):
        last = descent.last(start, update, num_steps=t)
        np.testing.assert_allclose(last, expected[t], rtol=1e-12)


def test_path_observes_what_it_is_asked_to():
    x, y = (jnp.asarray(a, jnp.float32) for a in _problem())
    update, start = descent.step(_gradient(x, y), 0.1), jnp.ones(6)

    def observe(theta):
        return {"loss": jnp.mean((x @ theta - y) ** 2), "pair": theta[:2], "one": 1}

    whole = descent.path(start, update, num_steps=5)
    kept = descent.path(start, update, num_steps=5, observe=observe)
    assert kept["loss"].shape == (6,)
    losses = [np.mean((x @ theta - y) ** 2) for theta in whole]
    np.testing.assert_allclose(kept["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(kept["pair"], whole[:, :2], rtol=1e-6)
    np.testing.assert_array_equal(kept["one"], np.ones(6))


def test_parameters_may_be_any_pytree():
    x, y = (jnp.asarray(a, jnp.float32) for a in _problem())
    gradient = _gradient(x, y)

    def gradient_of_parts(parts):
        g = gradient(jnp.concatenate([parts["a"], parts["b"][0]]))
        return {"a": g[:4], "b": (g[4:],)}

    prox = descent.lasso(0.3)
    start = jnp.linspace(-1.0, 1, 6)
    whole = descent.path(start, descent.step(gradient, 0.1, prox=prox), num_steps=9)
    update = descent.step(gradient_of_parts, 0.1, prox=prox)
    parts = {"a": start[:4], "b": (start[4:],)}
    path = descent.path(parts, update, num_steps=9)
    np.testing.assert_allclose(path["a"], whole[:, :4], atol=1e-6)
    np.testing.assert_allclose(path["b"][0], whole[:, 4:], atol=1e-6)
    last = descent.last(parts, update, num_steps=9)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b[-1], atol=1e-6), last, path
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(30, 6), (15, 20)])
@pytest.mark.parametrize("penalty", [0.1, 0.7])
def test_proximal_descent_ends_at_the_lasso_solution_with_its_zeros(shape, penalty):
    x, y = _problem(*shape)
    update = descent.step(
        _gradient(x, y),
        0.5 * y.size / np.linalg.norm(x, 2) ** 2,
        prox=descent.lasso(penalty),
    )
    ours = descent.last(jnp.ones(shape[1]), update, num_steps=20_000)
    # Its objective is half of ours.
    theirs = Lasso(alpha=penalty / 2, fit_intercept=False, tol=1e-12, max_iter=100_000)
    theirs = theirs.fit(x, y).coef_
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_array_equal(ours == 0, theirs == 0)
    assert 0 < (theirs == 0).sum() < shape[1]


def test_paths_map_over_step_sizes_with_one_trace():
    x, y = (jnp.asarray(a, jnp.float32) for a in _problem())
    chex.clear_trace_counter()

    def path(step_size):
        update = descent.step(_gradient(x, y), step_size, prox=descent.lasso(0.1))
        return descent.path(jnp.zeros(6), update, num_steps=10)

    @jax.jit
    @chex.assert_max_traces(1)
    def mapped(step_sizes):
        return jax.vmap(path)(step_sizes)

    for step_sizes in (jnp.array([0.01, 0.1]), jnp.array([0.02, 0.2])):
        for step_size, one in zip(step_sizes, mapped(step_sizes), strict=True):
            np.testing.assert_allclose(path(step_size), one, atol=1e-6)


@pytest.mark.parametrize("count", [-1, 2.0, True])
def test_counts_are_integers_of_any_kind(count):
    halve = descent.step(lambda theta: theta, 0.5)
    for run in (descent.last, descent.path):
        with pytest.raises(ValueError, match=r"num_steps = .*: choose an integer"):
            run(jnp.float32(8), halve, num_steps=count)
    assert descent.last(jnp.float32(8), halve, num_steps=np.int64(3)) == 1
    assert descent.last(jnp.float32(8), halve, num_steps=0) == 8
    path = descent.path(jnp.float32(8), halve, num_steps=np.uint8(2))
    np.testing.assert_array_equal(path, [8, 4, 2])
    start = descent.path(jnp.float32(8), halve, num_steps=0)
    np.testing.assert_array_equal(start, [8])
