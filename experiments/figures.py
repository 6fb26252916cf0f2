"""House style of figures. matplotlib is imported at the first use."""

import os
from typing import Any

import numpy as np

PALETTE = ("#1b6ca8", "#c8553d", "#3a7d44", "#7a5195", "#8d6e15")
"""Distinct in hue and in lightness, also for the colour-blind."""


def colors(number: int) -> list[str]:
    """The first colours of the palette, repeated if there are not enough."""
    return [PALETTE[i % len(PALETTE)] for i in range(number)]


def shades(number: int) -> list:
    """Colours of an ordered quantity, from dark to light."""
    import matplotlib as mpl

    return [mpl.colormaps["viridis"](x) for x in np.linspace(0, 0.9, number)]


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
    """A figure and its axes row by row, ``[num_rows * num_columns]``.

    Without a display, unless the environment has another backend, as notebooks do.
    """
    os.environ.setdefault("MPLBACKEND", "agg")
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.rcParams.update(_STYLE)
    shape, size = (num_rows, num_columns), (5.2 * num_columns, 3.8 * num_rows)
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, **options)
    return figure, axes.ravel()


def band(axis, x, runs, label: str, color: str, marker: str = "o") -> None:
    """The mean over the last axis of ``runs[x, r]``, within one standard deviation.

    Of a single run there is no deviation to show.
    """
    mean = np.mean(runs, axis=-1)
    sd = np.std(runs, axis=-1, ddof=min(1, np.shape(runs)[-1] - 1))
    axis.plot(x, mean, marker=marker, markersize=4, color=color, label=label)
    axis.fill_between(x, mean - sd, mean + sd, color=color, alpha=0.2, linewidth=0)


def span(axis, x, runs, label: str, color: str) -> None:
    """The mean over the last axis of ``runs[x, r]``, between the least and the largest.

    For logarithmic axes, where a deviation may reach below zero.
    """
    axis.plot(x, np.mean(runs, -1), marker="o", markersize=4, color=color, label=label)
    ends = np.min(runs, axis=-1), np.max(runs, axis=-1)
    axis.fill_between(x, *ends, color=color, alpha=0.2, linewidth=0)


def bands(axis, x, runs, labels) -> None:
    """One ``band`` without markers for each label, of ``runs[r, label, x]``."""
    for j, (label, color) in enumerate(zip(labels, colors(len(labels)), strict=True)):
        band(axis, x, np.moveaxis(runs[:, j], 0, -1), label, color, marker="")


def boxes(axis, x, runs, width: float, label: str, color: str) -> None:
    """Box plots of ``runs[i]`` at ``x[i]``: quartiles, and whiskers of 1.5 boxes."""
    line = {"color": color, "linewidth": 1.0}
    axis.boxplot(
        runs,
        positions=x,
        widths=width,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": color, "edgecolor": color, "alpha": 0.35},
        medianprops=line | {"linewidth": 1.6},
        whiskerprops=line,
        capprops=line,
        flierprops={"marker": ".", "markersize": 4, "markeredgecolor": color},
    )
    axis.plot([], [], color=color, linewidth=5, alpha=0.5, label=label)


def crossing(axis, eps, losses, threshold, eps_star, label: str) -> None:
    """Losses ``[k, r]`` against radius, the threshold ``[r]`` and where they meet."""
    band(axis, eps, losses, label, PALETTE[0])
    level, sd = np.mean(threshold), np.std(threshold, ddof=min(1, len(threshold) - 1))
    options = {"color": PALETTE[1], "linestyle": "--"}
    axis.axhline(level, **options, label="clean test loss of clean training")
    axis.axhspan(level - sd, level + sd, color=PALETTE[1], alpha=0.15, linewidth=0)
    if np.isfinite(eps_star).any():
        centre = np.nanmean(eps_star)
        axis.axvline(centre, color="0.3", linewidth=0.8, linestyle=":")
        is_left = centre < np.mean(eps)
        axis.annotate(
            f"ε* = {plus_minus(eps_star)}",
            (centre, 0),
            xytext=(6 if is_left else -6, 8),
            textcoords="offset points",
            horizontalalignment="left" if is_left else "right",
        )
    axis.set_ylim(bottom=0)


def contours(axis, x, y, values, levels):
    """Filled contours of ``values[y, x]`` on a logarithmic scale, low losses dark."""
    from matplotlib.colors import LogNorm

    scale = LogNorm(levels[0], levels[-1])
    filled = axis.contourf(x, y, values, levels=levels, norm=scale, cmap="viridis")
    axis.contour(x, y, values, levels=levels, colors="white", linewidths=0.3, alpha=0.5)
    return filled


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plus_minus(values, digits: int = 3, kind: str = "f") -> str:
    """``mean ± sd`` over the runs that are not nan, with their number if not all.

    ``digits`` are decimals, or significant ones with ``kind="g"``.
    """
    every = np.asarray(values, float)
    values = every[np.isfinite(every)]
    if values.size == 0:
        return "none"
    sd = f"{np.std(values, ddof=1):.{digits}{kind}}" if values.size > 1 else "n/a"
    share = f" ({values.size} of {every.size})" if values.size < every.size else ""
    return f"{np.mean(values):.{digits}{kind}} ± {sd}{share}"
