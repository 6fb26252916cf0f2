"""eps* by fine-tuning the clean networks of a grid: Tables 4 and B.7, Figure B.1.

Size: that of the grid; 3 radii × 4 seeds on MNIST. Time: 10 minutes on one core.

    advjax run transition/fine_tuning:cifar10_10k --config.grid=runs/GRID
    advjax run transition/fine_tuning:mnist --config.grid=runs/GRID

where GRID is a finished ``classifier_grid``, which decides on data, network, norm and
size.

Variants, joined by commas: ``cifar10``, ``cifar10_10k`` and ``cifar10_l2``, the rows of
Table 4, of the grids of these names; ``mnist``, ``digits``, ``digits_l2``; ``high``, a
rate that rises to that of clean training. The size, ``paper``, ``gpu`` or ``smoke``, is
that of the grid: a fifth of its epochs, as the paper's 40 of 200.

This is Algorithm A.1: the clean networks are trained on at a few small radii, with PGD
and with a single step (FGM). A line through the clean loss and the loss at the middle
radius, or at all of them, is extended to the threshold. Its error is that against eps*
of the grid, from scratch; its cost is in gradients of single examples, the clean
training and all tests included. The attacks start as those of the grid.

Of the MNIST grid at ``cpu`` the estimates err by 16 to 97 %.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from advjax import transition
from experiments import arrays, figures, findings, intervals, printed
from experiments.fields import count, number, numbers, seed, some
from experiments.study import Config, Setup, Study
from experiments.training import parameters, recipe, trainer
from experiments.training.parts import Training
from experiments.transition import readings
from experiments.transition.readings import ATTACKED, CLEAN, GRID, Grid
from experiments.writing import Drawn, Report, Table

ATTACKS = ("pgd", "fgm")
SCRATCH = "from scratch"


def _tunings(config: Config, inputs: Mapping[str, Any]) -> dict[str, Training]:
    return {attack: tuned(config, inputs["grid"], attack) for attack in ATTACKS}


def tuned(config: Config, grid: Grid, attack: str) -> Training:
    """The grid's training with another start, schedule, radii and attack."""
    fields = ("seed", "eps", "schedule", "schedule_knots", "schedule_values")
    single_step = {"num_steps": 1, "rel_step_size": config.fgm_rel_step_size}
    part = recipe.changed(
        grid.config,
        **{field: config[field] for field in fields},
        **(single_step if attack == "fgm" else {}),
        num_epochs=config.num_epochs or max(1, grid.config.num_epochs // 5),
        select_from=0.0,
        eps_warmup_epochs=0.0,
    )
    start = parameters.read(grid.path / f"{CLEAN}-best.safetensors")
    return recipe.training(part).replaced(start=start)


def choices(number: int) -> list[list[int]]:
    """Rows of (0, radii): the middle radius, and all if there are more."""
    return [[0, (number + 1) // 2], list(range(number + 1))][:number]


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Every estimate with its error and cost, and the losses that it rests on."""
    del found
    config, grid = setup.config, setup.inputs["grid"]
    losses = {
        attack: trainer.at(curves, "loss", curves["best_epoch"]).astype(float)
        for attack, curves in setup.trained.items()
    }
    scratch = grid.reading[["eps_star", "status"]]
    gradients = _gradients(config, grid)
    estimates = [scratch.assign(gradients=gradients[SCRATCH])]
    for attack in ATTACKS:
        for rows in choices(len(config.eps)):
            cost = gradients[CLEAN] + (len(rows) - 1) * gradients[attack]
            estimate = _extended(grid.reading, losses[attack], rows)
            estimates.append(estimate.assign(gradients=cost))
    names = [SCRATCH, *_names(len(config.eps))]
    values = arrays.stacked(dict(zip(names, estimates, strict=True)), "estimate")
    error = np.abs(values["eps_star"] - scratch["eps_star"]) / scratch["eps_star"]
    two_radii = gradients[CLEAN] + 2 * gradients[ATTACKED]
    reading = grid.reading.rename(eps="grid_eps")
    return values.assign(
        relative_error=error,
        share_of_gradients=values["gradients"] / gradients[SCRATCH],
        share_of_two_radii=values["gradients"] / two_radii,
        clean_loss=reading["selected_loss"].isel(grid_eps=0, drop=True),
        threshold=reading["threshold"],
        grid_loss=reading["selected_loss"],
        tuned_loss=arrays.stacked(losses, "attack"),
    ).assign_attrs(
        setting=grid.setting,
        grid=grid.origin,
        row=grid.values.attrs["row"],
        num_epochs=tuned(config, grid, "pgd").num_epochs,
        grid_epochs=grid.config.num_epochs,
    )


def _names(number: int) -> list[str]:
    """Of the estimates from ``number`` radii."""
    counts = [len(rows) - 1 for rows in choices(number)]
    return [
        f"{attack.upper()}, {count} {'radius' if count == 1 else 'radii'}"
        for attack in ATTACKS
        for count in counts
    ]


def _gradients(config: Config, grid: Grid) -> dict[str, int]:
    """What one seed takes: clean training, and each other radius of a kind."""
    parts = grid.trainings()
    counts = {name: part.num_gradients for name, part in parts.items()}
    counts |= {name: tuned(config, grid, name).num_gradients for name in ATTACKS}
    num_radii = len(grid.config.eps) - 1
    return counts | {SCRATCH: counts[CLEAN] + num_radii * counts[ATTACKED]}


def _extended(reading: xr.Dataset, losses: xr.DataArray, rows: list[int]) -> xr.Dataset:
    """eps* by a line through the clean loss and the losses of some radii."""
    clean = reading["selected_loss"].isel(eps=[0]).astype(float)
    points = xr.concat([clean, losses], "eps", join="exact").isel(eps=rows)
    found = readings.crossings(points, reading["threshold"], transition.extrapolate)
    return xr.Dataset(dict(zip(("eps_star", "status"), found, strict=True)))


# --- the report ---


def _report(config: Config, values: xr.Dataset) -> Report:
    del config
    seeds = values.sizes["seed"]
    facts = values.attrs
    num_radii = values.sizes["grid_eps"] - 1
    threshold = figures.plus_minus(values["threshold"], 4)
    return Report(
        f"Fine-tuning of {facts['setting']}",
        "How far is ε* by fine-tuning the clean network from ε* by training from "
        "scratch?",
        [_finding(values, name) for name in values["estimate"].values[1:]],
        [Drawn("fine_tuning", _figure(values), "losses and lines")],
        [_estimates_table(values), _losses_table(values)],
        f"{facts['num_epochs']} epochs from the clean network, {facts['grid_epochs']} "
        f"from scratch; mean ± sd over {seeds} seeds. Grid {facts['grid']}; threshold "
        f"{threshold}. Gradients are of single examples, clean training and tests "
        f"included, beside those of the grid's {num_radii} radii, and of the two that "
        "a crossing lies between. Losses are adversarial training losses at the epoch "
        "of smallest adversarial test loss; of the clean network "
        f"{figures.plus_minus(values['clean_loss'], 4)}.",
    )


def _finding(values: xr.Dataset, name: str) -> findings.Finding:
    at = values.sel(estimate=name)
    share = 100 * float(at["share_of_gradients"])
    paper = _printed_error(values.attrs["row"], name)
    return findings.finding(
        f"error of ε* by {name}",
        intervals.student(100 * at["relative_error"].values),
        printed=paper,
        size=f"{at.sizes['seed']} seeds, {share:.1f} % of the grid's gradients",
        form=".0f",
        unit=" %",
        # Errors depend on size and epochs, which are not the paper's.
        verdict=findings.unlike(paper),
    )


def _printed_error(row: str, name: str) -> str:
    """The error of an estimate in Table 4 against its own eps*, for its rows."""
    key = {
        "cifar10": ("50000", "linf"),
        "cifar10_10k": ("10000", "linf"),
        "cifar10_l2": ("50000", "l2"),
    }.get(row)
    if key is None:
        return ""
    found = printed.row("phase_transition_table_4_fine_tuning", n=key[0], norm=key[1])
    attack, number = name.lower().split(", ")
    star = float(found["eps_star_255"])
    estimate = float(found[f"{attack}_{number.split()[0]}"])
    return f"{100 * abs(estimate - star) / star:.0f} %"


def _estimates_table(values: xr.Dataset) -> Table:
    header = ["", "ε*", "relative error, %", "gradients a seed", "of the grid's, %"]
    header += ["of those of two radii, %", "status"]
    rows = []
    for name in values["estimate"].values:
        at = values.sel(estimate=name)
        error = figures.plus_minus(100 * at["relative_error"], 1)
        row = [
            name,
            figures.plus_minus(at["eps_star"], 4),
            "" if name == SCRATCH else error,
            f"{int(at['gradients']):,}",
            f"{100 * float(at['share_of_gradients']):.1f}",
            f"{100 * float(at['share_of_two_radii']):.1f}",
            ", ".join(sorted({*at["status"].values})),
        ]
        rows.append(row)
    return Table("Estimates of ε*", header, rows)


def _losses_table(values: xr.Dataset) -> Table:
    losses = values["tuned_loss"]
    columns = {attack.upper(): losses.sel(attack=attack) for attack in ATTACKS}
    return Table("Losses after fine-tuning", ["ε", *columns], figures.rows(columns))


def _figure(values: xr.Dataset) -> Any:
    figure, (axis,) = figures.panels()
    scratch = values["eps_star"].sel(estimate=SCRATCH)
    figures.crossing(
        axis,
        values["grid_loss"],
        "grid_eps",
        values["threshold"],
        scratch,
        "adversarial training, from scratch",
    )
    radii = values["eps"].values
    clean = values["clean_loss"].mean()
    colors = (figures.PALETTE[2], figures.PALETTE[3])
    for attack, color in zip(ATTACKS, colors, strict=True):
        losses = values["tuned_loss"].sel(attack=attack)
        label = f"fine-tuned by {attack.upper()}"
        figures.band(axis, losses, "eps", label, color, marker="s")
        # The line of all radii, extended.
        points = [clean, *losses.mean("seed")]
        slope, start = np.polyfit([0.0, *radii], points, 1)
        ends = np.array([0, 1.1 * (readings.centre(scratch) or radii[-1])])
        axis.plot(ends, start + slope * ends, color=color, linewidth=0.8)
    axis.set_xlabel("radius ε of the ball (pixels in [0, 1])")
    axis.set_ylabel("adversarial training loss (nats)")
    axis.set_title(values.attrs["setting"], fontsize=8)
    # Above the data, which may be anywhere within.
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1.08), fontsize=8, ncols=2)
    return figure


# The base rate of clean training times Figure B.1, which prints no values. These peak
# at a tenth, the rate at which the clean network was selected.
_HIGH = {
    "schedule": "linear",
    "schedule_knots": (0.0, 0.375, 1.0),
    "schedule_values": (0.05, 1.0, 0.0),
}
STUDY = Study(
    "transition.fine_tuning",
    {
        **readings.ROW_FIELDS,
        "seed": seed(1),
        "eps": numbers(
            (0.01, 0.02, 0.04), "radii of fine-tuning", above=0, increasing=True
        ),
        "fgm_rel_step_size": number(
            1.25, "step of the single-step attack, over eps", above=0
        ),
        "num_epochs": count(
            0, "epochs of fine-tuning; 0 for a fifth of the grid's", least=0
        ),
        **some(recipe.FIELDS, "schedule", "schedule_knots", "schedule_values"),
    },
    _report,
    variants=(
        {
            "digits": readings.row("digits", "linf", (0.01, 0.02, 0.04)),
            "digits_l2": readings.row("digits", "l2", (0.05, 0.1, 0.2)),
            "cifar10": readings.row(
                "cifar10", "linf", (0.25 / 255, 0.5 / 255, 1 / 255)
            ),
            "cifar10_10k": readings.row(
                "cifar10", "linf", (0.25 / 255, 0.5 / 255, 1 / 255)
            ),
            "cifar10_l2": readings.row("cifar10", "l2", (5 / 255, 10 / 255, 15 / 255)),
            "mnist": readings.row("mnist", "linf", (0.0125, 0.025, 0.05)),
        },
        {
            "fig_b1": {
                "schedule": "fine_tuning",
                "schedule_knots": (),
                "schedule_values": (),
            },
            "high": _HIGH,
        },
        {"paper": {}, "gpu": {}, "smoke": {}},
    ),
    needs={"grid": GRID},
    trains=_tunings,
    values=_values,
)
get_config = STUDY.config
