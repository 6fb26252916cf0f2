"""The networks that the studies of this folder measure.

Size: 1000 to 5000 images, 4 or 6 epochs, 1 seed. Time: 4 to 20 minutes a family.

    advjax run difficulty/networks:clean --workdir=runs/difficulty-clean

A training, a family, a data set and a size, joined by commas. Trainings: ``clean``, of
ten classes; ``adversarial``, of a binary task, odd against even digits, by PGD at eps =
0.1. Families: ``table``, the ten networks of Tables 1 and 2; ``deep``, AlexNet, VGG-11
and a ResNet, 18 layers deep for ``clean`` and 50 for ``adversarial``. Data sets:
``mnist``; ``cifar10``, for ``deep`` and ``adversarial``, AlexNet alone on vehicles
against animals at eps = 8/255. Sizes: ``cpu``, few images and epochs; ``paper``, all
images and 20 epochs; ``smoke``, seconds long, small networks on the digits, for tests.

All are trained by one configuration, one after the other. The paper says which networks
and data it took, and for the ten networks whose settings it followed; their widths, and
how they were trained, are our choice.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from ml_collections import ConfigDict

from experiments import arrays, checks, figures, findings, usage
from experiments.difficulty import reports
from experiments.fields import Field, with_defaults, words
from experiments.study import Config, Setup, Study
from experiments.training import recipe
from experiments.writing import Drawn, Report, Table

TABLE = (
    *("mlp3", "mlp4", "mlp5", "cnn3", "cnn4", "cnn5"),
    *("rescnn3", "rescnn4", "rescnn5", "rescnn10"),
)


# --- several networks by one configuration ---


def fields(models: tuple[str, ...], **defaults: Any) -> dict[str, Field]:
    """Fields of a study that trains several networks at one radius."""
    given = {k: field for k, field in recipe.FIELDS.items() if k != "model"}
    given["eps"] = recipe.RADIUS
    given = with_defaults(
        given, eps=(0.1,), augment=False, schedule="constant", **defaults
    )
    return given | {"models": words(models, "names of the networks in advjax.models")}


def setting(config: Config | ConfigDict) -> str:
    """Data, task and training, in words."""
    task = " (binary)" if config.positive_classes else ""
    training = "clean training"
    if config.objective != "standard":
        training = (
            f"PGD-{config.num_steps} training at ε = {usage.written(config.eps[0])}"
        )
    return f"{config.dataset}{task}, {training}"


# --- the study ---


def _parts(config: Config) -> dict[str, ConfigDict]:
    return {model: recipe.changed(config, model=model) for model in config.models}


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    del inputs
    for each in _parts(config).values():
        recipe.check(each)
        recipe.module(each)  # of advjax.models, and not an own one


MEASURED = {
    "training": "accuracy",
    "clean test": "test_accuracy",
    "attacked test": "test_robust_accuracy",
}
"""Accuracies by the curves whose ends they are."""


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Curves over ``network``, ``epoch`` and ``seed``, and accuracies at their ends."""
    del found
    curves = arrays.stacked(setup.trained, "network").isel(eps=0, drop=True)
    last = 100 * curves.isel(epoch=-1, drop=True)
    ends = {measured: last[name] for measured, name in MEASURED.items()}
    kept = curves.drop_vars("best_epoch").astype(np.float32)
    return kept.assign(accuracy_percent=arrays.stacked(ends, "measured"))


def _report(config: Config, values: xr.Dataset) -> Report:
    sizes = values.attrs
    task = "all classes"
    if config.positive_classes:
        classes = ", ".join(map(str, config.positive_classes))
        task = f"classes {classes} against the others"
    return Report(
        f"Networks: {setting(config)}",
        "How accurate are the networks that the other studies measure?",
        [
            _finding(config, values, "clean test", "accuracy on clean test images"),
            _finding(
                config, values, "attacked test", f"accuracy under {_attack(config)}"
            ),
        ],
        [Drawn("accuracies", _figure(config, values), "accuracies of the networks")],
        [_table(config, values)],
        f"{config.num_epochs} epochs on {sizes['num_train']} images of "
        f"{config.dataset}, {task}, tested on {sizes['num_test']}; seeds: "
        f"{config.num_seeds}. Accuracies in training are means over the last epoch, of "
        "attacked images where training is adversarial.",
    )


