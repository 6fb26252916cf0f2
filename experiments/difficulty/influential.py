"""Which examples adversarial training weighs most: Figures 3 and 4.

Size: 200 images of MNIST, odd against even. Time: 6 minutes, of 100 images of ResNet-50
three.

    advjax run difficulty/influential --config.networks=runs/NETWORKS

where the networks are those of ``difficulty/networks:adversarial,deep``; for the
repetition on CIFAR-10, of ``difficulty/networks:adversarial,deep,cifar10``.

Variants: ``cpu``, the default; ``paper``, 1000 images; ``smoke``, small, for tests.

For test images and an ascent of a few steps on the network as it is: the size of Δg_W,
and of its effect on ‖∇_x z‖²/2, of the first layer, against H̄_z, H̄_z‖g̃_x‖² and Â
(Figure 3); and the cosine of Δg_W with its mean over all images, by tenths of Â, of the
first layer and of all parameters (Figure 4). An image is in that mean itself, so that
the cosine rises with ‖Δg_W‖ even among random directions; the cosine with the mean of
the other images does not.

On MNIST rank correlations are between 0.8 and 0.98, and cosines rise with the group.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from advjax import influence, losses
from experiments import arrays, figures, findings, intervals, progress
from experiments.batches import in_batches
from experiments.difficulty import measuring
from experiments.fields import count, number, with_defaults
from experiments.study import Config, Setup, Study
from experiments.writing import Drawn, Report, Table

CAUSES = {
    "curvature": "H̄_z",
    "product": "H̄_z‖g̃_x‖²",
    "running": "Â",
}
# Bars would end the cells of a table.
EFFECTS = {
    "additional": "effect on the input gradient",
    "size": "added weight gradient ‖Δg_W‖",
}
WEIGHTS = {
    "first": "first layer",
    "first_others": "first layer, others",
    "all": "all parameters",
    "all_others": "all parameters, others",
}
SIZES = {"delta": "‖δ‖", "strength": "A", "running": "Â", "curvature": "H̄_z"}
QUANTILES = (0.5, 0.1, 0.9)


# --- measurement ---


def _measured(setup: Setup, name: str) -> xr.Dataset:
    """Causes, effects and cosines of every image."""
    config, batch = setup.config, measuring.images(setup)
    x, y = batch.x, measuring.signs(batch.y).astype(np.float32)
    model = measuring.model(setup, name)

    def measure(network):
        found = _of_network(config, model, network, x, y, name)
        return arrays.dataset({key: (("image",), each) for key, each in found.items()})

    return measuring.over_seeds(setup, name, measure)


def _of_network(config: Config, model, network, x, y, label: str) -> dict:
    measure = influence.influence(num_steps=config.num_steps)
    logit = partial(measuring.logit, model, network)

    def strength(x, y):
        return measure(logit, partial(losses.logistic, y=y), x, config.horizon)

    logits = in_batches(jax.jit(jax.vmap(logit)), config.batch_size, x)
    each = in_batches(jax.jit(jax.vmap(strength)), config.batch_size, x, y)
    rows = (x, y, each.delta)
    z = measuring.first_layer_logit(model, *network)
    w = measuring.first_layer(network[0])

    @jax.jit
    def on_first(x, y, delta):
        loss = partial(losses.logistic, y=y)
        found = influence.effect(w, z, loss, x, delta)
        return found.additional, found.difference

    effects = [jax.device_get(on_first(*row)) for row in zip(*rows, strict=True)]
    additional, differences = zip(*effects, strict=True)
    first = np.stack([_flat(difference) for difference in differences])
    return {
        "delta": np.linalg.norm(each.delta.reshape(len(x), -1), axis=1),
        "logit": logits * y,
        "curvature": each.logit_hessian,
        "product": each.logit_hessian * each.square,
        "strength": each.strength,
        "running": each.running,
        "additional": np.abs(np.array(additional)),
        "size": np.linalg.norm(first, axis=1),
        **cosines("first", lambda: iter(first)),
        **cosines("all", partial(_all_differences, model, network, rows, label)),
    }


def _all_differences(model, network, rows, label: str) -> Iterable[np.ndarray]:
    """Δg of all parameters, image after image: together they would fill the memory."""
    params, stats = network

    @jax.jit
    def difference(params, x, y, delta):
        def gradient(x):
            return jax.grad(
                lambda p: losses.logistic(measuring.logit(model, (p, stats), x), y)
            )(params)

        return jax.tree.map(jnp.subtract, gradient(x + delta), gradient(x))

    images = list(zip(*rows, strict=True))
    for i in progress.steps(len(images), label):
        yield _flat(jax.device_get(difference(params, *images[i])))


def _flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def cosines(
    name: str, vectors: Callable[[], Iterable[np.ndarray]]
) -> dict[str, np.ndarray]:
    """Cosines of each vector with the mean of all, and of the others.

    The vectors are made twice. Their sum is in double precision.
    """
    total = sum(vector.astype(float) for vector in vectors())
    pairs = [(_cos(v, total), _cos(v, total - v)) for v in vectors()]
    own, others = np.array(pairs).T
    return {name: own, f"{name}_others": others}


def _cos(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-300))


# --- values ---


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    parts = {name: _summary(setup.config, each) for name, each in found.items()}
    number = next(iter(found.values())).sizes["image"]
    values = arrays.stacked(parts, "network")
    return measuring.with_facts(setup, values, num_images=number)


def _summary(config: Config, found: xr.Dataset) -> xr.Dataset:
    """Of one network: rank correlations, cosines by group, sizes, and what is drawn."""
    causes = _along(found, CAUSES, "cause")
    effects = _along(found, EFFECTS, "effect")
    cosines = _along(found, WEIGHTS, "weights")
    rank = partial(intervals.along, "image", intervals.spearman)
    group, error = groups(config, found["running"], cosines)
    sizes = _along(found, SIZES, "quantity")
    quantile = sizes.quantile(QUANTILES, ("seed", "image"), skipna=False)
    return xr.Dataset(
        {
            "correlation": rank(causes, effects),
            "trend": rank(found["running"], cosines),
            "group_cosine": group,
            "group_error": error,
            "quantile": quantile.rename(quantile="share").transpose(),
            "share_correct": (found["logit"] > 0).mean(),
            "causes": causes.isel(seed=0, drop=True),
            "effects": effects.isel(seed=0, drop=True),
        }
    )


def _along(found: xr.Dataset, names: Iterable[str], axis: str) -> xr.DataArray:
    return arrays.stacked({name: found[name] for name in names}, axis)


def groups(
    config: Config, running: xr.DataArray, cosines: xr.DataArray
) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean cosines by groups of Â over all seeds, and their standard errors."""
    order = running.argsort(running.get_axis_num("image"))
    seeds = xr.DataArray(range(running.sizes["seed"]), dims="seed")
    ordered = cosines.isel(seed=seeds, image=order)
    means, errors = [], []
    places = np.arange(order.sizes["image"])
    for rows in np.array_split(places, config.num_groups):
        there = ordered.isel(image=rows).stack(case=("seed", "image"))
        sd = there.std("case", ddof=1, skipna=False)
        means.append(there.mean("case", skipna=False))
        errors.append(sd / there.sizes["case"] ** 0.5)
    return tuple(xr.concat(each, "group", join="exact") for each in (means, errors))


