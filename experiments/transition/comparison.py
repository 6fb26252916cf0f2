"""eps* of several grids beside each other: Figure A.1, and differences with intervals.

Size: those of the grids. Time: seconds.

    advjax run transition/comparison '--config.grids=("runs/A", "runs/B")'

where A and B are finished grids of ``classifier_grid``. Each is compared with the
first. Nothing is trained.

Variants: none; ``smoke`` changes nothing.

Of the MNIST grids at ``cpu`` eps* with 128 units is 18.7/255 above that with 16.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from experiments import figures, findings, finished
from experiments.fields import Field, number, some
from experiments.intervals import Interval, welch
from experiments.study import Config, Setup, Study
from experiments.transition.classifier_grid import published_eps_star
from experiments.transition.readings import GRIDS, centre
from experiments.writing import Drawn, Report, Table

WAYS = {"chord": "eps_star", "cubic": "eps_star_cubic"}
"""How eps* is read between two radii."""


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """What was read off each grid, and differences to the first with their ends.

    Radii and seeds that a grid does not have are nan; of its seeds there are
    ``num_seeds``.
    """
    del found
    return compared(
        [grid.reading for grid in setup.inputs["grids"]],
        setup.config.confidence,
        name=names([grid.setting for grid in setup.inputs["grids"]]),
        setting=[grid.setting for grid in setup.inputs["grids"]],
        origin=[grid.origin for grid in setup.inputs["grids"]],
        row=[grid.values.attrs["row"] for grid in setup.inputs["grids"]],
    )


def compared(
    readings: Sequence[xr.Dataset], confidence: float, **facts: Sequence[str]
) -> xr.Dataset:
    """The readings of grids, facts about each, and differences to the first.

    A seed without a crossing makes its grid's differences nan: leaving it out would
    bias the mean, since its eps* lies beyond the grid.
    """
    kept = [each[["threshold", "selected_loss", *WAYS.values()]] for each in readings]
    values = xr.concat(kept, "grid", join="outer").astype(float)
    by_way = [
        [
            welch(each[star].values, readings[0][star].values, confidence)
            for star in WAYS.values()
        ]
        for each in readings
    ]
    values = values.assign(
        num_seeds=("grid", [each.sizes["seed"] for each in readings]),
        difference=(("grid", "way", "end"), by_way),
    ).assign_coords(way=[*WAYS], end=[*Interval._fields])
    return values.assign({name: ("grid", [*each]) for name, each in facts.items()})


def names(settings: Sequence[str]) -> list[str]:
    """What differs between the settings, and numbers of those where nothing does."""
    parts = [setting.split(", ") for setting in settings]
    common = set.intersection(*map(set, parts))
    return [
        ", ".join(word for word in words if word not in common) or f"grid {i}"
        for i, words in enumerate(parts, start=1)
    ]


def _grids(values: xr.Dataset) -> list[xr.Dataset]:
    """Each grid with its own radii and seeds."""
    grids = [values.isel(grid=i) for i in range(values.sizes["grid"])]
    return [
        grid.isel(seed=slice(0, int(grid["num_seeds"]))).dropna("eps") for grid in grids
    ]


def _difference(grid: xr.Dataset, way: str) -> Interval:
    return Interval(*map(float, grid["difference"].sel(way=way)))


def _text(difference: Interval) -> str:
    if np.isnan(difference.mean):
        return "not defined, as some seeds do not cross"
    is_alone = np.isnan(difference.low)
    return f"{difference.mean:+.4f}" if is_alone else f"{difference:+.4f}"


def _report(config: Config, values: xr.Dataset) -> Report:
    grids = _grids(values)
    settings = "".join(
        f"- {_name(grid)}: {grid['setting'].item()}, {int(grid['num_seeds'])} seeds, "
        f"{grid['origin'].item()}\n"
        for grid in grids
    )
    return Report(
        "ε* beside each other",
        "How far apart are the ε* of these grids?",
        [_finding(config, grid, grids[0]) for grid in grids[1:]],
        [Drawn("comparison", _figure(grids), "losses against radius")],
        [_table(config, grids)],
        "Mean ± sd over seeds; Welch's intervals; printed values are at the paper's "
        f"size.\n\n{settings}",
    )


def _name(grid: xr.Dataset) -> str:
    return str(grid["name"].item())


def _printed(grid: xr.Dataset) -> str:
    return published_eps_star(str(grid["row"].item()))


def _finding(config: Config, grid: xr.Dataset, first: xr.Dataset) -> findings.Finding:
    """The order of two grids, where the paper prints both and they differ."""
    difference = Interval(*(255 * end for end in _difference(grid, "chord")))
    both = [_printed(each) for each in (grid, first)]
    step = float(both[0]) - float(both[1]) if all(both) else 0.0
    confidence = f"({100 * config.confidence:g} %)"
    in_order = findings.above if step > 0 else findings.below
    order = ("lies above" if step > 0 else "lies below") if step else "less"
    claim = f"ε* of {_name(grid)} {order} that of {_name(first)}"
    is_short = len(claim) <= findings.LONGEST
    return findings.finding(
        claim if is_short else f"ε* of {_name(grid)} {order} that of the first",
        difference,
        printed=f"{step:+.3g}/255, of its networks and size" if step else "",
        interval="" if np.isnan(difference.low) else confidence,
        size=f"{int(grid['num_seeds'])} and {int(first['num_seeds'])} seeds",
        form="+.1f",
        unit="/255",
        verdict=in_order(difference) if step else findings.NO_CLAIM,
    )


def _table(config: Config, grids: Sequence[xr.Dataset]) -> Table:
    difference = f"difference to the first, {100 * config.confidence:g} % interval"
    header = ["", "threshold", "ε*", "255 ε*", "printed 255 ε*", difference]
    header += ["ε* by a cubic", difference]
    rows = []
    for i, grid in enumerate(grids):
        chord, cubic = (_text(_difference(grid, way)) if i else "" for way in WAYS)
        row = [
            _name(grid),
            figures.plus_minus(grid["threshold"], 4),
            figures.plus_minus(grid["eps_star"], 4),
            figures.plus_minus(255 * grid["eps_star"], 1),
            _printed(grid) or "–",
            chord,
            figures.plus_minus(grid["eps_star_cubic"], 4),
            cubic,
        ]
        rows.append(row)
    return Table("ε* of each grid", header, rows)


def _figure(grids: Sequence[xr.Dataset]) -> Any:
    figure, (axis,) = figures.panels()
    for grid, color in zip(grids, figures.colors(len(grids)), strict=True):
        figures.band(axis, grid["selected_loss"], "eps", _name(grid), color)
        line = {"color": color, "linewidth": 0.9}
        axis.axhline(float(grid["threshold"].mean()), linestyle="--", **line)
        if (mean := centre(grid["eps_star"])) is not None:
            axis.axvline(mean, linestyle=":", **line)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("radius ε (pixels in [0, 1])")
    axis.set_ylabel("adversarial training loss (nats)")
    axis.set_title("dashed: clean test loss of clean training; dotted: ε*", fontsize=9)
    axis.legend(fontsize=8)
    return figure


def _at_least_two(paths: Any) -> str | None:
    is_enough = isinstance(paths, tuple) and len(paths) >= 2
    return None if is_enough else "give a tuple of at least 2 values"


STUDY = Study(
    "transition.comparison",
    {
        **some(finished.FIELDS, "model"),
        "grids": Field((), GRIDS.fields("grids")["grids"].meaning, _at_least_two),
        "confidence": number(
            0.95, "confidence of the intervals, at most 1", above=0, most=1
        ),
    },
    _report,
    variants=({"full": {}, "smoke": {}},),
    needs={"grids": GRIDS},
    values=_values,
)
get_config = STUDY.config
