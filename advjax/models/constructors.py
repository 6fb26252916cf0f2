"""Constructors of modules, from which each key makes a network of its own."""

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.interpreters import partial_eval

__all__ = ["check", "check_seeds"]


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
    if isinstance(constructor, nn.Module):
        name = type(constructor).__name__
        msg = f"{adapter} takes a constructor, and {name} is a linen module: from_linen"
        raise ValueError(msg)
    try:
        inspect.signature(constructor).bind(None)
    except TypeError as error:
        msg = f"constructor = {constructor!r} cannot be called ({error}): {example}"
        raise ValueError(msg) from error


def check_seeds(construct: Callable[[Any], Any], adapter: str) -> None:
    """Checks that seeds have networks of their own.

    Args:
        construct: ``key -> params``.
        adapter: for the message.

    Raises:
        ValueError: where no parameter depends on the key, unless each of them has equal
            entries, as after an initialisation by zeros.
    """
    jaxpr = jax.make_jaxpr(construct)(jax.random.key(0)).jaxpr
    _, uses_key = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    if uses_key[0]:
        return
    with jax.ensure_compile_time_eval():
        leaves = jax.tree.leaves(construct(jax.random.key(0)))
        if any(np.ptp(np.asarray(leaf)) > 0 for leaf in leaves if leaf.size):
            msg = (
                f"{adapter}: the constructor does not use its argument, so that every "
                "seed has the same network: construct the module, and its keys, from "
                "it, or give seeded=False if that is meant"
            )
            raise ValueError(msg)
