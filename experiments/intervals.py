"""Confidence intervals of means over seeds or replicates."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
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


def student(values: np.ndarray) -> Interval:
    """Student's interval of the mean; of differences it is the paired one.

    Exact for normal values. Equal values have an interval of no length.
    """
    values = np.asarray(values, float)
    sd = values.std(ddof=1) if values.size > 1 else np.nan
    return of_moments(values.mean(), sd, values.size)


def of_moments(mean: float, sd: float, number: int) -> Interval:
    """Student's interval of so many values of this mean and standard deviation."""
    if number < 2:
        return Interval(float(mean), np.nan, np.nan)
    quantile = stats.t.ppf(0.975, number - 1)
    half = float(quantile * sd / number**0.5)
    return Interval(float(mean), float(mean - half), float(mean + half))


def over(moments: xr.DataArray, number: int) -> Interval:
    """Student's interval from what ``arrays.moments`` kept of so many replicates."""
    mean, sd = (moments.sel(moment=name) for name in ("mean", "sd"))
    return of_moments(float(mean), float(sd), number)


def apart(a: Interval, b: Interval) -> Interval:
    """``a - b``, from the ends of both: wider than an interval of paired values."""
    return Interval(a.mean - b.mean, a.low - b.high, a.high - b.low)


def normal(value: float, standard_error: float) -> Interval:
    """An estimate within 1.96 of its standard errors, such as one by the bootstrap."""
    half = 1.96 * float(standard_error)
    return Interval(float(value), float(value - half), float(value + half))


def welch(a: np.ndarray, b: np.ndarray, confidence: float = 0.95) -> Interval:
    """The difference of means, mean(a) - mean(b), with Welch's interval.

    The ends are nan with less than two values on a side or without any spread, and all
    is nan if one of the values is.
    """
    difference = float(np.mean(a) - np.mean(b))
    few = min(a.size, b.size) < 2 or a.std() + b.std() == 0
    if few or np.isnan(difference):
        return Interval(difference, np.nan, np.nan)
    test = stats.ttest_ind(a, b, equal_var=False)
    return Interval(difference, *map(float, test.confidence_interval(confidence)))


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> Interval:
    """Mean over mean of paired values, within 1.96 standard errors to first order."""
    a, b = np.asarray(numerators, float), np.asarray(denominators, float)
    value = float(a.mean() / b.mean())
    if a.size < 2:
        return Interval(value, np.nan, np.nan)
    error = np.std(a - value * b, ddof=1) / (a.size**0.5 * b.mean())
    return Interval(value, float(value - 1.96 * error), float(value + 1.96 * error))


def quotient(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """Entry by entry; nan where ``under`` is not positive, without a warning."""
    safe = np.where(under > 0, under, 1.0)
    return np.where(under > 0, over / safe, np.nan)


def geometric(over: np.ndarray, under: np.ndarray) -> Interval:
    """The geometric mean of a ratio, with Student's interval of the logarithms.

    nan where a value is not positive.
    """
    ratios = quotient(over, under)
    logs = np.log(np.where(ratios > 0, ratios, 1.0))
    return Interval(*np.exp(student(np.where(ratios > 0, logs, np.nan))))


def spearman(a: np.ndarray, b: np.ndarray) -> Interval:
    """The rank correlation of paired values, within 95 % by Fisher's transformation.

    With the variance (1 + ρ²/2)/(n - 3) of Bonett and Wright 2000; nan where one of
    them is constant.
    """
    value = float(stats.spearmanr(a, b).statistic)
    if len(a) < 4:
        return Interval(value, np.nan, np.nan)
    half = 1.96 * ((1 + value**2 / 2) / (len(a) - 3)) ** 0.5
    centre = np.arctanh(np.clip(value, -1, 1) * (1 - 1e-12))
    return Interval(value, *(float(np.tanh(centre + s * half)) for s in (-1, 1)))


def along(
    axis: str, interval: Callable[..., Interval], *values: xr.DataArray
) -> xr.DataArray:
    """An interval of ``values`` along an axis, for every place in the others.

    Returns:
        With an axis ``bound`` of "mean", "low" and "high" for the one that is gone.
    """
    found = xr.apply_ufunc(
        lambda *each: np.array(interval(*each)),
        *values,
        input_core_dims=[[axis]] * len(values),
        output_core_dims=[["bound"]],
        vectorize=True,
    )
    return found.assign_coords(bound=[*Interval._fields])


def at(bounds: xr.DataArray, **place: str | float) -> Interval:
    """One interval of those that ``along`` found."""
    return Interval(*map(float, bounds.sel(place)))
