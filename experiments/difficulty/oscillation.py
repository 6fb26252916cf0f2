"""Instability of weight gradients through training: Figure 5.

Size: 1000 images of MNIST, 4 epochs, 3 seeds; hidden layers of 512. Time: 25 minutes.

    advjax run difficulty/oscillation

Variants: ``cpu``, the default, AlexNet and VGG-11 with two hidden layers of 512 units
instead of 4096 on 1000 images of MNIST; ``paper``, their full widths and all images;
``smoke``, seconds long, for tests.

For each layer, ‖∇_{W_j} L(W_j + ΔW_j) - ∇_{W_j} L(W_j)‖/(D‖ΔW_j‖) of one image's loss,
at the clean image (ori) and at the image attacked as in training (adv), each with its
own step ΔW_j against its own gradient. Measured at the end of every epoch of clean and
of adversarial training.

On VGG-11 gradients at attacked images are 1.8 (clean training) and 1.3 times
(adversarial training) as unstable.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import xarray as xr
from ml_collections import ConfigDict

from advjax import data, influence, losses
from advjax.types import Batch, Params
from experiments import arrays, figures, findings, intervals, usage
from experiments.difficulty import networks
from experiments.fields import count, number
from experiments.study import Config, Setup, Study
from experiments.training import recipe
from experiments.training.parts import Training, Watch
from experiments.writing import Drawn, Report, Table

KINDS = {"ori": "clean images", "adv": "attacked images"}
TRAININGS = {"standard": "clean training", "adversarial": "adversarial training"}
ACCURACIES = ("test_accuracy", "test_robust_accuracy")


# --- training and measurement ---


def parts(config: Config | ConfigDict) -> dict[str, ConfigDict]:
    """The configuration of each training, as ``alexnet-standard``."""
    return {
        f"{model}-{training}": recipe.changed(config, model=model, objective=training)
        for model in config.models
        for training in TRAININGS
    }


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    del inputs
    for each in parts(config).values():
        recipe.check(each)


def _trains(config: Config, inputs: Mapping[str, Any]) -> dict[str, Training]:
    """Both trainings of each network, which follow every layer."""
    del inputs
    each = parts(config)
    trainings = recipe.trainings(each)
    images = recipe.watched(config, next(iter(trainings.values())).test)
    followed = partial(watch, images=images, layer_step=config.layer_step)
    return {
        name: training.replaced(watches=(*training.watches, followed(each[name])))
        for name, training in trainings.items()
    }


def watch(config: ConfigDict, images: Batch, *, layer_step: float) -> Watch:
    """Follows the mean over images of each layer's instability, as ``ori/LAYER``."""
    one = jax.jit(_measure(config, layer_step))

    def measure(network, key, eps):
        # One image after the other: gradients of their own fill the memory.
        rows = [
            jax.device_get(
                one(network, jax.random.fold_in(key, i), eps, x[None], y[None])
            )
            for i, (x, y) in enumerate(zip(*images, strict=True))
        ]
        return {name: np.stack([row[name] for row in rows]).mean() for name in rows[0]}

    return Watch(_names(config, one, images), measure)


def _measure(config: ConfigDict, layer_step: float) -> Callable:
    """``(network, key, eps, x[1, ...], y[1]) -> {"ori/LAYER": [], "adv/…": []}``."""
    model, attack = recipe.network(config), recipe.test_attack(config)

    def measure(network: tuple[Params, Params], key, eps, x, y):
        params, stats = network
        x = data.as_float(x)

        def loss_fn(params, x, y):
            logits = model.predict(params, stats, x)
            return losses.cross_entropy(logits, y)

        x_adv, _ = attack(key, lambda x, y: loss_fn(params, x, y), x, y, eps)
        found = {}
        for kind, at in zip(KINDS, (x, x_adv), strict=True):
            layers = influence.instability(
                params,
                lambda params, at=at: loss_fn(params, at, y)[0],
                rel_step_size=layer_step,
            )
            found |= {f"{kind}/{layer}": value for layer, value in layers.items()}
        return found

    return measure


def _names(config: ConfigDict, one: Callable, images: Batch) -> tuple[str, ...]:
    """What ``one`` measures, computed for shapes alone; layers in their order."""
    x, y = images.x[:1], images.y[:1]
    init = partial(recipe.network(config).init, x=np.zeros(x.shape, np.float32))
    key = jax.random.key(0)
    network = jax.eval_shape(init, key)
    found = jax.eval_shape(one, network, key, np.float32(0), x, y)
    return tuple(sorted(found, key=_place))


def _place(name: str) -> tuple[bool, str]:
    """Convolutions come first."""
    return "Conv" not in name, name


