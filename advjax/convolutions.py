"""Convolutions that XLA runs fast on CPU, in any function: a rewriting of its program.

    grad = convolutions.rewritten(jax.grad(loss))     # to be compiled by jit

Attacks, training steps and products with Hessians rewrite what they differentiate, so
there is nothing to do for their users. Values change by rounding alone, and on other
devices not at all. The formulations are those that are fast in jax 0.10.2, as
``experiments/benchmarks/convolutions.py`` measures:

- XLA brings a convolution to the layout that its fast code wants, but not within a
  loop, where gradients take the slow code (jax issue 12868): the layout is written out.
- The fast code gives a convolution of fewer than 128 features one core. One whose
  output is larger than its input goes to other code, which shares it: a row is added
  and dropped again. Where that cannot be, parts of the batch run at once.
- An output of few channels, as in the gradient of an image, is a matrix product and a
  sum of shifted arrays.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.extend.core
import jax.numpy as jnp
from jax import lax

from advjax.types import Array

__all__ = ["rewritten"]

_Function = TypeVar("_Function", bound=Callable)
_Padding = Sequence[tuple[int, int]]


def rewritten(function: _Function) -> _Function:
    """The same function of arrays, with its convolutions as they are fast on CPU.

    To be applied to a gradient, not to what it is the gradient of: what is rewritten
    already stays as it is, and so do its derivatives. Outside of ``jit`` the function
    is called as it is.

    Args:
        function: of pytrees of arrays, all positional.
    """

    def rewriting(*arguments):
        if jax.default_backend() != "cpu" or not _is_compiled():
            return function(*arguments)
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        flat = jax.extend.core.jaxpr_as_fun(_Rewriting().of(closed))
        leaves = flat(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), leaves)

    return rewriting  # type: ignore[return-value]


def _is_compiled() -> bool:
    """Whether operations are recorded for ``jit`` at present, or for a loop."""
    return isinstance(lax.add(0, 0), jax.core.Tracer)


class _Rewriting:
    """Programs rewritten so far, so that those that share a part still do."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Any]] = {}

    def of(self, value: Any) -> Any:
        """A program, or whatever holds some; itself where there is nothing to do."""
        if _is_sequence(value):
            leaves, tree = jax.tree.flatten(value, lambda v: not _is_sequence(v))
            new = [self.of(leaf) for leaf in leaves]
            return value if _are_same(new, leaves) else jax.tree.unflatten(tree, new)
        if hasattr(value, "jaxpr"):
            jaxpr = self.of(value.jaxpr)
            return value if jaxpr is value.jaxpr else value.replace(jaxpr=jaxpr)
        if not hasattr(value, "eqns"):
            return value
        if id(value) not in self._known:
            eqns = [self._equation(eqn) for eqn in value.eqns]
            is_same = _are_same(eqns, value.eqns)
            new = value if is_same else value.replace(eqns=eqns)
            self._known[id(value)] = value, new  # the first lest its id be given again
        return self._known[id(value)][1]

    def _equation(self, eqn: Any) -> Any:
        if eqn.primitive.name == "conv_general_dilated":
            return _call(eqn)
        if eqn.params.get("name") == _NAME:
            return eqn
        new = {key: self.of(each) for key, each in eqn.params.items()}
        is_same = _are_same(new.values(), eqn.params.values())
        return eqn if is_same else eqn.replace(params=new)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, tuple | list)


def _are_same(new: Iterable[Any], old: Iterable[Any]) -> bool:
    return all(a is b for a, b in zip(new, old, strict=True))


_NAME = "advjax_convolution"


def _call(eqn: Any) -> Any:
    """The operation of one convolution, as one that runs a program of ours.

    Within ``shard_map`` it is left as it is, since its type says more there.
    """
    avals = [v.aval for v in (*eqn.invars, *eqn.outvars)]
    if any(map(_varies, avals)):
        return eqn
    if not all(isinstance(side, int) for aval in avals for side in aval.shape):
        return eqn  # of any size, as of jax.export

    def convolution(x, kernel):
        return _convolution(x, kernel, **eqn.params)

    convolution.__name__ = _NAME
    like = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals[:2]]
    with jax.disable_jit(False):
        (call,) = jax.make_jaxpr(jax.jit(convolution))(*like).eqns
    return call.replace(invars=eqn.invars, outvars=eqn.outvars)


