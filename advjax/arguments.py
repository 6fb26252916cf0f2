"""Checks of what a caller passes: counts, norms, boxes, and lengths that must agree.

Mistakes that are known before anything is computed raise ``ValueError`` with the
argument's name, its value, and what to give instead.
"""

import inspect
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.types import Array, Model

__all__ = [
    "Bounds",
    "bounds",
    "count",
    "equal_lengths",
    "floating",
    "functions",
    "is_known",
    "model",
    "nan_where",
    "not_negative",
    "number",
    "output",
    "per_example",
    "scalars",
    "single",
]

Bounds = tuple[Array | float, Array | float]
"""(low, high) of valid inputs: scalars, or arrays that broadcast against an example."""


def count(name: str, value: Any, least: int = 1) -> int:
    """``value`` as an ``int``; NumPy integers are welcome.

    Raises:
        ValueError: unless it is an integer of at least ``least``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool | np.bool_):
        msg = f"{name} = {value!r}: choose an integer of at least {least}"
        raise ValueError(msg)
    return number


def number(name: str, value: Any, least: float = 0.0) -> Any:
    """``value`` itself, which may be traced.

    Raises:
        ValueError: for what is no single number, and for one that is known, and nan or
            below ``least``.
    """
    if is_known(value) and not (_is_real(value) and np.all(np.asarray(value) >= least)):
        msg = f"{name} = {value!r}: choose a number of at least {least:g}"
        raise ValueError(msg)
    scalars(**{name: value})
    return value


def _is_real(value: Any) -> bool:
    return is_known(value) and np.asarray(value).dtype.kind in "biuf"


def bounds(value: Any) -> Bounds | None:
    """``(low, high)``, or None for no bounds.

    Entries may be infinite. Arrays broadcast against one example.

    Raises:
        ValueError: for anything but a pair, and where ``low`` is above ``high`` or one
            of them is nan, unless they are traced.
    """
    if value is None:
        return None
    if not isinstance(value, tuple | list) or len(value) != 2:
        msg = f"bounds = {value!r}: give a pair (low, high), or None"
        raise ValueError(msg)
    low, high = value
    known = [end for end in value if is_known(end)]
    if not all(_is_real(end) for end in known):
        msg = f"bounds = {value!r}: give numbers, infinite ones where there is no bound"
        raise ValueError(msg)
    if len(known) == 2 and not np.all(np.asarray(low) <= np.asarray(high)):
        msg = f"bounds = {value!r}: choose low ≤ high, and no nan"
        raise ValueError(msg)
    return low, high


def equal_lengths(**arrays: Any) -> int:
    """The length of the first axis that all arrays share.

    Raises:
        ValueError: with every name and shape, where they differ.
    """
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    lengths = {shape[:1] for shape in shapes.values()}
    if len(lengths) != 1 or () in lengths:
        described = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        msg = f"shapes {described}: give one entry of each for every example"
        raise ValueError(msg)
    return lengths.pop()[0]


def scalars(**values: Any) -> None:
    """Checks that every value is one number, which may be traced.

    Raises:
        ValueError: with the name and shape of one that is not.
    """
    for name, value in values.items():
        if np.shape(value) != ():
            msg = f"{name} has shape {np.shape(value)}: give one number, and vmap"
            raise ValueError(msg)


def floating(x: Any) -> Array:
    """``x`` as an array of jax, with integers in jax's default floating point."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)


def single(x: Array) -> Array:
    """``x`` in float32 at least, whatever jax's promotion of types is set to."""
    x = jnp.asarray(x)
    return x.astype(x.dtype if x.dtype == jnp.float64 else jnp.float32)


_CALLS = {
    "attack": ("(key, loss_fn, x, y, eps)", "an attack, such as attacks.fgsm(norm)"),
    "loss": ("(output, y)", "a loss, such as losses.cross_entropy"),
    "loss_fn": ("(x, y)", "a loss of inputs, such as criteria.Goal(predict, loss)"),
    "margin": ("(x, y)", "a margin, such as margins.logit_margin(predict)"),
    "objective": (
        "(params, batch_stats, key, batch, eps)",
        "one, such as objectives.standard(model, losses.cross_entropy)",
    ),
    "predict": ("(x)", "one, such as partial(model.predict, params, batch_stats)"),
    "prepare": ("(key, x)", "an augmentation, such as augmentation.flip()"),
    "watch": ("(epoch, found)", "a function of an epoch's numbers, such as print"),
}


def functions(**values: Any) -> None:
    """Checks that functions of these kinds can be called as their kind is.

    Args:
        **values: by kind, such as ``attack`` or ``loss``.

    Raises:
        ValueError: with what to give instead; also for a factory that was not called.
    """
    for kind, value in values.items():
        call, such_as = _CALLS[kind]
        try:
            inspect.signature(value).bind(*call.strip("()").split(", "))
        except TypeError:
            msg = f"{kind} = {value!r} cannot be called as {kind}{call}: give {such_as}"
            raise ValueError(msg) from None
        except ValueError:  # a builtin, which has no signature
            continue


def output(value: Any) -> Array:
    """``value`` itself, the output of a model.

    Raises:
        ValueError: unless it is one array.
    """
    if not hasattr(value, "ndim"):
        kind = type(value).__name__
        msg = f"the model returns a {kind}: make it return one array of outputs"
        raise ValueError(msg)
    return value


def model(value: Any) -> None:
    """Checks that ``value`` is a ``Model``.

    Raises:
        ValueError: with what to give instead.
    """
    if not isinstance(value, Model):
        kind = type(value).__name__
        msg = f"model is a {kind}: give what models.make or models.from_linen returns"
        raise ValueError(msg)


def nan_where(condition: Array, x: Any) -> Array:
    """``x``, and nan where ``condition`` holds.

    As ``jnp.where``, but ``jax_debug_nans`` does not take the constant for a result.
    """
    x = floating(x)
    nan = np.nan if x.weak_type else np.asarray(np.nan, x.dtype)
    return jnp.where(condition, nan, x)


def not_negative(value: Any) -> Array:
    """``value``, and nan where it is negative."""
    return nan_where(jnp.asarray(value) < 0, value)


def per_example(x: Any, **values: Any) -> None:
    """Checks that every value has the shape ``[n]``, for ``x[n, ...]``.

    Raises:
        ValueError: with both shapes.
    """
    for name, value in values.items():
        if np.shape(value) != np.shape(x)[:1]:
            msg = f"shapes x {np.shape(x)}, {name} {np.shape(value)}: give {name}[n]"
            raise ValueError(msg)


def is_known(value: Any) -> bool:
    """Whether a value can be looked at, which a traced one cannot."""
    return not isinstance(value, jax.core.Tracer)
