"""Which examples adversarial training weighs most: Figures 3 and 4.

For test images and an ascent of a few steps on the network as it is: the size of Δg_W,
and of its effect on ‖∇_x z‖²/2, of the first layer, against H̄_z, H̄_z‖g̃_x‖² and Â
(Figure 3); and the cosine of Δg_W with its mean over all images, by tenths of Â, of the
first layer and of all parameters (Figure 4). An image is in that mean itself, so that
the cosine rises with ‖Δg_W‖ even among random directions; the cosine with the mean of
the other images does not.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import influence, losses
from experiments import checks, figures, intervals, progress
from experiments.difficulty import networks
from experiments.difficulty.networks import Family
from experiments.workdir import Workdir

CAUSES = {
    "curvature": "H̄_z",
    "product": "H̄_z‖g̃_x‖²",
    "running": "Â",
}
EFFECTS = {"additional": "|g̃_xᵀΔg̃_x|", "size": "‖Δg_W‖"}
WEIGHTS = {
    "first": "first layer",
    "first_others": "first layer, others",
    "all": "all parameters",
    "all_others": "all parameters, others",
}


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.single(config, "horizon", "num_steps", "num_groups", "batch_size")
    checks.numbers(config, "horizon", above=0)
    checks.integers(config, "num_steps", "num_groups", "batch_size")
    networks.read_binary(config)


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Measures every network, and reports."""
    family = networks.read(config)
    found = networks.measured(config, family, workdir, _measured)
    _scatter(found, workdir)
    groups = {name: _groups(config, values) for name, values in found.items()}
    _dominance(config, groups, workdir)
    return _report(config, family, found, groups, workdir)


# --- measurement ---


def _measured(config: ConfigDict, family: Family, name: str) -> dict[str, np.ndarray]:
    """Of every image, ``[seed, n]``."""
    batch = family.images(config)
    x, y = batch.x, networks.signs(batch.y).astype(np.float32)
    model = family.model(name)
    per_seed = [
        _of_network(config, model, network, x, y, f"{name}, seed {i}")
        for i, network in enumerate(family.networks(name))
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *per_seed)


def _of_network(config: ConfigDict, model, network, x, y, label: str) -> dict:
    measure = influence.influence(num_steps=config.num_steps, unroll=config.num_steps)

    def strength(x, y):
        z = partial(networks.logit, model, network)
        return measure(z, partial(losses.logistic, y=y), x, config.horizon)

    each = networks.in_batches(jax.vmap(strength), config.batch_size, x, y)
    rows = (x, y, each.delta)
    z = networks.first_layer_logit(model, *network)
    w = networks.first_layer(network[0])

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
        "logit": jax.device_get(_logits(config, model, network, x)) * y,
        "curvature": each.logit_hessian,
        "product": each.logit_hessian * each.square,
        "strength": each.strength,
        "running": each.running,
        "additional": np.abs(np.array(additional)),
        "size": np.linalg.norm(first, axis=1),
        **_cosines("first", lambda: iter(first), len(x)),
        **_cosines(
            "all", partial(_all_differences, model, network, rows, label), len(x)
        ),
    }


def _logits(config: ConfigDict, model, network, x) -> np.ndarray:
    over_images = jax.vmap(partial(networks.logit, model, network))
    return networks.in_batches(over_images, config.batch_size, x)


def _all_differences(model, network, rows, label: str):
    """Δg of all parameters, image after image: together they would fill the memory."""
    params, stats = network

    @jax.jit
    def difference(params, x, y, delta):
        def gradient(x):
            return jax.grad(
                lambda p: losses.logistic(networks.logit(model, (p, stats), x), y)
            )(params)

        return jax.tree.map(jnp.subtract, gradient(x + delta), gradient(x))

    images = list(zip(*rows, strict=True))
    for i in progress.steps(len(images), label):
        yield _flat(jax.device_get(difference(params, *images[i])))


def _flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _cosines(name: str, vectors: Callable, number: int) -> dict[str, np.ndarray]:
    """Cosines of each vector with the mean of all, and of the others.

    The vectors are made twice. Their sum is in double precision.
    """
    total = sum(vector.astype(float) for vector in vectors())
    pairs = [(_cos(v, total), _cos(v, total - v)) for v in vectors()]
    own, others = np.array(pairs).reshape(number, 2).T
    return {name: own, f"{name}_others": others}


def _cos(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-300))


# --- report ---


def _correlations(found: dict[str, np.ndarray], cause: str, effect: str):
    """Spearman's of the images, seed by seed; the first seed's interval is shown."""
    return [
        intervals.spearman(a, b)
        for a, b in zip(found[cause], found[effect], strict=True)
    ]


