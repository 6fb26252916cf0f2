"""How far two attacks from different random starts end apart, over training: Figure 8.

Size: 5000 images of CIFAR-10, 20 epochs, 5 seeds, a small network. Time: 31 minutes.

    advjax run generalization/attack_difference
    advjax run generalization/attack_difference:paper

Variants: ``mnist``, the same network there, for ``cifar10``; one of ``cpu``, the
default, Wong et al.'s small network on 5000 images; ``paper``, WideResNet34-1 on all of
CIFAR-10; ``gpu``, a shorter one; and ``smoke``, on the digits, seconds long, for tests.
Any other network, data set and attack is a matter of fields: ``num_steps`` and
``rel_step_size`` are the attack of training, ``watched_steps`` the numbers of such
steps that are compared.

At the end of every epoch attacks of a few and of many steps are run twice on the same
test images. What two attacks differ by has two sources: the loss is no linear function
in the ball, and the steps were too few to forget the start. A linear function is
attacked as well, which has the second source alone.

After 20 epochs two attacks are 1.43 and 0.23 apart at eps = 3 and 0.5 by five steps, of
which linear functions explain 1.37 and 0.23; 0.085 and 0.003 by twenty.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from advjax import data, evaluate, losses
from advjax.types import Array, Batch, Key, LossFn
from experiments import arrays, checks, figures, findings, intervals
from experiments.fields import count, counts, numbers, with_defaults
from experiments.study import Config, Setup, Study
from experiments.training import recipe
from experiments.training.parts import Training, Watch
from experiments.writing import Drawn, Report, Table

MeanDifference = Callable[[Any, Key, Array], Array]
"""``(network, key, eps) -> []``."""


# --- measuring ---


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    del inputs
    recipe.check(config)
    if config.start == "none":
        raise checks.ConfigError(
            "config.start = 'none': there are no random starts that two attacks could "
            "differ by"
        )


def _trains(config: Config, inputs: Mapping[str, Any]) -> dict[str, Training]:
    del inputs
    training = recipe.training(config)
    images = recipe.watched(config, training.test)
    watches = tuple(watch(config, number, images) for number in config.watched_steps)
    return {"": training.replaced(watches=training.watches + watches)}


def _name(num_steps: int) -> str:
    return f"attack_difference_{num_steps}"


def watch(config: Config, num_steps: int, images: Batch) -> Watch:
    """The mean of ‖delta_1 - delta_2‖ over the images, in the norm of the ball.

    In evaluation mode, by attacks on cross-entropy.
    """
    model = recipe.network(config)

    def loss_fn(network, x, y):
        logits = model.predict(*network, x)
        return losses.cross_entropy(logits, y)

    mean, name = _mean_difference(config, num_steps, images, loss_fn), _name(num_steps)
    return Watch((name,), lambda network, key, eps: {name: mean(network, key, eps)})


def linear_reference(config: Config, num_steps: int, images: Batch) -> np.ndarray:
    """The same for linear functions of random directions, at each radius."""
    key_w, key = jax.random.split(jax.random.key(config.seed))
    directions = jax.random.normal(key_w, images.x.shape)

    def loss_fn(network, x, w):
        del network
        return jnp.sum(w * x, axis=tuple(range(1, x.ndim)))

    mean = _mean_difference(
        config, num_steps, images._replace(y=np.asarray(directions)), loss_fn
    )
    return np.array([mean(None, key, eps) for eps in np.float32(config.eps)])


def _mean_difference(
    config: Config,
    num_steps: int,
    images: Batch,
    loss_fn: Callable[[Any, Array, Array], Array],
) -> MeanDifference:
    """By the attack of training, with another number of steps and no surrogate."""
    start, norm = recipe.start(config), recipe.NORMS[config.norm]
    attack = recipe.pgd(config.norm, num_steps, config.rel_step_size, start)

    @jax.jit
    def one_batch(network, eps, key, x, y):
        of_network: LossFn = partial(loss_fn, network)
        x = data.as_float(x)
        return evaluate.attack_difference(key, of_network, attack, norm, x, y, eps)

    def mean(network: Any, key: Key, eps: Array) -> Array:
        differences = evaluate.in_batches(
            lambda *batch: one_batch(network, eps, *batch),
            key,
            images.x,
            images.y,
            batch_size=min(config.test_batch_size, config.num_watched),
        )
        return jnp.mean(differences)

    return mean


def _measured(setup: Setup) -> xr.Dataset:
    """Differences of attacks on linear functions, over numbers of steps and radii."""
    config = setup.config
    steps, test = config.watched_steps, recipe.read(config, "test")
    images = recipe.watched(config, test)
    linear = [linear_reference(config, number, images) for number in steps]
    return arrays.dataset(
        {"linear": (("num_steps", "eps"), linear)},
        {"num_steps": steps, "eps": config.eps},
    )


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Differences over epochs, radii and seeds, their contrasts, and other curves.

    Contrasts are of the outermost radii.
    """
    config, trained = setup.config, setup.trained[""]
    names = [_name(number) for number in config.watched_steps]
    steps = zip(config.watched_steps, names, strict=True)
    difference = {number: trained[name] for number, name in steps}
    difference = arrays.stacked(difference, "num_steps")
    others = trained.drop_vars(["best_epoch", *names]).astype(np.float32)
    return xr.merge(
        [
            others,
            found["all"],
            {"difference": difference},
            contrasts(difference, begin(config)),
        ],
        join="exact",
        combine_attrs="override",
    )


