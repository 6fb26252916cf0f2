"""Findings: what was claimed, what is printed, what we measured, and the verdict.

A verdict needs an interval that excludes the alternative; without one it is undecided.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from experiments.intervals import Interval

AGREES, DIFFERS, CONTRADICTED = "agrees", "differs", "contradicted"
UNDECIDED, NOT_RUN, NO_CLAIM = "undecided", "not run", "no claim"
VERDICTS = (AGREES, DIFFERS, CONTRADICTED, UNDECIDED, NOT_RUN, NO_CLAIM)
LONGEST = 120
"""Characters of a cell of a table of findings."""


class Finding(NamedTuple):
    """One claim beside what was measured.

    Attributes:
        claim: what is claimed or asked, in a few words.
        printed: what the paper prints, as text; empty if it prints no number.
        ours: what was measured, with its unit.
        interval: within which it lies, and what kind of interval that is.
        size: how much was measured.
        verdict: one of ``VERDICTS``.
    """

    claim: str
    printed: str
    ours: str
    interval: str
    size: str
    verdict: str


def finding(
    claim: str,
    ours: float | Interval | str | np.ndarray | xr.DataArray,
    *,
    size: str,
    verdict: str = NO_CLAIM,
    printed: str | float = "",
    interval: str = "",
    form: str = ".3g",
    unit: str = "",
) -> Finding:
    """A finding with its numbers written.

    Args:
        claim: what is claimed or asked.
        ours: a number; a mean with its interval; values whose mean and standard
            deviation are shown, but for nan; or text.
        size: how much was measured.
        verdict: one of ``VERDICTS``.
        printed: what the paper prints.
        interval: in words, unless ``ours`` has one.
        form: format of numbers.
        unit: written behind numbers, such as " %".

    Raises:
        ValueError: for an unknown verdict, or a text that is too long for a table.
    """
    if isinstance(ours, Interval):
        if not math.isnan(ours.low):
            ends = f"[{ours.low:{form}}, {ours.high:{form}}]"
            interval = f"{ends} {interval}".strip()
        ours = ours.mean
    elif isinstance(ours, (np.ndarray, xr.DataArray)):
        ours, interval = _spread(ours, form)
    written = [_written(value, form, unit) for value in (printed, ours)]
    found = Finding(claim, *written, interval, size, verdict)
    if verdict not in VERDICTS:
        msg = f"verdict = {verdict!r}: choose from {', '.join(VERDICTS)}"
        raise ValueError(msg)
    for name, value in found._asdict().items():
        if len(value) > LONGEST:
            msg = f"{name} of a finding has {len(value)} characters: {value!r}"
            raise ValueError(msg)
    return found


def _spread(values: np.ndarray | xr.DataArray, form: str) -> tuple[float, str]:
    """The mean, and the standard deviation in words."""
    every = np.asarray(values, float).ravel()
    there = every[np.isfinite(every)]
    if there.size == 0:
        return math.nan, ""
    share = f", {there.size} of {every.size}" if there.size < every.size else ""
    spread = f"± {there.std(ddof=1):{form}} (sd{share})" if there.size > 1 else ""
    return float(there.mean()), spread


def _written(value: float | str, form: str, unit: str) -> str:
    if isinstance(value, str):
        return value
    return "none" if math.isnan(value) else f"{value:{form}}{unit}"


def above(interval: Interval, bound: float = 0.0) -> str:
    """The verdict on "it is above ``bound``"."""
    if interval.low > bound:
        return AGREES
    return CONTRADICTED if interval.high < bound else UNDECIDED


def below(interval: Interval, bound: float = 0.0) -> str:
    """The verdict on "it is below ``bound``"."""
    if interval.high < bound:
        return AGREES
    return CONTRADICTED if interval.low > bound else UNDECIDED


def equal(interval: Interval, value: float, within: float) -> str:
    """The verdict on "it is ``value``", for a comparison at equal settings.

    It agrees if the whole interval is no farther than ``within`` from the value, and
    differs if the whole interval is farther; nan ends decide nothing.
    """
    low, high = interval.low - value, interval.high - value
    if -within <= low and high <= within:
        return AGREES
    return DIFFERS if low > within or high < -within else UNDECIDED


def unlike(printed: str | float) -> str:
    """The verdict beside a number that is printed for another size, or none is."""
    return UNDECIDED if printed else NO_CLAIM


def follows(*, is_so: bool) -> str:
    """The verdict on a claim about exact values, which need no interval."""
    return AGREES if is_so else CONTRADICTED


def proved(*, is_so: bool, is_not: bool = False) -> str:
    """The verdict on a claim that is shown, or its contrary, or neither, as by nan."""
    return follows(is_so=is_so) if is_so or is_not else UNDECIDED


def from_json(content: Any) -> Finding:
    """The finding of a parsed ``results.json``.

    Raises:
        ValueError: for what is no finding.
    """
    is_one = (
        isinstance(content, dict)
        and set(content) == {*Finding._fields}
        and all(isinstance(value, str) for value in content.values())
    )
    if not is_one:
        raise ValueError(f"no finding: {str(content)[:100]}")
    return Finding(**content)