def _groups(config: ConfigDict, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mean cosines by tenths of Â, and their standard errors, ``[group]``."""
    groups = {}
    for weights in WEIGHTS:
        values = [[] for _ in range(config.num_groups)]
        for running, cosines in zip(found["running"], found[weights], strict=True):
            order = np.argsort(running)
            for group, rows in enumerate(np.array_split(order, config.num_groups)):
                values[group].extend(cosines[rows])
        groups[weights] = np.array([np.mean(group) for group in values])
        groups[f"{weights} error"] = np.array(
            [np.std(group, ddof=1) / len(group) ** 0.5 for group in values]
        )
    return groups


def _scatter(found: dict[str, dict], workdir: Workdir) -> None:
    figure, axes = figures.panels(len(CAUSES), 2 * len(found))
    figure.set_size_inches(3.4 * len(CAUSES), 2.6 * 2 * len(found))
    panels = ((name, effect) for name in found for effect in EFFECTS)
    for i, (name, effect) in enumerate(panels):
        for j, (cause, label) in enumerate(CAUSES.items()):
            axis = axes[i * len(CAUSES) + j]
            x, y = found[name][cause][0], found[name][effect][0]
            shown = (x > 0) & (y > 0)
            axis.scatter(x[shown], y[shown], s=5, alpha=0.5, color=figures.PALETTE[0])
            correlation = _correlations(found[name], cause, effect)[0].mean
            axis.set(xscale="log", yscale="log", xlabel=label)
            axis.set_title(f"{name}: ρ = {correlation:.2f}", fontsize=9)
            if not j:
                axis.set_ylabel(EFFECTS[effect])
    workdir.save_figure(figure, "influence")


def _dominance(config: ConfigDict, groups: dict, workdir: Workdir) -> None:
    figure, axes = figures.panels(len(groups))
    x = 1 + np.arange(config.num_groups)
    for axis, (name, each) in zip(axes, groups.items(), strict=True):
        colors = figures.colors(len(WEIGHTS))
        for (weights, label), color in zip(WEIGHTS.items(), colors, strict=True):
            error = 1.96 * each[f"{weights} error"]
            style = {"marker": "o", "markersize": 4, "capsize": 2, "color": color}
            axis.errorbar(x, each[weights], error, label=label, **style)
        axis.axhline(0, color="0.6", linewidth=0.8)
        axis.set(xlabel="group of Â", ylabel="cos(Δg_W, mean Δg_W)", title=name)
    axes[0].legend()
    workdir.save_figure(figure, "dominance")


def _report(
    config: ConfigDict, family: Family, found: dict, groups: dict, workdir: Workdir
) -> dict[str, Any]:
    correlations = {
        name: {
            effect: {cause: _correlations(values, cause, effect) for cause in CAUSES}
            for effect in EFFECTS
        }
        for name, values in found.items()
    }
    rows = [
        [name, shown, *(f"{each[effect][cause][0]:.2f}" for cause in CAUSES)]
        for name, each in correlations.items()
        for effect, shown in EFFECTS.items()
    ]
    trends = {
        name: {
            weights: [
                intervals.spearman(a, b)
                for a, b in zip(values["running"], values[weights], strict=True)
            ]
            for weights in WEIGHTS
        }
        for name, values in found.items()
    }
    group_rows = [
        [
            *(name, shown, f"{trends[name][weights][0]:.2f}"),
            *(f"{value:.2f}" for value in each[weights]),
        ]
        for name, each in groups.items()
        for weights, shown in WEIGHTS.items()
    ]
    sizes = [
        [
            name,
            *(
                "{:.3g} ({:.3g} to {:.3g})".format(
                    *np.quantile(values[field], [0.5, 0.1, 0.9])
                )
                for field in ("delta", "strength", "running", "curvature")
            ),
            f"{100 * np.mean(values['logit'] > 0):.0f} %",
        ]
        for name, values in found.items()
    ]
    number = next(iter(found.values()))["running"].shape[-1]
    deciles = [str(1 + i) for i in range(config.num_groups)]
    workdir.write_text(
        "report.md",
        f"## Influence of examples: {family.setting}\n\n{number} test images, ascent "
        f"of strength β = {config.horizon:g} in {config.num_steps} steps with free "
        "gates. W is the first layer where it is not said otherwise. Intervals are "
        "over images, of one trained network: correlations of the first seed.\n\n"
        + figures.table(["network", "‖δ‖", "A", "Â", "H̄_z", "correct"], sizes)
        + "\nMedians, in brackets the first and last tenth.\n\n### Figure 3\n\n"
        "![influence](influence.png)\n\nSpearman's correlation over images, in "
        "brackets 95 % intervals.\n\n"
        + figures.table(["network", "effect", *CAUSES.values()], rows)
        + "\n### Figure 4\n\n![dominance](dominance.png)\n\nMean cosine of Δg_W with "
        "its mean over all images, by groups of Â from small to large; others: with "
        "the mean of the other images, without the part that is there among random "
        "directions; ρ: Spearman's correlation of the two over images, with 95 % "
        "intervals.\n\n"
        + figures.table(["network", "parameters", "ρ", *deciles], group_rows)
        + f"\nNetworks: {family.origin}.\n",
    )
    return {
        "summary": _summary(correlations, groups, trends),
        "correlations": correlations,
        "trends": trends,
        "groups": groups,
    }


def _summary(correlations: dict, groups: dict, trends: dict) -> list[str]:
    lines = []
    for name, each in correlations.items():
        shown = "; ".join(
            f"{effect} " + ", ".join(f"{each[effect][c][0].mean:.2f}" for c in CAUSES)
            for effect in EFFECTS
        )
        first, last = groups[name]["first"][[0, -1]]
        every = groups[name]["all"][[0, -1]]
        others = [
            trends[name][weights][0] for weights in ("first_others", "all_others")
        ]
        lines.append(
            f"influence, {name}, Spearman with {', '.join(CAUSES)}: {shown}; cosine "
            f"from the first to the last group {first:.2f} to {last:.2f} (first layer, "
            f"rho {trends[name]['first'][0]:.2f}), {every[0]:.2f} to {every[1]:.2f} "
            f"(all, rho {trends[name]['all'][0]:.2f}); with the mean of the others rho "
            f"{others[0]:.2f} and {others[1]:.2f}"
        )
    return lines