def contrasts(difference: xr.DataArray, first: int) -> xr.Dataset:
    """Intervals paired by seed, of what two attacks differ by.

    Args:
        difference: over ``epoch``, ``eps``, ``seed`` and further axes.
        first: the epoch from which growth is counted.

    Returns:
        growth: from that epoch to the last one.
        contrast: of the largest radius over the smallest, at the last epoch.
        relative_contrast: the same, over the radii.
    """
    student = partial(intervals.along, "seed", intervals.student)
    last = difference.isel(epoch=-1, drop=True)
    relative = last / last["eps"]
    growth = last - difference.isel(epoch=first, drop=True)
    return xr.Dataset(
        {
            "growth": student(growth),
            "contrast": student(_outermost(last)),
            "relative_contrast": student(_outermost(relative)),
        }
    )


def _outermost(values: xr.DataArray) -> xr.DataArray:
    return values.isel(eps=-1, drop=True) - values.isel(eps=0, drop=True)


def begin(config: Config) -> int:
    """The first epoch, from 0, that trains at the whole radius throughout."""
    return min(math.ceil(config.eps_warmup_epochs), config.num_epochs - 2)


# --- the report ---


def _report(config: Config, values: xr.Dataset) -> Report:
    return Report(
        f"Difference of two attacks: {_setting(config)}",
        "Do two attacks from different starts end farther apart as training goes on, "
        "at large radii more than at small ones?",
        [
            finding
            for number in values["num_steps"].values
            for finding in _findings(config, values.sel(num_steps=number))
        ],
        [Drawn("attack_difference", _figure(config, values), "difference over epochs")],
        [_differences_table(config, values), _accuracies_table(values)],
        f"Mean of ‖δ₁ − δ₂‖ over {config.num_watched} test images, by attacks with "
        f"steps of {config.rel_step_size:g} ε, over {config.num_epochs} epochs on "
        f"{values.attrs['num_train']} images by PGD-{config.num_steps}, in which the "
        f"radius rises for {config.eps_warmup_epochs:g}; growth is from epoch "
        f"{begin(config) + 1} on. Mean ± sd over {config.num_seeds} seeds, in brackets "
        "Student's 95 % intervals, paired by seed. Linear functions have one maximum in"
        " the ball: what their attacks differ by is what is left of the starts.",
    )


def _setting(config: Config) -> str:
    return f"{config.model} on {config.dataset}, {config.norm}"


def _findings(config: Config, values: xr.Dataset) -> list[findings.Finding]:
    """Of one number of steps; Figure 8 has a difference that rises at the large radius.

    At the large radius it is larger than at the small one, also when divided by the
    radius. These are claims about the course of training, which another network can
    test.
    """
    steps = f"{int(values['num_steps'])} steps"
    size = f"{_setting(config)}, {values.attrs['num_train']} images, "
    size += f"{config.num_seeds} seeds"
    small, large = (f"ε = {values['eps'].values[i]:.3g}" for i in (0, -1))
    at = values.isel(eps=-1)
    linear = f"{float(at['linear']):.3f}"
    growth, contrast, relative = (
        intervals.at(at[name]) for name in ("growth", "contrast", "relative_contrast")
    )
    options = {"size": size, "form": ".3f"}
    return [
        findings.finding(
            f"{steps}, {large}: difference at the last epoch; of linear functions "
            f"{linear}",
            at["difference"].isel(epoch=-1),
            **options,
        ),
        findings.finding(
            f"{steps}, {large}: the difference grows, since epoch {begin(config) + 1}",
            growth,
            printed="rises (curves)",
            verdict=findings.above(growth),
            **options,
        ),
        findings.finding(
            f"{steps}: the difference is larger at {large} than at {small}, by",
            contrast,
            printed="larger (curves)",
            verdict=findings.above(contrast),
            **options,
        ),
        findings.finding(
            f"{steps}: so is the difference over ε, by",
            relative,
            printed="larger (curves)",
            verdict=findings.above(relative),
            **options,
        ),
    ]


