"""The learning process: Figure 2.

The mean of the largest gradient norm in linf balls against the radius, one curve for
each of some epochs of adversarial training, on training and on test images. The paper's
claim is that the training curves fall inside the radius of training, and that the test
curves fall on MNIST and rise on CIFAR-10. Losses and errors are kept as well, for
``generalization_gap``.
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments import figures, intervals
from experiments.memorization import networks, profiles
from experiments.memorization.networks import Networks
from experiments.workdir import Workdir

SPLITS = ("train", "test")
_NAMES = {"train": "training", "test": "test"}


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    profiles.validate(config)
    networks.read(config)


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Measures the networks of all kept epochs, and reports."""
    family = networks.read(config)
    profile = profiles.measurer(config, family)
    curves, numbers = {}, {}
    for split in SPLITS:
        images = family.images(split, config.num_images, config.subset_seed)
        numbers[split] = len(images.y)
        rows = [
            workdir.stage(
                f"{split}-{epoch}",
                *(
                    profiles.over_seeds,
                    profile,
                    family.of("adversarial", epoch),
                    images,
                ),
            )
            for epoch in family.config.kept_epochs
        ]
        curves[split] = {
            name: np.stack([row[name] for row in rows]) for name in profiles.NAMES
        }
    _figure(config, family, curves, workdir)
    return _report(config, family, numbers, curves, workdir)


def _figure(config: ConfigDict, family: Networks, curves: dict, workdir: Workdir):
    figure, axes = figures.panels(2, sharey=True)
    radii, epochs = np.array(config.radii) * family.eps, family.config.kept_epochs
    for axis, split in zip(axes, SPLITS, strict=True):
        colors = figures.shades(len(epochs))
        for epoch, runs, color in zip(
            epochs, curves[split]["gradient"], colors, strict=True
        ):
            figures.span(axis, radii, runs.T, f"epoch {epoch}", color)
        axis.axvline(family.eps, color="0.3", linewidth=0.8, linestyle=":")
        axis.set(
            xlabel="radius ε (linf)", yscale="log", title=f"{_NAMES[split]} images"
        )
    axes[0].set_ylabel("largest ‖∇ₓL‖₁, mean")
    axes[0].legend()
    workdir.save_figure(figure, "learning")


def _report(
    config: ConfigDict,
    family: Networks,
    numbers: dict[str, int],
    curves: dict,
    workdir: Workdir,
) -> dict[str, Any]:
    epochs = family.config.kept_epochs
    rows, lines, changes = [], [], {}
    for split in SPLITS:
        changes[split] = {}
        for i, radius in enumerate(config.radii):
            values = curves[split]["gradient"][:, :, i]
            change = intervals.geometric(values[-1], values[0])
            changes[split][f"{radius:g}"] = change
            rows.append(
                [
                    *(split, f"{radius:g}"),
                    *(f"{each.mean():.3g}" for each in values),
                    f"{change:.3g}",
                ]
            )
        lines.append(
            f"{family.setting}, largest gradient on {_NAMES[split]} images: "
            f"epoch {epochs[-1]} over epoch {epochs[0]} {changes[split]['1']:.3g}"
        )
    header = ["images", "radius", *(f"epoch {epoch}" for epoch in epochs)]
    header += [f"epoch {epochs[-1]} over {epochs[0]}"]
    workdir.write_text(
        "report.md",
        f"## Flatness through adversarial training: {family.setting}\n\n"
        "![largest gradient against the radius by epoch](learning.png)\n\n"
        f"Largest ‖∇ₓL‖₁, means over {numbers['train']} training and {numbers['test']} "
        f"test images and {family.config.num_seeds} seeds; bands from the least to the "
        "largest seed. Radii are in units of that of training, the dotted line. Last "
        "column: geometric mean over seeds, in brackets Student's 95 % interval of the "
        "logarithms.\n\n"
        + figures.table(header, rows)
        + f"\nNetworks: {family.origin}.\n",
    )
    return {
        "summary": lines,
        "setting": family.setting,
        "eps": family.eps,
        "epochs": epochs,
        "num_images": numbers,
        "num_train": family.images("train").y.size,
        "num_inputs": family.images("test", 1).x.size,
        "curves": curves,
        "changes": changes,
    }
