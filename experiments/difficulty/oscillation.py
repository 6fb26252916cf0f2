"""Instability of weight gradients through training: Figure 5.

For each layer, ‖∇_{W_j} L(W_j + ΔW_j) - ∇_{W_j} L(W_j)‖/(D‖ΔW_j‖) of one image's loss,
at the clean image (ori) and at the image attacked as in training (adv), each with its
own step ΔW_j against its own gradient. Measured at the end of every epoch of clean and
of adversarial training.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from advjax import data, influence, losses
from advjax.types import Array, Batch, Key, Params
from experiments import checks, figures, intervals
from experiments.training import recipe
from experiments.training.classifier import Trained, train_networks
from experiments.workdir import Workdir

KINDS = ("ori", "adv")
TRAININGS = ("standard", "adversarial")


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.tuples(config, "models", "eps")
    checks.single(config, "num_watched", "layer_step")
    checks.integers(config, "num_watched")
    checks.numbers(config, "layer_step", above=0)
    checks.numbers(config, "eps", above=0)
    if len(config.eps) > 1:
        raise checks.ConfigError(f"config.eps = {config.eps!r}: give one radius")
    for model in config.models:
        for training in TRAININGS:
            recipe.validate(_part(config, model, training))


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Trains all networks both ways, and follows every layer."""
    images = _images(config)
    found, accuracies = {}, {}
    for model in config.models:
        for training in TRAININGS:
            part = _part(config, model, training)
            layers = _layers(part, images)
            watches = Watches(part, images, config.layer_step).by_name(layers)
            name = f"{model}-{training}"
            trained = train_networks(part, workdir, name, watches)
            found[name] = _collected(trained, layers)
            accuracies[name] = {
                metric: 100 * trained.curves[metric][-1].astype(float)
                for metric in ("test_accuracy", "test_robust_accuracy")
            }
    layers = {
        model: _layers(_part(config, model, "standard"), images)
        for model in config.models
    }
    _figure(config, found, layers, workdir)
    return _report(config, found, accuracies, layers, workdir)


def _part(config: ConfigDict, model: str, training: str) -> ConfigDict:
    part = ConfigDict(config.to_dict())
    part.model, part.objective = model, training
    return part


def _images(config: ConfigDict) -> Batch:
    test = recipe.read(config, "test")
    checks.integers(config, "num_watched", most=test.y.size)
    return data.subset(test, config.num_watched, seed=config.subset_seed)


def _layers(config: ConfigDict, images: Batch) -> list[str]:
    """Names of the layers, in the order of the network."""
    model = recipe.network(config)
    x = jax.ShapeDtypeStruct((1, *images.x.shape[1:]), np.float32)
    params, stats = jax.eval_shape(model.init, jax.random.key(0), x)

    def measured(params, stats):
        return influence.instability(
            params,
            lambda p: model.predict(p, stats, np.zeros(x.shape)).sum(),
        )

    names = [*jax.eval_shape(measured, params, stats)]
    return sorted(names, key=lambda name: ("Conv" not in name, name))


class Watches:
    """The instability of every layer of a network, computed once for all its names."""

    def __init__(self, config: ConfigDict, images: Batch, layer_step: float):
        """Compiles nothing yet."""
        self._images = images
        self._one = jax.jit(_measure(config, layer_step))
        self._network, self._values = None, {}

    def by_name(self, layers: list[str]) -> dict[str, Callable]:
        """What to follow: the mean over images of each kind and layer."""
        return {
            f"{kind}/{layer}": lambda network, key, eps, kind=kind, layer=layer: (
                self._of(network, key, eps)[kind][layer].mean()
            )
            for kind in KINDS
            for layer in layers
        }

    def _of(self, network, key: Key, eps: Array) -> dict[str, dict[str, np.ndarray]]:
        if network is not self._network:
            # One image after the other: gradients of their own fill the memory.
            rows = [
                jax.device_get(
                    self._one(
                        network, jax.random.fold_in(key, i), eps, x[None], y[None]
                    )
                )
                for i, (x, y) in enumerate(zip(*self._images, strict=True))
            ]
            self._values = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
            self._network = network
        return self._values


def _measure(config: ConfigDict, layer_step: float) -> Callable:
    model, attack = recipe.network(config), recipe.test_attack(config)

    def measure(network: tuple[Params, Params], key, eps, x, y):
        params, stats = network
        x = data.as_float(x)

        def loss_fn(params, x, y):
            logits = model.predict(params, stats, x)
            return losses.cross_entropy(logits, y)

        x_adv, _ = attack(key, lambda x, y: loss_fn(params, x, y), x, y, eps)
        return {
            kind: influence.instability(
                params,
                lambda params, at=at: loss_fn(params, at, y)[0],
                rel_step_size=layer_step,
            )
            for kind, at in zip(KINDS, (x, x_adv), strict=True)
        }

    return measure


