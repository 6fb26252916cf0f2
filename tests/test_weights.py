"""Networks that are saved and loaded: nothing changes, and what is wrong is said."""

import json
import os
from contextlib import nullcontext

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_frameworks
from safetensors.numpy import load_file, save_file

from advjax import models, weights
from advjax.types import Model

X = test_frameworks.X


def _network(name, seed=0):
    model, variables, _ = test_frameworks.FRAMEWORKS[name]()
    return weights.Network(model, *variables(test_frameworks._weights(seed)))


@pytest.mark.parametrize("name", test_frameworks.FRAMEWORKS)
def test_a_network_comes_back_as_it_was(name, tmp_path):
    network, path = _network(name), tmp_path / "net.safetensors"
    weights.save(path, network, about={"eps": 0.1})
    again = weights.load(path, network.model, X[:1])
    np.testing.assert_array_equal(again.predict(X), network.predict(X))
    structures = map(jax.tree.structure, (again.params, network.params))
    assert len({*structures}) == 1
    assert weights.about(path) == {"eps": 0.1}
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


class _Odd(nn.Module):
    """Half precision, statistics, and layers of no parameters."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(4, dtype=jnp.float32, param_dtype=jnp.bfloat16)(x)
        return nn.BatchNorm(use_running_average=not train)(x)


def test_every_dtype_comes_back(tmp_path):
    model, path = models.from_linen(_Odd()), tmp_path / "net.safetensors"
    params, batch_stats = model.init(jax.random.key(0), X[:1])
    weights.save(path, weights.Network(model, params, batch_stats))
    again = weights.load(path, model, X[:1])
    for stored, own in zip(
        jax.tree.leaves((again.params, again.batch_stats)),
        jax.tree.leaves((params, batch_stats)),
        strict=True,
    ):
        assert stored.dtype == own.dtype
        np.testing.assert_array_equal(
            np.asarray(stored, np.float32), np.asarray(own, np.float32)
        )


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_a_key_comes_back(impl, tmp_path):
    own = jax.random.key(7, impl=impl)
    model = Model(
        lambda *_: ({"w": jnp.ones(3)}, {"key": own}),
        lambda params, batch_stats, x, **_: (x @ params["w"], batch_stats),
    )
    path = tmp_path / "net.safetensors"
    weights.save(path, weights.Network(model, *model.init(jax.random.key(0), X)))
    stored = weights.load(path, model, X).batch_stats["key"]
    assert stored == own
    assert stored.dtype == own.dtype


def test_what_is_there_is_not_lost(tmp_path):
    path = tmp_path / "net.safetensors"
    weights.save(path, _network("linen"))
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="there already"):
        weights.save(path, _network("linen", seed=1))
    assert path.read_bytes() == before
    weights.save(path, _network("linen", seed=1), overwrite=True)
    assert path.read_bytes() != before


def test_what_cannot_be_said_is_refused_before_anything_is_written(tmp_path):
    network, path = _network("linen"), tmp_path / "net.safetensors"
    with pytest.raises(ValueError, match="no JSON"):
        weights.save(path, network, about={"eps": jnp.ones(3)})
    with pytest.raises(ValueError, match="no JSON"):
        weights.save(path, network, about={"eps": float("nan")})
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, network.params)
    with pytest.raises(ValueError, match="not finite"):
        weights.save(path, weights.Network(network.model, broken, {}))
    assert [*tmp_path.iterdir()] == []


def test_of_two_that_write_at_once_one_is_told(tmp_path, monkeypatch):
    """The other one comes between the first look and the end."""
    network, path = _network("linen"), tmp_path / "net.safetensors"
    synced = os.fsync

    def late(descriptor):
        synced(descriptor)
        path.write_bytes(b"the other's")

    monkeypatch.setattr(os, "fsync", late)
    for link in (
        os.link,
        lambda *_: (_ for _ in ()).throw(PermissionError("no links")),
    ):
        monkeypatch.setattr(os, "link", link)
        path.unlink(missing_ok=True)
        with pytest.raises(FileExistsError, match="is there already"):
            weights.save(path, network)
        assert path.read_bytes() == b"the other's"
        assert [*tmp_path.iterdir()] == [path]


def test_what_is_no_network_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    for wrong in (None, {"params": {}}, _network("linen").params):
        with pytest.raises(ValueError, match="give weights"):
            weights.save(path, wrong)
    for wrong in ({1: 2}, 3, "eps"):
        with pytest.raises(ValueError, match="give a dict, whose names are strings"):
            weights.save(path, _network("linen"), about=wrong)
    assert not path.exists()


def test_files_of_something_else_are_named(tmp_path):
    network, path = _network("linen"), tmp_path / "net.safetensors"
    model = network.model
    with pytest.raises(FileNotFoundError, match="no file"):
        weights.load(path, model, X)
    path.write_bytes(b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(ValueError, match="no safetensors file"):
        weights.load(path, model, X)
    path.unlink()
    save_file({"w": np.ones(3, np.float32)}, path)
    with pytest.raises(ValueError, match="not written by"):
        weights.load(path, model, X)
    weights.save(path, network, overwrite=True)
    wide = models.make("mlp", num_classes=2, hidden=(5,))
    with pytest.raises(ValueError, match=r"another network: .*Dense"):
        weights.load(path, wide, X)
    with pytest.raises(ValueError, match="another network: params"):
        weights.load(path, model, jnp.ones((1, 4)))


def test_no_flipped_byte_goes_unseen(tmp_path):
    network, path = _network("linen"), tmp_path / "net.safetensors"
    weights.save(path, network)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"safetensors|written|damaged"):
            weights.load(path, network.model, X)


def test_the_header_is_digested_with_the_arrays(tmp_path):
    path = tmp_path / "net.safetensors"
    weights.save(path, _network("linen"), about={"eps": 0.1})
    arrays = load_file(path)
    head = {"about": json.dumps({"eps": 0.2}), "dtypes": "{}", "sha256": "0"}
    save_file(arrays, path, head)
    with pytest.raises(ValueError, match="damaged"):
        weights.about(path)


def test_precision_stays_that_of_the_file(tmp_path):
    network, path = _network("function"), tmp_path / "net.safetensors"
    halved = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), network.params)
    weights.save(path, weights.Network(network.model, halved, {}))
    again = weights.load(path, network.model, X)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(again.params)} == {"bfloat16"}
    wide = {name: np.asarray(w, np.float64) for name, w in network.params.items()}
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else nullcontext():
        weights.save(path, weights.Network(network.model, wide, {}), overwrite=True)
    if not jax.config.jax_enable_x64 and hasattr(jax, "enable_x64"):
        with pytest.raises(ValueError, match="set jax_enable_x64"):
            weights.load(path, network.model, X)


def test_files_have_the_rights_that_files_have(tmp_path):
    """Whoever may read a directory's other files may read this one."""
    weights.save(tmp_path / "net.safetensors", _network("linen"))
    (tmp_path / "other").touch()
    modes = {file.stat().st_mode for file in tmp_path.iterdir()}
    assert len(modes) == 1


def test_integers_of_another_kind_are_another_network(tmp_path):
    def model(dtype):
        return Model(
            lambda *_: ({"w": jnp.ones(3)}, {"n": jnp.zeros((), dtype)}),
            lambda params, batch_stats, x, **_: (x @ params["w"], batch_stats),
        )

    path, own = tmp_path / "net.safetensors", model(jnp.int32)
    weights.save(path, weights.Network(own, *own.init(jax.random.key(0), X)))
    with pytest.raises(ValueError, match=r"batch_stats/n is int32\[\], not int8"):
        weights.load(path, model(jnp.int8), X)