# --- report ---


def _report(config: Config, values: xr.Dataset) -> Report:
    facts, drawn = values.attrs, "causes" in values
    return Report(
        f"Influence of examples: {facts['setting']}",
        "Does adversarial training weigh those examples most that Â says, and do they "
        "drag the weights where the others do?",
        [f for name in values["network"].values for f in _findings(values, str(name))],
        [
            Drawn("correlations", _correlations_figure(values), "rank correlations"),
            Drawn(
                "influence",
                _influence_figure(values) if drawn else None,
                "effects on the weights over what is to cause them",
            ),
            Drawn("dominance", _dominance_figure(values), "cosines by groups of Â"),
        ],
        [_correlations_table(values), _groups_table(values), _sizes_table(values)],
        f"{facts['num_images']} test images, ascent of strength β = "
        f"{config.horizon:g} in {config.num_steps} steps with free gates. W is the "
        "first layer where it is not said otherwise, and the effect on the input "
        "gradient is that of Δg_W on ‖∇_x z‖²/2. Intervals of 95 % are over "
        "images, of one trained network: correlations of the first seed. Cosines are "
        "of Δg_W with its mean over all images; others: with the mean of the other "
        "images, without the part that is there among random directions.\n\n"
        f"Networks: {facts['networks']}.",
    )


