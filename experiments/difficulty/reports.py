"""What reports on the networks of Tables 1 and 2 share."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from experiments import figures, intervals, printed

Style = Mapping[str, Any]


def printed_errors(column: str) -> dict[str, float]:
    """What Tables 1 and 2 print by network: of "kappa" or "kappa_prime"."""
    rows = printed.rows("difficulty_tables_1_2_errors")
    return {row["network"]: float(row[column]) for row in rows}


def printed_span(column: str, names: Sequence[str]) -> str:
    """From the smallest to the largest that is printed of these; empty for none."""
    paper = printed_errors(column)
    named = [paper[name] for name in names if name in paper]
    return span(xr.DataArray(named)) if named else ""


def shown(value: float | None) -> str:
    """A number in a table, or a dash for None."""
    return "–" if value is None else f"{value:.1e}"


def span(values: xr.DataArray, form: str = ".1e") -> str:
    """From the smallest to the largest of some values, in words; nan if one is nan."""
    low, high = (format(float(f(skipna=False)), form) for f in (values.min, values.max))
    return low if low == high else f"{low} to {high}"


# --- figures ---

_MARKERS = {"3": "o", "4": "s", "5": "^", "10": "D"}
"""By the number of layers, which names end with."""


def _parts(name: str) -> tuple[str, str]:
    """Kind and depth of "mlp3"."""
    kind = re.sub(r"\d+$", "", name)
    return kind, name.removeprefix(kind)


def styles(names: Sequence[str]) -> dict[str, Style]:
    """By network, with a colour for its kind and a marker for its depth."""
    kinds = [*dict.fromkeys(_parts(name)[0] for name in names)]
    colors = dict(zip(kinds, figures.colors(len(kinds)), strict=True))
    size = {"markersize": 4, "linewidth": 1.2}
    return {
        name: {"color": colors[kind], "marker": _MARKERS.get(depth, "o"), **size}
        for name in names
        for kind, depth in [_parts(name)]
    }


def legend(figure, axis, names: Sequence[str]) -> None:
    """Colours and markers of ``styles``, below all panels."""
    every = styles(names)
    kinds = {_parts(name)[0]: style["color"] for name, style in every.items()}
    for kind, color in kinds.items():
        axis.plot([], [], color=color, linewidth=3, label=kind)
    there = {_parts(name)[1] for name in names}
    for depth in [depth for depth in _MARKERS if depth in there]:
        style = {"color": "0.4", "linestyle": "none", "markersize": 4}
        axis.plot([], [], marker=_MARKERS[depth], **style, label=f"{depth} layers")
    figures.legend_below(figure, axis)


def points(
    axis, bounds: xr.DataArray, styles: Mapping[str, Style], label: str = "_"
) -> None:
    """Positive intervals over ``network``, one beside the other, on a log scale."""
    for i, name in enumerate(bounds["network"].values):
        found = intervals.at(bounds, network=name)
        ends = np.array([[found.mean - found.low], [found.high - found.mean]])
        ends = np.minimum(ends, [[0.9 * found.mean], [np.inf]])
        axis.errorbar(i, found.mean, ends, **styles[name], label="_" if i else label)


def label_networks(axis, names: Sequence[str], paper: Mapping[str, float]) -> None:
    """Labels of an axis of networks, and a dash for what the paper prints."""
    label = "printed"
    for i, name in enumerate(names):
        if name in paper:
            style = {"marker": "_", "markersize": 14, "color": "0.2"}
            axis.plot(i, paper[name], linestyle="none", **style, label=label)
            label = "_"
    axis.set_yscale("log")
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
