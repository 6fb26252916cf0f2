"""The argument by which a network is told whether it is being trained."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["EVALUATION", "NAMES", "TRAINING", "Switch", "find", "modal", "takes"]

TRAINING = ("train", "training", "is_training")
"""Names of arguments that are True in training."""

EVALUATION = ("deterministic", "use_running_average", "inference", "eval")
"""Names of arguments that are True in evaluation."""

NAMES = (*TRAINING, *EVALUATION)


class Switch(NamedTuple):
    """An argument of a network's call.

    Attributes:
        name: its name.
        inverted: whether it is True in evaluation.
    """

    name: str
    inverted: bool

    def value(self, train: bool) -> bool:
        """The value of the argument."""
        return train != self.inverted


def find(call: Callable[..., Any], mode: str | None) -> Switch | None:
    """The argument of ``call(x, ...)`` that ``mode`` names, if there is one.

    Arguments that ``functools.partial`` has bound are not looked at.

    Args:
        call: takes one array, and nothing else without a default but the mode.
        mode: a name, whose meaning is that of ``not train`` for the names in
            ``EVALUATION`` and that of ``train`` for all others; "auto" for the only
            one of all names above that the signature has; None for no argument.

    Raises:
        ValueError: for a name that ``call`` cannot take, for several candidates, and
            for further arguments without a default.
    """
    signature = _signature(call)
    bound = call.keywords if isinstance(call, functools.partial) else {}
    free = [p for name, p in signature.parameters.items() if name not in bound][1:]
    called = f"{_name(call)}{signature}"
    name = _only(free, called) if mode == "auto" else mode
    if name is not None:
        _check_taken(name, free, called)
    missing = [p.name for p in free if _is_required(p) and p.name != name]
    if missing:
        msg = (
            f"mode = {mode!r}: {called} also needs {', '.join(missing)}: name the mode "
            "if it is among these, and bind all others with functools.partial"
        )
        raise ValueError(msg)
    return None if name is None else Switch(name, name in EVALUATION)


def takes(call: Callable[..., Any], name: str) -> bool:
    """Whether ``name`` is in the signature of ``call``."""
    return name in _signature(call).parameters


def modal(call: Callable[..., Any]) -> bool:
    """Whether the signature of ``call`` has any of the names above."""
    return any(takes(call, name) for name in NAMES)


def _signature(call):
    try:
        return inspect.signature(call)
    except (TypeError, ValueError):  # of functions that are written in C
        return inspect.signature(lambda x: x)


def _name(call):
    function = getattr(call, "func", call)
    return getattr(function, "__name__", type(function).__name__)


def _only(parameters, called):
    found = [p.name for p in parameters if p.name in NAMES]
    if len(found) > 1:
        msg = (
            f"mode = 'auto': {called} takes {' and '.join(found)}: name one, and bind "
            "the others with functools.partial"
        )
        raise ValueError(msg)
    return found[0] if found else None


def _check_taken(name, parameters, called):
    names = [p.name for p in parameters if p.kind in _BY_NAME]
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    if not isinstance(name, str) or (name not in names and not anything):
        msg = (
            f"mode = {name!r}: {called} does not take it; choose from "
            f"{', '.join([*names, 'auto'])}, or None for a network without a mode"
        )
        raise ValueError(msg)


def _is_required(parameter):
    return parameter.kind in _NAMED and parameter.default is parameter.empty


_BY_NAME = (
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)
_NAMED = (inspect.Parameter.POSITIONAL_ONLY, *_BY_NAME)
