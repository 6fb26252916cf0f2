"""eps* by Adam, MART and TRADES beside SGD: Table B.5, on the digits.

Size: 1437 images of 8 × 8 pixels, 200 epochs, 8 radii × 10 seeds for each method. Time:
half an hour on two cores.

    advjax run transition/methods

A grid of ``classifier_grid`` for each method, with the settings of its rows ``adam``,
``mart`` and ``trades``. eps* is read off the loss that a method minimises, as in the
paper, and off the cross-entropy at attacked training images.

It exists by all four: 21.7/255 by SGD, 5.8 by Adam, 20.5 by MART, 20.4 by TRADES. At
the rate of the paper Adam fits the digits less in these epochs.

Variants: ``full``; ``smoke``, seconds long, for tests.
"""

from collections.abc import Mapping
from typing import Any

import xarray as xr
from ml_collections import ConfigDict

from experiments import arrays, figures, findings, intervals
from experiments.fields import some
from experiments.study import Config, Setup, Study
from experiments.training import recipe
from experiments.training.parts import Training, first_selectable
from experiments.transition import classifier_grid, readings
from experiments.writing import Drawn, Report, Table

METHODS = {"SGD": "cifar10", "Adam": "adam", "MART": "mart", "TRADES": "trades"}
"""The rows of ``classifier_grid`` by method."""
_DIGITS = classifier_grid.get_config("digits")


def grid(config: Config, method: str) -> ConfigDict:
    """The configuration of a method's grid."""
    *_, options = classifier_grid.ROWS[METHODS[method]]
    return recipe.changed(_DIGITS, **options, **{name: config[name] for name in FIELDS})


def _part(method: str, part: str) -> str:
    return f"{method.lower()}-{part}"


def _trains(config: Config, inputs: Mapping[str, Any]) -> dict[str, Training]:
    del inputs
    return {
        _part(method, part): training
        for method in METHODS
        for part, training in readings.trainings(grid(config, method)).items()
    }


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """What is read off each grid, and differences to SGD with their ends."""
    del found
    first = first_selectable(_DIGITS.select_from, setup.config.num_epochs)
    grids = {}
    for method in METHODS:
        names = (_part(method, part) for part in (readings.CLEAN, readings.ATTACKED))
        trained = xr.concat([setup.trained[n] for n in names], "eps", join="exact")
        grids[method] = readings.read_off(trained, readings.RULES[0], first)
    values = arrays.stacked(grids, "training")
    eps_star = values["eps_star"]
    return values.assign(
        difference=intervals.along(
            "seed", intervals.student, eps_star - eps_star.sel(training="SGD")
        )
    )


def _report(config: Config, values: xr.Dataset) -> Report:
    others = [method for method in METHODS if method != "SGD"]
    return Report(
        "ε* by Adam, MART and TRADES beside SGD",
        "Does ε* exist by other optimisers and objectives, and where?",
        [_crossing(config, values.sel(training=method)) for method in others]
        + [_difference(config, values.sel(training=method)) for method in others],
        [Drawn("methods", _figure(values), "losses over the radius")],
        [_table(values)],
        f"Digits, linf, {config.num_epochs} epochs; mean ± sd over {config.num_seeds} "
        "seeds, at the epoch of smallest adversarial test loss after the first drop of "
        "the rate; differences with Student's 95 % intervals, paired by seed. The "
        "threshold is the clean test loss of training by the same method at ε = 0.",
    )


def _printed(method: str) -> str:
    """255 ε* as Table 3 has it; of Adam it has none."""
    return classifier_grid.published_eps_star(METHODS[method])


def _crossing(config: Config, values: xr.Dataset) -> findings.Finding:
    """Whether ε* exists."""
    method, crosses = values["training"].item(), values["status"] == "CROSSES"
    is_claimed, is_so = bool(_printed(method)), bool(crosses.all())
    return findings.finding(
        f"by {method} the losses cross in all {crosses.size} seeds, at ε* =",
        255 * values["eps_star"],
        printed=f"{_printed(method)}/255, of its network" if is_claimed else "",
        size=_size(config),
        verdict=findings.proved(is_so=is_so) if is_claimed else findings.NO_CLAIM,
        form=".1f",
        unit="/255",
    )


def _difference(config: Config, values: xr.Dataset) -> findings.Finding:
    """The order to SGD, of other networks and images than those of Table 3."""
    method = values["training"].item()
    paper = [_printed(each) for each in (method, "SGD")]
    return findings.finding(
        f"ε* by {method} less that by SGD",
        intervals.at(255 * values["difference"]),
        printed=f"{paper[0]} less {paper[1]}/255, of its network" if paper[0] else "",
        size=_size(config),
        verdict=findings.unlike(paper[0]),
        form="+.1f",
        unit="/255",
    )


def _size(config: Config) -> str:
    return f"digits, {config.num_epochs} epochs, {config.num_seeds} seeds"


def _table(values: xr.Dataset) -> Table:
    stars = {"ε*": "eps_star", "ε* by cross-entropy": "eps_star_robust"}
    header = ["method", "threshold", *stars, "255 ε*", "difference to SGD", "status"]
    rows = []
    for method in METHODS:
        at = values.sel(training=method)
        difference = intervals.at(at["difference"])
        row = [
            *(method, figures.plus_minus(at["threshold"], 4)),
            *(figures.plus_minus(at[name], 4) for name in stars.values()),
            figures.plus_minus(255 * at["eps_star"], 1),
            f"{difference:+.4f}" if method != "SGD" else "",
            ", ".join(sorted({*at["status"].values})),
        ]
        rows.append(row)
    return Table("ε* of each method", header, rows)


def _figure(values: xr.Dataset) -> Any:
    figure, axes = figures.panels(len(METHODS))
    for axis, method in zip(axes, METHODS, strict=True):
        at = values.sel(training=method)
        loss, eps_star = at["selected_loss"], at["eps_star"]
        figures.crossing(axis, loss, "eps", at["threshold"], eps_star, "training loss")
        axis.set(title=method, xlabel="radius ε (linf)", ylabel="loss (nats)")
    figures.legend_below(figure, axes[0])
    return figure


FIELDS = some(
    classifier_grid.STUDY.fields,
    *("data_dir", "num_devices", "hosts", "seed"),
    **{
        name: _DIGITS[name]
        for name in (
            *("num_train", "num_test", "batch_size", "test_batch_size", "dispatch"),
            *("eps", "num_epochs", "num_seeds", "num_steps", "test_num_steps"),
        )
    },
)
_SMALL = {
    "num_train": 32,
    "num_test": 16,
    "batch_size": 16,
    "test_batch_size": 16,
    "eps": _DIGITS.eps[:3],
    "num_epochs": 4,
    "num_seeds": 2,
    "num_steps": 2,
    "test_num_steps": 2,
}
STUDY = Study(
    "transition.methods",
    FIELDS,
    _report,
    variants=({"full": {}, "smoke": _SMALL},),
    trains=_trains,
    values=_values,
)
get_config = STUDY.config
