"""The networks that the studies of this folder measure, and Table 1 for them.

Size: 20 000 images of MNIST, or 5000 of CIFAR-10 and a quarter of the width; 3 seeds.
Time: an hour and a half on one core.

    advjax run memorization/networks:mnist --workdir=runs/memorization-mnist
    advjax run memorization/networks:cifar10,gpu --workdir=runs/memorization-cifar10

One architecture is trained adversarially and clean, and released after some epochs.
Then clean and robust accuracy are measured on training and on test images. Studies that
take ``--config.networks=`` and this work directory read the networks.

A data set and a size, joined by commas, and optionally ``long`` or ``classic``.
``mnist``: LeNet5, 20 epochs, eps = 0.1, Adam with a triangular rate; ``classic`` takes
that of LeCun et al. 1998. ``cifar10``: ResNet9, 15 epochs, eps = 8/255, SGD with a
triangular rate. ``long`` has 60 epochs. Sizes: ``paper``, all images, in bfloat16;
``cpu``, the default, 20 000 images of MNIST, and 5000 of CIFAR-10 with a quarter of the
width, in batches of 50; ``smoke``, seconds long, for tests.

The paper says architectures, epochs, radii and "cyclical learning rates" after Wong et
al. 2020, whose peak rates, batches and PGD-7 these are; PGD-10 on MNIST is our choice.

LeNet5 on MNIST reaches 100 % robust accuracy on training and 95.9 % on test images. On
1000 images of CIFAR-10, 30 epochs without augmentation, it is 96 % and 15 %.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import xarray as xr
from ml_collections import ConfigDict

from advjax import data, evaluate
from experiments import (
    arrays,
    checks,
    devices,
    figures,
    findings,
    finished,
    intervals,
    printed,
)
from experiments.fields import at_most, count, counts, some, with_defaults
from experiments.finished import Need, Networks
from experiments.study import Config, Setup, Study
from experiments.training import recipe, testing
from experiments.training.parts import Training
from experiments.writing import Drawn, Report, Table

TRAININGS = {"adversarial": "adversarial training", "standard": "clean training"}
SPLITS = {"train": "training images", "test": "test images"}
ACCURACIES = {"robust_accuracy": "robust", "clean_accuracy": "clean"}
MEMORISED = 90.0
"""% robust training accuracy from which a network counts as memorising."""

NETWORKS = Need("memorization.networks", Networks.of, holds=("robust_accuracy",))
FIELDS = {
    **some(finished.FIELDS, "data_dir", "model"),
    "num_images": count(0, "training images, a random subset; 0 for all", least=0),
    **some(recipe.FIELDS, "subset_seed"),
}
"""Fields of a study that measures these networks."""


def setting(config: Config | ConfigDict) -> str:
    """Network, data and training, in words."""
    attack = f"PGD-{config.num_steps} at ε = {config.eps[0]:.4g}"
    return f"{recipe.named(config)} on {config.dataset}, {attack}"


def facts(networks: Networks) -> dict[str, Any]:
    """What a report says about the networks that were measured."""
    return {
        "setting": setting(networks.config),
        "networks": networks.origin,
        "dataset": networks.config.dataset,
        "model": networks.config.model,
        "eps": networks.config.eps[0],
        "memorised": memorised(networks.values),
    }


def memorised(values: xr.Dataset) -> float:
    """The robust accuracy of adversarial training on training images, in %."""
    at = {"training": "adversarial", "split": "train"}
    return float(values["robust_accuracy"].sel(at).mean(skipna=False))


def judged(verdict: str, memorised: float) -> str:
    """The verdict on a claim about networks that memorise, if they do."""
    return verdict if memorised >= MEMORISED else findings.UNDECIDED


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    del inputs
    if config.kept_epochs[-1] > config.num_epochs:
        raise checks.ConfigError(
            f"config.kept_epochs = {config.kept_epochs!r}: choose numbers at most "
            f"config.num_epochs = {config.num_epochs}"
        )
    for part in _parts(config).values():
        recipe.check(part)


def _parts(config: Config) -> dict[str, ConfigDict]:
    return {name: recipe.changed(config, objective=name) for name in TRAININGS}


def _trains(config: Config, inputs: Mapping[str, Any]) -> dict[str, Training]:
    del inputs
    trainings = recipe.trainings(_parts(config))
    at_most(config, "num_measured", trainings["adversarial"].train.y.size)
    kept = {"kept_epochs": config.kept_epochs}
    return {name: part.replaced(**kept) for name, part in trainings.items()}


def _cases(setup: Setup) -> dict[str, tuple[str]]:
    del setup
    return {f"accuracy-{part}": (part,) for part in TRAININGS}


def _accuracies(setup: Setup, part: str) -> xr.Dataset:
    """Accuracies of the last networks in %, over ``split`` and ``seed``."""
    config = setup.config
    rel_step_size = 2.5 / config.measured_steps
    attack = recipe.pgd(config.norm, config.measured_steps, rel_step_size, "in_ball")
    model, key = recipe.network(config), jax.random.key(config.seed)
    found = []
    for split in SPLITS:
        images = recipe.read(config, split)
        if split == "train":
            images = data.subset(images, config.num_measured, seed=config.subset_seed)
        mesh, size = devices.mesh(1), config.test_batch_size
        test = testing.tester(model, attack, images, mesh, size)
        for network in setup.networks(part):
            summary = evaluate.summary(test(network, key, config.eps[0]))
            found.append((summary.robust_accuracy.value, summary.accuracy.value))
    shape = (len(SPLITS), config.num_seeds, len(ACCURACIES))
    percent = np.moveaxis(100 * np.array(found).reshape(shape), -1, 0)
    axes = ("split", "seed")
    values = dict(zip(ACCURACIES, percent, strict=True))
    return arrays.dataset(
        {name: (axes, each) for name, each in values.items()},
        {"split": [*SPLITS], "seed": np.arange(config.num_seeds)},
    )


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Accuracies, and all curves of training over ``epoch`` and ``seed``."""
    measured = {part: found[f"accuracy-{part}"] for part in TRAININGS}
    curves = arrays.stacked(setup.trained, "training")
    kept = curves.drop_vars("best_epoch").isel(eps=0, drop=True).astype(np.float32)
    values = arrays.stacked(measured, "training").merge(kept, join="exact")
    sizes = {name: curves.attrs[name] for name in ("num_train", "num_test")}
    return values.assign_attrs(sizes)


