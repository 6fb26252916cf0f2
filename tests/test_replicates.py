"""Replicates in chunks and on several devices against one at a time."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import data, replicates

pytestmark = pytest.mark.usefixtures("unoptimised")


def _fit(key, eps):
    x, y = data.gaussian(key, 12, jnp.ones(3), None, 0.5)
    theta = y @ x / (y.size + eps)
    return {"theta": theta, "loss": (jnp.mean((x @ theta - y) ** 2),)}


def _assert_close(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 5, 100])
def test_mapped_is_vmap_for_any_chunk_size(chunk_size):
    keys = jax.random.split(jax.random.key(0), 12)
    ours = replicates.mapped(_fit, chunk_size=chunk_size)(keys, 0.3)
    _assert_close(ours, jax.jit(jax.vmap(_fit, (0, None)))(keys, 0.3))
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(ours))


def test_a_replicate_is_what_it_is_alone():
    keys = jax.random.split(jax.random.key(0), 5)
    ours = replicates.mapped(_fit, chunk_size=2)(keys, 0.3)
    alone = jax.jit(_fit)
    for i in range(5):
        _assert_close(jax.tree.map(lambda a, i=i: a[i], ours), alone(keys[i], 0.3))


def test_replicates_and_shared_arguments_may_be_pytrees_of_any_arrays():
    def function(replicate, shared, power):
        x, (sign,) = replicate["x"], replicate["sign"]
        return sign * (x @ shared["w"]) ** power, x.sum()

    x, sign = np.arange(15, dtype=np.float32).reshape(5, 3), np.array([1, -1, 1, 1, -1])
    shared = {"w": jnp.array([1.0, 2, 3])}
    batch = {"x": x, "sign": (jnp.asarray(sign),)}
    for chunk_size in (2, 5):
        mapped = replicates.mapped(function, chunk_size=chunk_size)
        first, second = mapped(batch, shared, 2)
        np.testing.assert_allclose(first, sign * (x @ np.array([1, 2, 3])) ** 2)
        np.testing.assert_allclose(second, x.sum(axis=1))


def test_another_number_of_replicates_or_shared_value_compiles_nothing():
    traces = []

    def fit(key, eps):
        traces.append(1)
        return _fit(key, eps)

    mapped = replicates.mapped(fit, chunk_size=4)
    mapped(jax.random.split(jax.random.key(0), 8), 0.1)
    first = len(traces)
    for number, eps in ((1, 0.1), (4, 0.2), (9, 0.3), (30, 0.4)):
        ours = mapped(jax.random.split(jax.random.key(1), number), eps)
        assert ours["theta"].shape == (number, 3)
    assert len(traces) == first


def test_wrong_chunk_sizes_and_replicates():
    for chunk_size in (0, -3):
        with pytest.raises(ValueError, match=f"chunk_size = {chunk_size}: choose"):
            replicates.mapped(_fit, chunk_size=chunk_size)
    add = replicates.mapped(lambda pair: pair[0] + pair[1], chunk_size=2)
    with pytest.raises(ValueError, match="give one leading axis"):
        add((np.zeros(2), np.zeros(3)))
    for nothing in ((np.zeros(0), np.zeros(0)), ()):
        with pytest.raises(ValueError, match="at least 1"):
            add(nothing)


CODE = """
import jax, jax.numpy as jnp, numpy as np
from advjax import data, descent, linear, norms, replicates, solvers
assert jax.device_count() == 8

def path(key, eps):
    x, y = data.gaussian(key, 12, jnp.ones(3), None, 0.5)
    update = descent.step(
        lambda t: linear.adversarial_gradient(t, x, y, eps, norms.l2), 0.05
    )
    return descent.path(update, jnp.zeros(3), num_steps=20)

def minimum(key, eps):
    x, y = data.gaussian(key, 12, jnp.ones(3), None, 0.5)
    return solvers.adversarial(x, y, eps, norms.linf, 0.1)[:2]

def device(key):
    return jax.lax.axis_index("r")

keys = jax.random.split(jax.random.key(0), 21)
which = replicates.mapped(device, chunk_size=16)(keys)
np.testing.assert_array_equal(which[:16], np.repeat(np.arange(8), 2))
for function in (path, minimum):
    one = replicates.mapped(function, devices=jax.devices()[:1])(keys, 0.2)
    for chunk_size in (None, 5):
        eight = replicates.mapped(function, chunk_size=chunk_size)(keys, 0.2)
        for a, b in zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
"""


def test_eight_devices_give_what_one_gives():
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "JAX_NUM_CPU_DEVICES": "8",
        "PJRT_NPROC": "32",  # see the docstring of the module
    }
    subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE],
        cwd=Path(__file__).parents[1],
        env=environment,
        check=True,
    )
