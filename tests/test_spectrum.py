"""Spectra, against dense linear algebra, closed forms and matfree."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from matfree import decomp

from advjax import hessians, losses, models, spectrum

RNG = np.random.default_rng(0)


def _symmetric(values, seed=0):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    return jnp.asarray(q * values @ q.T)


def _product(matrix):
    return jax.jit(lambda v: matrix @ v)


def _network(seed=0, width=6, num_classes=3, d=5):
    """A small smooth network on pytrees of parameters, and data."""
    rng = np.random.default_rng(seed)
    params = {
        "in": jnp.asarray(rng.standard_normal((d, width))),
        "out": [jnp.asarray(rng.standard_normal((width, num_classes))), jnp.zeros(())],
    }
    x = jnp.asarray(rng.standard_normal((11, d)))
    y = jnp.asarray(rng.integers(0, num_classes, 11))
    return params, x, y


def _predict(params, x):
    kernel, shift = params["out"]
    return jnp.tanh(x @ params["in"]) @ kernel + shift


def _loss_fn(params, x, y):
    return losses.cross_entropy(_predict(params, x), y)


def _host(tree):
    return jax.tree.map(np.asarray, tree)


# --- eigenpairs ---


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("d", [1, 2, 30, 200])
def test_as_many_products_as_dimensions_give_the_whole_spectrum(d):
    values = np.sort(RNG.standard_normal(d))[::-1]
    matrix = _symmetric(values)
    key = jax.random.key(1)
    found = _host(
        spectrum.top_eigs(num_matvecs=d, num_eigs=d)(
            key, _product(matrix), jnp.zeros(d)
        )
    )
    np.testing.assert_allclose(found.values, values, atol=1e-10)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(d), atol=1e-10)
    np.testing.assert_allclose(
        matrix @ found.vectors.T, found.vectors.T * found.values, atol=1e-9
    )
    smallest = spectrum.top_eigs(num_matvecs=d, num_eigs=d, which="smallest")
    found = smallest(key, _product(matrix), jnp.zeros(d))
    np.testing.assert_allclose(found.values, values[::-1], atol=1e-10)
    by_size = spectrum.top_eigs(num_matvecs=d, num_eigs=d, which="magnitude")
    found = by_size(key, _product(matrix), jnp.zeros(d))
    order = np.argsort(-np.abs(values))
    np.testing.assert_allclose(found.values, values[order], atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_residuals_are_those_of_the_matrix():
    values = np.concatenate([[-9.0, 5.0, 4.0], RNG.random(97)])
    matrix = _symmetric(values)
    for which in ("largest", "smallest", "magnitude"):
        eigs = spectrum.top_eigs(num_matvecs=12, num_eigs=4, which=which)
        found = _host(eigs(jax.random.key(0), _product(matrix), jnp.zeros(100)))
        rest = matrix @ found.vectors.T - found.vectors.T * found.values
        true = np.linalg.norm(rest, axis=0)
        np.testing.assert_allclose(found.residuals, true, rtol=1e-6, atol=1e-12)
        # An eigenvalue lies within the residual of each.
        distance = np.abs(values[:, None] - np.asarray(found.values)).min(axis=0)
        assert (distance <= true + 1e-12).all()
        assert true.max() > 1e-6


def test_residuals_show_the_rounding_of_single_precision():
    values = np.concatenate([[1000.0], RNG.random(19)])
    matrix = _symmetric(values).astype(jnp.float32)
    found = spectrum.top_eigs(num_matvecs=20, num_eigs=1)(
        jax.random.key(0), _product(matrix), jnp.zeros(20, jnp.float32)
    )
    exact, v = np.asarray(matrix, float), np.asarray(found.vectors[0], float)
    true = np.linalg.norm(exact @ v - float(found.values[0]) * v)
    rounding = 1000 * np.finfo(np.float32).eps
    assert 0 < found.residuals[0] < true + rounding
    distance = np.abs(np.linalg.eigvalsh(exact) - float(found.values[0])).min()
    assert distance < found.residuals[0] + rounding


@pytest.mark.usefixtures("x64")
def test_multiple_eigenvalues_and_the_zero_matrix_break_nothing():
    key, like = jax.random.key(0), jnp.zeros(6)
    for values in (np.zeros(6), np.ones(6), np.array([2.0, 2, 2, 0, 0, 0])):
        found = spectrum.top_eigs(num_matvecs=6, num_eigs=6)(
            key, _product(_symmetric(values)), like
        )
        np.testing.assert_allclose(found.values, np.sort(values)[::-1], atol=1e-12)
        np.testing.assert_allclose(
            found.vectors @ found.vectors.T, np.eye(6), atol=1e-10
        )
    # A perfectly flat point.
    flat = spectrum.top_eigs(num_matvecs=3, num_eigs=2)(
        key, hessians.hvp(jnp.sum, like), like
    )
    np.testing.assert_array_equal(flat.values, 0)
    np.testing.assert_array_equal(flat.residuals, 0)


@pytest.mark.usefixtures("x64")
def test_input_hessians_of_a_batch_are_vmapped():
    params, x, y = _network()

    def pairs(key, x, y):
        def f(x):
            return _loss_fn(params, x[None], y[None])[0]

        return spectrum.top_eigs(num_matvecs=5, num_eigs=2)(key, hessians.hvp(f, x), x)

    keys = jax.random.split(jax.random.key(0), len(x))
    together = jax.jit(jax.vmap(pairs))(keys, x, y)
    for i in (0, 7):
        alone = pairs(keys[i], x[i], y[i])
        np.testing.assert_allclose(together.values[i], alone.values, rtol=1e-9)
        f = partial(lambda i, x: _loss_fn(params, x[None], y[i : i + 1])[0], i)
        hessian = jax.jit(jax.hessian(f))(x[i])
        expected = np.linalg.eigvalsh(hessian)[::-1][:2]
        np.testing.assert_allclose(together.values[i], expected, rtol=1e-8)


def test_eigenpairs_of_a_convolutional_network_are_those_of_matfree():
    model = models.make("cnn3", num_classes=10)
    x = jnp.asarray(RNG.random((16, 8, 8, 1)), jnp.float32)
    y = jnp.arange(16) % 10
    params, _ = model.init(jax.random.key(0), x)

    def loss_fn(params, x, y):
        logits = model.predict(params, {}, x)
        return losses.cross_entropy(logits, y)

    matvec = hessians.dataset_hvp(loss_fn, x, y, batch_size=8)(params)
    num_matvecs = 40
    found = spectrum.top_eigs(num_matvecs=num_matvecs, num_eigs=5)(
        jax.random.key(1), matvec, params
    )
    assert (found.residuals < 1e-3 * found.values[0]).all()
    flat, unravel = ravel_pytree(params)

    @jax.jit
    def whole(v):
        f = lambda params: jnp.mean(loss_fn(params, x, y))  # noqa: E731
        return ravel_pytree(hessians.hvp(f, params)(unravel(v)))[0]

    tridiagonalise = decomp.tridiag_sym(num_matvecs, reortho="full")
    start = jax.random.normal(jax.random.key(2), flat.shape, flat.dtype)
    tridiagonal = np.asarray(tridiagonalise(whole, start).J_small)
    values = np.linalg.eigvalsh(tridiagonal)[::-1][:5]
    np.testing.assert_allclose(found.values, values, rtol=2e-4)
    # The pairs satisfy the definition under the other product.
    for i in range(5):
        vector = jax.tree.map(lambda leaf, i=i: leaf[i], found.vectors)
        v = ravel_pytree(vector)[0]
        rest = whole(v) - found.values[i] * v
        assert np.linalg.norm(rest) <= 1.1 * found.residuals[i] + 1e-5 * values[0]


# --- traces and densities ---


@pytest.mark.usefixtures("x64")
def test_the_trace_is_within_its_standard_errors():
    matrix, like = _symmetric(RNG.random(40)), jnp.zeros(40)
    found = spectrum.trace(num_samples=400)(jax.random.key(0), _product(matrix), like)
    exact = float(jnp.trace(matrix))
    assert abs(found.value - exact) < 4 * found.standard_error
    off = matrix - jnp.diag(jnp.diag(matrix))
    expected = (2 * jnp.sum(off**2) / 400) ** 0.5
    np.testing.assert_allclose(found.standard_error, expected, rtol=0.15)
    diagonal = jnp.diag(jnp.arange(5.0))
    found = spectrum.trace(num_samples=2)(
        jax.random.key(0), _product(diagonal), jnp.zeros(5)
    )
    np.testing.assert_allclose(found, (10.0, 0.0), atol=1e-12)
    one = spectrum.trace(num_samples=1)(
        jax.random.key(0), _product(diagonal), jnp.zeros(5)
    )
    assert np.isnan(one.standard_error)
    compiled = jax.jit(
        lambda key: spectrum.trace(num_samples=2)(key, _product(diagonal), like[:5])
    )
    np.testing.assert_allclose(compiled(jax.random.key(0)), (10.0, 0.0), atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_density_has_the_moments_of_the_spectrum():
    values = np.concatenate([np.full(30, -1.0), np.full(10, 3.0)])
    values += 0.01 * RNG.standard_normal(40)
    estimate = spectrum.density(num_matvecs=4, num_samples=300)
    found = estimate(jax.random.key(0), _product(_symmetric(values)), jnp.zeros(40))
    found = _host(found)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0, rtol=1e-12)
    for power in (1, 2, 3):
        moments = (found.weights * found.nodes**power).sum(axis=1)
        error = moments.std(ddof=1) / 300**0.5
        assert abs(moments.mean() - (values**power).mean()) < 4 * error
    grid = jnp.linspace(-4, 6, 2001)
    curve, error = spectrum.smoothed(found, grid, 0.1)
    np.testing.assert_allclose(jnp.trapezoid(curve, grid), 1.0, atol=1e-6)
    lower = jnp.trapezoid(jnp.where(grid < 1, curve, 0), grid)
    np.testing.assert_allclose(lower, 0.75, atol=0.03)
    assert (error >= 0).all()
    assert error.max() < 0.1 * curve.max()
    single = spectrum.density(num_matvecs=4, num_samples=1)
    found = single(jax.random.key(0), _product(_symmetric(values)), jnp.zeros(40))
    assert np.isnan(spectrum.smoothed(found, grid, 0.1)[1]).all()


# --- wrong input ---


def test_wrong_arguments_name_the_choices():
    product, key = _product(jnp.eye(3)), jax.random.key(0)
    with pytest.raises(ValueError, match="num_matvecs = 4: a matrix of 3 dimensions"):
        spectrum.top_eigs(num_matvecs=4, num_eigs=1)(key, product, jnp.zeros(3))
    with pytest.raises(ValueError, match="num_matvecs = 4: a matrix of 3 dimensions"):
        spectrum.density(num_matvecs=4, num_samples=1)(key, product, jnp.zeros(3))
    with pytest.raises(ValueError, match="num_eigs = 3: choose at most num_matvecs"):
        spectrum.top_eigs(num_matvecs=2, num_eigs=3)
    with pytest.raises(ValueError, match="which = 'top': choose from largest"):
        spectrum.top_eigs(num_matvecs=2, num_eigs=1, which="top")
    for count in (0, 1.5, True):
        with pytest.raises(ValueError, match="choose an integer of at least 1"):
            spectrum.top_eigs(num_matvecs=count, num_eigs=1)
        with pytest.raises(ValueError, match="num_samples"):
            spectrum.trace(num_samples=count)
    for like in (jnp.arange(3), jnp.zeros(3, jnp.bfloat16)):
        for estimate in (
            spectrum.top_eigs(num_matvecs=2, num_eigs=1),
            spectrum.trace(num_samples=2),
        ):
            with pytest.raises(ValueError, match="like has an array of"):
                estimate(key, product, like)


def test_under_jit_the_loop_is_one_scan():
    def values(x):
        def f(x):
            return jnp.sum(jnp.tanh(x) ** 4)

        # Nothing but the matrix is traced.
        eigs = spectrum.top_eigs(num_matvecs=20, num_eigs=1)
        return eigs(jax.random.key(0), hessians.hvp(f, x), jnp.zeros(30)).values

    text = str(jax.make_jaxpr(values)(jnp.ones(30)))
    assert text.count("scan[") == 1
    assert text.count("tanh") < 20


def test_what_is_not_finite_shows():
    nan = _product(jnp.full((3, 3), jnp.nan))
    found = spectrum.top_eigs(num_matvecs=2, num_eigs=1)(
        jax.random.key(0), nan, jnp.zeros(3)
    )
    assert np.isnan(found.values).all()
    assert np.isnan(found.residuals).all()


@pytest.mark.parametrize("count", [np.int64(3), np.int8(3), np.uint32(3)])
def test_counts_of_numpy_are_plain_input(count):
    product, key = _product(jnp.diag(jnp.arange(1.0, 4.0))), jax.random.key(0)
    for ours, expected in (
        (
            spectrum.top_eigs(num_matvecs=count, num_eigs=np.int64(2)),
            spectrum.top_eigs(num_matvecs=3, num_eigs=2),
        ),
        (spectrum.trace(num_samples=count), spectrum.trace(num_samples=3)),
        (
            spectrum.density(num_matvecs=count, num_samples=count),
            spectrum.density(num_matvecs=3, num_samples=3),
        ),
    ):
        jax.tree.map(
            np.testing.assert_array_equal,
            *(estimate(key, product, jnp.zeros(3)) for estimate in (ours, expected)),
        )


def test_smoothing_takes_lists_and_refuses_what_would_broadcast():
    density = spectrum.Density(jnp.zeros((2, 1)), jnp.ones((2, 1)))
    found = spectrum.smoothed(density, [0.0, 1.0], 1.0)
    np.testing.assert_allclose(found.value, [0.398942, 0.241971], rtol=1e-5)
    np.testing.assert_allclose(found.standard_error, 0, atol=1e-7)
    for grid, width in ((np.zeros((2, 1)), 1.0), (0.0, 1.0), (np.zeros(2), np.ones(2))):
        with pytest.raises(ValueError, match=r"give grid\[g\] and width|shapes grid"):
            spectrum.smoothed(density, grid, width)


@pytest.mark.parametrize("scale", [1e-25, 1e-14, 1.0, 1e14, 1e25])
def test_matrices_of_every_size_have_their_eigenvalues_and_residuals(scale):
    """Hessians of networks that fit their data are tiny, and squares underflow."""
    a = jnp.arange(20.0)
    find = spectrum.top_eigs(num_matvecs=20, num_eigs=2)
    found = find(jax.random.key(0), lambda v: a * v * scale, jnp.ones(20))
    np.testing.assert_allclose(found.values / scale, [19, 18], rtol=1e-5)
    residuals = found.residuals / scale
    assert ((residuals > 0) & (residuals < 1e-3)).all()
