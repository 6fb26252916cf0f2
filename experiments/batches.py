"""Functions of many examples, part by part where memory does not hold all at once."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def in_batches(function: Callable, batch_size: int, *arrays: Any, axis: int = 0) -> Any:
    """``function`` of every part of ``batch_size`` examples, joined on the host.

    Args:
        function: compiled by the caller, for two sizes where the last part is smaller.
        batch_size: examples at once.
        arrays: examples along their first axis.
        axis: along which results have the examples.
    """
    parts = [
        jax.device_get(function(*(array[i : i + batch_size] for array in arrays)))
        for i in range(0, len(arrays[0]), batch_size)
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis), *parts)
