"""Robust memorization: Figure 1.

The mean over training images of the largest gradient norm and of the largest rise of
the loss in linf balls, against the radius, of networks trained adversarially and clean.
The paper's claim is that after adversarial training the loss is flat up to the radius
of training and sharp beyond. A single number for it: how much larger the gradient at
twice the radius is than at the radius, beside the same ratio of clean training.
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments import figures, intervals
from experiments.memorization import networks, profiles
from experiments.memorization.networks import TRAININGS, Networks
from experiments.workdir import Workdir

KINDS = {"gradient": "largest ‖∇ₓL‖₁", "rise": "largest rise of the loss"}


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    profiles.validate(config)
    networks.read(config)


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Measures the last networks of both trainings, and reports."""
    family = networks.read(config)
    images = family.images("train", config.num_images, config.subset_seed)
    profile = profiles.measurer(config, family)
    curves = {}
    for training in TRAININGS:
        found = workdir.stage(
            training, profiles.over_seeds, profile, family.of(training), images
        )
        rise = found["loss"] - found["loss"][:, :1]
        curves[training] = {"gradient": found["gradient"], "rise": rise}
    _figure(config, family, curves, workdir)
    return _report(config, family, len(images.y), curves, workdir)


def _figure(config: ConfigDict, family: Networks, curves: dict, workdir: Workdir):
    figure, axes = figures.panels(2)
    for axis, (kind, label) in zip(axes, KINDS.items(), strict=True):
        for training, color in zip(TRAININGS, figures.colors(2), strict=True):
            radii = np.array(config.radii) * family.eps
            name = "clean" if training == "standard" else training
            figures.span(
                axis, radii, curves[training][kind].T, f"{name} training", color
            )
        axis.axvline(family.eps, color="0.3", linewidth=0.8, linestyle=":")
        axis.set(xlabel="radius ε (linf)", ylabel=f"{label}, mean", yscale="log")
    axes[1].set_yscale("symlog", linthresh=0.1)
    axes[0].legend()
    workdir.save_figure(figure, "flatness")


def _report(
    config: ConfigDict,
    family: Networks,
    num_images: int,
    curves: dict,
    workdir: Workdir,
) -> dict[str, Any]:
    at = {radius: i for i, radius in enumerate(config.radii)}
    rows, lines, ratios = [], [], {}
    for training in TRAININGS:
        gradient, rise = (curves[training][kind] for kind in KINDS)
        pairs = [(a, b) for a, b in ((0, 1), (1, 2)) if {a, b} <= {*at}]
        ratios[training] = {
            f"{b} over {a}": intervals.geometric(gradient[:, at[b]], gradient[:, at[a]])
            for a, b in pairs
        }
        for radius, i in at.items():
            rows.append(
                [
                    *(training, f"{radius:g} ({radius * family.eps:.4g})"),
                    *(figures.plus_minus(v[:, i], 2, "g") for v in (gradient, rise)),
                ]
            )
        said = "".join(
            f", {value:.3g} times ({name})" for name, value in ratios[training].items()
        )
        level = figures.plus_minus(gradient[:, at[1]], 2, "g")
        lines.append(
            f"{family.setting}, {training} training, largest gradient on training "
            f"images: {level} within the radius; from radius to radius{said}"
        )
    steps = [
        curves[training]["gradient"][:, at[2]] / curves[training]["gradient"][:, at[1]]
        for training in TRAININGS
        if 2 in at
    ]
    if steps:
        found = ratios["adversarial over clean"] = intervals.geometric(*steps)
        lines.append(
            f"{family.setting}: the ratio of gradients at 2 and 1 radii, adversarial "
            f"over clean training: {found:.3g}"
        )
    box = "images" if config.bounded else "points, also outside the cube of images"
    workdir.write_text(
        "report.md",
        f"## Flatness around training images: {family.setting}\n\n"
        "![largest gradient and rise against the radius](flatness.png)\n\n"
        f"Means over {num_images} training images, mean ± sd over "
        f"{family.config.num_seeds} seeds; bands from the least to the largest seed, "
        f"the dotted line is the radius of training. Lower bounds of maxima over {box}."
        " Radii are in units of that of training, and as they are; intervals are "
        "Student's of logarithms, over seeds.\n\n"
        + figures.table(["training", "radius", *KINDS.values()], rows)
        + "\n"
        + "\n".join(f"- {line}" for line in lines)
        + f"\n\nNetworks: {family.origin}.\n",
    )
    return {"summary": lines, "curves": curves, "ratios": ratios}
