"""The numbers that the papers print, from the tables in ``published``."""

import csv
import functools
from pathlib import Path

FOLDER = Path(__file__).parent / "published"


@functools.cache
def _read(table: str) -> tuple[dict[str, str], ...]:
    with (FOLDER / f"{table}.csv").open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def rows(table: str, **wanted: str) -> list[dict[str, str]]:
    """The rows of a table, such as "phase_transition_table_3_eps_star", with values.

    Args:
        table: name of the file, without suffix.
        wanted: what columns must hold, as printed.
    """
    return [
        dict(row)
        for row in _read(table)
        if all(row[column] == value for column, value in wanted.items())
    ]


def row(table: str, **wanted: str) -> dict[str, str]:
    """The only row of a table with these values; empty if there is none.

    Raises:
        ValueError: if there are several.
    """
    found = rows(table, **wanted)
    if len(found) > 1:
        msg = f"{table} has {len(found)} rows with {wanted}"
        raise ValueError(msg)
    return found[0] if found else {}
