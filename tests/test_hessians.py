"""Products with Hessians, against dense linear algebra and closed forms."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from advjax import hessians, losses, models, spectrum

RNG = np.random.default_rng(0)


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


def _forward(params, x):
    kernel, shift = params["out"]
    return jnp.tanh(x @ params["in"]) @ kernel + shift


def _loss_fn(params, x, y):
    return losses.cross_entropy(_forward(params, x), y)


def _dense(f, params):
    flat, unravel = ravel_pytree(params)
    return jax.jit(jax.hessian(lambda flat: f(unravel(flat))))(flat), flat, unravel


def _applied(matvec, unravel, v):
    return ravel_pytree(matvec(unravel(v)))[0]


@pytest.mark.usefixtures("x64")
def test_products_with_a_hessian_are_those_of_the_dense_one():
    params, x, y = _network()

    def f(params):
        return jnp.mean(_loss_fn(params, x, y))

    hessian, flat, unravel = _dense(f, params)
    v = jnp.asarray(RNG.standard_normal(flat.shape))
    found = _applied(jax.jit(hessians.hvp(f, params)), unravel, v)
    np.testing.assert_allclose(found, hessian @ v, rtol=1e-10, atol=1e-12)
    for batch_size in (None, 11, 4, 1):
        matvec = hessians.dataset_hvp(_loss_fn, x, y, batch_size=batch_size)(params)
        found = _applied(matvec, unravel, v)
        np.testing.assert_allclose(found, hessian @ v, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_products_with_gauss_newton_leave_the_curvature_of_the_network_out():
    params, x, y = _network()

    def total(outputs):
        return jnp.mean(losses.cross_entropy(outputs, y))

    def predict(params):
        return _forward(params, x)

    flat, unravel = ravel_pytree(params)
    jacobian = jax.jacobian(lambda flat: predict(unravel(flat)))(flat)
    curvature = jax.hessian(total)(predict(params))
    expected = jnp.einsum("ika,ikjl,jlb->ab", jacobian, curvature, jacobian)
    v = jnp.asarray(RNG.standard_normal(flat.shape))
    matvec = jax.jit(hessians.gauss_newton(predict, total, params))
    found = _applied(matvec, unravel, v)
    np.testing.assert_allclose(found, expected @ v, rtol=1e-10, atol=1e-12)
    for batch_size in (None, 4):
        gauss_newton_at = hessians.dataset_gauss_newton(
            _forward, losses.cross_entropy, x, y, batch_size=batch_size
        )
        found = _applied(gauss_newton_at(params), unravel, v)
        np.testing.assert_allclose(found, expected @ v, rtol=1e-10, atol=1e-12)
    assert np.linalg.eigvalsh(expected)[0] > -1e-12
    hessian, _, _ = _dense(lambda params: total(predict(params)), params)
    assert not np.allclose(hessian, expected, rtol=1e-2)


@pytest.mark.usefixtures("x64")
def test_hessians_of_linear_models_have_their_closed_forms():
    x, theta = RNG.standard_normal((20, 4)), RNG.standard_normal(4)
    y, v = np.sign(RNG.standard_normal(20)), RNG.standard_normal(4)
    x, theta, y, v = map(jnp.asarray, (x, theta, y, v))

    def squared(theta, x, y):
        return losses.squared_error(x @ theta, y)

    matvec = hessians.dataset_hvp(squared, x, y, batch_size=7)(theta)
    np.testing.assert_allclose(matvec(v), 2 * x.T @ (x @ v) / 20, rtol=1e-10)

    def logistic(theta, x, y):
        return losses.logistic(x @ theta, y)

    p = jax.nn.sigmoid(x @ theta)
    expected = x.T @ (p * (1 - p) * (x @ v)) / 20
    matvec = hessians.dataset_hvp(logistic, x, y, batch_size=7)(theta)
    np.testing.assert_allclose(matvec(v), expected, rtol=1e-10)
    matvec = hessians.dataset_gauss_newton(
        lambda theta, x: x @ theta, losses.logistic, x, y, batch_size=7
    )(theta)
    np.testing.assert_allclose(matvec(v), expected, rtol=1e-10)


ON_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from advjax import hessians, spectrum
from experiments import devices
from tests.test_hessians import _loss_fn, _network
params, x, y = _network()
params = jax.device_put(params, jax.devices()[0])  # as those of a checkpoint
mesh = devices.mesh(2)
key, found = jax.random.key(0), {}
for mesh in (None, devices.mesh(2)):
    matvec = hessians.dataset_hvp(_loss_fn, x, y, batch_size=5, mesh=mesh)(params)
    product = matvec(jax.tree.map(jnp.ones_like, params))
    assert len(product["in"].sharding.device_set) == (2 if mesh else 1)
    eigs = spectrum.top_eigs(num_matvecs=6, num_eigs=2)
    found[mesh] = product, eigs(key, matvec, params).values
jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    *found.values(),
)
# Eleven examples are filled up to twelve, which batch normalisation would notice.
def normalised(params, x, y):
    return _loss_fn(params, x - jnp.mean(x, axis=0, keepdims=True), y)
hessians.dataset_hvp(normalised, x, y)(params)
hessians.dataset_hvp(normalised, x[:10], y[:10], mesh=mesh)(params)
try:
    hessians.dataset_hvp(normalised, x, y, mesh=mesh)(params)
except ValueError as error:
    assert "depends on the others" in str(error)
else:
    raise AssertionError
"""