def _collected(trained: Trained, layers: list[str]) -> dict[str, np.ndarray]:
    """``[layer, epoch, seed]`` of each kind."""
    return {
        kind: np.stack([trained.curves[f"{kind}/{layer}"] for layer in layers])
        for kind in KINDS
    }


def _figure(config: ConfigDict, found: dict, layers: dict, workdir: Workdir) -> None:
    number = max(map(len, layers.values()))
    figure, axes = figures.panels(number, len(found))
    figure.set_size_inches(1.9 * number, 1.9 * len(found))
    epochs = 1 + np.arange(config.num_epochs)
    for i, (name, kinds) in enumerate(found.items()):
        names = layers[name.rsplit("-", 1)[0]]
        for j, axis in enumerate(axes[i * number : (i + 1) * number]):
            if j >= len(names):
                axis.set_axis_off()
                continue
            for kind, color in zip(KINDS, figures.colors(2), strict=True):
                runs = kinds[kind][j]
                middle = np.exp(np.log(np.where(runs > 0, runs, np.nan)).mean(axis=-1))
                axis.plot(epochs, middle, color=color, label=kind)
                ends = (runs.min(axis=-1), runs.max(axis=-1))
                axis.fill_between(epochs, *ends, color=color, alpha=0.2, linewidth=0)
            axis.set_yscale("log")
            axis.minorticks_off()
            axis.set_title(names[j].removesuffix("/kernel"), fontsize=7)
            axis.tick_params(labelsize=6)
            axis.locator_params(axis="x", integer=True)
        axes[i * number].set_ylabel(name.replace("-", "\n"), fontsize=7)
    axes[0].legend(fontsize=6)
    figure.supxlabel("epoch", fontsize=8)
    workdir.save_figure(figure, "instability")


def _report(
    config: ConfigDict, found: dict, accuracies: dict, layers: dict, workdir: Workdir
) -> dict[str, Any]:
    sections, ratios = [], {}
    for name, kinds in found.items():
        names = layers[name.rsplit("-", 1)[0]]
        # Geometric means over seeds: layers and epochs differ by orders of magnitude.
        logs = _log_ratio(kinds)
        ratios[name] = logs
        rows = [
            [
                layer.removesuffix("/kernel"),
                *(f"{kinds[kind][j, -1].mean():.2e}" for kind in KINDS),
                _ratio(logs[j, -1]),
                _ratio(logs[j].mean(axis=0)),
            ]
            for j, layer in enumerate(names)
        ]
        header = ["layer", "ori, last epoch", "adv, last epoch"]
        header += ["adv/ori, last epoch", "adv/ori, all epochs"]
        clean, robust = (
            figures.plus_minus(values, 1) for values in accuracies[name].values()
        )
        sections.append(
            f"### {name}\n\nClean {clean} %, under attack {robust} %.\n\n"
            + figures.table(header, rows)
        )
    radius = f"eps = {config.eps[0]:g} ({config.norm})"
    workdir.write_text(
        "report.md",
        f"## Instability of weight gradients: {config.dataset}, {radius}\n\n"
        "![instability over epochs](instability.png)\n\n"
        "Lines are geometric means over seeds, bands reach from the least to the "
        f"largest. Means over {config.num_watched} test images, {config.num_epochs} "
        f"epochs, {config.num_seeds} seeds, PGD-{config.test_num_steps} at {radius}; "
        f"steps of {config.layer_step:g} ‖W_j‖. adv/ori: geometric mean over seeds, "
        "in brackets Student's 95 % interval of the logarithms.\n\n"
        + "\n".join(sections),
    )
    return {
        "summary": [_line(name, logs) for name, logs in ratios.items()],
        "layers": layers,
        "instability": found,
        "accuracies": accuracies,
    }


def _log_ratio(kinds: dict[str, np.ndarray]) -> np.ndarray:
    """Log adv/ori; nan where a layer has no gradient at any image, so that it shows."""
    both = (kinds["adv"] > 0) & (kinds["ori"] > 0)
    safe = {kind: np.where(both, values, 1.0) for kind, values in kinds.items()}
    return np.where(both, np.log(safe["adv"] / safe["ori"]), np.nan)


def _ratio(logs: np.ndarray) -> str:
    found = np.exp(np.array(intervals.student(logs)))
    return f"{intervals.Interval(*found):.2f}"


def _line(name: str, logs: np.ndarray) -> str:
    """``logs[layer, epoch, seed]``."""
    over_seeds = [intervals.student(layer.mean(axis=0)) for layer in logs]
    larger = sum(interval.low > 0 for interval in over_seeds)
    smaller = sum(interval.high < 0 for interval in over_seeds)
    whole = _ratio(logs.mean(axis=(0, 1)))
    return (
        f"instability adv/ori, {name}: {whole} over layers and epochs; above 1 in "
        f"{larger} and below 1 in {smaller} of {len(logs)} layers, by 95 % intervals "
        "over seeds"
    )
