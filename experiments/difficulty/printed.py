"""What Tables 1 and 2 print."""

import csv
from pathlib import Path

_TABLE = Path(__file__).parents[1] / "published" / "difficulty_tables_1_2_errors.csv"


def errors(column: str) -> dict[str, float]:
    """By network; ``column`` is "kappa" or "kappa_prime"."""
    with _TABLE.open(newline="") as file:
        return {row["network"]: float(row[column]) for row in csv.DictReader(file)}


def shown(value: float | None) -> str:
    """As a table shows it."""
    return "–" if value is None else f"{value:.1e}"
