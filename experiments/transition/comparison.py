"""eps* of several grids beside each other: Figure A.1, and differences with intervals.

Each grid is compared with the first. Nothing is trained.
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from experiments import checks, figures
from experiments.transition.classifier_grid import Grid, read_directory
from experiments.workdir import Workdir


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.tuples(config, "grids", least=2)
    checks.single(config, "confidence")
    checks.numbers(config, "confidence", above=0, most=1)
    for path in config.grids:
        read_directory(path)


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Compares eps* and reports."""
    grids = [read_directory(path) for path in config.grids]
    names = _names(grids)
    found = [grid.reading().eps_star for grid in grids]
    _figure(grids, names, workdir)
    rows, differences = [], []
    for grid, name, eps_star in zip(grids, names, found, strict=True):
        difference = welch(eps_star, found[0], config.confidence)
        differences.append(difference)
        reading = grid.reading()
        printed = grid.config.printed_eps_star
        row = [
            name,
            figures.plus_minus(reading.threshold, 4),
            figures.plus_minus(eps_star, 4),
            figures.plus_minus(255 * eps_star, 1),
            f"{255 * printed:.3g}" if printed else "–",
            _interval(difference) if grid is not grids[0] else "",
        ]
        rows.append(row)
    percent = f"{100 * config.confidence:g} %"
    header = ["", "threshold", "ε*", "255 ε*", "printed 255 ε*"]
    header += [f"difference to the first, {percent} interval"]
    settings = "".join(
        f"- {name}: {grid.setting}, {grid.config.num_epochs} epochs, "
        f"{grid.config.num_seeds} seeds, commit {grid.commit}\n"
        for grid, name in zip(grids, names, strict=True)
    )
    workdir.write_text(
        "report.md",
        "## ε* beside each other\n\n![losses against radius](comparison.png)\n\n"
        "Mean ± sd over seeds; Welch's intervals; printed values are at the paper's "
        f"size.\n\n{figures.table(header, rows)}\n{settings}",
    )
    return {
        "summary": [
            f"eps* of {name} minus that of {names[0]}: {_interval(difference)} "
            f"({percent} interval)"
            for name, difference in zip(names[1:], differences[1:], strict=True)
        ],
        "grids": [
            {"name": name, "path": str(grid.path), "commit": grid.commit, "eps_star": e}
            for name, grid, e in zip(names, grids, found, strict=True)
        ],
        "differences": differences,
    }


def welch(a: np.ndarray, b: np.ndarray, confidence: float) -> tuple[float, ...]:
    """mean(a) - mean(b) with the ends of Welch's interval.

    Seeds without a crossing, nan, are left out; with less than two on a side the ends
    are nan.
    """
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    if min(a.size, b.size) == 0:
        return (np.nan,) * 3
    difference = a.mean() - b.mean()
    if min(a.size, b.size) < 2 or a.std() + b.std() == 0:
        return (difference, np.nan, np.nan)
    test = stats.ttest_ind(a, b, equal_var=False)
    return (difference, *test.confidence_interval(confidence))


def _interval(difference: tuple[float, ...]) -> str:
    value, low, high = difference
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def _names(grids: list[Grid]) -> list[str]:
    """What differs between the settings, and the whole setting if nothing does."""
    parts = [grid.setting.split(", ") for grid in grids]
    columns = range(len(parts[0]))
    differing = [i for i in columns if len({part[i] for part in parts}) > 1]
    return [", ".join(part[i] for i in differing or columns) for part in parts]


def _figure(grids: list[Grid], names: list[str], workdir: Workdir) -> None:
    figure, (axis,) = figures.panels()
    for grid, name, color in zip(grids, names, figures.colors(len(grids)), strict=True):
        reading = grid.reading()
        figures.band(axis, grid.config.eps, reading.loss, name, color)
        axis.axhline(
            np.mean(reading.threshold), color=color, linestyle="--", linewidth=0.9
        )
        if np.isfinite(reading.eps_star).any():
            centre = np.nanmean(reading.eps_star)
            axis.axvline(centre, color=color, linestyle=":", linewidth=0.9)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("radius ε (pixels in [0, 1])")
    axis.set_ylabel("adversarial training loss (nats)")
    axis.set_title("dashed: clean test loss of clean training; dotted: ε*", fontsize=9)
    axis.legend(fontsize=8)
    workdir.save_figure(figure, "comparison")