# --- the report ---


def _report(config: Config, values: xr.Dataset) -> Report:
    sizes = values.attrs
    return Report(
        f"Clean and robust accuracy: {setting(config)}",
        "Do clean generalisation and robust overfitting happen together in adversarial "
        "training?",
        [*gap_findings(config, values), *_accuracy_findings(config, values)],
        [Drawn("curves", _figure(values), "accuracies through training")],
        [_table(config, values)],
        f"After {config.num_epochs} epochs on {sizes['num_train']} images, by "
        f"{config.num_measured} of them and {sizes['num_test']} test images; robust "
        f"under PGD-{config.measured_steps} at ε = {config.eps[0]:.4g} (linf), in "
        f"curves under PGD-{config.test_num_steps}, and in training under PGD-"
        f"{config.num_steps}. Mean ± sd over {config.num_seeds} seeds; intervals are "
        "Student's. Gaps are judged where robust training accuracy is at least "
        f"{MEMORISED:g} %. Printed numbers are of CIFAR-10 at the paper's size.",
    )


def _size(config: Config, values: xr.Dataset) -> str:
    number = values.attrs["num_train"]
    return f"n = {number}, {config.num_epochs} epochs, {config.num_seeds} seeds"


def gap_findings(config: Config, values: xr.Dataset) -> list[findings.Finding]:
    """Falls of accuracy from training to test images, which memorisation explains.

    Undecided for networks that do not fit their attacked training images.
    """
    own = values.sel(training="adversarial")
    gaps = {
        name: own[name].sel(split="train") - own[name].sel(split="test")
        for name in ACCURACIES
    }
    robust = gaps["robust_accuracy"]
    printed_gap, excess = _printed_gaps(config)
    rows = (
        ("robust accuracy is lower on test images than on training images", robust),
        (
            "robust accuracy falls more there than clean accuracy",
            robust - gaps["clean_accuracy"],
        ),
    )
    return [
        findings.finding(
            claim,
            found := intervals.student(gap),
            printed=published,
            size=_size(config, values),
            verdict=judged(findings.above(found), memorised(values)),
            form="+.1f",
            unit=" points",
        )
        for (claim, gap), published in zip(rows, (printed_gap, excess), strict=True)
    ]


def _printed_gaps(config: Config) -> tuple[str, str]:
    """Of adversarial training; empty but for CIFAR-10."""
    if config.dataset != "cifar10":
        return "", ""
    robust, clean = (
        _number(f"{kind} train") - _number(f"{kind} test")
        for kind in ACCURACIES.values()
    )
    return f"{robust:+.1f} points", f"{robust - clean:+.1f} points"


def _number(quantity: str) -> float:
    return float(_printed(quantity, "adversarial").removesuffix(" %"))


def _printed(quantity: str, training: str) -> str:
    column = TRAININGS[training].replace(" ", "_")
    found = printed.row("memorization_table_1_cifar10", quantity=quantity)[column]
    return found.replace("%", " %")