def _findings(values: xr.Dataset, name: str) -> list[findings.Finding]:
    at = values.isel(seed=0, drop=True).sel(network=name)
    along = at["correlation"].sel(cause="running")
    rising = {label: along.sel(effect=effect) for effect, label in EFFECTS.items()}
    for weights in ("first", "all"):
        what = f"cosine of Δg_W with the mean of the others ({WEIGHTS[weights]})"
        rising[what] = at["trend"].sel(weights=f"{weights}_others")
    return [
        findings.finding(
            f"{name}: {what} rises with Â, rank correlation",
            found := intervals.at(bounds),
            # Over images alone: another network of the kind may differ.
            size=f"{values.attrs['num_images']} images of one network",
            form=".2f",
            verdict=findings.above(found),
        )
        for what, bounds in rising.items()
    ]


def _correlations_table(values: xr.Dataset) -> Table:
    every = values["correlation"].isel(seed=0)
    rows = []
    for name in values["network"].values:
        for effect, label in EFFECTS.items():
            at = every.sel(network=name, effect=effect)
            cells = (f"{intervals.at(at, cause=cause):.2f}" for cause in CAUSES)
            rows.append([name, label, *cells])
    header = ["network", "effect", *CAUSES.values()]
    return Table("Figure 3: Spearman's correlation over images", header, rows)


def _groups_table(values: xr.Dataset) -> Table:
    rows = []
    for name in values["network"].values:
        for weights, label in WEIGHTS.items():
            at = values.sel(network=name, weights=weights)
            trend = intervals.at(at["trend"].isel(seed=0))
            cosines = (f"{float(each):.2f}" for each in at["group_cosine"])
            rows.append([name, label, f"{trend:.2f}", *cosines])
    groups = [str(1 + i) for i in range(values.sizes["group"])]
    title = "Figure 4: mean cosine by groups of Â, and its Spearman's correlation ρ"
    return Table(title, ["network", "parameters", "ρ", *groups], rows)


def _sizes_table(values: xr.Dataset) -> Table:
    rows = []
    for name in values["network"].values:
        at = values.sel(network=name)
        row = [name]
        for quantity in SIZES:
            each = at["quantile"].sel(quantity=quantity)
            median, low, high = (float(each.sel(share=share)) for share in QUANTILES)
            row.append(f"{median:.3g} ({low:.3g} to {high:.3g})")
        rows.append([*row, f"{100 * float(at['share_correct']):.0f} %"])
    title = "Medians over images, with the first and the last tenth"
    return Table(title, ["network", *SIZES.values(), "correct"], rows)


# --- figures ---

_CAUSES = {
    "curvature": "mean curvature of the loss, H̄_z",
    "product": "curvature × squared input gradient, H̄_z‖g̃_x‖²",
    "running": "strength along the path, Â",
}
_EFFECTS = EFFECTS | {"additional": "effect on the input gradient |g̃_xᵀΔg̃_x|"}


