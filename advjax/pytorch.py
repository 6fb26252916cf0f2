"""Weights of PyTorch's networks, and back; without torch, and without pickle.

    module = models.module("wideresnet28", num_classes=10, form="deepmind",
                           activation=nn.silu, **models.NORMALISATION["cifar10"])
    network = pytorch.load("gowal.safetensors", module, x[:1], expected=(x, logits))
    network.predict(x)

    arrays = pytorch.state_dict(network, module, x[:1], like=torch_network.state_dict())

Names tell which family a network is of, and shapes whether it is the same network. The
activation, what a shortcut sees and, often, the normalisation of inputs are in no file:
``expected`` is the way to be sure of them.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import models, weights
from advjax.types import Array, Params
from advjax.weights import Network

__all__ = ["load", "state_dict"]

_Place = tuple[str, ...]
"""Of one of our arrays, such as ("params", "Conv_0", "kernel")."""


def load(
    source: str | os.PathLike[str] | Mapping[str, Any],
    module: Any,
    x: Array,
    *,
    expected: tuple[Array, Array] | None = None,
) -> Network:
    """A network with the weights of one in PyTorch.

    Args:
        source: a file of safetensors, or arrays by name: NumPy's, or what it can read,
            such as torch's tensors on the CPU. Prefixes such as "module." are ignored.
        module: the architecture, as of ``models.module``, of which all arrays must be
            there: a residual network under the names of Rice et al. (2020), Zhang et
            al. (2019), Gowal et al. (2020), RobustBench or torchvision; or one without
            blocks, whose layers are numbered in order, as those of an
            ``nn.Sequential`` are.
        x: a batch of inputs ``[n, h, w, c]``, used only for its shape.
        expected: inputs ``x[n, h, w, c]`` and what the network gives for them in
            PyTorch; an output that is not the same, to a thousandth of the largest
            logit, is an error.

    Returns:
        The network in evaluation mode, in the precision of its arrays.

    Raises:
        FileNotFoundError: without a file.
        ValueError: for what is no such file; for arrays that are missing, have no place
            in the architecture, or are of other shapes; for an input normalisation or a
            form that is another one; and for other outputs than expected.
    """
    given = _arrays(source)
    like = _like(module, x)
    ours = _shapes(like)
    placed = _placed(ours, {name: array.shape for name, array in given.items()}, module)
    _check_rest(given, placed.values(), module)
    leaves = []
    for place, name in placed.items():
        array = _from_torch(place, given[name], _sides(place, ours, x))
        if array.shape != ours[place]:
            there = f"{name} has shape {given[name].shape}, which is {array.shape} here"
            msg = f"{there}, and {'/'.join(place)} has {ours[place]}"
            raise ValueError(msg)
        leaves.append(_own(name, array))
    trees = jax.tree.unflatten(jax.tree.structure(_parts(like)), leaves)
    network = Network(like.model, trees["params"], trees["batch_stats"])
    if expected is not None:
        _check_output(network, *expected)
    return network


def state_dict(
    network: Network, module: Any, x: Array, *, like: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The weights of a network under PyTorch's names; the inverse of ``load``.

    In torch, ``net.load_state_dict({k: torch.tensor(v) for k, v in found.items()})``.

    Args:
        network: the network.
        module: its architecture.
        x: a batch of inputs, used only for its shape.
        like: the ``state_dict`` of a network of the same architecture in PyTorch, for
            its names and shapes. What belongs to no layer, such as counts of batches,
            is taken from it.

    Raises:
        ValueError: as ``load``.
    """
    like = {name: np.asarray(array) for name, array in like.items()}
    ours = _shapes(_like(module, x))
    placed = _placed(ours, {name: array.shape for name, array in like.items()}, module)
    _check_rest(like, placed.values(), module)
    flat = _flat(network)
    found = dict(like)
    for place, name in placed.items():
        array = _to_torch(place, np.asarray(flat[place]), _sides(place, ours, x))
        if array.shape != like[name].shape:
            shapes = f"{array.shape} here and {like[name].shape} in PyTorch"
            msg = f"{name} has shape {shapes}"
            raise ValueError(msg)
        found[name] = np.array(array)
    return found


# --- files and shapes ---