def _accuracy_findings(config: Config, values: xr.Dataset) -> list[findings.Finding]:
    cells = [("adversarial", name, split) for name in ACCURACIES for split in SPLITS]
    cells += [("standard", name, "test") for name in ACCURACIES]
    return [
        findings.finding(
            f"{ACCURACIES[name]} accuracy on {SPLITS[split]}, {TRAININGS[training]}",
            values[name].sel(training=training, split=split),
            printed=(published := _in_table_1(config, training, name, split)),
            size=_size(config, values),
            # Accuracies depend on size and epochs, which are not the paper's.
            verdict=findings.UNDECIDED if published else findings.NO_CLAIM,
            form=".1f",
            unit=" %",
        )
        for training, name, split in cells
    ]


def _in_table_1(config: Config, training: str, name: str, split: str) -> str:
    is_printed = config.dataset == "cifar10"
    return _printed(f"{ACCURACIES[name]} {split}", training) if is_printed else ""


def _table(config: Config, values: xr.Dataset) -> Table:
    rows = []
    for name, kind in ACCURACIES.items():
        for split, images in SPLITS.items():
            row = [f"{kind}, {images}"]
            for training in TRAININGS:
                at = values[name].sel(training=training, split=split)
                row.append(figures.plus_minus(at, 1))
                row.append(_in_table_1(config, training, name, split) or "–")
            rows.append(row)
    header = [""]
    for title in TRAININGS.values():
        header += [f"{title}, %", "printed"]
    return Table("Accuracies of the last networks", header, rows)


_CURVES = {
    "accuracy": "training images, as trained",
    "test_accuracy": "clean test images",
    "test_robust_accuracy": "attacked test images",
}


def _figure(values: xr.Dataset) -> Any:
    figure, axes = figures.panels(2, sharey=True)
    curves = values.assign_coords(epoch=1 + values["epoch"])
    for axis, (training, title) in zip(axes, TRAININGS.items(), strict=True):
        colors = figures.colors(len(_CURVES))
        for (name, label), color in zip(_CURVES.items(), colors, strict=True):
            runs = 100 * curves[name].sel(training=training)
            figures.band(axis, runs, "epoch", label, color, marker="")
        axis.set(xlabel="epoch", title=title, ylim=(-2, 102))
        axis.locator_params(axis="x", integer=True)
    axes[0].set_ylabel("accuracy, %")
    figures.legend_below(figure, axes[0])
    return figure


# --- variants ---

_MNIST = {
    "dataset": "mnist",
    "model": "lenet5",
    "eps": (0.1,),
    "augment": False,
    "num_epochs": 20,
    "kept_epochs": (1, 5, 10, 15, 20),
    "batch_size": 100,
    "optimiser": "adam",
    "weight_decay": 0.0,
    "learning_rate": 5e-3,
    "schedule_knots": (0.0, 0.4, 1.0),
}
_CIFAR10 = {
    "dataset": "cifar10",
    "model": "resnet9",
    "eps": (8 / 255,),
    "num_epochs": 15,
    "kept_epochs": (1, 3, 6, 9, 12, 15),
    "learning_rate": 0.2,
    "schedule_knots": (0.0, 0.5, 1.0),
    "num_steps": 7,
}
_LONG = {"num_epochs": 60, "kept_epochs": (1, 5, 10, 15, 30, 45, 60)}


def _cpu(config: ConfigDict) -> None:
    config.num_train, config.num_test = 20_000, 1000
    if config.dataset == "cifar10":
        config.width = 16
        config.num_train = 5000
        config.batch_size, config.learning_rate = 50, 0.1


def _smoke(config: ConfigDict) -> None:
    if config.dataset == "mnist":
        config.dataset, config.model = "digits", "mlp"
    else:
        config.width = 4
    config.num_train, config.num_test = 60, 20
    config.num_measured = 20
    config.num_epochs = 2
    config.kept_epochs = (1, 2)
    config.batch_size = 20
    config.num_steps = config.test_num_steps = config.measured_steps = 2
    config.num_seeds = 2


_TRAINED = with_defaults(
    recipe.FIELDS, num_seeds=3, schedule="linear", schedule_values=(0.0, 1.0, 0.0)
)
del _TRAINED["objective"]  # both
STUDY = Study(
    "memorization.networks",
    {
        **_TRAINED,
        "eps": recipe.RADIUS,
        "kept_epochs": counts(
            (1,), "numbers of epochs after which networks are released", increasing=True
        ),
        "num_measured": count(
            1000, "training images that the last networks are measured on"
        ),
        "measured_steps": count(
            20, "steps of the attack that measures the last networks"
        ),
    },
    _report,
    variants=(
        {"mnist": _MNIST, "cifar10": _CIFAR10},
        {"new": {}, "classic": {"model": "lenet5_classic"}},
        {"short": {}, "long": _LONG},
        {"cpu": _cpu, "paper": {"dtype": "bfloat16"}, "smoke": _smoke},
    ),
    needs=recipe.NEEDS,
    check=_check,
    trains=_trains,
    cases=_cases,
    measure=_accuracies,
    values=_values,
)
get_config = STUDY.config