def _differences_table(config: Config, values: xr.Dataset) -> Table:
    epochs = [0, begin(config), config.num_epochs - 1]
    rows = []
    for number in values["num_steps"].values:
        for eps in values["eps"].values:
            at = values.sel(num_steps=number, eps=eps)
            difference = at["difference"]
            row = [
                f"{number}",
                f"{eps:.4g}",
                *(figures.plus_minus(difference.isel(epoch=i)) for i in epochs),
                f"{intervals.at(at['growth']):+.3f}",
                figures.plus_minus(difference.isel(epoch=-1) / eps),
                f"{float(at['linear']):.3f}",
            ]
            rows.append(row)
    header = ["steps", "ε", *(f"epoch {i + 1}" for i in epochs), "growth", "over ε"]
    return Table("Difference of two attacks", [*header, "linear functions"], rows)


_AT_END = {
    "test_accuracy": "test accuracy",
    "test_robust_accuracy": "robust accuracy",
    "zero_grad": "training examples with a zero gradient",
}


def _accuracies_table(values: xr.Dataset) -> Table:
    last = values.isel(epoch=-1)
    rows = figures.rows({name: last[name] for name in _AT_END}, digits=3)
    return Table("At the last epoch", ["ε", *_AT_END.values()], rows)


def _figure(config: Config, values: xr.Dataset) -> Any:
    """A row for every number of steps; on the right over the radius."""
    figure, axes = figures.panels(2, values.sizes["num_steps"])
    radii = values["eps"].values
    panels = [(k, unit) for k in values["num_steps"].values for unit in ("", " over ε")]
    by_epoch = values.assign_coords(epoch=1 + values["epoch"])
    for axis, (number, unit) in zip(axes, panels, strict=True):
        for eps, color in zip(radii, figures.colors(radii.size), strict=True):
            at = by_epoch.sel(num_steps=number, eps=eps)
            scale = eps if unit else 1
            curves = at["difference"] / scale
            figures.band(axis, curves, "epoch", f"ε = {eps:.3g}", color, marker="")
            level = float(at["linear"]) / scale
            axis.axhline(level, color=color, linestyle=":", linewidth=1)
        axis.set(xlabel="epoch", ylabel=f"‖δ₁ − δ₂‖{unit}")
        axis.set_title(f"{number} steps", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.locator_params(axis="x", integer=True)
        axis.legend()
    figure.suptitle(
        f"{_setting(config)}, {config.num_seeds} seeds: mean ± sd; dotted: linear "
        "functions",
        fontsize=10,
    )
    return figure


# --- the study ---

_PAPER = {
    "model": "wideresnet34",
    "width": 1,
    "activation": "relu_softplus",
    "num_epochs": 100,
    "schedule_knots": (0.75, 0.9),
    "test_num_steps": 20,
    "test_rel_step_size": 0.1,
}
"""The protocol of Figure 2 without surrogate."""
_CPU = {
    "model": "cnn_wong",
    "activation": "relu_softplus",  # ReLU alone dies at eps = 3
    "augment": False,
    "eps_warmup_epochs": 5.0,
    "num_seeds": 5,
    "num_train": 5000,
    "num_test": 1000,
    "num_watched": 500,
    "num_epochs": 20,
    "learning_rate": 0.05,
    "test_num_steps": 10,
    "test_rel_step_size": 0.2,
}
_SMOKE = {
    "dataset": "digits",
    "model": "mlp",
    "hidden": (16,),
    "num_seeds": 2,
    "num_epochs": 2,
    "num_train": 200,
    "num_watched": 30,
    "batch_size": 50,
    "watched_steps": (2, 4),
    "test_num_steps": 2,
}
STUDY = Study(
    "generalization.attack_difference",
    {
        **with_defaults(
            recipe.FIELDS, dataset="cifar10", norm="l2", num_steps=5, rel_step_size=0.4
        ),
        "eps": numbers(
            (0.5, 3.0),
            "radii, of pixels in [0, 1], increasing; networks are trained at each",
            above=0,
            length=2,
            increasing=True,
        ),
        "num_epochs": count(200, "epochs of training", least=2),
        "num_watched": count(1000, "test images that are followed through training"),
        # The paper's, whose steps together are two radii, and enough to forget the
        # start.
        "watched_steps": counts(
            (5, 20),
            "numbers of steps of the attacks to compare, increasing",
            increasing=True,
        ),
    },
    _report,
    variants=(
        {"cifar10": {}, "mnist": {"dataset": "mnist"}},
        {
            "cpu": _CPU,
            "paper": _PAPER,
            "gpu": {
                **_PAPER,
                "num_epochs": 20,
                "num_seeds": 3,
                "test_batch_size": 1000,
            },
            "smoke": _SMOKE,
        },
    ),
    needs=recipe.NEEDS,
    check=_check,
    trains=_trains,
    measure=_measured,
    values=_values,
)
get_config = STUDY.config
