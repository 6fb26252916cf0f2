"""House style of figures. matplotlib is imported at the first use."""

from typing import Any

import numpy as np

PALETTE = ("#1b6ca8", "#c8553d", "#3a7d44", "#7a5195", "#8d6e15")
"""Distinct in hue and in lightness, also for the colour-blind."""


def colors(number: int) -> list[str]:
    """The first colours of the palette, repeated if there are not enough."""
    return [PALETTE[i % len(PALETTE)] for i in range(number)]


_STYLE = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def panels(num_columns: int = 1, num_rows: int = 1, **options: Any):
    """A figure and its axes row by row, ``[num_rows * num_columns]``."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    mpl.rcParams.update(_STYLE)
    shape, size = (num_rows, num_columns), (5.2 * num_columns, 3.8 * num_rows)
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, **options)
    return figure, axes.ravel()


def band(axis, x, runs, label: str, color: str, marker: str = "o") -> None:
    """The mean over the last axis of ``runs[x, r]``, within one standard deviation."""
    mean, sd = np.mean(runs, axis=-1), np.std(runs, axis=-1, ddof=1)
    axis.plot(x, mean, marker=marker, markersize=4, color=color, label=label)
    axis.fill_between(x, mean - sd, mean + sd, color=color, alpha=0.2, linewidth=0)


def bands(axis, x, runs, labels) -> None:
    """One ``band`` without markers for each label, of ``runs[r, label, x]``."""
    for j, (label, color) in enumerate(zip(labels, colors(len(labels)), strict=True)):
        band(axis, x, np.moveaxis(runs[:, j], 0, -1), label, color, marker="")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plus_minus(values, digits: int = 3) -> str:
    """``mean ± sd`` over the runs that are not nan, with their number if not all."""
    every = np.asarray(values, float)
    values = every[np.isfinite(every)]
    if values.size == 0:
        return "none"
    sd = f"{np.std(values, ddof=1):.{digits}f}" if values.size > 1 else "n/a"
    share = f" ({values.size} of {every.size})" if values.size < every.size else ""
    return f"{np.mean(values):.{digits}f} ± {sd}{share}"