def _arrays(source: Any) -> dict[str, np.ndarray]:
    if not isinstance(source, str | os.PathLike | Mapping):
        msg = f"source is a {type(source).__name__}: give its state_dict(), or a file"
        raise ValueError(msg)
    if isinstance(source, Mapping):
        return {str(name): np.asarray(array) for name, array in source.items()}
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(source)
    if not path.is_file():
        msg = f"there is no file {path}"
        raise FileNotFoundError(msg)
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, TypeError, KeyError) as error:
        hint = "write it by safetensors.torch.save_file(state_dict, path)"
        msg = f"{path} is no file of safetensors that can be read: {error}; {hint}"
        raise ValueError(msg) from None


def _like(module: Any, x: Array) -> Network:
    """The network with shapes for its arrays."""
    model = models.from_linen(module)
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(x))
    return Network(model, *like)


def _parts(network: Network) -> dict[str, Params]:
    return {"params": network.params, "batch_stats": network.batch_stats}


def _flat(network: Network) -> dict[_Place, Any]:
    """Leaves by their places, in the order of the trees."""
    leaves = weights.named(_parts(network))
    return {tuple(name.split("/")): leaf for name, leaf in leaves.items()}


def _shapes(network: Network) -> dict[_Place, tuple[int, ...]]:
    return {place: leaf.shape for place, leaf in _flat(network).items()}


