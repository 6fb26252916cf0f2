"""Operations of a model that hide its gradients, read off its program.

    programs.caveats(predict, x[:1])     # a line for each kind; () for none

An attack by gradients sees the derivative that a program has, not the slope of what it
computes: rounding has slopes of zero, and a derivative of one's own may be any. Such a
model may look robust because gradients lead nowhere. This looks at the program alone;
whether it matters is what attacks without gradients say, such as ``attacks.square``.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from advjax.types import Array, Predict

__all__ = ["caveats", "has"]

_KINDS = {
    "rounds": "rounds or takes signs: its slope there is zero",
    "stops": "stops gradients: its slope there counts as zero",
    "own": "has derivatives of its own (custom_vjp, custom_jvp)",
    "calls": "calls Python, which has no derivative",
    "draws": "draws random numbers: evaluate it in the mean of many draws",
}
_BY_NAME = {
    **dict.fromkeys(("round", "floor", "ceil", "sign", "argmax", "argmin"), "rounds"),
    **dict.fromkeys(("custom_vjp_call", "custom_vjp_call_jaxpr"), "own"),
    **dict.fromkeys(("pure_callback", "io_callback"), "calls"),
}
_DRAWS = ("random_bits", "threefry2x32", "rng_bit_generator")
# Those of jax itself, which are true derivatives.
_TRUE = ("relu", "relu6", "logit", "_logsumexp", "_softmax", "log1mexp", "logaddexp")
# A softmax subtracts a maximum that counts as a constant, and loses nothing.
_KEEP_MAXIMA = (
    *("max", "select_n", "broadcast_in_dim", "reshape", "convert_element_type"),
    *("squeeze", "expand_dims", "is_finite"),
)


def caveats(predict: Predict, x: Array) -> tuple[str, ...]:
    """A line for each kind of operation that hides gradients; () for none.

    Args:
        predict: ``x[n, ...] -> output[n, ...]``.
        x: inputs, of which only shape and dtype count.

    Operations count only where they depend on the input, and random numbers anywhere.
    A softmax and the derivatives of jax's own functions do not count.
    """
    jaxpr = _program(predict, x)
    found = {*_kinds(jaxpr, {*jaxpr.invars})} | (
        {"draws"} if _has(jaxpr, _DRAWS) else set()
    )
    return tuple(f"the model {_KINDS[kind]}" for kind in _KINDS if kind in found)


def has(predict: Predict, x: Array, *names: str) -> bool:
    """Whether some operation of a program has one of these names, at any depth."""
    return _has(_program(predict, x), names)


def _program(predict: Predict, x: Array) -> Any:
    shape = jax.ShapeDtypeStruct(np.shape(x), jax.numpy.result_type(x))
    return jax.make_jaxpr(predict)(shape).jaxpr


def _has(jaxpr: Any, names: tuple[str, ...]) -> bool:
    return any(
        eqn.primitive.name in names or any(_has(each, names) for each in _inner(eqn))
        for eqn in jaxpr.eqns
    )


def _kinds(jaxpr: Any, dependent: set) -> Iterator[str | None]:
    """The kinds of all operations that depend on variables, also of inner programs."""
    dependent = {*dependent}
    maxima: set = set()
    needed = _needed(jaxpr)
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        inputs = [v for v in eqn.invars if not hasattr(v, "val") and v in dependent]
        if not inputs or not needed & {*eqn.outvars}:
            continue
        if name == "reduce_max" or (name in _KEEP_MAXIMA and {*inputs} <= maxima):
            maxima |= {*eqn.outvars}
        yield _kind(eqn, stops=not {*inputs} <= maxima)
        dependent |= {*eqn.outvars}
        if name not in _BY_NAME:
            for inner in _inner(eqn):
                # Inputs and constants of inner programs come in the order of the call,
                # the last ones last; more may depend than do, never fewer.
                fits = len(inner.invars) == len(eqn.invars)
                pairs = zip(inner.invars, eqn.invars, strict=fits)
                own = {own for own, v in pairs if not fits or v in inputs}
                yield from _kinds(inner, own if fits else {*inner.invars})


def _needed(jaxpr: Any) -> set:
    """The variables that outputs depend on."""
    needed = {v for v in jaxpr.outvars if not hasattr(v, "val")}
    for eqn in reversed(jaxpr.eqns):
        if needed & {*eqn.outvars}:
            needed |= {v for v in eqn.invars if not hasattr(v, "val")}
    return needed


def _kind(eqn: Any, *, stops: bool) -> str | None:
    name = eqn.primitive.name
    if name == "stop_gradient":
        return "stops" if stops else None
    if name == "convert_element_type":
        kinds = [np.dtype(v.aval.dtype).kind for v in (eqn.invars[0], eqn.outvars[0])]
        return "rounds" if kinds[0] in "fV" and kinds[1] in "iu" else None
    if name == "custom_jvp_call":
        return None if str(eqn.params.get("name", _name(eqn))) in _TRUE else "own"
    return _BY_NAME.get(name)


def _name(eqn: Any) -> str:
    """The function of a custom derivative."""
    inner = eqn.params["call_jaxpr"]
    info = getattr(getattr(inner, "jaxpr", inner), "debug_info", None)
    return str(getattr(info, "func_src_info", "")).partition(" at ")[0]


def _inner(eqn: Any) -> Iterator[Any]:
    """The programs that an operation runs."""
    for value in eqn.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(each, "jaxpr", each)
            if hasattr(inner, "eqns"):
                yield inner
