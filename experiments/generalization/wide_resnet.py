"""The surrogate attack, or LASSO, in deep networks: Figures 2 and 7, Tables 1 and 2.

Size: ``surrogate,cpu``: 5000 images of CIFAR-10, a small network, 5 seeds. Time: 10
minutes; the others need an accelerator and have not been run.

    advjax run generalization/wide_resnet:surrogate,gpu
    advjax run generalization/wide_resnet:lasso_linf,gpu

Networks of the same seeds are trained with several values of one field, ``config.xi``
or ``config.l1_penalty``, from the same start: fresh, or after epochs on clean images.

A row and a size, joined by a comma. Rows: ``surrogate``, Figure 2, WideResNet34-1 at
eps = 3 of l2 with xi = 0 and 0.001, which falls with the rate; ``surrogate_200``,
Figure 7, the same over 200 epochs; ``surrogate_clean``, appendix A.3, after 50 clean
epochs; ``lasso_l2`` and ``lasso_linf``, Tables 1 and 2, WideResNet34-10 with and
without a penalty of 1e-5 on weights. Sizes: ``paper``; ``gpu``, for one accelerator, a
fifth of the epochs, in bfloat16, and of WideResNet34-10 on 10 000 images; ``cpu``, of
the surrogate only, Wong et al.'s small network on 5000 images; ``smoke``, seconds long,
an MLP on the digits, for tests.

LASSO is by subgradient, as in the paper; ``--config.l1_proximal=True`` for exact zeros.

``surrogate,cpu`` ends at 38.6 % clean and 17.0 % adversarial accuracy with either xi.
Of the others WideResNet34-1 has trained for a few steps only.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from ml_collections import ConfigDict

from experiments import arrays, checks, figures, findings, intervals, printed
from experiments.fields import count, numbers, one_of, with_defaults
from experiments.study import Config, Setup, Study
from experiments.training import recipe
from experiments.training.parts import Training
from experiments.writing import Drawn, Report, Table

COMPARED = {"xi": "ξ", "l1_penalty": "λ"}
ACCURACIES = {
    "test_accuracy": "clean test accuracy",
    "test_robust_accuracy": "adversarial test accuracy",
    "accuracy": "training accuracy under the training attack",
}
_TESTED = ("test_accuracy", "test_robust_accuracy")


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    del inputs
    if config.show_from >= config.num_epochs:
        raise checks.ConfigError(
            f"config.show_from = {config.show_from}: choose numbers below "
            f"config.num_epochs = {config.num_epochs}"
        )
    for value in config.compared_values:
        recipe.validate(arm(config, value))
    if config.clean_epochs:
        recipe.validate(clean(config))


def arm(config: Config, value: float) -> ConfigDict:
    """The recipe of one value."""
    return recipe.changed(config, **{config.compared: value})


def clean(config: Config) -> ConfigDict:
    """The recipe of the epochs before, on clean images at the first rate."""
    return recipe.changed(
        arm(config, 0.0),
        objective="standard",
        eps=(0.0,),
        xi=0.0,
        schedule="constant",
        num_epochs=config.clean_epochs,
        select_from=0.0,
    )


def _name(config: Config, value: float) -> str:
    return f"{config.compared}-{value:g}"


def _trains(config: Config, inputs: Mapping[str, Any]) -> dict[str, Training]:
    """The clean epochs, if any, and every value, from where those end."""
    del inputs
    arms = {
        _name(config, value): arm(config, value) for value in config.compared_values
    }
    if not config.clean_epochs:
        return recipe.trainings(arms)
    found = recipe.trainings({"clean": clean(config), **arms})
    return found | {name: found[name].replaced(start="clean") for name in arms}


_MISSING = {"factor": 1.0, "sparsity": 0.0}
"""Of the attack itself, and without a penalty, where these are not followed."""


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Curves over ``value``, ``epoch`` and ``seed``, and what they end at.

    ``last`` has the accuracies of the last epoch in %, and ``gain`` their intervals
    over the first value, paired by seed; both are over ``metric`` and ``value``.
    """
    del found
    config = setup.config
    parts = {v: setup.trained[_name(config, v)] for v in config.compared_values}
    curves = arrays.stacked(parts, "value").isel(eps=0, drop=True)
    curves = curves.drop_vars("best_epoch")
    curves = curves.fillna({name: _MISSING[name] for name in {*_MISSING} & {*curves}})
    ends = 100 * curves.isel(epoch=-1, drop=True)
    last = arrays.stacked({name: ends[name] for name in ACCURACIES}, "metric")
    return (
        curves.astype(np.float32)
        .assign(last=last, gain=gains(last))
        .assign_attrs(row=config.row, compared=config.compared)
    )