def test_devices_share_a_batch():
    root = Path(__file__).parents[1]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "NPROC": "8"}
    command = [sys.executable, "-W", "error", "-c", ON_DEVICES]
    subprocess.run(command, cwd=root, env=environment, check=True)


class _Counted(np.ndarray):
    """An array on the host that notes which rows are read."""

    def __getitem__(self, rows):
        if isinstance(rows, np.ndarray):
            self.reads.append(np.array(rows))
        return np.asarray(self)[rows]


def test_a_product_reads_every_example_once_and_a_batch_at_a_time():
    params, x, y = _network()
    x = np.asarray(x).view(_Counted)
    x.reads = []
    matvec = hessians.dataset_hvp(_loss_fn, x, np.asarray(y), batch_size=4)(params)
    x.reads.clear()  # those of the check
    num_matvecs = 3
    spectrum.top_eigs(num_matvecs=num_matvecs, num_eigs=1)(
        jax.random.key(0), matvec, params
    )
    # One more for the residual.
    assert len(x.reads) == (num_matvecs + 1) * 3
    assert {rows.size for rows in x.reads} == {4}
    assert set(np.concatenate(x.reads)) == set(range(11))


def test_batch_normalisation_in_training_mode_is_refused_in_parts():
    class Normalised(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(2)(nn.BatchNorm(use_running_average=not train)(x))

    model = models.from_linen(Normalised())
    x = jnp.asarray(RNG.random((4, 3)), jnp.float32)
    y = jnp.array([0, 1, 0, 1])
    params, batch_stats = model.init(jax.random.key(0), x)

    def loss_fn(train):
        def per_example(params, x, y):
            logits, _ = model.apply(params, batch_stats, x, train=train)
            return losses.cross_entropy(logits, y)

        return per_example

    with pytest.raises(ValueError, match="batch normalisation in training mode"):
        hessians.dataset_hvp(loss_fn(True), x, y, batch_size=2)(params)
    hessians.dataset_hvp(loss_fn(True), x, y)(params)
    hessians.dataset_hvp(loss_fn(False), x, y, batch_size=2)(params)

    # Also where all losses are small.
    def small(params, x, y):
        return 1e-6 * loss_fn(True)(params, x, y)

    with pytest.raises(ValueError, match="batch normalisation in training mode"):
        hessians.dataset_hvp(small, x, y, batch_size=2)(params)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("make", ["hvp", "gauss_newton"])
def test_products_at_several_parameters_are_of_one_program(make, batch_size):
    params, x, y = _network()
    traces = []

    def forward(params, x):
        traces.append(x.shape)
        return _forward(params, x)

    if make == "hvp":

        def loss_fn(params, x, y):
            return losses.cross_entropy(forward(params, x), y)

        matvec_at = hessians.dataset_hvp(loss_fn, x, y, batch_size=batch_size)
    else:
        matvec_at = hessians.dataset_gauss_newton(
            forward, losses.cross_entropy, x, y, batch_size=batch_size
        )
    v = jax.tree.map(jnp.ones_like, params)
    first = matvec_at(params)(v)
    num_traces = len(traces)
    assert num_traces > 0
    for scale in (0.5, 2.0, 3.0):
        moved = jax.tree.map(lambda leaf, scale=scale: scale * leaf, params)
        product = matvec_at(moved)(v)
        assert len(traces) == num_traces
        alone = _once(make, moved, x, y)(v)
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-10), product, alone)
        assert not np.allclose(product["in"], first["in"], rtol=0.1)