def _own(name: str, array: np.ndarray) -> Array:
    """An array of at least single precision."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        msg = f"{name} is of {array.dtype}: quantised weights are not read"
        raise ValueError(msg)
    if array.dtype.itemsize < 4:
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        msg = f"{name} has entries that are not finite"
        raise ValueError(msg)
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        msg = f"{name} is of {array.dtype}: set jax_enable_x64 to read it as it is"
        raise ValueError(msg)
    return jnp.asarray(array)


# --- names ---


class _Family(NamedTuple):
    """How networks of one origin call their parts, in our order.

    Attributes:
        top: convolution, normalisation and output layer outside of blocks.
        block: a block, by its stage from 0 or from 1, and its place ``i`` in there.
        convs: the convolutions of a block, the last one that of the shortcut.
        norms: the normalisations of a block.
        forms: of our architecture; any if empty.
    """

    top: tuple[str, ...]
    block: str
    convs: tuple[str, ...]
    norms: tuple[str, ...]
    forms: tuple[str, ...] = ()


def _families(*rows: tuple[str, str, str, str, str]) -> list[_Family]:
    """From names and forms in one string each."""
    return [
        _Family(tuple(top.split()), block, *(tuple(each.split()) for each in others))
        for top, block, *others in rows
    ]


_LAYER = "layer{from_1}.{i}"
_OURS = "rice plain wong trades"


def _resnets(convs: str, norms: str) -> list[_Family]:
    """Of RobustBench, of torchvision, and of what mixes them."""
    return _families(
        *(
            (
                f"conv1 bn1 {head}",
                _LAYER,
                f"{convs} {short}.0",
                f"{norms} {short}.1",
                "",
            )
            for head in ("linear", "fc")
            for short in ("shortcut", "downsample")
        )
    )


_FAMILIES = {
    "PreActBlock": _families(
        # Rice et al., Wong et al. and RobustBench
        ("conv1 bn linear", _LAYER, "conv1 conv2 shortcut.0", "bn1 bn2", _OURS),
        # Zhang et al. and RobustBench
        (
            *("conv1 bn1 fc", "block{from_1}.layer.{i}"),
            *("conv1 conv2 convShortcut", "bn1 bn2", _OURS),
        ),
        # Gowal et al.
        (
            *("conv_2d batchnorm logits", "layer_{from_0}.{i}"),
            *("conv_2d_1 conv_2d_2 shortcut", "batchnorm_0 batchnorm_1", "deepmind"),
        ),
        (
            *("init_conv batchnorm logits", "layer.{from_0}.block.{i}"),
            *("conv_0 conv_1 shortcut", "batchnorm_0 batchnorm_1", "deepmind"),
        ),
    ),
    "BasicBlock": _resnets("conv1 conv2", "bn1 bn2"),
    "Bottleneck": _resnets("conv1 conv2 conv3", "bn1 bn2 bn3"),
}
"""By the name of our blocks."""

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def _placed(
    ours: Iterable[_Place], theirs: Mapping[str, tuple[int, ...]], module: Any
) -> dict[_Place, str]:
    """The name of each of our arrays in PyTorch, all of which are there."""
    ours = list(ours)
    blocks = {match[1] for place in ours if (match := _BLOCK.match(place[1]))}
    if not blocks:
        return _numbered(ours, theirs)
    (kind,) = blocks
    found = {}
    for family in _FAMILIES[kind]:
        named = {place: _named(place, family, ours) for place in ours}
        stem = f"{family.top[0]}.weight"
        starts = [name[: -len(stem)] for name in theirs if name.endswith(stem)]
        for start in starts or [""]:
            full = {place: start + name for place, name in named.items()}
            found[sum(name in theirs for name in full.values())] = family, full
    family, best = found[max(found)]
    missing = [name for name in best.values() if name not in theirs]
    if missing:
        some, others = ", ".join(sorted(theirs)[:3]), len(missing) - 1
        msg = f"{missing[0]} is missing, and {others} more: there is {some}, …"
        raise ValueError(msg)
    form = getattr(module, "form", "")
    if family.forms and form not in family.forms:
        msg = f"names are those of networks of form {' or '.join(family.forms)}"
        raise ValueError(f"{msg}, and the module has form = {form!r}")
    return best


_BLOCK = re.compile(r"(PreActBlock|BasicBlock|Bottleneck)_(\d+)$")


def _named(place: _Place, family: _Family, ours: list[_Place]) -> str:
    """A name without prefix."""
    *_, layer, leaf = place
    kind, _, number = layer.partition("_")
    match = _BLOCK.match(place[1])
    if match:
        inner = family.convs if kind == "Conv" else family.norms
        block = _block(match[1], int(match[2]), family, ours)
        return f"{block}.{inner[int(number)]}.{_LEAVES[leaf]}"
    top = dict(zip(("Conv", "BatchNorm", "Dense"), family.top, strict=True))
    return f"{top[kind]}.{_LEAVES[leaf]}"


def _block(kind: str, index: int, family: _Family, ours: list[_Place]) -> str:
    """The name of a block; a shortcut that changes the shape begins a stage."""
    shortcut = f"Conv_{len(family.convs) - 1}"

    def begins(k: int) -> bool:
        return k == 0 or ("params", f"{kind}_{k}", shortcut, "kernel") in ours

    firsts = [k for k in range(index + 1) if begins(k)]
    stage, i = len(firsts), index - firsts[-1]
    return family.block.format(from_0=stage - 1, from_1=stage, i=i)


def _numbered(
    ours: list[_Place], theirs: Mapping[str, tuple[int, ...]]
) -> dict[_Place, str]:
    """Layers of each kind in the order of their numbers."""
    layers = {kind: _layers(*of_kind, theirs) for kind, of_kind in _KINDS.items()}
    placed: dict[_Place, str] = {}
    for place in ours:
        kind, _, number = place[1].partition("_")
        if len(place) != 3 or kind not in layers:
            msg = f"{'/'.join(place)} has no name in PyTorch that is known here"
            raise ValueError(msg)
        if int(number) >= len(layers[kind]):
            there = f"there are {len(layers[kind])} layers of its kind"
            msg = f"{'/'.join(place)} is missing: {there}"
            raise ValueError(msg)
        name = f"{layers[kind][int(number)]}.{_LEAVES[place[2]]}"
        if name not in theirs:
            msg = f"{name} is missing"
            raise ValueError(msg)
        placed[place] = name
    return placed


_KINDS = {
    "Conv": (".weight", 4),
    "Dense": (".weight", 2),
    "BatchNorm": (".running_mean", 1),
}
"""Of layers: the end of a name that each has, and the axes of what is there."""


def _layers(end: str, axes: int, theirs: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Names of the layers of a kind, in order."""
    found = [
        name.removesuffix(end)
        for name, shape in theirs.items()
        if name.endswith(end) and len(shape) == axes
    ]
    return _in_order(found)


def _in_order(layers: list[str]) -> list[str]:
    """Layers of a kind by their numbers, which must count in one place.

    Raises:
        ValueError: for names that do not say an order.
    """
    places = sorted({re.sub(r"\d+", "#", name) for name in layers})
    if len(places) > 1:
        msg = f"layers of a kind are called {' and '.join(places)}: which is first? "
        raise ValueError(f"{msg}Rename them, as 1, 2, …")
    return sorted(layers, key=_numbers)