def _varies(aval: Any) -> bool:
    """Whether a value differs over the devices of a ``shard_map``."""
    # Later versions of jax have it one level deeper.
    of_mesh = getattr(aval, "mat", aval)
    return bool(getattr(of_mesh, "varying", None) or getattr(aval, "vma", None))


def _convolution(
    x: Array, kernel: Array, *, dimension_numbers: Any, **params: Any
) -> Array:
    """One of any layout, by ``x[n, ..., c]`` and ``kernel[..., c, features]``."""
    first, second, *spatial = dimension_numbers.lhs_spec
    x = jnp.transpose(x, (first, *spatial, second))
    first, second, *spatial = dimension_numbers.rhs_spec
    kernel = jnp.transpose(kernel, (*spatial, second, first))
    last = x.ndim - 1
    spatial = range(1, last)
    numbers = lax.ConvDimensionNumbers(
        (0, last, *spatial), (last, last - 1, *range(last - 1)), (0, last, *spatial)
    )
    plain = functools.partial(
        lax.conv_general_dilated, dimension_numbers=numbers, **params
    )
    out = _formulation(x, kernel, params)(x, kernel, plain, params["padding"])
    first, second, *spatial = dimension_numbers.out_spec
    axes = (first, *spatial, second)
    return jnp.transpose(out, [axes.index(axis) for axis in range(out.ndim)])


def _formulation(x: Array, kernel: Array, params: dict[str, Any]) -> Callable:
    """The fastest, a function of ``(x, kernel, plain, padding)``."""
    is_grouped = params["feature_group_count"] * params["batch_group_count"] > 1
    precise = jnp.float32, jnp.float64
    is_promoted = params["preferred_element_type"] not in (None, x.dtype)
    if x.ndim != 4 or is_grouped or x.dtype not in precise or is_promoted:
        return _as_it_is
    steps = (params[key] for key in ("window_strides", "lhs_dilation", "rhs_dilation"))
    is_dense = all(step == (1, 1) for step in steps)
    rows, columns, c, features = kernel.shape
    # No more products than entries of the input, and few arrays to add.
    if is_dense and rows * columns <= 25 and rows * columns * features <= c:
        return _by_shifts
    if features >= 128 or max(c, features) <= 16:
        return _as_it_is
    height = x.shape[1]
    out_height = height + sum(params["padding"][0]) - rows + 1
    # Not for a small gain that many rows more would cost.
    if is_dense and out_height <= height < 1.5 * out_height:
        return _with_rows_more
    return _in_parts


def _as_it_is(x: Array, kernel: Array, plain: Callable, padding: _Padding) -> Array:
    return plain(x, kernel, padding=padding)


def _with_rows_more(
    x: Array, kernel: Array, plain: Callable, padding: _Padding
) -> Array:
    """So many that the output is larger than the input by one."""
    (top, bottom), horizontal = padding
    height, out_height = x.shape[1], x.shape[1] + top + bottom - len(kernel) + 1
    more = (top, bottom + height + 1 - out_height), horizontal
    return plain(x, kernel, padding=more)[:, :out_height]


def _in_parts(x: Array, kernel: Array, plain: Callable, padding: _Padding) -> Array:
    """Four of at least 16 examples; several devices divide the batch themselves."""
    num_parts = min(4, len(x) // 16)
    if num_parts < 2 or jax.device_count() > 1:
        return plain(x, kernel, padding=padding)
    parts = jnp.array_split(x, num_parts)
    return jnp.concatenate([plain(part, kernel, padding=padding) for part in parts])


def _by_shifts(x: Array, kernel: Array, plain: Callable, padding: _Padding) -> Array:
    """Products with all entries of the kernel at once, shifted and added."""
    del plain
    rows, columns, c, features = kernel.shape
    products = x @ jnp.reshape(jnp.moveaxis(kernel, 2, 0), (c, -1))
    products = jnp.reshape(products, (*x.shape[:3], rows, columns, features))
    zero = jnp.zeros((), x.dtype)
    (top, bottom), (left, right) = padding

    def shifted(i: int, j: int) -> Array:
        # Entry (i, j) of the kernel meets row r + i − top of x at output r.
        vertical = top - i, bottom - (rows - 1 - i), 0
        horizontal = left - j, right - (columns - 1 - j), 0
        along = (0, 0, 0), vertical, horizontal, (0, 0, 0)
        return lax.pad(products[:, :, :, i, j], zero, along)

    entries = itertools.product(range(rows), range(columns))
    return functools.reduce(jnp.add, itertools.starmap(shifted, entries))