def _correlations_figure(values: xr.Dataset) -> Any:
    """Intervals of each cause, by network and effect."""
    figure, (axis,) = figures.panels()
    names = values["network"].values
    places = [(name, effect) for name in names for effect in EFFECTS]
    y, rank = np.arange(len(places)), values["correlation"].isel(seed=0)
    for k, (cause, color) in enumerate(zip(CAUSES, figures.colors(3), strict=True)):
        found = [
            intervals.at(rank, network=name, effect=effect, cause=cause)
            for name, effect in places
        ]
        mean, low, high = np.array(found).T
        style = {"fmt": "os^"[k], "color": color, "markersize": 5}
        style |= {"label": _CAUSES[cause], "xerr": [mean - low, high - mean]}
        axis.errorbar(mean, y + 0.2 * (k - 1), **style)
    axis.set_yticks(y, [f"{name}\n{EFFECTS[effect]}" for name, effect in places])
    axis.invert_yaxis()
    axis.axvline(0, color="0.6", linewidth=0.8)
    axis.set_xlabel("rank correlation over images, ρ")
    axis.set_xlim(right=1.02)
    figure.set_size_inches(6.4, 1.2 + 0.6 * len(places))
    figure.legend(loc="outside upper left", fontsize=8)
    return figure


def _influence_figure(values: xr.Dataset) -> Any:
    """A point for each image, a colour for each network."""
    figure, axes = figures.panels(len(CAUSES), len(EFFECTS))
    names = values["network"].values
    panels = ((effect, cause) for effect in EFFECTS for cause in CAUSES)
    for axis, (effect, cause) in zip(axes, panels, strict=True):
        for name, color in zip(names, figures.colors(names.size), strict=True):
            at = values.sel(network=name, cause=cause, effect=effect)
            shown = ((at["causes"] > 0) & (at["effects"] > 0)).values
            x, y = (at[kind].values[shown] for kind in ("causes", "effects"))
            rank = intervals.at(at["correlation"].isel(seed=0)).mean
            options = {"s": 8, "alpha": 0.5, "color": color, "linewidth": 0}
            axis.scatter(x, y, **options, label=f"{name}: ρ = {rank:.2f}")
        axis.set(xscale="log", yscale="log", xlabel=_CAUSES[cause])
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, ncols=3)
        if cause == "curvature":
            axis.set_ylabel(_EFFECTS[effect])
    return figure


def _dominance_figure(values: xr.Dataset) -> Any:
    names = values["network"].values
    figure, axes = figures.panels(names.size, sharey=True)
    x = 1 + np.arange(values.sizes["group"])
    for axis, name in zip(axes, names, strict=True):
        for weights, label in WEIGHTS.items():
            at = values.sel(network=name, weights=weights)
            is_first, is_own = weights.startswith("first"), weights in ("first", "all")
            style = {
                "color": figures.PALETTE[0 if is_first else 1],
                "linestyle": "-" if is_own else ":",
                "marker": "o" if is_first else "s",
                "fillstyle": "full" if is_own else "none",
                "markersize": 4,
            }
            error = 1.96 * at["group_error"]
            axis.errorbar(x, at["group_cosine"], error, capsize=2, label=label, **style)
        axis.axhline(0, color="0.6", linewidth=0.8)
        axis.set(xlabel="group of Â, from small to large", title=name)
        axis.set_xticks(x)
    axes[0].set_ylabel("cosine of Δg_W with its mean")
    figures.legend_below(figure, axes[0])
    return figure


STUDY = Study(
    "difficulty.influential",
    {
        **with_defaults(measuring.FIELDS, num_images=200),
        "horizon": number(
            1, "strength β of the ascent, its steps times their size", above=0
        ),
        "num_steps": count(10, "steps of the ascent"),
        "num_groups": count(10, "groups of images by Â"),
        "batch_size": measuring.batch_size(10),
    },
    _report,
    variants=(
        {
            "cpu": {},
            "paper": {"num_images": 1000, "batch_size": 100},
            "smoke": {
                "num_images": 12,
                "num_steps": 3,
                "num_groups": 3,
                "batch_size": 6,
            },
        },
    ),
    needs={"networks": measuring.BINARY},
    cases=measuring.names,
    measure=_measured,
    values=_values,
)
get_config = STUDY.config
