"""Ways of adversarial training under AutoAttack, seed by seed.

Size: the digits, an MLP, 5 seeds; ``mnist``: 6000 images, Wong et al.'s network, 3
seeds, attacked on 200 test images. Time: 7 minutes on two cores; ``mnist`` an hour
beside other work.

    advjax run training/methods
    advjax run training/methods:mnist

PGD training, single steps from a random start (Wong et al. 2020), these with
GradAlign (Andriushchenko and Flammarion 2020), free training (Shafahi et al. 2019),
PGD with adversarial weight perturbation (Wu et al. 2020), and TRADES (Zhang et al.
2019). All make the same number of updates: free training, whose batches are trained
on eight times, has an eighth of the epochs. The last networks are attacked, which are
those that overfit.

Variants: ``digits``, ``mnist``; ``smoke``, seconds long, for tests.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import xarray as xr
from ml_collections import ConfigDict

from advjax import data
from advjax.attacks import ensembles
from experiments import arrays, checks, figures, findings, intervals, progress
from experiments.fields import count, some
from experiments.study import Config, Setup, Study
from experiments.training import recipe
from experiments.training.configs import digits, mnist
from experiments.training.parts import Training
from experiments.writing import Drawn, Report, Table

_ONE_STEP = {"num_steps": 1, "rel_step_size": 1.25, "start": "in_ball"}
METHODS: dict[str, dict[str, Any]] = {
    "PGD": {},
    "one step": _ONE_STEP,
    "GradAlign": {**_ONE_STEP, "alignment": 0.2},
    "free": {"objective": "free", "num_replays": 8},
    "AWP": {"weight_eps": 0.005},
    "TRADES": {"objective": "trades"},
}
"""What each method changes of PGD training."""
_FIRST = "PGD"


def _trained(config: Config, method: str) -> ConfigDict:
    """The configuration of a method's networks."""
    settings = mnist if config.dataset == "mnist" else digits
    own = {name: config[name] for name in FIELDS}
    made = recipe.changed(settings.get_config(), **own, **METHODS[method])
    if made.objective == "free":
        for name in ("num_epochs", "eps_warmup_epochs"):
            made[name] = type(made[name])(made[name] / made.num_replays)
    return made


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    del inputs
    if config.dataset not in ("digits", "mnist"):
        msg = f"config.dataset = {config.dataset!r}: choose digits or mnist"
        raise checks.ConfigError(msg)
    if config.num_epochs % METHODS["free"]["num_replays"]:
        msg = f"config.num_epochs = {config.num_epochs}: choose a multiple of 8"
        raise checks.ConfigError(msg)
    for method in METHODS:
        recipe.validate(_trained(config, method))


def _part(method: str) -> str:
    return method.lower().replace(" ", "-")


def _trains(config: Config, inputs: Mapping[str, Any]) -> dict[str, Training]:
    del inputs
    return {_part(name): recipe.training(_trained(config, name)) for name in METHODS}


def _cases(setup: Setup) -> dict[str, tuple[str, int]]:
    seeds = range(setup.config.num_seeds)
    return {f"{_part(m)}-{i}": (m, i) for m in METHODS for i in seeds}


