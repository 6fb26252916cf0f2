"""Convolutions that XLA runs fast on CPU, in any function: a rewriting of its program.

    grad = convolutions.rewritten(jax.grad(loss))     # the same numbers, sooner

Attacks, training steps and products with Hessians rewrite what they differentiate, so
there is nothing to do for their users. Values change by rounding alone, and on other
devices not at all. What it changes, measured on jax 0.10.2 by
``experiments/benchmarks/convolutions.py``:

- XLA brings a convolution to the layout that its fast code wants, but not within a
  loop, where gradients take the slow code (jax issue 12868): the layout is written out.
- The fast code gives a convolution of fewer than 128 channels one core. One whose
  output is larger than its input goes to other code, which shares it: a row is added
  and dropped again. Strided ones cannot have one, and are cut into parts of the batch,
  which run at once.
- An output of few channels, as in the gradient of an image, is a matrix product and a
  sum of shifted arrays.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.extend.core
import jax.numpy as jnp
from jax import lax

from advjax.types import Array

__all__ = ["rewritten"]

Function = TypeVar("Function", bound=Callable)

_SMALL, _NARROW = 16, 128
"""Channels up to which the fast code is not taken, and below which it has one core."""
_FEW = 4
"""Channels of an output that is a sum of shifted products."""
_NUM_PARTS, _SMALLEST_PART = 4, 16
"""Parts of a convolution at most, and examples that each one has at least."""


_Padding = Sequence[tuple[int, int]]


def rewritten(function: Function) -> Function:
    """The same function of arrays, with its convolutions as they are fast on CPU.

    To be applied to a gradient, not to what it is the gradient of: what is rewritten
    already stays as it is, and so do its derivatives. Without ``jit`` the function is
    called as it is.

    Args:
        function: of pytrees of arrays, all positional.
    """

    def rewriting(*arguments):
        leaves = jax.tree.leaves(arguments)
        is_traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        if jax.default_backend() != "cpu" or not is_traced:
            return function(*arguments)
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        flat = jax.extend.core.jaxpr_as_fun(_inner(closed))
        return jax.tree.unflatten(jax.tree.structure(shape), flat(*leaves))

    return rewriting  # type: ignore[return-value]


def _inner(value: Any) -> Any:
    """A parameter of an operation, with the programs that it is or holds rewritten."""
    if isinstance(value, tuple | list) and any(hasattr(v, "eqns") for v in value):
        return type(value)(map(_inner, value))
    if hasattr(value, "jaxpr"):
        return value.replace(jaxpr=_inner(value.jaxpr))
    if hasattr(value, "eqns"):
        return value.replace(eqns=[_equation(eqn) for eqn in value.eqns])
    return value


def _equation(eqn: Any) -> Any:
    if eqn.primitive.name == "conv_general_dilated":
        return _call(eqn)
    if eqn.params.get("name") == _NAME:
        return eqn
    return eqn.replace(params={key: _inner(each) for key, each in eqn.params.items()})


_NAME = "convolution_on_cpu"


def _call(eqn: Any) -> Any:
    """The operation of one convolution, as one that runs a program of ours."""

    def convolution(x, kernel):
        return _convolution(x, kernel, **eqn.params)

    convolution.__name__ = _NAME
    like = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    (call,) = jax.make_jaxpr(jax.jit(convolution))(*like).eqns
    return call.replace(invars=eqn.invars, outvars=eqn.outvars)


def _convolution(
    x: Array, kernel: Array, *, dimension_numbers: Any, **params: Any
) -> Array:
    """One of any layout by ``[n, ..., c]``."""
    first, second, *spatial = dimension_numbers.lhs_spec
    x = jnp.transpose(x, (first, *spatial, second))
    first, second, *spatial = dimension_numbers.rhs_spec
    kernel = jnp.transpose(kernel, (*spatial, second, first))
    out = _formulated(x, kernel, **params)
    first, second, *spatial = dimension_numbers.out_spec
    last = (first, *spatial, second)
    return jnp.transpose(out, [last.index(axis) for axis in range(out.ndim)])


def _formulated(x: Array, kernel: Array, *, padding: _Padding, **params: Any) -> Array:
    """Of ``x[n, ..., c]`` with ``kernel[..., c, features]``, as it is fastest."""
    last = x.ndim - 1
    spatial = range(1, last)
    axes = (0, last, *spatial), (last, last - 1, *range(last - 1)), (0, last, *spatial)

    def convolved(x: Array, padding: _Padding = padding) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            padding=padding,
            dimension_numbers=lax.ConvDimensionNumbers(*axes),
            **params,
        )

    c, features = x.shape[-1], kernel.shape[-1]
    is_plain = x.ndim == 4 and all(params[each] == 1 for each in _GROUPS)
    is_dense = is_plain and all(params[each] == (1, 1) for each in _STEPS)
    if is_dense and features <= _FEW < c:
        return _by_shifts(x, kernel, padding)
    is_fast = is_plain and x.dtype in (jnp.float32, jnp.float64)
    if not is_fast or features >= _NARROW or max(c, features) <= _SMALL:
        return convolved(x)
    rows, height = jax.eval_shape(convolved, x).shape[1], x.shape[1]
    if rows > height:
        return convolved(x)
    if is_dense and height < 1.5 * rows:
        (low, high), columns = padding
        more = (low, high + height + 1 - rows), columns
        return convolved(x, more)[:, :rows]
    num_parts = min(_NUM_PARTS, len(x) // _SMALLEST_PART)
    # Several devices share the batch themselves.
    if num_parts < 2 or jax.device_count() > 1:
        return convolved(x)
    parts = jnp.array_split(x, num_parts)
    return jnp.concatenate([convolved(part) for part in parts])


_GROUPS = "feature_group_count", "batch_group_count"
_STEPS = "window_strides", "lhs_dilation", "rhs_dilation"


def _by_shifts(x: Array, kernel: Array, padding: _Padding) -> Array:
    """Products with all entries of the kernel at once, shifted and added."""
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