def gains(last: xr.DataArray) -> xr.DataArray:
    """Intervals over the first ``value``, paired by ``seed``."""
    return intervals.along("seed", intervals.student, last - last.isel(value=0))


# --- the report ---


def published(row: str, compared: str, value: float) -> dict[str, tuple[float, float]]:
    """Mean and sd of the accuracies that are printed for a value; empty for none.

    The last pair of A.3 is printed in the other order, with an adversarial accuracy
    above the clean one; here it is exchanged.
    """
    source = _PRINTED.get(row)
    if source is None or source.field != compared:
        return {}
    for line in printed.rows(source.table, **source.wanted):
        if float(line[source.column]) == value:
            clean, robust = sorted(
                (
                    (float(line[f"{kind}_acc"]), float(line[f"{kind}_acc_sd"]))
                    for kind in ("std", "adv")
                ),
                reverse=True,
            )
            return {"test_accuracy": clean, "test_robust_accuracy": robust}
    return {}


class _Source(NamedTuple):
    """A table, its rows for a row of this study, and the field that differs there."""

    table: str
    wanted: dict[str, str]
    field: str
    column: str


def _surrogate_source(setting: str) -> _Source:
    table = "generalization_surrogate_cifar10_wideresnet34_1"
    return _Source(table, {"setting": setting}, "xi", "xi")


def _lasso_source(norm: str) -> _Source:
    table = "generalization_tables_1_2_lasso_cifar10_wideresnet34_10"
    return _Source(table, {"norm": norm}, "l1_penalty", "l1")


_PRINTED = {
    "surrogate": _surrogate_source("100 epochs, l2 eps 3.0"),
    "surrogate_clean": _surrogate_source(
        "100 epochs after 50 clean epochs, l2 eps 3.0"
    ),
    "lasso_l2": _lasso_source("l2"),
    "lasso_linf": _lasso_source("linf"),
}


_HIGHER = {
    ("surrogate", 0.001): "higher (Figure 2)",
    ("surrogate_200", 0.001): "higher (Figure 7)",
}
"""By row and xi, of accuracies that figures show and no table prints."""


def _report(config: Config, values: xr.Dataset) -> Report:
    facts = values.attrs
    start = f" after {config.clean_epochs} clean epochs" if config.clean_epochs else ""
    what = {"xi": "the surrogate attack", "l1_penalty": "a LASSO penalty"}
    return Report(
        _setting(config),
        f"Does {what[facts['compared']]} change what adversarial training reaches?",
        [*_gain_findings(config, values), *_accuracy_findings(config, values)],
        [Drawn("comparison", _figure(config, values), "curves of training")],
        [_table(config, values)],
        f"{config.num_epochs} epochs{start} on {facts['num_train']} examples, tested "
        f"on {facts['num_test']} by PGD-{config.test_num_steps} without surrogate. "
        f"Accuracies at the last epoch in percent, mean ± sd over {config.num_seeds} "
        "seeds; gains with Student's 95 % intervals, paired by seed. Printed numbers, "
        "± their sd, are of the paper's size. Factor: what the surrogate leaves of the "
        "attack to first order, mean over an epoch.",
    )


def _setting(config: Config) -> str:
    norm = f"{config.norm}, ε = {config.eps[0]:.3g}"
    return f"{recipe.named(config)} on {config.dataset}, {norm}"


def _label(values: xr.Dataset, value: float) -> str:
    return f"{COMPARED[values.attrs['compared']]} = {value:g}"


def _size(config: Config, values: xr.Dataset) -> str:
    number = values.attrs["num_train"]
    return f"n = {number}, {config.num_epochs} epochs, {config.num_seeds} seeds"


def _found(values: xr.Dataset, value: float) -> dict[str, tuple[float, float]]:
    return published(values.attrs["row"], values.attrs["compared"], value)


def _printed_gain(values: xr.Dataset, metric: str, value: float) -> str:
    """What the paper says of the gain over the first value; empty for nothing."""
    before, after = (_found(values, v) for v in (values["value"].values[0], value))
    if before and after:
        return f"{after[metric][0] - before[metric][0]:+.2f} points"
    is_of_surrogate = values.attrs["compared"] == "xi"
    return _HIGHER.get((values.attrs["row"], value), "") if is_of_surrogate else ""