def _measured(setup: Setup, method: str, i: int) -> xr.Dataset:
    """Accuracies of one network, after each component."""
    config = _trained(setup.config, method)
    test = recipe.read(config, "test")
    x, y = (each[: setup.config.num_attacked or None] for each in (test.x, test.y))
    model = recipe.network(config)
    network = setup.networks(_part(method))[i]
    components = ensembles.standard(
        recipe.NORMS[config.norm], num_classes=recipe.num_classes(config)
    )
    meter = progress.Meter(f"{method}, network {i}")
    found = ensembles.compiled(lambda x: model.predict(*network, x), components)(
        jax.random.key(config.seed),
        data.as_float(x),
        y,
        config.eps[0],
        watch=lambda at: meter.show(
            at.done, at.total, f"{at.num_robust} images robust"
        ),
    )
    return arrays.dataset(
        {
            "clean": ((), found.correct.mean()),
            "robust": ((), found.robust.mean()),
            "broken": (("component",), [row.num_broken for row in found.rows]),
            "caveats": ((), "; ".join(found.caveats())),
        },
        {"component": [row.name for row in found.rows]},
        num_images=len(y),
    )


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Accuracies by method and seed, and differences to PGD with their ends."""
    seeds = setup.trained[_part(_FIRST)]["seed"]
    by_method = {}
    for method in METHODS:
        part = _part(method)
        each = [found[f"{part}-{i}"] for i in range(len(seeds))]
        pgd = setup.trained[part]["test_robust_accuracy"].isel(epoch=-1, eps=0)
        by_method[method] = xr.concat(each, seeds).assign(pgd=pgd.drop_vars("epoch"))
    values = arrays.stacked(by_method, "training")
    difference = values["robust"] - values["robust"].sel(training=_FIRST)
    return values.assign(
        difference=intervals.along("seed", intervals.student, difference)
    )


def _report(config: Config, values: xr.Dataset) -> Report:
    others = [method for method in METHODS if method != _FIRST]
    return Report(
        f"Ways of adversarial training on {config.dataset}, under AutoAttack",
        "What do single steps, GradAlign, free training, weight perturbation and "
        "TRADES give beside PGD training, by an attack that can be believed?",
        [_absolute(config, values)]
        + [_difference(config, values.sel(training=method)) for method in others],
        [Drawn("methods", _figure(config, values), "robust accuracy by method")],
        [_table(config, values)],
        f"{_setting(config)}; {config.num_epochs} epochs, or an eighth of them where a "
        "batch is trained on eight times, so equal updates; mean ± sd over "
        f"{config.num_seeds} seeds, last networks; differences with Student's 95 % "
        f"intervals, paired by seed; {values.attrs['num_images']} test images under "
        "AutoAttack, all of them under PGD.",
        [
            f"{method}, network {i}: {line}"
            for method in METHODS
            for i, line in enumerate(values["caveats"].sel(training=method).values)
            if line
        ],
    )


def _setting(config: Config) -> str:
    return f"{config.dataset}, linf, ε = {config.eps[0]:g}"


def _size(config: Config, values: xr.Dataset) -> str:
    images = values.attrs["num_images"]
    return f"{config.dataset}, {images} images, {config.num_seeds} seeds"


def _absolute(config: Config, values: xr.Dataset) -> findings.Finding:
    return findings.finding(
        f"robust accuracy by PGD training, ε = {config.eps[0]:g}",
        100 * values["robust"].sel(training=_FIRST),
        size=_size(config, values),
        form=".1f",
        unit=" %",
    )


def _difference(config: Config, values: xr.Dataset) -> findings.Finding:
    method = values["training"].item()
    return findings.finding(
        f"robust accuracy by {method} less that by PGD training",
        intervals.at(100 * values["difference"]),
        size=_size(config, values),
        form="+.1f",
        unit=" points",
    )


def _gradients(config: Config, method: str) -> int:
    """Of an example, for one update."""
    made = _trained(config, method)
    number = recipe.num_update_gradients(made)
    return number // made.num_replays if made.objective == "free" else number


def _table(config: Config, values: xr.Dataset) -> Table:
    names = {"clean": "clean", "PGD-10": "pgd", "AutoAttack": "robust"}
    rows = [
        [
            method,
            str(_gradients(config, method)),
            *(
                figures.plus_minus(100 * values[name].sel(training=method), 1)
                for name in names.values()
            ),
            f"{100 * float(values['robust'].sel(training=method).min()):.1f}",
        ]
        for method in METHODS
    ]
    return Table(
        "Accuracies in %, and the least under AutoAttack of any seed",
        ["method", "gradients an update", *names, "least"],
        rows,
    )


def _figure(config: Config, values: xr.Dataset) -> Any:
    figure, (axis,) = figures.panels(1)
    place = np.arange(len(METHODS))
    for shift, (name, label, marker) in enumerate(
        (("clean", "clean", "o"), ("pgd", "PGD-10", "s"), ("robust", "AutoAttack", "x"))
    ):
        at = 100 * values[name].transpose("training", "seed").values
        axis.plot(
            np.repeat(place + 0.15 * (shift - 1), at.shape[1]),
            at.ravel(),
            marker,
            color=f"C{shift}",
            label=label,
            alpha=0.7,
        )
    axis.set_xticks(place, [*METHODS])
    axis.set(title=_setting(config), ylabel="accuracy (%)")
    figures.legend_below(figure, axis)
    return figure


_BASE = digits.get_config()
FIELDS = some(
    recipe.FIELDS,
    *("data_dir", "num_devices", "hosts", "seed"),
    **{
        name: _BASE[name]
        for name in (
            *("dataset", "model", "num_train", "num_test", "batch_size"),
            *("test_batch_size", "dispatch", "num_epochs", "test_num_steps"),
        )
    },
    num_seeds=5,
) | {"eps": dataclasses.replace(recipe.RADIUS, default=(0.1,))}
_MNIST = {
    "dataset": "mnist",
    "model": "cnn_wong",
    "num_train": 6000,
    "num_test": 200,
    "batch_size": 100,
    "test_batch_size": 200,
    "num_epochs": 24,
    "dispatch": "auto",
    "eps": (0.3,),
    "num_seeds": 3,
}
_SMALL = {
    "num_train": 64,
    "num_test": 16,
    "batch_size": 32,
    "test_batch_size": 16,
    "num_epochs": 8,
    "num_seeds": 2,
    "num_attacked": 4,
}
STUDY = Study(
    "training.methods",
    {
        **FIELDS,
        "num_attacked": count(
            0, "test images under AutoAttack; 0 for all of them", least=0
        ),
    },
    _report,
    variants=({"digits": {}, "mnist": _MNIST}, {"full": {}, "smoke": _SMALL}),
    check=_check,
    trains=_trains,
    cases=_cases,
    measure=_measured,
    values=_values,
)
get_config = STUDY.config