def _attack(config: Config) -> str:
    radius = usage.written(config.eps[0])
    return f"PGD-{config.test_num_steps} at ε = {radius} ({config.norm})"


def _finding(
    config: Config, values: xr.Dataset, measured: str, claim: str
) -> findings.Finding:
    means = values["accuracy_percent"].sel(measured=measured).mean("seed", skipna=False)
    number = f"{means.size} networks" if means.size > 1 else "one network"
    images = f"{values.attrs['num_train']} images"
    return findings.finding(
        claim,
        f"{reports.span(means, '.1f')} %",
        size=f"{number}, {images}, {config.num_epochs} epochs",
    )


def _table(config: Config, values: xr.Dataset) -> Table:
    rows = [
        [name, *(_text(each) for each in values["accuracy_percent"].sel(network=name))]
        for name in values["network"].values
    ]
    header = ["network", "training", "clean test", _attack(config)]
    return Table("Accuracies in %, mean ± sd over seeds", header, rows)


def _text(accuracies: xr.DataArray) -> str:
    if accuracies.size == 1:
        return f"{float(accuracies.squeeze()):.1f}"
    return figures.plus_minus(accuracies, 1)


def _figure(config: Config, values: xr.Dataset) -> Any:
    figure, (axis,) = figures.panels()
    labels = ("training", "clean test", f"under {_attack(config)}")
    styles = zip(MEASURED, labels, "^os", figures.colors(3), strict=True)
    for measured, label, marker, color in styles:
        accuracy = values["accuracy_percent"].sel(measured=measured)
        options = {"marker": marker, "linestyle": "none", "color": color}
        for i in accuracy["seed"].values:
            axis.plot(accuracy["network"], accuracy.sel(seed=i), **options, label=label)
            label = None
    axis.set(ylabel="accuracy in %", ylim=(-3, 103))
    axis.tick_params(axis="x", rotation=30)
    axis.margins(x=0.1)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=8, ncols=3)
    return figure


# --- variants ---


def _deep(config: ConfigDict) -> None:
    last = "resnet50" if config.positive_classes else "resnet18"
    config.models = ("alexnet", "vgg11", last)


def _cifar10(config: ConfigDict) -> None:
    if not config.positive_classes or config.models == TABLE:
        raise checks.ConfigError("cifar10 is for adversarial,deep")
    config.dataset = "cifar10"
    config.models = ("alexnet",)
    config.eps = (8 / 255,)
    config.positive_classes = (0, 1, 8, 9)


def _cpu(config: ConfigDict) -> None:
    # SGD at one rate is too slow for AlexNet, which has no normalisation, and too fast
    # for the sums of ResCNN-10.
    config.optimiser, config.learning_rate, config.weight_decay = "adam", 5e-4, 0.0
    if config.models == TABLE:
        config.num_train, config.num_test = 5000, 1000
        config.num_epochs, config.eps_warmup_epochs = 6, 3.0
        return
    config.batch_size = 25
    config.num_epochs, config.eps_warmup_epochs = 4, 2.0
    config.num_train = 1000 if config.positive_classes else 3000
    config.num_test = 200
    config.num_steps, config.rel_step_size = 3, 0.5
    config.test_num_steps, config.test_rel_step_size = 3, 0.5


def _smoke(config: ConfigDict) -> None:
    config.dataset = "digits"
    config.models = ("cnn3", "mlp3") if config.models == TABLE else ("cnn_wong", "cnn3")
    if config.positive_classes:
        config.models = config.models[:1]
    config.num_train, config.num_test = 200, 50
    config.num_epochs = 1
    config.batch_size = 50
    config.num_steps = config.test_num_steps = 2


_ODD = {"objective": "adversarial", "positive_classes": (1, 3, 5, 7, 9)}
STUDY = Study(
    "difficulty.networks",
    fields(
        TABLE,
        dataset="mnist",
        objective="standard",
        num_epochs=20,
        learning_rate=0.01,
    ),
    _report,
    variants=(
        {"clean": {}, "adversarial": _ODD},
        {"table": {}, "deep": _deep},
        {"mnist": {}, "cifar10": _cifar10},
        {"cpu": _cpu, "paper": {}, "smoke": _smoke},
    ),
    needs=recipe.NEEDS,
    check=_check,
    trains=lambda config, _: recipe.trainings(_parts(config)),
    values=_values,
)
get_config = STUDY.config