def _gain_findings(config: Config, values: xr.Dataset) -> list[findings.Finding]:
    """Each value over the first, on clean and on attacked test images."""
    rows, first = [], _label(values, values["value"].values[0])
    for value in values["value"].values[1:]:
        for metric in _TESTED:
            gain = intervals.at(values["gain"], metric=metric, value=value)
            paper = _printed_gain(values, metric, value)
            # The numbers after clean epochs are those of a run that failed.
            is_claimed = paper and values.attrs["row"] != "surrogate_clean"
            claim = f"{ACCURACIES[metric]} is higher at {_label(values, value)} than at"
            rows.append(
                findings.finding(
                    f"{claim} {first.split()[-1]}, by",
                    gain,
                    printed=paper,
                    size=_size(config, values),
                    verdict=findings.above(gain) if is_claimed else findings.NO_CLAIM,
                    form="+.2f",
                    unit=" points",
                )
            )
    return rows


def _accuracy_findings(config: Config, values: xr.Dataset) -> list[findings.Finding]:
    rows = []
    for value in values["value"].values:
        paper = _found(values, value)
        for metric in _TESTED:
            text = "{:.2f} % ± {:.2f}".format(*paper[metric]) if paper else ""
            rows.append(
                findings.finding(
                    f"{ACCURACIES[metric]}, {_label(values, value)}",
                    values["last"].sel(metric=metric, value=value),
                    printed=text,
                    size=_size(config, values),
                    # Accuracies depend on network, size and epochs.
                    verdict=findings.unlike(text),
                    form=".2f",
                    unit=" %",
                )
            )
    return rows


def _table(config: Config, values: xr.Dataset) -> Table:
    """A column for each value."""
    shown = values["value"].values
    rows = {
        title: [
            figures.plus_minus(values["last"].sel(metric=metric, value=value), 2)
            for value in shown
        ]
        for metric, title in ACCURACIES.items()
    }
    ends = values.isel(epoch=[0, -1])
    if "factor" in values:
        rows["factor, first and last epoch"] = [
            ", ".join(figures.plus_minus(each) for each in ends["factor"].sel(value=v))
            for v in shown
        ]
    if "sparsity" in values:
        rows["weights at zero"] = [
            figures.plus_minus(100 * ends["sparsity"].sel(value=v)[-1], 1)
            for v in shown
        ]
    header = ["", *(_label(values, value) for value in shown)]
    return Table(
        f"After {config.num_epochs} epochs, %",
        header,
        [[title, *cells] for title, cells in rows.items()],
    )


_PANELS = {
    "adversarial loss": (
        {"robust_loss": "--", "test_robust_loss": "-"},
        "training - -   test —",
    ),
    "test accuracy, %": (
        {"test_accuracy": ":", "test_robust_accuracy": "-"},
        "clean ···   adversarial —",
    ),
}


def _figure(config: Config, values: xr.Dataset) -> Any:
    """Curves, a line for every seed, and their differences to those of the first value.

    Where lines of two values coincide, thin ones on wide ones show both.
    """
    figure, axes = figures.panels(3)
    shown = values.isel(epoch=slice(config.show_from, None))
    shown = shown.assign_coords(epoch=1 + shown["epoch"])
    every = values["value"].values
    colors = figures.colors(len(every))
    for axis, (name, (styles, title)) in zip(axes, _PANELS.items(), strict=False):
        scale = 100 if "%" in name else 1
        for i, (value, color) in enumerate(zip(every, colors, strict=True)):
            options = {"color": color, "linewidth": 4.0, "alpha": 0.3}
            if i:
                options = {"color": color, "linewidth": 1.0}
            for curve, style in styles.items():
                runs = shown[curve].sel(value=value).transpose("epoch", "seed")
                axis.plot(runs["epoch"], scale * runs, style, **options)
            axis.plot([], [], label=_label(values, value), **options)
        axis.set(xlabel="epoch", ylabel=name)
        axis.set_title(title, fontsize=9)
    _differences(axes[-1], shown)
    for axis in axes:
        axis.locator_params(axis="x", integer=True)
    figures.legend_below(figure, axes[0])
    figure.suptitle(_setting(config), fontsize=10)
    return figure