def _numbers(name: str) -> list[int]:
    numbers = [int(each) for each in re.findall(r"\d+", name)]
    if not numbers:
        msg = f"{name}: the names of layers do not say their order"
        raise ValueError(msg)
    return numbers


def _check_rest(
    given: Mapping[str, np.ndarray], taken: Iterable[str], module: Any
) -> None:
    """Raises ValueError for what has no place, and for another normalisation."""
    for name in sorted({*given} - {*taken}):
        *_, last = name.split(".")
        # RobustBench keeps a copy of the first stage, which no pass uses.
        if last == "num_batches_tracked" or "sub_block1." in name:
            continue
        option = {"mean": "mean", "mu": "mean", "std": "std", "sigma": "std"}.get(last)
        if option is None:
            msg = f"{name} has no place in the architecture"
            raise ValueError(msg)
        there, neutral = given[name].ravel(), {"mean": 0.0, "std": 1.0}[option]
        here = getattr(module, option, None)
        here = np.full(there.shape, neutral) if here is None else np.asarray(here)
        if here.shape != there.shape or not np.allclose(here, there, rtol=0, atol=1e-6):
            found = ", ".join(f"{each:.6g}" for each in there)
            msg = f"{name} is ({found}): give the module {option}=({found})"
            raise ValueError(msg)


# --- arrays ---


def _sides(
    place: _Place, ours: Mapping[_Place, tuple[int, ...]], x: Array
) -> tuple[int, int, int] | None:
    """Height, width and channels of what a dense kernel takes flattened, or None."""
    if place[1:] != ("Dense_0", "kernel") or any(map(_BLOCK.match, _tops(ours))):
        return None
    size, convs = ours[place][0], [p for p in ours if p[1].startswith("Conv")]
    if not convs and np.ndim(x) != 4:
        return None
    if not convs:
        height, width, channels = np.shape(x)[1:]
        return height, width, channels
    last = max((p for p in convs if p[2] == "kernel"), key=lambda p: _numbers(p[1]))
    channels = ours[last][-1]
    side = round((size / channels) ** 0.5)
    if side * side * channels != size:
        msg = f"{'/'.join(place)} takes {size} numbers, which are no square images of "
        raise ValueError(f"{msg}{channels} channels")
    return side, side, channels


def _tops(ours: Iterable[_Place]) -> set[str]:
    return {place[1] for place in ours}


def _from_torch(
    place: _Place, array: np.ndarray, sides: tuple[int, int, int] | None
) -> np.ndarray:
    """[out, in, i, j] to [i, j, in, out], and [out, in] to [in, out]."""
    if place[-1] != "kernel":
        return array
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if sides is not None and array.ndim == 2 and array.shape[1] == np.prod(sides):
        height, width, channels = sides
        array = array.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
        array = array.reshape(len(array), -1)
    return array.T


def _to_torch(
    place: _Place, array: np.ndarray, sides: tuple[int, int, int] | None
) -> np.ndarray:
    """The inverse of ``_from_torch``."""
    if place[-1] != "kernel":
        return array
    if array.ndim == 4:
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    array = array.T
    if sides is not None:
        array = array.reshape(-1, *sides).transpose(0, 3, 1, 2)
        array = array.reshape(len(array), -1)
    return np.ascontiguousarray(array)


_TOLERANCE = 1e-3
"""Of outputs, over the largest logit; another activation is off by its own size."""


def _check_output(network: Network, x: Array, expected: Array) -> None:
    predict = jax.jit(network.model.predict)  # weights are no constants of its program
    found = np.asarray(predict(network.params, network.batch_stats, jnp.asarray(x)))
    wanted = np.asarray(expected)
    if found.shape != wanted.shape:
        msg = f"outputs have shape {found.shape}, and {wanted.shape} was expected"
        raise ValueError(msg)
    largest = np.abs(wanted).max()
    off = np.abs(found - wanted).max()
    if not off <= _TOLERANCE * largest:
        msg = f"outputs differ by up to {off:.3g}, where the largest is {largest:.3g}: "
        msg += "is it the same activation, form and normalisation, and x in [0, 1]?"
        raise ValueError(msg)
