"""Single-step training that overfits catastrophically: Tables 2 and B.6.

Size: that of the grid; 8 radii × 4 seeds on MNIST. Time: 40 minutes on one core.

    advjax run transition/catastrophic:cifar10 --config.grid=runs/GRID
    advjax run transition/catastrophic:mnist --config.grid=runs/GRID

where GRID is a finished ``classifier_grid``, which decides on data, network and size.

Variants: ``cifar10``, the radii of Table B.6, for n = 10 000 and 50 000; ``mnist``;
``digits``. The size, ``paper``, ``gpu`` or ``smoke``, is that of the grid.

Networks of the grid are trained again, with one step of 1.25 eps from a random start
(FGSM, which the paper calls FGM too) for the PGD of the grid, at a range of radii. A
run is unstable where its accuracy under PGD is below that of guessing, although it has
learnt to resist its own attack on most of the training data. The paper finds the
smallest unstable radius above eps*.

Of the MNIST grid at ``cpu`` no seed collapses up to 0.4.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from ml_collections import ConfigDict

from experiments import figures, findings, intervals, printed
from experiments.fields import number, numbers, one_of
from experiments.study import Config, Setup, Study
from experiments.training import recipe, trainer
from experiments.training.parts import Training
from experiments.transition import readings
from experiments.transition.readings import GRID, Grid
from experiments.writing import Drawn, Report, Table

FGSM = "fgsm"


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    recipe.validate(single_step(config, inputs["grid"]))


def _trains(config: Config, inputs: Mapping[str, Any]) -> dict[str, Training]:
    return {FGSM: recipe.training(single_step(config, inputs["grid"]))}


def single_step(config: Config, grid: Grid) -> ConfigDict:
    """The grid's configuration with one step for its attack, at other radii."""
    return recipe.changed(
        grid.config,
        objective="adversarial",
        eps=config.eps,
        num_steps=1,
        rel_step_size=config.rel_step_size,
        start=config.start or grid.config.start,
    )


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Curves, what was reached at the selected epoch, and the unstable radii."""
    del found
    grid, trained = setup.inputs["grid"], setup.trained[FGSM]
    classes = recipe.num_classes(grid.config)
    at = {name: trainer.at(trained, name, trained["best_epoch"]) for name in _COLUMNS}
    fallen = collapsed(at["test_robust_accuracy"], at["accuracy"], classes)
    curves = trained.drop_vars("best_epoch").astype(np.float32)
    return curves.assign(
        best_epoch=trained["best_epoch"],
        **{f"selected_{name}": each for name, each in at.items()},
        is_collapsed=fallen,
        unstable_eps=unstable_radius(fallen),
        eps_star=grid.reading["eps_star"],
    ).assign_attrs(
        setting=grid.setting,
        grid=grid.origin,
        row=grid.values.attrs["row"],
        test_num_steps=grid.config.test_num_steps,
        num_classes=classes,
    )


def collapsed(
    robust_accuracy: xr.DataArray, training_accuracy: xr.DataArray, num_classes: int
) -> xr.DataArray:
    """Below guessing under PGD, and right on most of the training data under FGSM."""
    return (robust_accuracy < 1 / num_classes) & (training_accuracy > 0.5)


def unstable_radius(collapsed: xr.DataArray) -> xr.DataArray:
    """The smallest radius of each seed that has collapsed; nan for none."""
    return collapsed["eps"].where(collapsed).min("eps")


def stable_radius(
    training_accuracy: xr.DataArray, unstable: xr.DataArray
) -> xr.DataArray:
    """The largest radius of each seed that is learned before it collapses; 0 for none.

    Learned: right on most of the training data, as ``collapsed`` asks for.
    """
    radii = training_accuracy["eps"]
    is_before = (radii < unstable.fillna(np.inf)) & (training_accuracy > 0.5)
    return radii.where(is_before).max("eps").fillna(0.0)


def _report(config: Config, values: xr.Dataset) -> Report:
    facts, num_seeds = values.attrs, values.sizes["seed"]
    steps, star = facts["test_num_steps"], figures.plus_minus(values["eps_star"], 4)
    return Report(
        f"Catastrophic overfitting of {facts['setting']}",
        "From which radius on does training with a single step collapse, and is that "
        "above ε*?",
        [_threshold_finding(values), _gap_finding(values)],
        [Drawn("catastrophic", _figure(values), "accuracy under FGSM and PGD")],
        [_table(values)],
        f"One step of {config.rel_step_size:g} ε from a random start; tested by "
        f"PGD-{steps} at the epoch of smallest adversarial test loss after the first "
        f"drop of the rate, mean ± sd over {num_seeds} seeds. Smallest unstable ε: "
        f"{_in_words(values)}. ε* of the grid, {facts['grid']}: {star}.",
    )


def _in_words(values: xr.Dataset) -> str:
    """The smallest radius on any seed, and that of each."""
    unstable, radii = values["unstable_eps"].values, values["eps"].values
    if np.isnan(unstable).all():
        return f"none up to {radii[-1]:.4g} on {unstable.size} seeds"
    smallest = np.nanmin(unstable)
    seeds = ", ".join("none" if np.isnan(r) else f"{r:.4g}" for r in unstable)
    return f"{readings.radius(smallest)} on any seed, by seeds {seeds}"


def _size(values: xr.Dataset) -> str:
    return f"{values.sizes['eps']} radii, {values.sizes['seed']} seeds"


def _threshold_finding(values: xr.Dataset) -> findings.Finding:
    """Each seed's threshold lies above its last stable radius of the grid.

    It is at most its first unstable radius; a seed that does not collapse has none.
    """
    radii, unstable, star = (values[k] for k in ("eps", "unstable_eps", "eps_star"))
    stable = stable_radius(values["selected_accuracy"], unstable)
    margin = intervals.student(stable - star)
    excess = intervals.student(unstable - star)
    verdict = findings.CONTRADICTED if excess.high < 0 else findings.UNDECIDED
    last, first = float(radii[-1]), float(unstable.min())
    smallest = f"none up to {last:.4g}" if np.isnan(first) else f"{first:.4g}"
    return findings.finding(
        "the smallest unstable ε lies above ε*",
        f"{smallest}; ε* = {figures.plus_minus(star)}",
        printed=_printed(values.attrs["row"]),
        interval="" if np.isnan(margin.low) else f"last stable ε less ε*: {margin:.3f}",
        size=_size(values),
        verdict=findings.AGREES if margin.low > 0 else verdict,
    )


def _printed(row: str) -> str:
    """Of Table 2, for its rows."""
    n = {"cifar10": "50000", "cifar10_10k": "10000"}.get(row)
    if n is None:
        return ""
    found = printed.row("phase_transition_table_2_catastrophic_overfitting", n=n)
    return f"{found['unstable_eps_255']}/255; ε* = {found['eps_star_255']}/255"


def _gap_finding(values: xr.Dataset) -> findings.Finding:
    last = values.isel(eps=-1)
    gap = last["selected_test_fgsm_accuracy"] - last["selected_test_robust_accuracy"]
    return findings.finding(
        "accuracy under FGSM less that under PGD, at the largest ε, "
        f"{float(last['eps']):.4g}",
        intervals.student(100 * gap),
        size=_size(values),
        form=".1f",
        unit=" points",
    )


_COLUMNS = {
    "loss": "training loss",
    "accuracy": "training accuracy",
    "test_robust_loss": "PGD test loss",
    "test_robust_accuracy": "PGD test accuracy",
    "test_fgsm_accuracy": "FGSM test accuracy",
    "test_accuracy": "test accuracy",
}


def _table(values: xr.Dataset) -> Table:
    columns = {label: values[f"selected_{name}"] for name, label in _COLUMNS.items()}
    fallen, seeds = values["is_collapsed"].sum("seed"), values.sizes["seed"]
    every = zip(readings.rows(columns), fallen.values, strict=True)
    rows = [[*row, f"{number} of {seeds}"] for row, number in every]
    return Table("At the selected epoch", ["ε", *columns, "unstable seeds"], rows)


def _figure(values: xr.Dataset) -> Any:
    figure, (axis,) = figures.panels()
    steps, guessing = values.attrs["test_num_steps"], 1 / values.attrs["num_classes"]
    for name, label, color in (
        ("test_fgsm_accuracy", "under FGSM", figures.PALETTE[2]),
        ("test_robust_accuracy", f"under PGD-{steps}", figures.PALETTE[0]),
    ):
        accuracy = values[f"selected_{name}"].transpose("eps", "seed")
        radii = values["eps"]
        axis.plot(radii, accuracy, "o", markersize=3, color=color, alpha=0.6)
        axis.plot(radii, accuracy.mean("seed"), color=color, label=label)
    axis.axhline(guessing, color="0.5", linewidth=0.8, linestyle="--", label="guessing")
    if (eps_star := readings.centre(values["eps_star"])) is not None:
        mark = {"color": "0.3", "linewidth": 0.8, "linestyle": ":"}
        axis.axvline(eps_star, **mark, label="ε* by PGD training")
    axis.set(xlabel="radius ε", ylabel="test accuracy", ylim=(0, 1.02))
    axis.set_title(f"{values.attrs['setting']}\ntrained by FGSM", fontsize=8)
    axis.legend()
    return figure


STUDY = Study(
    "transition.catastrophic",
    {
        **readings.ROW_FIELDS,
        "eps": numbers(
            (0.05, 0.1), "radii, of pixels in [0, 1]", above=0, increasing=True
        ),
        # The default of Rice et al.'s code; their published runs with 0.75 and 0.875 do
        # not collapse at 8/255.
        "rel_step_size": number(
            1.25, "step of the attack in training, over eps", above=0
        ),
        "start": one_of(
            "",
            "start of the attack, that of the grid if empty; or none, with a step of 1",
            ("", *recipe.STARTS),
        ),
    },
    _report,
    variants=(
        {
            "digits": readings.row("digits", "linf", (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)),
            "cifar10": readings.row(
                "cifar10",
                "linf",
                tuple(radius / 255 for radius in (1, 2, 4, 8, 12, 16, 20, 32)),
            ),
            "mnist": readings.row(
                "mnist", "linf", (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
            ),
        },
        {
            "paper": {},
            "gpu": {},
            "smoke": lambda config: config.update(eps=config.eps[::4]),
        },
    ),
    needs={"grid": GRID},
    check=_check,
    trains=_trains,
    values=_values,
)
get_config = STUDY.config