def _once(make, params, x, y):
    mean = lambda outputs: jnp.mean(losses.cross_entropy(outputs, y))  # noqa: E731
    if make == "hvp":
        return hessians.hvp(lambda params: mean(_forward(params, x)), params)
    return hessians.gauss_newton(partial(_forward, x=x), mean, params)


# --- wrong input ---


def test_wrong_products_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"returned shape \(3,\); its Hessian needs"):
        hessians.hvp(lambda x: x, jnp.zeros(3))
    with pytest.raises(ValueError, match="needs a scalar"):
        hessians.gauss_newton(lambda x: x, lambda z: z, jnp.zeros(3))
    _, x, y = _network()
    with pytest.raises(ValueError, match="choose from 1 to the 11 examples"):
        hessians.dataset_hvp(_loss_fn, x, y, batch_size=12)
    for size in (0, 1.5, True):
        with pytest.raises(ValueError, match=r"batch_size = .*: choose an integer"):
            hessians.dataset_hvp(_loss_fn, x, y, batch_size=size)
    hessians.dataset_hvp(_loss_fn, x, y, batch_size=np.int64(11))


@pytest.mark.parametrize("length", [1, 10, 12])
def test_data_of_different_lengths_are_refused(length):
    _, x, y = _network()
    rows = np.arange(length) % 11
    for pair in ((x[rows], y), (x, y[rows]), (np.asarray(x)[rows], np.asarray(y))):
        with pytest.raises(ValueError, match=rf"x \({len(pair[0])}, 5\), y \("):
            hessians.dataset_hvp(_loss_fn, *pair, batch_size=1)
        with pytest.raises(ValueError, match="one entry of each for every example"):
            hessians.dataset_gauss_newton(_forward, losses.cross_entropy, *pair)


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize(
    "reduced", [jnp.mean, lambda a: a[:, None], lambda a: a[:1], lambda a: a[None]]
)
def test_losses_of_another_shape_are_refused(reduced, batch_size):
    params, x, y = _network()
    hvp_at = hessians.dataset_hvp(
        lambda *a: reduced(_loss_fn(*a)), x, y, batch_size=batch_size
    )
    gauss_newton_at = hessians.dataset_gauss_newton(
        _forward,
        lambda *a: reduced(losses.cross_entropy(*a)),
        *(x, y),
        batch_size=batch_size,
    )
    for at in (hvp_at, gauss_newton_at):
        with pytest.raises(ValueError, match="one number per example"):
            at(params)(params)


def test_losses_that_depend_on_the_batch_are_found_in_sorted_data_too():
    """Weights by the classes of a batch, which in the first batches are all one."""
    y = np.sort(np.repeat(np.arange(3), 11)[:32])
    x = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
    params = {"w": jnp.ones((8, 3)) * jnp.arange(3.0)[None]}

    def loss_fn(params, x, y):
        share = jnp.bincount(y, length=3)[y] / len(y)
        return losses.cross_entropy(x @ params["w"], y) / share

    hvp_at = hessians.dataset_hvp(loss_fn, x, y, batch_size=5)
    with pytest.raises(ValueError, match="depends on the others in its batch"):
        hvp_at(params)(params)
    assert jnp.isfinite(hessians.dataset_hvp(loss_fn, x, y)(params)(params)["w"]).all()
