"""The fields of a study: default, meaning, and the check of a value.

    FIELDS = {
        "eps": numbers((0.0, 0.1), "radii of the attack", increasing=True),
        "num_steps": count(10, "steps of the attack"),
    }

A check returns what to choose instead of a wrong value, and None for a right one.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from experiments.checks import ConfigError, choose

Check = Callable[[Any], str | None]


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a configuration.

    Attributes:
        default: its value unless another one is given; its type is the field's type.
        meaning: what ``--help`` prints beside it.
        wrong: what to choose instead of a value; None if the value is right.
        is_real: whether values may be typed as fractions, such as 8/255.
        is_machine: whether it says where and how a run computes, and not what.
        filled: what an empty value becomes, from the configuration, such as a digest;
            None for a field that stays as it is given.
    """

    default: Any
    meaning: str
    wrong: Check = lambda _: None
    is_real: bool = False
    is_machine: bool = False
    filled: Callable[[Any], Any] | None = None

    def check(self, name: str, value: Any) -> None:
        """Raises ConfigError, which names the field, for a wrong value."""
        if reason := self.wrong(value):
            raise ConfigError(f"config.{name} = {value!r}: {reason}")


Fields = Mapping[str, Field]


def with_defaults(fields: Fields, **defaults: Any) -> dict[str, Field]:
    """``fields`` with other defaults.

    Raises:
        KeyError: for a field that is not among them.
    """
    changed = {
        name: dataclasses.replace(fields[name], default=value)
        for name, value in defaults.items()
    }
    return {**fields, **changed}


def some(fields: Fields, *names: str, **defaults: Any) -> dict[str, Field]:
    """Those of ``fields`` that are named, some of them with other defaults."""
    named = {name: fields[name] for name in (*names, *defaults)}
    return with_defaults(named, **defaults)


def count(
    default: int, meaning: str, *, least: int = 1, most: int | None = None
) -> Field:
    """A field for an integer within bounds."""
    return Field(default, meaning, _one(_integer(least, most)))


def counts(
    default: tuple[int, ...],
    meaning: str,
    *,
    least: int = 1,
    most: int | None = None,
    length: int = 1,
    longest: int = 10_000,
    increasing: bool = False,
) -> Field:
    """A field for integers within bounds, ``length`` to ``longest`` of them."""
    check = _each(_integer(least, most), length, longest, increasing=increasing)
    return Field(default, meaning, check)


def number(
    default: float | None,
    meaning: str,
    *,
    least: float = 0.0,
    above: float | None = None,
    most: float | None = None,
) -> Field:
    """A field for a finite number within bounds; for None as well if that is default.

    Args:
        default: the default.
        meaning: the meaning.
        least: the smallest value, unless ``above`` is given.
        above: a value that is too small by nothing.
        most: the largest value.
    """
    check = _one(_real(least, above, most))
    if default is None:
        return Field(None, meaning, _optional(check), is_real=True)
    return Field(float(default), meaning, check, is_real=True)


def numbers(
    default: tuple[float, ...],
    meaning: str,
    *,
    least: float = 0.0,
    above: float | None = None,
    most: float | None = None,
    length: int = 1,
    increasing: bool = False,
    first: float | None = None,
    longest: int = 10_000,
) -> Field:
    """A field for finite numbers within bounds, ``length`` to ``longest`` of them.

    Args:
        default: the default.
        meaning: the meaning.
        least: the smallest value, unless ``above`` is given.
        above: a value that is too small by nothing.
        most: the largest value.
        length: the least number of values; 0 admits an empty tuple.
        increasing: whether they must increase strictly.
        first: what the first must be; None for anything.
        longest: the largest number of values.
    """
    real = _real(least, above, most)
    check = _each(real, length, longest, increasing=increasing, first=first)
    return Field(tuple(map(float, default)), meaning, check, is_real=True)


def one_of(default: str, meaning: str, choices: Collection[str]) -> Field:
    """A field for one of several words."""

    def wrong(value: Any) -> str | None:
        return None if value in tuple(choices) else choose(value, choices)

    return Field(default, meaning, wrong)


