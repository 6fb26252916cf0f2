"""Released parameters of trained networks, by safetensors: arrays, and no code.

The digest of all arrays, and of what the file says about them, is in its header.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from advjax import weights
from advjax.types import Params
from experiments.files import FileError, dumps, replacing

_PARTS = ("params", "batch_stats")


class Released(NamedTuple):
    """Trained networks, one for each of ``r`` runs in the leading axis.

    Attributes:
        params: parameters.
        batch_stats: statistics of normalisation layers.
        about: what they are: configuration, eps and seed of each run, commit.
    """

    params: Params
    batch_stats: Params
    about: dict[str, Any]


def file(path: Path, part: str, name: str) -> Path:
    """Where a run in ``path`` releases networks of a part, such as the last ones."""
    return path / f"{part}{'-' * bool(part)}{name}.safetensors"


def write(path: Path, released: Released) -> None:
    """Writes one ``.safetensors`` file, which many programs can read."""
    if jax.process_index():
        return
    from safetensors.numpy import save

    trees = dict(zip(_PARTS, released[:2], strict=True))
    arrays = jax.device_get(flatten_dict(trees, sep="/"))
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    about = dumps(released.about)
    metadata = {"about": about, "sha256": weights.digest(about, arrays)}
    with replacing(path) as part:
        part.write(save(arrays, metadata))


def read(path: str | Path) -> Released:
    """Reads what ``write`` wrote, whole: nothing of it is used before it is checked.

    Takes memory of twice the size of the file.

    Raises:
        FileError: if the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    try:
        if not path.is_file():
            msg = "there is no such file"
            raise ValueError(msg)
        about, arrays = _read_tensors(path)
        _check_released(about, arrays)
        trees = unflatten_dict(arrays, sep="/")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        msg = f"{path} holds no released parameters: {reason}"
        raise FileError(msg) from error
    return Released(*(trees.get(name, {}) for name in _PARTS), about)


def _read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and arrays, whose digest is that of the file's header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118, it is no dict
                kind = file.get_slice(name).get_dtype()
                if kind not in _KINDS:
                    msg = f"{name} is of {kind}, not of {' or '.join(_KINDS)}"
                    raise ValueError(msg)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        msg = f"it is no safetensors file: {error}"
        raise ValueError(msg) from None
    if not {"about", "sha256"} <= {*metadata}:
        msg = "it does not say what it is about"
        raise ValueError(msg)
    if metadata["sha256"] != weights.digest(metadata["about"], arrays):
        msg = "it is damaged: its digest is another one"
        raise ValueError(msg)
    return json.loads(metadata["about"]), arrays


_KINDS = ("F32",)


def _check_released(about: Any, arrays: dict[str, np.ndarray]) -> None:
    """Raises ValueError unless all of it is of the same ``r`` finite networks."""
    lists = ("eps", "seed", "epoch")
    if not isinstance(about, dict) or not isinstance(about.get("config"), dict):
        msg = "it does not say what it is about"
        raise ValueError(msg)
    for name in lists:
        values = about.get(name)
        kind = float if name == "eps" else int
        if not isinstance(values, list) or not all(_is_number(v, kind) for v in values):
            msg = f"{name} is no list of numbers"
            raise ValueError(msg)
    numbers = {name: len(about[name]) for name in lists}
    for name, array in arrays.items():
        if name.split("/")[0] not in _PARTS or "/" not in name:
            msg = f"{name} is neither of params nor of batch_stats"
            raise ValueError(msg)
        if any(other.startswith(f"{name}/") for other in arrays):
            msg = f"{name} is an array, and others are inside of it"
            raise ValueError(msg)
        if not np.isfinite(array).all():
            msg = f"{name} has entries that are not finite"
            raise ValueError(msg)
        numbers[name] = array.shape[0] if array.ndim else 0
    if len({*numbers.values()}) != 1 or 0 in numbers.values():
        described = ", ".join(f"{name} {number}" for name, number in numbers.items())
        msg = f"it does not hold one number of networks: {described}"
        raise ValueError(msg)


def _is_number(value: Any, kind: type) -> bool:
    kinds = (int, float) if kind is float else (int,)
    is_one = isinstance(value, kinds) and not isinstance(value, bool)
    return is_one and 0 <= value < 2**31


Network = tuple[Params, Params]
"""Parameters and batch statistics."""


def check_network(stored: Network, network: Network) -> None:
    """Refuses parameters of another network.

    Args:
        stored: with a leading axis of runs.
        network: arrays or shapes, without that axis.

    Raises:
        FileError: naming the first array whose name or shape differs.
    """
    trees = dict(zip(_PARTS, stored, strict=True))
    needed = dict(zip(_PARTS, network, strict=True))
    there = {name: shape[1:] for name, shape in _shapes(trees).items()}
    _check(there, _shapes(needed), "the parameters are of another network")


def check_shapes(stored: Any, like: Any, problem: str) -> None:
    """Refuses arrays of other names or shapes.

    Raises:
        FileError: with ``problem``, and the first name that differs.
    """
    _check(_shapes(stored), _shapes(like), problem)


def _check(there: dict[str, tuple], wanted: dict[str, tuple], problem: str) -> None:
    for name in sorted({*there, *wanted}):
        if there.get(name) != wanted.get(name):
            stored, needed = there.get(name, "absent"), wanted.get(name, "absent")
            raise FileError(f"{problem}: {name} is {stored} there, {needed} here")


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every array, by its path; of a key, that of its data."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(map(_entry, path)): _shape(leaf) for path, leaf in leaves}


def _entry(step: Any) -> str:
    names = ("key", "name", "idx")
    return next(str(getattr(step, name)) for name in names if hasattr(step, name))


def _shape(leaf: Any) -> tuple[int, ...]:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return tuple(leaf.shape)
