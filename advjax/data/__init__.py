"""Simulated designs, real data sets, and subsets of them.

>>> from advjax import data
>>> train = data.load("digits", split="train")
>>> pair = data.per_class(data.of_classes(train, (3, 8)), 100, seed=0)
>>> pair.x.shape
(200, 8, 8, 1)

Images are ``[n, height, width, channels]``, labels int32. Pixels are in [0, 1] or, as
most data sets store them, uint8, which ``as_float`` brings there; ``eps`` is then in
units of the full pixel range.
"""

from advjax.data.simulated import (
    Separable,
    equicorrelated,
    gaussian,
    separable,
    sparse_coefficients,
)
from advjax.data.stored import as_float, load, num_classes, place
from advjax.data.subsets import binary, of_classes, per_class, split, subset
from advjax.data.untrusted import DataError

__all__ = [
    "DataError",
    "Separable",
    "as_float",
    "binary",
    "equicorrelated",
    "gaussian",
    "load",
    "num_classes",
    "of_classes",
    "per_class",
    "place",
    "separable",
    "sparse_coefficients",
    "split",
    "subset",
]