def words(
    default: tuple[str, ...],
    meaning: str,
    choices: Collection[str] | None = None,
    *,
    length: int = 1,
) -> Field:
    """A field for different words, of ``choices`` if those are given."""

    def wrong(values: Any) -> str | None:
        if not isinstance(values, tuple) or len(values) < length:
            return _a_tuple(length)
        if len(set(values)) < len(values):
            return "one is repeated"
        for value in values:
            if choices is not None and value not in choices:
                return f"{value!r}: {choose(value, choices)}"
        return None

    return Field(default, meaning, wrong)


def text(default: str, meaning: str) -> Field:
    """A field for a path or a name that is checked where it is used."""
    return Field(default, meaning)


def switch(meaning: str, *, default: bool) -> Field:
    """A field that is True or False."""

    def wrong(value: Any) -> str | None:
        return None if isinstance(value, bool) else "choose True or False"

    return Field(default, meaning, wrong)


def seed(default: int = 0, meaning: str = "random seed") -> Field:
    """A field for a seed that jax takes."""
    return count(default, meaning, least=0, most=2**31 - 1)


def digest(meaning: str, filled: Callable[[Any], str] | None = None) -> Field:
    """A field for the digest of what another field names."""
    meaning = f"digest of {meaning}; filled in, and checked if given"
    return Field("", meaning, filled=filled)


def agree(config: Mapping[str, Any], name: str, value: Any) -> None:
    """Raises ConfigError for a digest that is given and is another one."""
    if config[name] not in ((), "", value):
        raise ConfigError(f"config.{name} = {config[name]!r}: it is {value!r}")


def fill(config: Any, name: str, value: Any) -> None:
    """Makes a digest a part of ``config``, which it changes; raises as ``agree``."""
    agree(config, name, value)
    config[name] = value


def machine(field: Field) -> Field:
    """The field as one that may change when a run is resumed."""
    return dataclasses.replace(field, is_machine=True)


def at_most(config: Mapping[str, Any], name: str, most: int) -> None:
    """Raises ConfigError for an integer of at least 0 above what is elsewhere."""
    count(0, "", least=0, most=most).check(name, config[name])


def _limits(least: float, above: float | None, most: float | None) -> str:
    """Bounds in words."""
    low = f"at least {least:g}" if above is None else f"above {above:g}"
    return low if most is None else f"{low} and at most {most:g}"


def _real(least: float, above: float | None, most: float | None) -> Check:
    def wrong(value: Any) -> str | None:
        if not _is_number(value):
            return f"{value!r} is not a finite number"
        is_low = value < least if above is None else value <= above
        if is_low or (most is not None and value > most):
            return f"choose numbers {_limits(least, above, most)}"
        return None

    return wrong


def _integer(least: int, most: int | None) -> Check:
    in_bounds = _real(least, None, most)

    def wrong(value: Any) -> str | None:
        is_whole = isinstance(value, int) or not _is_number(value)
        return in_bounds(value) or (None if is_whole else "choose integers")

    return wrong


def _one(check: Check) -> Check:
    def wrong(value: Any) -> str | None:
        return "give one value" if isinstance(value, tuple) else check(value)

    return wrong


def _optional(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _each(
    check: Check,
    length: int,
    longest: int,
    *,
    increasing: bool,
    first: float | None = None,
) -> Check:
    def wrong(values: Any) -> str | None:
        if not isinstance(values, tuple) or len(values) < length:
            return _a_tuple(length)
        if len(values) > longest:
            return f"give {longest} at most"
        for value in values:
            if reason := check(value):
                return reason
        if increasing and any(a >= b for a, b in itertools.pairwise(values)):
            return "give increasing numbers"
        if first is not None and values[0] != first:
            return f"begin with {first:g}"
        return None

    return wrong


def _a_tuple(length: int) -> str:
    values = "value" if length == 1 else "values"
    return f"give a tuple of at least {length} {values}"


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
