"""Constructors of modules, from which each key makes a network of its own."""

import inspect
from typing import Any

__all__ = ["check"]


def check(constructor: Any, kind: type, argument: str, adapter: str) -> None:
    """Checks that ``constructor`` can be called with one argument.

    Args:
        constructor: what ``adapter`` was given.
        kind: of the modules.
        argument: what the constructor takes, "key" or "rngs".
        adapter: for the message.

    Raises:
        ValueError: for a module, and for what cannot be called like that.
    """
    example = f"give lambda {argument}: Net(..., {argument}={argument})"
    if isinstance(constructor, kind):
        state = {"rngs": "nnx_state", "key": "equinox_state"}[argument]
        msg = (
            f"{adapter} takes a constructor, not a {type(constructor).__name__}, which "
            f"would be the same network for every seed: {example}; for the parameters "
            f"of a trained module, call {state}(module)"
        )
        raise ValueError(msg)
    try:
        inspect.signature(constructor).bind(None)
    except TypeError as error:
        msg = f"constructor = {constructor!r} cannot be called ({error}): {example}"
        raise ValueError(msg) from error