def _differences(axis, shown: xr.Dataset) -> None:
    """Accuracies less those of the first value, paired by seed."""
    first, *others = shown["value"].values
    pairs = [(value, metric) for value in others for metric in _TESTED]
    colors = figures.colors(len(pairs) + 2)[2:]  # others than those of the values
    for (value, metric), color in zip(pairs, colors, strict=True):
        curve = 100 * shown[metric]
        difference = curve.sel(value=value) - curve.sel(value=first)
        label = ACCURACIES[metric].split()[0]
        label += f", {_label(shown, value)}" if len(others) > 1 else ""
        figures.band(axis, difference, "epoch", label, color, marker="")
    axis.axhline(0, color="0.3", linewidth=0.8, linestyle=":")
    axis.set(xlabel="epoch", ylabel="difference of test accuracies, points")
    axis.set_title(f"less {_label(shown, first)}, mean ± sd over seeds", fontsize=9)
    axis.legend(fontsize=8)


# --- variants ---

# The only attack on CIFAR-10 that the paper spells out is PGD-5, steps of 2ε/5.
_SURROGATE = {
    "norm": "l2",
    "eps": (3.0,),
    "compared": "xi",
    "compared_values": (0.0, 1e-3),
    "xi_follows_rate": True,
    "width": 1,
    "activation": "relu_softplus",
    "num_seeds": 10,
    "num_steps": 5,
    "rel_step_size": 2 / 5,
    "test_rel_step_size": 2 / 20,
}
_LASSO = {
    "compared": "l1_penalty",
    "compared_values": (0.0, 1e-5),
    "width": 10,
    "num_seeds": 3,
    "num_steps": 10,
}
_LONG = {"num_epochs": 200, "schedule_knots": (0.5, 0.75), "show_from": 74}
_L2 = {"norm": "l2", "eps": (0.5,), "rel_step_size": 2 / 10, "test_rel_step_size": 0.1}
ROWS = {
    "surrogate": _SURROGATE,
    "surrogate_200": _SURROGATE | _LONG,
    "surrogate_clean": _SURROGATE | {"clean_epochs": 50},
    "lasso_l2": _LASSO | _L2,
    "lasso_linf": _LASSO | {"norm": "linf", "eps": (8 / 255,)},
}


def _gpu(config: ConfigDict) -> None:
    config.dtype = "bfloat16"
    config.test_batch_size = 1000
    config.num_seeds = 3
    config.num_epochs = {100: 20, 200: 40}[config.num_epochs]
    config.clean_epochs //= 5
    config.show_from //= 5
    if config.width == 10:
        config.num_train = 10_000


def _cpu(config: ConfigDict) -> None:
    if config.compared != "xi":
        raise checks.ConfigError("variant 'cpu' of config: it is of the surrogate only")
    config.model, config.width = "cnn_wong", 0
    config.augment = False
    config.num_seeds = 5
    config.num_train, config.num_test = 5000, 1000
    config.num_epochs = 20
    config.learning_rate = 0.05
    config.eps_warmup_epochs = 5.0
    config.clean_epochs = min(config.clean_epochs, 10)
    config.show_from = 0


def _smoke(config: ConfigDict) -> None:
    config.dataset = "digits"
    config.model, config.width = "mlp", 0
    config.hidden = (16,)
    config.num_seeds = 2
    config.num_epochs = 2
    config.clean_epochs = min(config.clean_epochs, 1)
    config.show_from = 0
    config.num_train, config.num_test = 100, 50
    config.batch_size = 50
    config.num_steps = config.test_num_steps = 2


STUDY = Study(
    "generalization.wide_resnet",
    {
        **with_defaults(
            recipe.FIELDS,
            dataset="cifar10",
            model="wideresnet34",
            num_epochs=100,
            schedule_knots=(0.75, 0.9),
            test_num_steps=20,
        ),
        "eps": recipe.RADIUS,
        "row": one_of("", "row of the paper's tables that it is for", ("", *ROWS)),
        "clean_epochs": count(0, "epochs on clean images before these", least=0),
        "compared": one_of("xi", "field to compare: xi or l1_penalty", COMPARED),
        "compared_values": numbers(
            (0.0, 1e-3),
            "values of that field; networks are trained with each",
            increasing=True,
        ),
        "show_from": count(0, "first epoch in the figure, counted from 0", least=0),
    },
    _report,
    variants=(
        {name: {"row": name, **row} for name, row in ROWS.items()},
        {"paper": {}, "gpu": _gpu, "cpu": _cpu, "smoke": _smoke},
    ),
    needs=recipe.NEEDS,
    check=_check,
    trains=_trains,
    values=_values,
)
get_config = STUDY.config
