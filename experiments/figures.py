"""House style of figures. matplotlib is imported at the first use."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

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


def legend_below(figure, axis) -> None:
    """The legend of one of the panels below all, where it covers no data."""
    handles, labels = axis.get_legend_handles_labels()
    num_rows = -(-len(labels) // 6)
    style = {"ncols": -(-len(labels) // num_rows), "fontsize": 9, "handlelength": 3}
    figure.legend(handles, labels, loc="outside lower center", **style)


def runs(x, values) -> xr.DataArray:
    """``values[x, r]`` with names for its axes, "x" and "run", for ``band``."""
    return xr.DataArray(np.asarray(values), {"x": np.asarray(x)}, ("x", "run"))


def band(
    axis, values: xr.DataArray, x: str, label: str, color: str, marker: str = "o"
) -> None:
    """The mean of ``values`` over ``x``, within one standard deviation.

    Both are over all other axes, unless ``values`` has them as ``arrays.moments``. Of a
    single run there is no deviation to show.
    """
    mean, sd = _mean_and_sd(values, x)
    axis.plot(values[x], mean, marker=marker, markersize=4, color=color, label=label)
    options = {"color": color, "alpha": 0.2, "linewidth": 0}
    axis.fill_between(values[x], mean - sd, mean + sd, **options)


def _mean_and_sd(values: xr.DataArray, x: str) -> tuple[xr.DataArray, xr.DataArray]:
    if "moment" in values.dims:
        return values.sel(moment="mean"), values.sel(moment="sd")
    others = [name for name in values.dims if name != x]
    number = values.size // values.sizes[x]
    # Where a run has no value there is none for all, rather than one for the others.
    options = {"dim": others, "skipna": False}
    return values.mean(**options), values.std(ddof=min(1, number - 1), **options)


def span(
    axis, values: xr.DataArray, x: str, label: str, color: str, marker: str = "o"
) -> None:
    """The mean of ``values`` over ``x``, between the least and the largest.

    For logarithmic axes, where a deviation may reach below zero.
    """
    others = [name for name in values.dims if name != x]
    options = {"dim": others, "skipna": False}
    mean = values.mean(**options)
    axis.plot(values[x], mean, marker=marker, markersize=4, color=color, label=label)
    ends = values.min(**options), values.max(**options)
    axis.fill_between(values[x], *ends, color=color, alpha=0.2, linewidth=0)


def bands(axis, values: xr.DataArray, x: str, each: str, form: str = "{}") -> None:
    """One ``band`` without markers for each coordinate of the axis ``each``."""
    labels = values[each].values
    for label, color in zip(labels, colors(len(labels)), strict=True):
        part = values.sel({each: label})
        band(axis, part, x, form.format(label), color, marker="")


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


def crossing(
    axis,
    losses: xr.DataArray,
    x: str,
    threshold: xr.DataArray,
    eps_star: xr.DataArray,
    label: str,
) -> None:
    """Losses over the radii ``x``, the threshold of each seed, and where they meet."""
    band(axis, losses, x, label, PALETTE[0])
    level = float(threshold.mean())
    sd = float(threshold.std(ddof=min(1, threshold.size - 1)))
    options = {"color": PALETTE[1], "linestyle": "--"}
    axis.axhline(level, **options, label="clean test loss of clean training")
    axis.axhspan(level - sd, level + sd, color=PALETTE[1], alpha=0.15, linewidth=0)
    axis.set_ylim(bottom=0)
    if np.isfinite(eps_star).any():
        centre = np.nanmean(eps_star)
        axis.axvline(centre, color="0.3", linewidth=0.8, linestyle=":")
        # Left of the crossing the losses lie below the threshold: the text stands well
        # above it where it is low, and else at the bottom.
        height = 0.5 if level < 0.35 * axis.get_ylim()[1] else 0.05
        low, high = float(losses[x].min()), float(losses[x].max())
        has_room = centre - low > 0.35 * (high - low)
        axis.annotate(
            f"ε* = {plus_minus(eps_star)}",
            (centre, height),
            xycoords=axis.get_xaxis_transform(),
            xytext=(-6 if has_room else 6, 0),
            textcoords="offset points",
            horizontalalignment="right" if has_room else "left",
        )


def contours(axis, x, y, values, levels):
    """Filled contours of ``values[y, x]`` on a logarithmic scale, low losses dark."""
    from matplotlib.colors import LogNorm

    scale = LogNorm(levels[0], levels[-1])
    filled = axis.contourf(x, y, values, levels=levels, norm=scale, cmap="viridis")
    axis.contour(x, y, values, levels=levels, colors="white", linewidths=0.3, alpha=0.5)
    return filled


def rows(
    columns: Mapping[str, xr.DataArray],
    axis: str = "eps",
    *,
    form: str = "{:.4g}",
    digits: int = 4,
) -> list[list[str]]:
    """Rows of a table: a coordinate of an axis, and ``plus_minus`` of each column."""
    first = next(iter(columns.values()))
    return [
        [
            form.format(value),
            *(plus_minus(each.sel({axis: value}), digits) for each in columns.values()),
        ]
        for value in first[axis].values
    ]


def plus_minus(values, digits: int = 3, kind: str = "f") -> str:
    """``mean ± sd`` over the runs that are not nan, with their number if not all.

    ``digits`` are decimals, or significant ones with ``kind="g"``. The two that
    ``arrays.moments`` gives are written as they are.
    """
    if "moment" in getattr(values, "dims", ()):
        mean, sd = (float(values.sel(moment=name)) for name in ("mean", "sd"))
        if np.isnan(mean):
            return "none"
        return f"{mean:.{digits}{kind}} ± {sd:.{digits}{kind}}"
    every = np.asarray(values, float)
    values = every[np.isfinite(every)]
    if values.size == 0:
        return "none"
    sd = f"{np.std(values, ddof=1):.{digits}{kind}}" if values.size > 1 else "n/a"
    share = f" ({values.size} of {every.size})" if values.size < every.size else ""
    return f"{np.mean(values):.{digits}{kind}} ± {sd}{share}"
