"""Checks of what a network returns: one array, and statistics like the old ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.types import Array, Params

__all__ = ["like", "single"]


def single(output: Any) -> Array:
    """``output`` itself, as an array of jax.

    Raises:
        ValueError: unless it is one array.
    """
    if not isinstance(output, jax.Array | np.ndarray):
        msg = (
            f"the network returns {_described(output)}: give one that returns one "
            "array, such as its logits"
        )
        raise ValueError(msg)
    return jnp.asarray(output)


def like(new: Params, old: Params) -> Params:
    """``new`` with the containers and dtypes of ``old``, so that a scan can carry it.

    Raises:
        ValueError: for other shapes, or another number of arrays.
    """
    leaves, tree = jax.tree.flatten(old)
    changed = jax.tree.leaves(new)
    if [np.shape(leaf) for leaf in changed] != [np.shape(leaf) for leaf in leaves]:
        msg = (
            "one training pass changes the number or the shapes of the network's "
            "statistics: keep what grows, such as intermediates, out of them"
        )
        raise ValueError(msg)
    pairs = zip(changed, leaves, strict=True)
    return jax.tree.unflatten(tree, [new.astype(old.dtype) for new, old in pairs])


def _described(output):
    if isinstance(output, dict):
        return f"a dict of {', '.join(map(str, output))}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}"
    return f"{type(output).__name__}"
