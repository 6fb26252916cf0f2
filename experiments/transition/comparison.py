"""eps* of several grids beside each other: Figure A.1, and differences with intervals.

Each grid is compared with the first. Nothing is trained.
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from experiments import checks, figures
from experiments.transition.readings import Grid, centre, read_directory
from experiments.workdir import Workdir


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.tuples(config, "grids", least=2)
    checks.single(config, "confidence")
    checks.numbers(config, "confidence", above=0, most=1)
    digests = tuple(read_directory(path).digest for path in config.grids)
    if config.grid_digests not in ((), digests):
        raise checks.ConfigError(
            f"config.grid_digests = {config.grid_digests!r}: they are {digests!r}"
        )
    config.grid_digests = digests


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Compares eps* and reports."""
    grids = [read_directory(path) for path in config.grids]
    labels = names(grids)
    found = [grid.reading().eps_star for grid in grids]
    cubic = [grid.reading().eps_star_cubic for grid in grids]
    _figure(grids, labels, workdir)
    rows, differences = [], []
    for i, (grid, name) in enumerate(zip(grids, labels, strict=True)):
        both = [welch(way[i], way[0], config.confidence) for way in (found, cubic)]
        differences.append(dict(zip(("chord", "cubic"), both, strict=True)))
        reading = grid.reading()
        printed = grid.config.printed_eps_star
        row = [
            name,
            figures.plus_minus(reading.threshold, 4),
            figures.plus_minus(found[i], 4),
            figures.plus_minus(255 * found[i], 1),
            f"{255 * printed:.3g}" if printed else "–",
            _interval(both[0]) if i else "",
            figures.plus_minus(cubic[i], 4),
            _interval(both[1]) if i else "",
        ]
        rows.append(row)
    percent = f"{100 * config.confidence:g} %"
    header = ["", "threshold", "ε*", "255 ε*", "printed 255 ε*"]
    difference = f"difference to the first, {percent} interval"
    header += [difference, "ε* by a cubic", difference]
    settings = "".join(
        f"- {name}: {grid.setting}, {grid.config.num_seeds} seeds, {grid.origin}\n"
        for grid, name in zip(grids, labels, strict=True)
    )
    workdir.write_text(
        "report.md",
        "## ε* beside each other\n\n![losses against radius](comparison.png)\n\n"
        "Mean ± sd over seeds; Welch's intervals; printed values are at the paper's "
        f"size.\n\n{figures.table(header, rows)}\n{settings}",
    )
    return {
        "summary": [
            f"eps* of {name} minus that of {labels[0]}: "
            f"{_interval(difference['chord'])} ({percent} interval), by a cubic "
            f"{_interval(difference['cubic'])}"
            for name, difference in zip(labels[1:], differences[1:], strict=True)
        ],
        "grids": [
            {"name": name, "origin": grid.origin, "eps_star": a, "eps_star_cubic": b}
            for name, grid, a, b in zip(labels, grids, found, cubic, strict=True)
        ],
        "differences": differences,
    }


def welch(a: np.ndarray, b: np.ndarray, confidence: float) -> tuple[float, ...]:
    """mean(a) - mean(b) with the ends of Welch's interval.

    The ends are nan with less than two seeds on a side, and all is nan if a seed of
    either has no crossing: leaving it out would bias the mean, since its eps* lies
    beyond the grid.
    """
    difference = a.mean() - b.mean()
    few = min(a.size, b.size) < 2 or a.std() + b.std() == 0
    if few or np.isnan(difference):
        return (difference, np.nan, np.nan)
    test = stats.ttest_ind(a, b, equal_var=False)
    return (difference, *test.confidence_interval(confidence))


def _interval(difference: tuple[float, ...]) -> str:
    value, low, high = difference
    if np.isnan(value):
        return "not defined, as some seeds do not cross"
    return f"{value:+.4f}" + ("" if np.isnan(low) else f" [{low:+.4f}, {high:+.4f}]")


def names(grids: list[Grid]) -> list[str]:
    """What differs between the settings, and the whole setting if nothing does."""
    parts = [grid.setting.split(", ") for grid in grids]
    common = set.intersection(*map(set, parts))
    return [
        ", ".join(word for word in words if word not in common) or grid.setting
        for words, grid in zip(parts, grids, strict=True)
    ]


def _figure(grids: list[Grid], labels: list[str], workdir: Workdir) -> None:
    figure, (axis,) = figures.panels()
    for grid, name, color in zip(
        grids, labels, figures.colors(len(grids)), strict=True
    ):
        reading = grid.reading()
        figures.band(axis, grid.config.eps, reading.loss, name, color)
        axis.axhline(
            np.mean(reading.threshold), color=color, linestyle="--", linewidth=0.9
        )
        if (mean := centre(reading.eps_star)) is not None:
            axis.axvline(mean, color=color, linestyle=":", linewidth=0.9)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("radius ε (pixels in [0, 1])")
    axis.set_ylabel("adversarial training loss (nats)")
    axis.set_title("dashed: clean test loss of clean training; dotted: ε*", fontsize=9)
    axis.legend(fontsize=8)
    workdir.save_figure(figure, "comparison")