# --- values ---


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Instability over ``layer``, which is nan of layers that a network lacks."""
    del found
    trained = {
        name: curves.isel(eps=0, drop=True) for name, curves in setup.trained.items()
    }
    parts = {
        model: arrays.stacked(
            {name: _collected(trained[f"{model}-{name}"]) for name in TRAININGS},
            "training",
        )
        for model in setup.config.models
    }
    values = arrays.stacked(parts, "network", is_ragged=True)
    return values.sel(layer=sorted(values["layer"].values, key=_place))


def _collected(curves: xr.Dataset) -> xr.Dataset:
    """Of one training of one network."""
    watched = [str(name) for name in curves if str(name).split("/")[0] in KINDS]
    layers = list(dict.fromkeys(name.split("/", 1)[1] for name in watched))
    by_kind = {
        kind: arrays.stacked(
            {each: curves[f"{kind}/{each}"] for each in layers}, "layer"
        )
        for kind in KINDS
    }
    last = 100 * curves[[*ACCURACIES]].isel(epoch=-1, drop=True)
    return xr.Dataset(
        {
            "instability": arrays.stacked(by_kind, "kind"),
            "accuracy_percent": last.to_array("measured"),
        }
    )


# --- report ---


def _networks(values: xr.Dataset) -> Iterable[tuple[str, str, xr.DataArray]]:
    """Instability of each training of each network, over its own layers."""
    for name in values["network"].values:
        there = values["instability"].sel(network=name).dropna("layer", how="all")
        for training in TRAININGS:
            yield str(name), training, there.sel(training=training)


def mean_over(instability: xr.DataArray, *axes: str) -> xr.DataArray:
    """Geometric means, as layers and epochs differ by orders of magnitude.

    nan where a layer has no gradient at any image, so that it shows.
    """
    logs = np.log(instability.where(instability > 0))
    return np.exp(logs.mean(axes, skipna=False))


def ratios(instability: xr.DataArray) -> xr.DataArray:
    """Of attacked over clean images: geometric means over seeds, with intervals."""
    adv, ori = (instability.sel(kind=kind, drop=True) for kind in ("adv", "ori"))
    return intervals.along("seed", intervals.geometric, adv, ori)


def _report(config: Config, values: xr.Dataset) -> Report:
    radius = f"ε = {usage.written(config.eps[0])} ({config.norm})"
    return Report(
        f"Instability of weight gradients: {config.dataset}, {radius}",
        "Are weight gradients at attacked images less stable than those at clean ones?",
        [
            finding
            for place in _networks(values)
            for finding in _findings(config, *place)
        ],
        [
            Drawn("ratios", _ratios_figure(values), "instability ratios by layer"),
            Drawn("instability", _figure(values), "instability over epochs"),
        ],
        [
            _accuracies_table(values),
            *(_layers_table(*place) for place in _networks(values)),
        ],
        f"Means over {config.num_watched} test images, {config.num_epochs} epochs, "
        f"{config.num_seeds} seeds, PGD-{config.test_num_steps} at {radius}; steps of "
        f"{config.layer_step:g} ‖W_j‖. Ratios are of the instability at attacked to "
        "that at clean images: geometric means over seeds, with Student's 95 % "
        "intervals of the logarithms. In the figure of epochs lines are geometric "
        "means over seeds, and bands reach from the least to the largest.",
    )


def _findings(
    config: Config, name: str, training: str, instability: xr.DataArray
) -> list[findings.Finding]:
    size = f"{config.num_epochs} epochs, {config.num_seeds} seeds"
    where = f"{name}, {TRAININGS[training]}"
    whole = intervals.at(ratios(mean_over(instability, "layer", "epoch")))
    each = ratios(mean_over(instability, "epoch"))
    larger = int((each.sel(bound="low") > 1).sum())
    smaller = int((each.sel(bound="high") < 1).sum())
    number = each.sizes["layer"]
    # A layer below 1 by its own interval may be one of many by chance.
    verdict = findings.AGREES if larger == number else findings.UNDECIDED
    return [
        findings.finding(
            f"{where}: instability at attacked over clean images is above 1",
            whole,
            form=".2f",
            size=f"{number} layers, {size}",
            verdict=findings.above(whole, 1.0),
        ),
        findings.finding(
            f"{where}: it is above 1 in every layer",
            f"above in {larger}, below in {smaller} of {number}",
            interval="by 95 % intervals over seeds",
            size=size,
            verdict=verdict,
        ),
    ]


def _accuracies_table(values: xr.Dataset) -> Table:
    rows = []
    for name in values["network"].values:
        for training, label in TRAININGS.items():
            at = values["accuracy_percent"].sel(network=name, training=training)
            cells = (figures.plus_minus(at.sel(measured=m), 1) for m in ACCURACIES)
            rows.append([str(name), label, *cells])
    header = ["network", "training", "clean test", "attacked test"]
    return Table("Accuracies in %, mean ± sd over seeds", header, rows)


def _layers_table(name: str, training: str, instability: xr.DataArray) -> Table:
    last = instability.isel(epoch=-1, drop=True)
    at_last, at_all = ratios(last), ratios(mean_over(instability, "epoch"))
    means = last.mean("seed", skipna=False)
    rows = [
        [
            label,
            *(f"{float(means.sel(kind=k).isel(layer=i)):.2e}" for k in KINDS),
            *(f"{intervals.at(each.isel(layer=i)):.2f}" for each in (at_last, at_all)),
        ]
        for i, label in enumerate(_labels(instability))
    ]
    header = ["layer", *(f"{kind}, last epoch" for kind in KINDS.values())]
    header += ["ratio, last epoch", "ratio, all epochs"]
    return Table(f"{name}, {TRAININGS[training]}", header, rows)


def _labels(instability: xr.DataArray) -> list[str]:
    return [str(each).removesuffix("/kernel") for each in instability["layer"].values]


_STYLES = {
    "standard": ("o", figures.PALETTE[0], -0.1),
    "adversarial": ("s", figures.PALETTE[1], 0.1),
}
"""Markers, colours and shifts."""


def _ratios_figure(values: xr.Dataset) -> Any:
    """Intervals of each layer, a colour for each training."""
    names = values["network"].values
    figure, axes = figures.panels(names.size, sharey=True)
    panels = dict(zip(names, axes, strict=True))
    for name, training, instability in _networks(values):
        axis, (marker, color, shift) = panels[name], _STYLES[training]
        found = ratios(mean_over(instability, "epoch")).transpose("bound", "layer")
        mean, low, high = found.values
        x, style = np.arange(mean.size), {"fmt": marker, "color": color}
        style |= {"markersize": 5, "label": TRAININGS[training]}
        axis.errorbar(x + shift, mean, [mean - low, high - mean], **style)
        axis.set_xticks(x, _labels(instability), rotation=45, ha="right", fontsize=8)
        axis.set(yscale="log", title=name)
    for axis in axes:
        axis.axhline(1, color="0.4", linewidth=0.8)
        ticks = [0.25, 0.5, 1, 2, 4]
        axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
    axes[0].set_ylabel("instability, attacked over clean images")
    figures.legend_below(figure, axes[0])
    return figure


def _figure(values: xr.Dataset) -> Any:
    places = list(_networks(values))
    number = max(each.sizes["layer"] for _, _, each in places)
    figure, axes = figures.panels(number, len(places))
    figure.set_size_inches(1.9 * number + 0.8, 1.9 * len(places) + 0.6)
    for i, (name, training, instability) in enumerate(places):
        labels = _labels(instability)
        row = axes[i * number : (i + 1) * number]
        for axis in row[len(labels) :]:
            axis.set_axis_off()
        for j, label in enumerate(labels):
            _epochs(row[j], instability.isel(layer=j))
            row[j].set_title(label, fontsize=8)
        row[0].set_ylabel(f"{name}\n{TRAININGS[training]}", fontsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    figure.supxlabel("epoch", fontsize=9)
    return figure


def _epochs(axis, instability: xr.DataArray) -> None:
    epochs = 1 + instability["epoch"]
    for (kind, label), color in zip(KINDS.items(), figures.colors(2), strict=True):
        runs = instability.sel(kind=kind)
        axis.plot(epochs, mean_over(runs, "seed"), color=color, label=label)
        options = {"color": color, "alpha": 0.2, "linewidth": 0}
        ends = runs.min("seed", skipna=False), runs.max("seed", skipna=False)
        axis.fill_between(epochs, *ends, **options)
    axis.set_yscale("log")
    axis.minorticks_off()
    axis.tick_params(labelsize=7)
    axis.locator_params(axis="x", integer=True)


# --- variants ---


def _cpu(config: ConfigDict) -> None:
    config.hidden = (512, 512)
    config.num_train, config.num_test = 1000, 200
    config.batch_size = 25
    config.num_epochs, config.eps_warmup_epochs = 4, 2.0
    config.num_steps, config.rel_step_size = 3, 0.5
    config.test_num_steps, config.test_rel_step_size = 3, 0.5
    config.num_watched = 20


def _smoke(config: ConfigDict) -> None:
    config.dataset = "digits"
    config.models, config.hidden = ("mlp",), (16,)
    config.num_seeds = 2
    config.num_train, config.num_test = 100, 20
    config.batch_size = 50
    config.num_epochs = 2
    config.num_watched = 3
    config.num_steps = config.test_num_steps = 2


_TRAINED = networks.fields(
    ("alexnet", "vgg11"),
    dataset="mnist",
    # SGD at 0.01, our choice for small networks, does not move AlexNet from its start.
    optimiser="adam",
    learning_rate=5e-4,
    weight_decay=0.0,
    num_epochs=20,
    num_seeds=3,
)
STUDY = Study(
    "difficulty.oscillation",
    {
        **{name: field for name, field in _TRAINED.items() if name != "objective"},
        "num_watched": count(200, "test images that are followed through training"),
        "layer_step": number(
            1e-2, "step of a layer, over the norm of its weights", above=0
        ),
    },
    _report,
    variants=({"cpu": _cpu, "paper": {}, "smoke": _smoke},),
    needs=recipe.NEEDS,
    check=_check,
    trains=_trains,
    values=_values,
)
get_config = STUDY.config
