"""Operations of a model that hide its gradients, read off its program.

    programs.caveats(predict, x[:1])     # a line for each kind; () for none

An attack by gradients sees the derivative that a program has, not the slope of what it
computes: rounding has slopes of zero, and a derivative of one's own may be any. Such a
model may look robust because gradients lead nowhere. This looks at the program alone;
whether it matters is what attacks without gradients say, such as ``attacks.square``.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from advjax.types import Array, Predict

__all__ = ["caveats", "has_convolutions"]

_KINDS = {
    "rounds": "rounds, compares or takes signs: its slope there may be zero",
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
# A softmax subtracts a maximum that counts as a constant, and loses nothing.
_KEEP_MAXIMA = (
    *("max", "select_n", "broadcast_in_dim", "reshape", "convert_element_type"),
    *("squeeze", "expand_dims", "is_finite", "transpose", "copy", "slice"),
)


def caveats(predict: Predict, x: Array) -> tuple[str, ...]:
    """A line for each kind of operation that hides gradients; () for none.

    Args:
        predict: ``x[n, ...] -> output[n, ...]``.
        x: inputs, of which only shape and dtype count.

    Operations count only where they depend on the input, and random numbers anywhere.
    A softmax and the derivatives of jax's own functions do not count. A comparison
    counts where what it chooses from does not depend on the input.
    """
    jaxpr = _program(predict, x)
    found = {*_kinds(jaxpr, {*jaxpr.invars})} | (
        {"draws"} if _has(jaxpr, _DRAWS) else set()
    )
    return tuple(f"the model {_KINDS[kind]}" for kind in _KINDS if kind in found)


def has_convolutions(function: Callable[[Array], Any], x: Array) -> bool:
    """Whether a function has any."""
    return _has(_program(function, x), ("conv_general_dilated",))


def _program(function: Callable[[Array], Any], x: Array) -> Any:
    shape = jax.ShapeDtypeStruct(np.shape(x), jax.numpy.result_type(x))
    return jax.make_jaxpr(function)(shape).jaxpr


def _has(jaxpr: Any, names: tuple[str, ...]) -> bool:
    return any(
        eqn.primitive.name in names or any(_has(each, names) for each in _inner(eqn))
        for eqn in jaxpr.eqns
    )


def _kinds(jaxpr: Any, dependent: set, needed: set | None = None) -> Iterator[str]:
    """The kinds of all operations that depend on variables, also of inner programs.

    Args:
        jaxpr: the program.
        dependent: those of its inputs that depend on the input of the model.
        needed: those of its outputs that are used; all for None.
    """
    dependent, maxima = _dependent(jaxpr, dependent)
    needed = _needed(jaxpr, needed)
    for eqn in jaxpr.eqns:
        inputs = _variables(eqn.invars) & dependent
        if not inputs or not needed & {*eqn.outvars}:
            continue
        if kind := _kind(eqn, dependent, is_maximum=inputs <= maxima):
            yield kind
        if eqn.primitive.name in _BY_NAME:
            continue
        for inner in _inner(eqn):
            used = None
            if len(inner.outvars) == len(eqn.outvars):
                pairs = zip(inner.outvars, eqn.outvars, strict=True)
                used = _variables(own for own, v in pairs if v in needed)
            yield from _kinds(inner, _passed(eqn, inner, inputs), used)


def _dependent(jaxpr: Any, inputs: set) -> tuple[set, set]:
    """The variables that depend on inputs, and those that are maxima of them."""
    dependent = {*inputs}
    maxima: set = set()
    for eqn in jaxpr.eqns:
        used = _variables(eqn.invars) & dependent
        if used:
            dependent |= {*eqn.outvars}
            name = eqn.primitive.name
            if name == "reduce_max" or (name in _KEEP_MAXIMA and used <= maxima):
                maxima |= {*eqn.outvars}
    return dependent, maxima


def _passed(eqn: Any, inner: Any, inputs: set) -> set:
    """The inputs of an inner program that depend on the input of the model."""
    if len(inner.invars) != len(eqn.invars):
        return {*inner.invars}  # of a branch or a loop; more than do, never fewer
    pairs = zip(inner.invars, eqn.invars, strict=True)
    passed = {own for own, v in pairs if not hasattr(v, "val") and v in inputs}
    if eqn.primitive.name != "scan":
        return passed
    # What a loop carries depends on the input if it does after some round.
    first, number = eqn.params["num_consts"], eqn.params["num_carry"]
    for _ in range(number):
        after = _dependent(inner, passed)[0]
        pairs = zip(inner.invars[first : first + number], inner.outvars, strict=False)
        passed |= {own for own, v in pairs if not hasattr(v, "val") and v in after}
    return passed


def _needed(jaxpr: Any, outputs: set | None) -> set:
    """The variables that outputs depend on."""
    needed = _variables(jaxpr.outvars) if outputs is None else {*outputs}
    for eqn in reversed(jaxpr.eqns):
        if needed & {*eqn.outvars}:
            needed |= _variables(eqn.invars)
    return needed


def _variables(atoms: Iterable[Any]) -> set:
    """All but constants."""
    return {v for v in atoms if not hasattr(v, "val")}


def _kind(eqn: Any, dependent: set, *, is_maximum: bool) -> str | None:
    name = eqn.primitive.name
    if name == "stop_gradient":
        return None if is_maximum else "stops"
    if name == "convert_element_type":
        before, after = (
            np.dtype(v.aval.dtype).kind for v in (eqn.invars[0], eqn.outvars[0])
        )
        is_step = before in "biu" or (before == "f" and after in "iu")
        return "rounds" if is_step else None
    if name == "select_n":
        condition, *cases = eqn.invars
        is_step = {condition} <= dependent and not _variables(cases) & dependent
        return "rounds" if is_step else None
    if name == "custom_jvp_call":
        return None if _is_of_jax(eqn.params["call_jaxpr"]) else "own"
    return _BY_NAME.get(name)


def _is_of_jax(program: Any) -> bool:
    """Whether jax itself has the function, whose derivative is then the true one."""
    info = getattr(getattr(program, "jaxpr", program), "debug_info", None)
    return str(Path(jax.__file__).parent) in str(getattr(info, "func_src_info", ""))


def _inner(eqn: Any) -> Iterator[Any]:
    """The programs that an operation runs."""
    for value in eqn.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(each, "jaxpr", each)
            if hasattr(inner, "eqns"):
                yield inner
