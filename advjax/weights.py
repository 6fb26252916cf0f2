"""A model with its parameters, and files of them that hold arrays and no code.

    network = weights.Network(model, params, batch_stats)
    weights.save("net.safetensors", network)
    network = weights.load("net.safetensors", model, x[:1])

Files are those of safetensors, which PyTorch and others read as well; a digest of all
arrays is in the header. Their names are the paths in the trees, such as
"params/Dense_0/kernel".
"""

import dataclasses
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax import arguments
from advjax.types import Array, Model, Params

__all__ = ["Network", "about", "digest", "load", "named", "save"]


@dataclasses.dataclass(frozen=True)
class Network:
    """A model and its parameters.

    Attributes:
        model: the architecture.
        params: parameters.
        batch_stats: statistics of normalisation layers, often empty.
    """

    model: Model
    params: Params
    batch_stats: Params

    def predict(self, x: Array) -> Array:
        """The output ``[n, ...]`` in evaluation mode; a ``types.Predict``."""
        return self.model.predict(self.params, self.batch_stats, x)


def save(
    path: str | os.PathLike[str],
    network: Network,
    *,
    about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a network; a file of this name is whole or not there.

    Args:
        path: such as "net.safetensors".
        network: on one device or many; arrays of any dtype, and keys.
        about: what the file says of it, for JSON, such as ``{"eps": 0.1, "seed": 0}``.
        overwrite: whether a file that is there may be lost.

    Raises:
        FileExistsError: for a file that is there, unless ``overwrite``.
        ValueError: for parameters that are not finite, and ``about`` that is no JSON.
    """
    from safetensors.numpy import save as as_bytes

    if not isinstance(network, Network):
        msg = f"network is a {type(network).__name__}: give weights.Network"
        raise ValueError(msg)
    about = {} if about is None else about
    is_mapping = isinstance(about, Mapping)
    if not is_mapping or not all(isinstance(name, str) for name in about):
        msg = f"about = {about!r}: give a dict, whose names are strings"
        raise ValueError(msg)
    path = Path(path)
    arrays, dtypes = _arrays(_tree(network))
    for name, array in arrays.items():
        if (
            dtypes[name] != "key"
            and not np.isfinite(_of_dtype(array, dtypes[name])).all()
        ):
            msg = f"{name} has entries that are not finite: nothing is written"
            raise ValueError(msg)
    try:
        text = json.dumps(dict(about), allow_nan=False)
    except (TypeError, ValueError) as error:
        msg = f"about = {about!r} is no JSON: {error}"
        raise ValueError(msg) from error
    head = {"about": text, "dtypes": json.dumps(dtypes)}
    head["sha256"] = digest(_text(head), arrays)
    there = f"{path} is there already: give another name, or overwrite=True"
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(there)
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            file.write(as_bytes(arrays, head))
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            part.replace(path)
        else:
            _linked(part, path, there)
    finally:
        part.unlink(missing_ok=True)


def _linked(part: Path, path: Path, there: str) -> None:
    """Gives a file its name, unless another process was first."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise FileExistsError(there) from None
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise FileExistsError(there) from None
        part.replace(path)


def load(path: str | os.PathLike[str], model: Model, x: Any) -> Network:
    """Reads a network that ``save`` wrote.

    Args:
        path: the file.
        model: the architecture, of which all arrays must be there in their shapes;
            they keep the precision that they were saved in.
        x: a batch of inputs, used only for its shape.

    Raises:
        FileNotFoundError: without a file.
        ValueError: for a file that is damaged, is no such file, or has arrays of
            another network; the message names the first one.
    """
    arguments.model(model)
    head, arrays = _read(Path(path))
    dtypes = json.loads(head["dtypes"])
    like = _parts(*jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(x)))
    leaves = []
    for name, leaf in named(like).items():
        needed, there = _kind(_dtype(leaf), _shape(leaf)), "absent"
        if name in arrays:
            there = _kind(dtypes[name], arrays[name].shape)
        if there != needed:
            msg = f"{path} is of another network: {name} is {there}, not {needed}"
            raise ValueError(msg)
        leaves.append(_restored(arrays.pop(name), dtypes[name]))
    if arrays:
        msg = f"{path} is of another network: {min(arrays)} has no place in the model"
        raise ValueError(msg)
    trees = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return Network(model, trees["params"], trees["batch_stats"])


def about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``save`` was told about a file, which is checked whole.

    Raises:
        FileNotFoundError: without a file.
        ValueError: for a file that is damaged, or is no such file.
    """
    head, _ = _read(Path(path))
    return dict(json.loads(head["about"]))


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as "Dense_0/kernel", in its order.

    Raises:
        ValueError: for two leaves of one name.
    """
    found: dict[str, Any] = {}
    for place, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(place, simple=True, separator="/")
        if name in found:
            msg = f"two arrays have the name {name}"
            raise ValueError(msg)
        found[name] = leaf
    return found


def _parts(params: Params, batch_stats: Params) -> dict[str, Params]:
    return {"params": params, "batch_stats": batch_stats}


def _tree(network: Network) -> dict[str, Params]:
    return _parts(network.params, network.batch_stats)


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _arrays(tree: Any) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by name, and their dtypes; those that safetensors lacks as integers."""
    arrays, dtypes = {}, {}
    for name, leaf in named(tree).items():
        leaf = jnp.asarray(leaf)
        dtypes[name] = _dtype(leaf)
        array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        if dtypes[name] == "bfloat16":
            array = array.view(np.uint16)
        arrays[name] = np.ascontiguousarray(array).reshape(array.shape)
    return arrays, dtypes


def _of_dtype(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.view(jnp.bfloat16) if dtype == "bfloat16" else array


def _dtype(leaf: Any) -> str:
    """Such as "float32", or "key<fry>" of jax's threefry keys."""
    return str(leaf.dtype)


def _shape(leaf: Any) -> tuple[int, ...]:
    """The shape that a stored array has."""
    stored = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    return tuple(stored.shape)


def _kind(dtype: str, shape: tuple[int, ...]) -> str:
    """What has to agree: floating-point numbers may have another precision."""
    return f"{'float' if 'float' in dtype else dtype}{list(shape)}"


def _restored(array: np.ndarray, dtype: str) -> Array:
    for impl in ("threefry2x32", "rbg", "unsafe_rbg"):
        if dtype == _dtype(jax.random.key(0, impl=impl)):
            return jax.random.wrap_key_data(jnp.asarray(array), impl=impl)
    own = _of_dtype(array, dtype)
    if jax.dtypes.canonicalize_dtype(own.dtype) != own.dtype:
        msg = f"an array is of {dtype}: set jax_enable_x64 to read it as it is"
        raise ValueError(msg)
    return jnp.asarray(own)


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Header and arrays, whose digest is that of the header."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        msg = f"there is no file {path}"
        raise FileNotFoundError(msg)
    try:
        with safe_open(path, framework="np") as file:
            head = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError) as error:
        msg = f"{path} is no safetensors file that can be read: {error}"
        raise ValueError(msg) from None
    if not {"about", "dtypes", "sha256"} <= {*head}:
        msg = f"{path} was not written by advjax.weights.save"
        raise ValueError(msg)
    if head.pop("sha256") != digest(_text(head), arrays):
        msg = f"{path} is damaged: its digest is another one"
        raise ValueError(msg)
    return head, arrays


def _text(head: Mapping[str, str]) -> str:
    return json.dumps(dict(head), sort_keys=True)


def digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of arrays, with names, dtypes and shapes, and of what is said."""
    total = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype.name} {array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()
