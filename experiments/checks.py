"""Checks of configurations and of losses: one clear line for whatever goes wrong."""

import difflib
import itertools
import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np
from ml_collections import ConfigDict


class ConfigError(ValueError):
    """A field of a configuration, or the command line, is wrong."""


class DivergedError(RuntimeError):
    """A loss is nan or infinite."""


def printable(text: str) -> str:
    """``text`` on one line; what a terminal would take for a command becomes "?"."""
    line = " ".join(text.split())
    return "".join(char if char.isprintable() else "?" for char in line)


def variants(argument: str | None, choices: Collection[str]) -> set[str]:
    """The comma-separated words after the colon in ``--config=file.py:a,b``.

    Raises:
        ConfigError: for a word that is not among ``choices``.
    """
    words = [word for word in (argument or "").split(",") if word]
    for word in words:
        if word not in choices:
            raise ConfigError(f"variant {word!r} of config: {choose(word, choices)}")
    return set(words)


def one_each(
    words: set[str],
    groups: tuple[tuple[str, ...], ...],
    defaults: tuple[str, ...],
) -> list[str]:
    """The word of each group among ``words``, or the group's default.

    Raises:
        ConfigError: for two words of a group.
    """
    found = []
    for group, default in zip(groups, defaults, strict=True):
        chosen = [word for word in group if word in words]
        if len(chosen) > 1:
            msg = f"variants {' and '.join(chosen)} of config exclude each other"
            raise ConfigError(msg)
        found += chosen or [default]
    return found


def one_of(config: ConfigDict, field: str, choices: Collection[str]) -> None:
    """The field is one of the choices."""
    if config[field] not in choices:
        raise _error(config, field, choose(config[field], choices))


def numbers(
    config: ConfigDict,
    field: str,
    *,
    least: float = 0.0,
    above: float | None = None,
    most: float | None = None,
) -> None:
    """The field is a number, or a non-empty tuple of numbers, within bounds."""
    values = config[field]
    values = values if isinstance(values, tuple) else (values,)
    if not values:
        raise _error(config, field, "give at least one number")
    limits = f"at least {least:g}" if above is None else f"above {above:g}"
    if most is not None:
        limits += f" and at most {most:g}"
    for value in values:
        if not _is_number(value):
            raise _error(config, field, f"{value!r} is not a finite number")
        low = value >= least if above is None else value > above
        if not (low and (most is None or value <= most)):
            raise _error(config, field, f"choose numbers {limits}")


def tuples(config: ConfigDict, *fields: str, least: int = 1) -> None:
    """The fields are tuples of at least so many values."""
    for field in fields:
        values = config[field]
        if not isinstance(values, tuple) or len(values) < least:
            raise _error(config, field, f"give a tuple of at least {least} values")


def single(config: ConfigDict, *fields: str) -> None:
    """The fields are no tuples."""
    for field in fields:
        if isinstance(config[field], tuple):
            raise _error(config, field, "give one value")


def increasing(config: ConfigDict, field: str, *, first: float | None = None) -> None:
    """The field is a strictly increasing tuple of numbers of at least zero."""
    numbers(config, field, least=0.0)
    tuples(config, field)
    values = config[field]
    if any(a >= b for a, b in itertools.pairwise(values)):
        raise _error(config, field, "give increasing numbers")
    if first is not None and values[0] != first:
        raise _error(config, field, f"begin with {first:g}, which is clean training")


def integers(
    config: ConfigDict, *fields: str, least: int = 1, most: int | None = None
) -> None:
    """The fields are integers, or non-empty tuples of integers, within bounds."""
    for field in fields:
        numbers(config, field, least=least, most=most)
        values = config[field]
        values = values if isinstance(values, tuple) else (values,)
        if not all(isinstance(value, int) for value in values):
            raise _error(config, field, "choose integers")


def seed(config: ConfigDict) -> None:
    """``config.seed`` is a seed that jax takes."""
    integers(config, "seed", least=0, most=2**31 - 1)


def finite(
    losses: np.ndarray, first_step: int, name: Callable[..., str] = "run {}".format
) -> None:
    """``losses[t, ...]`` of steps ``first_step``, ``first_step + 1``, … are finite.

    Args:
        losses: the losses.
        first_step: number of the first row.
        name: the run's name, from its indices in the axes after the first.

    Raises:
        DivergedError: naming run and step of the first that is not.
    """
    bad = np.argwhere(~np.isfinite(losses))
    if bad.size:
        t, *run = map(int, bad[0])
        value, step = losses[tuple(bad[0])], first_step + t
        raise DivergedError(f"the loss of {name(*run)} is {value} at step {step}")


def descended(
    losses: np.ndarray,
    name: Callable[..., str] = "run {}".format,
    *,
    most: float = 1.1,
) -> None:
    """``losses[t, ...]`` of full-batch training are finite and do not end in a rise.

    Up to ``most`` times the start is allowed: where zero is the minimiser, descent
    starts at the minimum and jumps about it.

    Raises:
        DivergedError: naming the run that does not, and saying what to change.
    """
    finite(losses, 0, name)
    bad = np.argwhere(losses[-1] > most * losses[0])
    if bad.size:
        run = tuple(map(int, bad[0]))
        start, end = losses[0][run], losses[-1][run]
        raise DivergedError(
            f"the loss of {name(*run)} rose from {start:.4g} to {end:.4g}; choose a "
            "smaller step size"
        )


def solvable(field: str, n: int, d: int) -> None:
    """Least squares has moments: d is not within [n - 1, n + 1].

    Raises:
        ConfigError: naming the design.
    """
    if abs(n - d) <= 1:
        raise ConfigError(
            f"config.{field}: d = {d} is within [n - 1, n + 1], n = {n}, where the "
            "variance of least squares is infinite"
        )


def known_fields(given: Iterable[str], fields: Collection[str]) -> None:
    """Every field given on the command line exists."""
    for field in given:
        if field not in fields:
            reason = f"no such field; {choose(field, fields)}"
            raise ConfigError(f"config.{field}: {reason}")


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def choose(value: Any, choices: Collection[str]) -> str:
    """What to choose from, and what may have been meant."""
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}choose from {', '.join(sorted(choices))}"


def _error(config: ConfigDict, field: str, reason: str) -> ConfigError:
    return ConfigError(f"config.{field} = {config[field]!r}: {reason}")
