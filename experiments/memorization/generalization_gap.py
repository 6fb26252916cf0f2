"""Flatness and the robust generalisation gap: Figure 3, Theorem 6.3, Proposition 6.4.

At the radius δ of training, through adversarial training: local flatness, the mean of
the largest gradient norm around training images, and global flatness, that around test
images; and what robust losses, and robust errors, on test images are above those on
training images. Theorem 6.3 bounds this gap by N^(-1/(d+2)) (global flatness +
constant), and its proof sets δ = N^(-1/(d+2)), which is far from the δ in use.
Proposition 6.4 says that an attack raises the test loss by Ω(δ E‖∇ₓL(x)‖₁).
"""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from advjax import evaluate
from advjax.types import Batch
from experiments import devices, figures, intervals
from experiments.memorization import networks, profiles
from experiments.memorization.networks import Networks
from experiments.training import recipe, testing
from experiments.workdir import Workdir

SPLITS = ("train", "test")
PANELS = {
    "gap in loss": "robust test loss − robust training loss",
    "gap in error": "robust test error − robust training error, %",
}


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    profiles.validate(config)
    networks.read(config)


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Measures the networks of all kept epochs, and reports."""
    family = networks.read(config)
    images = {
        split: family.images(split, config.num_images, config.subset_seed)
        for split in SPLITS
    }
    measure = _Measure(config, family, images)
    rows = [
        workdir.stage(f"epoch-{epoch}", measure, epoch)
        for epoch in family.config.kept_epochs
    ]
    found = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    numbers = _numbers(family, found, images)
    _figure(family, numbers, workdir)
    return _report(family, numbers, len(images["test"].y), workdir)


class _Measure:
    """What is measured at an epoch, by split and name, ``[seed]`` each."""

    def __init__(self, config: ConfigDict, family: Networks, images: dict[str, Batch]):
        self._config, self._family, self._images = config, family, images
        self._profile = profiles.measurer(config, family)
        attack = recipe.pgd(
            "linf", config.loss_steps, 2.5 / config.loss_steps, "in_ball"
        )
        model = recipe.network(family.config, dtype=np.float32)
        self._tests = {
            split: testing.tester(
                model, attack, part, devices.mesh(1), config.batch_size
            )
            for split, part in images.items()
        }

    def __call__(self, epoch: int) -> dict[str, dict[str, np.ndarray]]:
        trained = self._family.of("adversarial", epoch)
        return {split: self._of(split, trained) for split in SPLITS}

    def _of(self, split: str, trained: list) -> dict[str, np.ndarray]:
        profile = profiles.over_seeds(self._profile, trained, self._images[split])
        at = self._config.radii.index(1)
        key = jax.random.key(self._config.seed)
        outcomes = [
            evaluate.summary(self._tests[split](network, key, self._family.eps))
            for network in trained
        ]
        # The profile's ascent goes on from smaller balls: its losses are the larger.
        return {
            "flatness": profile["gradient"][:, at].mean(axis=-1),
            "gradient": profile["gradient"][:, 0].mean(axis=-1),
            "loss": profile["loss"][:, 0].mean(axis=-1),
            "robust loss": profile["loss"][:, at].mean(axis=-1),
            "error": np.array([1 - each.accuracy.value for each in outcomes]),
            "robust error": np.array(
                [1 - each.robust_accuracy.value for each in outcomes]
            ),
        }


def _numbers(family: Networks, found: dict, images) -> dict[str, np.ndarray]:
    """All ``[epoch, seed]``, but the factor of Theorem 6.3."""
    train, test = (found[split] for split in SPLITS)
    num_train = family.config.num_train or family.images("train").y.size
    num_inputs = images["train"].x[0].size
    first_order = family.eps * test["gradient"]
    return {
        "local flatness": train["flatness"],
        "global flatness": test["flatness"],
        "gap in loss": test["robust loss"] - train["robust loss"],
        "gap in error": 100 * (test["robust error"] - train["robust error"]),
        "clean gap in error": 100 * (test["error"] - train["error"]),
        "rise of the test loss": test["robust loss"] - test["loss"],
        "first order": first_order,
        "rise over first order": intervals.quotient(
            test["robust loss"] - test["loss"], first_order
        ),
        "factor": np.array(num_train ** (-1 / (num_inputs + 2))),
    }


def _figure(family: Networks, numbers: dict, workdir: Workdir) -> None:
    figure, axes = figures.panels(3)
    epochs = family.config.kept_epochs
    for name, color in zip(("local", "global"), figures.colors(2), strict=True):
        label = f"{name} ({'training' if name == 'local' else 'test'} images)"
        figures.band(axes[0], epochs, numbers[f"{name} flatness"], label, color)
    axes[0].set(xlabel="epoch", ylabel=f"largest ‖∇ₓL‖₁ within {family.eps:.3g}")
    axes[0].legend()
    shades = figures.shades(len(epochs))
    for axis, (name, label) in zip(axes[1:], PANELS.items(), strict=True):
        for i, epoch in enumerate(epochs):
            pair = (numbers["global flatness"][i], numbers[name][i])
            axis.scatter(*pair, color=shades[i], s=22, label=f"epoch {epoch}")
        axis.set(xlabel="global flatness", ylabel=label)
    axes[1].legend()
    workdir.save_figure(figure, "gap")


def _report(
    family: Networks, numbers: dict, num_images: int, workdir: Workdir
) -> dict[str, Any]:
    columns = [name for name, values in numbers.items() if values.ndim]
    epochs = family.config.kept_epochs
    rows = [
        [str(epoch), *(figures.plus_minus(numbers[name][i]) for name in columns)]
        for i, epoch in enumerate(epochs)
    ]
    flat = {name: numbers[f"{name} flatness"] for name in ("local", "global")}
    correlations = {
        (name, gap): intervals.spearman(flat[name].ravel(), numbers[gap].ravel())
        for name in flat
        for gap in PANELS
    }
    growth = {
        name: intervals.student(values[-1] - values[0]) for name, values in flat.items()
    }
    faster = intervals.student(
        (flat["global"][-1] - flat["global"][0])
        - (flat["local"][-1] - flat["local"][0])
    )
    said = ", ".join(f"{gap} {correlations['global', gap]:.2f}" for gap in PANELS)
    ratio = numbers["rise over first order"]
    ends = [figures.plus_minus(numbers[gap][-1]) for gap in PANELS]
    change = f"{growth['local']:.2f}, global by {growth['global']:.2f}"
    least, most = ratio.min(), ratio.max()
    said = {
        f"from epoch {epochs[0]} to {epochs[-1]}": f"local flatness grows by {change}, "
        f"more by {faster:.2f}",
        "rank correlation of the gap with global flatness": f"{said}; gap at the end "
        f"{ends[0]} in loss, {ends[1]} points in error",
        "rise of the test loss over δ E‖∇ₓL(x)‖₁ (Proposition 6.4)": f"{least:.2f} to "
        f"{most:.2f}; N^(-1/(d+2)) = {numbers['factor']:.4f} (Theorem 6.3) "
        f"where δ is {family.eps:.4f}",
    }
    lines = [f"{family.setting}, {what}: {numbers}" for what, numbers in said.items()]
    workdir.write_text(
        "report.md",
        f"## Flatness and the robust generalisation gap: {family.setting}\n\n"
        "![flatness by epoch, and gaps against global flatness](gap.png)\n\n"
        f"At the radius of training, by {num_images} training and as many test images; "
        f"mean ± sd over {family.config.num_seeds} seeds. Errors in points. First "
        "order: δ E‖∇ₓL(x)‖₁ on test images. Rank correlations are over all epochs and "
        "seeds, whose points are not independent; intervals of growth are Student's "
        "over seeds.\n\n"
        + figures.table(["epoch", *columns], rows)
        + "\n"
        + "\n".join(f"- {line}" for line in lines)
        + f"\n\nNetworks: {family.origin}.\n",
    )
    return {
        "summary": lines,
        "epochs": epochs,
        "numbers": numbers,
        "correlations": {" – ".join(pair): v for pair, v in correlations.items()},
    }
