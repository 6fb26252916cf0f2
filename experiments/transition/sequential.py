"""eps* by a sequential choice of radii and seeds, against the grid.

Size: that of the grid; the digits and an MLP, MNIST and Wong et al.'s network of width
16. Time: 3 minutes on the digits, half an hour on MNIST.

    advjax run transition/sequential --config.grid=runs/GRID
    advjax run transition/sequential:mnist --config.grid=runs/GRID

where GRID is a finished ``classifier_grid``, which decides on data, network, norm and
training. ``advjax.critical`` chooses the radii, and as many seeds as it takes for an
interval as narrow as Student's one over the grid's seeds. Networks are new ones, with
seeds of their own; batches that are not full are not trained on. Cost is in gradients
of single examples, tests included.

Variants: ``digits``, ``mnist``; ``smoke``, seconds long, for tests.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import xarray as xr

from advjax import critical, data, fit
from advjax.types import Batch
from experiments import arrays, figures, findings, finished, intervals
from experiments.fields import count, number, seed
from experiments.study import Config, Setup, Study
from experiments.training.parts import Training
from experiments.transition.readings import ATTACKED, CLEAN, GRID
from experiments.writing import Drawn, Report, Table

DESIGNS = ("grid", "sequential")
RULES = ("best", "last")


def _trained(training: Training, warm_up_epochs: int) -> critical.Trained:
    """Networks of the grid's training, at any radii and seeds."""
    num_steps = training.num_epochs * (training.num_train // training.batch_size)
    rate = training.schedule(num_steps)
    test = Batch(data.as_float(training.test.x), training.test.y)
    validation = fit.Validation(
        test,
        training.test_attack,
        batch_size=training.test_batch_size,
        first_epoch=1 + training.first_selectable,
    )
    return critical.by_fit(
        training.model,
        training.objective(rate(0)),
        training.optimiser(rate),
        Batch(data.as_float(training.train.x), training.train.y),
        validation,
        num_epochs=training.num_epochs,
        batch_size=training.batch_size,
        prepare=training.prepare,
        num_warm_up_epochs=warm_up_epochs,
    )


def _measured(setup: Setup) -> xr.Dataset:
    """eps* by both designs, the curves, and what they cost."""
    config, grid = setup.config, setup.inputs["grid"]
    parts = grid.trainings()
    theirs = intervals.student(grid.reading["eps_star"].values)
    width = config.width or theirs.high - theirs.low
    found = critical.radius(
        _trained(parts[ATTACKED], int(grid.config.eps_warmup_epochs)),
        jax.random.split(jax.random.key(config.seed), config.num_keys),
        highest=config.highest,
        width=width,
        num_first=config.num_first,
    )
    clean, attacked = (parts[part].num_gradients for part in (CLEAN, ATTACKED))
    r, s = len(grid.config.eps), grid.config.num_seeds
    gradients = [s * (clean + (r - 1) * attacked), found.num_trained * attacked]
    curves = {rule: _curves(found.readings[rule]) for rule in RULES}
    return (
        arrays.stacked(curves, "rule")
        .assign(
            interval=(("design", "end"), [theirs, found.eps_star]),
            by_rule=(("rule", "end"), [found.by_rule[rule] for rule in RULES]),
            gradients=("design", gradients),
            num_networks=("design", [r * s, found.num_trained]),
            num_seeds=("design", [s, found.num_seeds]),
            wanted=width,
            caveats="; ".join(found.caveats),
        )
        .assign_coords(design=[*DESIGNS], end=["mean", "low", "high"])
        .assign_attrs(setting=grid.setting, grid=grid.origin)
    )


def _curves(readings: list[critical.Reading]) -> xr.Dataset:
    """Radii and losses of each seed, nan where it has fewer, and what is read off."""
    most = max(len(each.eps) for each in readings)

    def padded(values: np.ndarray) -> np.ndarray:
        return np.pad(values, (0, most - len(values)), constant_values=np.nan)

    return arrays.dataset(
        {
            "eps": (("seed", "point"), [padded(each.eps) for each in readings]),
            "loss": (("seed", "point"), [padded(each.losses) for each in readings]),
            "threshold": ("seed", [each.threshold for each in readings]),
            "eps_star": ("seed", [each.eps_star for each in readings]),
            "enclosed": (("seed", "side"), [each.enclosed for each in readings]),
            "status": ("seed", [each.status.name for each in readings]),
        },
        {"seed": np.arange(len(readings)), "point": np.arange(most)},
    )


# --- the report ---


def _report(config: Config, values: xr.Dataset) -> Report:
    share = float(values["gradients"][1] / values["gradients"][0])
    num_seeds, num_networks = (
        int(values[name].sel(design="sequential"))
        for name in ("num_seeds", "num_networks")
    )
    size = f"{num_seeds} seeds, {num_networks} networks"
    ends = {name: _interval(values.sel(design=name)) for name in DESIGNS}
    return Report(
        f"ε* of {values.attrs['setting']}, by a sequential design",
        "What does an interval for ε* cost where radii and seeds are chosen in turn?",
        [
            findings.finding(
                "ε* by the sequential design",
                _scaled(ends["sequential"]),
                size=size,
                form=".1f",
                unit="/255",
            ),
            findings.finding(
                "ε* by the sequential design less that by the grid",
                _scaled(intervals.apart(ends["sequential"], ends["grid"])),
                size=size,
                form="+.1f",
                unit="/255",
            ),
            findings.finding(
                "gradients of the sequential design, over those of the grid",
                share,
                size=size,
                form=".2f",
            ),
        ],
        [Drawn("sequential", _figure(config, values), "the curve of every seed")],
        [_costs(values, ends), _readings(values)],
        "95 % intervals of the mean over seeds: Student's of the grid; Stein's, wider "
        "by what the radii leave open, of the sequential design. The networks of the "
        f"two are different ones. Grid: {values.attrs['grid']}.",
        [line for line in str(values["caveats"].values).split("; ") if line],
    )


def _interval(values: xr.Dataset) -> intervals.Interval:
    return intervals.Interval(*map(float, values["interval"]))


def _scaled(interval: intervals.Interval) -> intervals.Interval:
    return intervals.Interval(*(255 * end for end in interval))


def _costs(values: xr.Dataset, ends: Mapping[str, intervals.Interval]) -> Table:
    rows = []
    for name in DESIGNS:
        there = values.sel(design=name)
        scaled = _scaled(ends[name])
        rows.append(
            [
                name,
                f"{scaled:.2f}",
                f"{scaled.high - scaled.low:.2f}",
                str(int(there["num_seeds"])),
                str(int(there["num_networks"])),
                f"{float(there['gradients']):.3g}",
            ]
        )
    header = ["design", "255 ε*", "width", "seeds", "networks", "gradients"]
    return Table("Intervals and what they cost", header, rows)


def _readings(values: xr.Dataset) -> Table:
    rows = []
    for rule in RULES:
        read = values.sel(rule=rule)
        scaled = _scaled(intervals.Interval(*map(float, read["by_rule"])))
        statuses = sorted({str(each) for each in read["status"].values})
        rows.append([rule, f"{scaled:.2f}", ", ".join(statuses)])
    return Table("By the epoch that is read", ["rule", "255 ε*", "status"], rows)


def _figure(config: Config, values: xr.Dataset) -> Any:
    del config
    figure, (axis,) = figures.panels(1)
    read = values.sel(rule="best")
    for i in range(read.sizes["seed"]):
        one = read.isel(seed=i)
        label = "one seed" if i == 0 else None
        axis.plot(one["eps"], one["loss"], "o-", color="C0", alpha=0.5, label=label)
        label = "its ε*" if i == 0 else None
        axis.plot(one["eps_star"], one["threshold"], "k|", markersize=12, label=label)
    found = _interval(values.sel(design="sequential"))
    if np.isfinite(found.low):
        axis.axvspan(found.low, found.high, color="C1", alpha=0.4, label="ε*, 95 %")
    axis.set(xlabel="radius ε", ylabel="adversarial training loss (nats)")
    axis.set_title(values.attrs["setting"], fontsize=9)
    figures.legend_below(figure, axis)
    return figure


STUDY = Study(
    "transition.sequential",
    {
        **finished.FIELDS,
        "seed": seed(1),
        "num_keys": count(40, "seeds at most", least=5),
        "num_first": count(6, "seeds whose spread says how many it takes", least=5),
        "highest": number(0.16, "largest radius to try", above=0),
        "width": number(0, "wanted width of the interval; the grid's if 0"),
    },
    _report,
    variants=(
        {"digits": {}, "mnist": {"highest": 0.25, "num_keys": 12, "num_first": 5}},
        {"full": {}, "smoke": {"num_keys": 5, "num_first": 5, "width": 0.05}},
    ),
    needs={"grid": GRID},
    measure=_measured,
)
get_config = STUDY.config
