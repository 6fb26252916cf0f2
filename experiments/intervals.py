"""Confidence intervals of means over seeds or replicates."""

from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A mean and the ends of its interval, which are nan for a single value."""

    mean: float
    low: float
    high: float

    def __format__(self, digits: str) -> str:
        """``mean [low, high]``, each in the format of a number, such as ``+.3f``."""
        mean, low, high = (format(value, digits) for value in self)
        return f"{mean} [n/a]" if np.isnan(self.low) else f"{mean} [{low}, {high}]"


def student(values: np.ndarray, confidence: float = 0.95) -> Interval:
    """Student's interval of the mean; of differences it is the paired one.

    Exact for normal values. Equal values have an interval of no length.
    """
    values = np.asarray(values, float)
    mean = float(values.mean())
    if values.size < 2:
        return Interval(mean, np.nan, np.nan)
    quantile = stats.t.ppf(0.5 + confidence / 2, values.size - 1)
    half = float(quantile * values.std(ddof=1) / values.size**0.5)
    return Interval(mean, mean - half, mean + half)
