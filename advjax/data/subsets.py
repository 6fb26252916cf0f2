"""Parts of a data set that are the same on every machine.

The generator's bits, which NumPy keeps from version to version, order the examples, and
a subset is the first of them; larger subsets of one seed therefore contain smaller
ones. Rows keep their order in the data set.
"""

from collections.abc import Sequence

import jax
import numpy as np

from advjax import arguments
from advjax.types import Batch

__all__ = ["binary", "of_classes", "per_class", "split", "subset"]


def subset(batch: Batch, size: int, *, seed: int) -> Batch:
    """``size`` random examples without replacement.

    Raises:
        ValueError: unless 1 ≤ size ≤ n, and for another number of ``x`` than of ``y``.
    """
    n = arguments.equal_lengths(x=batch.x, y=batch.y)
    size = arguments.count("size", size)
    if size > n:
        msg = f"size = {size}: choose from 1 to n = {n}"
        raise ValueError(msg)
    return _rows(batch, _ranks(n, seed) < size)


def split(batch: Batch, size: int, *, seed: int) -> tuple[Batch, Batch]:
    """The other examples, and ``size`` random ones, such as for validation.

    Raises:
        ValueError: unless 1 ≤ size < n, and for another number of ``x`` than of ``y``.
    """
    n = arguments.equal_lengths(x=batch.x, y=batch.y)
    size = arguments.count("size", size)
    if size >= n:
        msg = f"size = {size}: choose from 1 to n - 1 = {n - 1}"
        raise ValueError(msg)
    chosen = _ranks(n, seed) < size
    return _rows(batch, ~chosen), _rows(batch, chosen)


def per_class(batch: Batch, num_per_class: int, *, seed: int) -> Batch:
    """``num_per_class`` random examples of every class, without replacement.

    Raises:
        ValueError: unless 1 ≤ num_per_class ≤ the size of the smallest class, where
            ``y`` does not hold integers, and for another number of ``x`` than of ``y``.
    """
    labels = _labels(batch)
    classes, counts = np.unique(labels, return_counts=True)
    most = counts.min(initial=labels.size)
    num_per_class = arguments.count("num_per_class", num_per_class)
    if num_per_class > most:
        choices = f"1 to {most}, the size of the smallest class"
        msg = f"num_per_class = {num_per_class}: choose from {choices}"
        raise ValueError(msg)
    ranks = _ranks(labels.size, seed)
    chosen = np.zeros(labels.size, bool)
    for label in classes:
        rows = np.flatnonzero(labels == label)
        chosen[rows[np.argsort(ranks[rows])[:num_per_class]]] = True
    return _rows(batch, chosen)


def of_classes(batch: Batch, classes: Sequence[int]) -> Batch:
    """The examples of these classes, relabelled 0, 1, … in the order given.

    Raises:
        ValueError: where a class is absent or given twice, or none is given, where
            ``y`` does not hold integers, and for another number of ``x`` than of ``y``.
    """
    labels = _labels(batch)
    present = np.unique(labels)
    wanted = np.asarray(classes)
    distinct = wanted.ndim == 1 and 0 < wanted.size == np.unique(wanted).size
    if not (distinct and np.isin(wanted, present).all()):
        choices = ", ".join(map(str, present))
        msg = f"classes = {classes!r}: choose distinct ones of {choices}"
        raise ValueError(msg)
    matches = labels[:, None] == wanted[None]
    x, y = _rows(batch, matches.any(axis=1))
    return Batch(x, matches.argmax(axis=1)[matches.any(axis=1)].astype(y.dtype))


def binary(batch: Batch, positive: Sequence[int]) -> Batch:
    """All examples, with label 1 for the classes in ``positive`` and 0 for the others.

    Raises:
        ValueError: where a class is absent or given twice, or none is given, where no
            other class is left or ``y`` does not hold integers, and for another number
            of ``x`` than of ``y``.
    """
    of_classes(batch, positive)
    is_positive = np.isin(_labels(batch), positive)
    if is_positive.all():
        msg = f"positive = {positive!r}: leave a class for label 0"
        raise ValueError(msg)
    return Batch(batch.x, is_positive.astype(_labels(batch).dtype))


def _ranks(n: int, seed: int) -> np.ndarray:
    """A random permutation of 0, …, n-1."""
    order = np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")
    return np.argsort(order)


def _labels(batch: Batch) -> np.ndarray:
    arguments.equal_lengths(x=batch.x, y=batch.y)
    labels = np.asarray(batch.y)
    if not (labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)):
        msg = f"y of {labels.dtype}, shape {labels.shape}: choose integer labels y[n]"
        raise ValueError(msg)
    return labels


def _rows(batch: Batch, chosen: np.ndarray) -> Batch:
    x, y = (
        rows if isinstance(rows, jax.Array) else np.asarray(rows)
        for rows in (batch.x, batch.y)
    )
    return Batch(x[chosen], y[chosen])
