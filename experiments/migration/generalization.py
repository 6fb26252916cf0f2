"""Parts of the first form of the generalization results."""

import re

import numpy as np


def moments(stored) -> np.ndarray:
    """``{"mean": [...], "sd": [...]}`` with a last axis for the two."""
    return np.stack([np.asarray(stored[k], float) for k in ("mean", "sd")], -1)


def column(report: str, title: str, number: int = 0) -> list[str]:
    """Cells of a column of the table with this title in its header."""
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in report.splitlines()
        if line.startswith("| ") and not line.startswith("| ---")
    ]
    headers = [i for i, row in enumerate(rows) if title in row]
    first = headers[number]
    width = len(rows[first])
    out = []
    for row in rows[first + 1 :]:
        if len(row) != width:
            break
        out.append(row[rows[first].index(title)])
    return out


def written_moments(cells: list[str]) -> np.ndarray:
    """``["1.0 ± 0.1"]`` as ``[[1.0, 0.1]]``: the rounded numbers of a report."""
    return np.array([[float(x) for x in re.split(" ± ", cell)] for cell in cells])
