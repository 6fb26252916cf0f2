"""Checks of configurations and of losses: one clear line for whatever goes wrong."""

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np


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


def one_each(words: set[str], groups: Iterable[tuple[str, ...]]) -> list[str]:
    """The word of each group among ``words``, or the first of the group.

    Raises:
        ConfigError: for two words of a group.
    """
    found = []
    for group in groups:
        chosen = [word for word in group if word in words]
        if len(chosen) > 1:
            msg = f"variants {' and '.join(chosen)} of config exclude each other"
            raise ConfigError(msg)
        found += chosen or [group[0]]
    return found


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


def same_length(config: Mapping[str, Any], *fields: str) -> None:
    """Raises ConfigError for tuples of different length."""
    if len({len(config[field]) for field in fields}) > 1:
        raise ConfigError(f"config.{', '.join(fields)}: differ in length")


def known_fields(given: Iterable[str], fields: Collection[str]) -> None:
    """Every field given on the command line exists."""
    for field in given:
        if field not in fields:
            reason = f"no such field; {choose(field, fields)}"
            raise ConfigError(f"config.{field}: {reason}")


def choose(value: Any, choices: Collection[str]) -> str:
    """What to choose from, and what may have been meant."""
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}choose from {', '.join(sorted(choices))}"
