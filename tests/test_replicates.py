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
    ours = replicates.sharded_vmap(_fit, chunk_size=chunk_size)(keys, 0.3)
    _assert_close(ours, jax.jit(jax.vmap(_fit, (0, None)))(keys, 0.3))
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(ours))


def test_a_replicate_is_what_it_is_alone():
    keys = jax.random.split(jax.random.key(0), 5)
    ours = replicates.sharded_vmap(_fit, chunk_size=2)(keys, 0.3)
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
        mapped = replicates.sharded_vmap(function, chunk_size=chunk_size)
        first, second = mapped(batch, shared, 2)
        np.testing.assert_allclose(first, sign * (x @ np.array([1, 2, 3])) ** 2)
        np.testing.assert_allclose(second, x.sum(axis=1))


def test_another_number_of_replicates_or_shared_value_compiles_nothing():
    traces = []

    def fit(key, eps):
        traces.append(1)
        return _fit(key, eps)

    mapped = replicates.sharded_vmap(fit, chunk_size=4)
    mapped(jax.random.split(jax.random.key(0), 8), 0.1)
    first = len(traces)
    for number, eps in ((1, 0.1), (4, 0.2), (9, 0.3), (30, 0.4)):
        ours = mapped(jax.random.split(jax.random.key(1), number), eps)
        assert ours["theta"].shape == (number, 3)
    assert len(traces) == first


def test_wrong_chunk_sizes_and_replicates():
    for chunk_size in (0, -3, 2.0, True):
        with pytest.raises(ValueError, match=f"chunk_size = {chunk_size}: choose"):
            replicates.sharded_vmap(_fit, chunk_size=chunk_size)
    add = replicates.sharded_vmap(lambda pair: pair[0] + pair[1], chunk_size=2)
    with pytest.raises(ValueError, match="give one leading axis"):
        add((np.zeros(2), np.zeros(3)))
    for nothing in ((np.zeros(0), np.zeros(0)), ()):
        with pytest.raises(ValueError, match="at least 1"):
            add(nothing)


IMPLS = ["rbg", "unsafe_rbg"]


def _normal(key):
    return jax.random.normal(key, (2,))


def _with_shared_key(replicate, key):
    return jax.random.normal(jax.random.fold_in(key, replicate), (2,))


def _in_a_loop(key):
    keys = jax.random.split(key, 3)
    start = jnp.zeros(2)
    return jax.lax.scan(lambda total, key: (total + _normal(key), None), start, keys)[0]


@pytest.mark.parametrize("impl", IMPLS)
def test_generators_whose_draws_depend_on_the_chunk_are_refused(impl):
    keys = jax.random.split(jax.random.key(0, impl=impl), 6)
    seeds = np.arange(6)
    alone = np.stack([_normal(key) for key in keys])
    # The reason: such draws under vmap are not those of the keys.
    assert not np.allclose(jax.vmap(_normal)(keys), alone)
    for function, *args in (
        (_normal, keys),
        (lambda pair: _normal(pair["key"]) + pair["x"][0], {"key": keys, "x": [seeds]}),
        (lambda seed: _normal(jax.random.key(seed, impl=impl)), seeds),
        (_with_shared_key, seeds, jax.random.key(0, impl=impl)),
        (_in_a_loop, keys),
        (
            lambda key: jax.lax.cond(key[0] > 0, _from_data(impl), _zeros, key),
            _data(keys),
        ),
    ):
        for chunk_size in (None, 4, np.int64(4)):
            mapped = replicates.sharded_vmap(function, chunk_size=chunk_size)
            with pytest.raises(ValueError, match=r'key\(seed, impl="threefry2x32"\)'):
                mapped(*args)


def _data(keys):
    return jax.random.key_data(keys)


def _zeros(key):
    del key
    return jnp.zeros(2)


def _from_data(impl):
    return lambda data: _normal(jax.random.wrap_key_data(data, impl=impl))


def test_keys_of_the_default_generator_are_refused_where_that_is_rbg():
    def of_seed(seed):
        return _normal(jax.random.PRNGKey(seed))

    with jax.default_prng_impl("rbg"):
        keys = jax.random.split(jax.random.key(0), 6)
        for function, argument in (
            (replicates.sharded_vmap(_normal), keys),
            (replicates.sharded_vmap(_normal), jax.random.key_data(keys)),
            (replicates.sharded_vmap(lambda seed: of_seed(seed)), np.arange(6)),
        ):
            with pytest.raises(ValueError, match="threefry2x32"):
                function(argument)
    found = replicates.sharded_vmap(of_seed)(np.arange(6))
    np.testing.assert_allclose(found[5], of_seed(5), rtol=1e-6)


def test_a_key_that_all_replicates_share_may_be_of_any_generator():
    key = jax.random.key(0, impl="rbg")
    mapped = replicates.sharded_vmap(lambda x, key: x + _normal(key), chunk_size=2)
    found = mapped(np.arange(3.0), key)
    expected = np.arange(3.0)[:, None] + np.asarray(_normal(key))[None]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


CODE = """
import jax, jax.numpy as jnp, numpy as np
from advjax import data, descent, linear, norms, replicates, solvers
assert jax.device_count() == 8

def path(key, eps):
    x, y = data.gaussian(key, 12, jnp.ones(3), None, 0.5)
    update = descent.step(
        lambda t: linear.adversarial_gradient(t, norms.l2, x, y, eps), 0.05
    )
    return descent.path(jnp.zeros(3), update, num_steps=20)

def minimum(key, eps):
    x, y = data.gaussian(key, 12, jnp.ones(3), None, 0.5)
    return solvers.adversarial(norms.linf, x, y, eps, penalty=0.1)[:2]

def device(key):
    return jax.lax.axis_index("r")

keys = jax.random.split(jax.random.key(0), 21)
which = replicates.sharded_vmap(device, chunk_size=16)(keys)
np.testing.assert_array_equal(which[:16], np.repeat(np.arange(8), 2))
for function in (path, minimum):
    one = replicates.sharded_vmap(function, devices=jax.devices()[:1])(keys, 0.2)
    for chunk_size in (None, 5):
        eight = replicates.sharded_vmap(function, chunk_size=chunk_size)(keys, 0.2)
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


def test_integers_that_jax_would_wrap_are_refused():
    same = replicates.sharded_vmap(lambda value: value)
    np.testing.assert_array_equal(same(np.arange(3)), [0, 1, 2])
    with pytest.raises(ValueError, match="do not fit into int32"):
        same(np.arange(3) + 2**33)
    with pytest.raises(ValueError, match="do not fit into int32"):
        replicates.sharded_vmap(jnp.add)(np.arange(3), np.int64(2**32 + 5))
