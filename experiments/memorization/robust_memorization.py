"""Robust memorization: flat inside the radius of training, sharp beyond. Figure 1.

Size: 200 training images, 3 seeds; the stored results of CIFAR-10 have 40. Time: 2 to 6
minutes on one core.

    advjax run memorization/robust_memorization --config.networks=runs/NETWORKS

where NETWORKS is a finished ``networks``.

Variants: ``paper``, 1000 training images; ``cpu``, the default, 200; ``smoke``, small,
for tests.

The mean over training images of the largest gradient norm and of the largest rise of
the loss in linf balls, against the radius, of networks trained adversarially and clean.
The paper's claim is that after adversarial training the loss is flat up to the radius
of training and sharp beyond. A single number for it: how much larger the gradient at
twice the radius is than at the radius, over the same ratio of clean training. It is
608 [198, 1870] for LeNet5 on MNIST.
"""

from collections.abc import Mapping
from typing import Any

import xarray as xr

from experiments import arrays, figures, findings, intervals
from experiments.memorization import networks, profiles
from experiments.memorization.networks import NETWORKS, TRAININGS
from experiments.study import Config, Setup, Study
from experiments.writing import Drawn, Report, Table

KINDS = {"gradient": "largest ‖∇ₓL‖₁", "rise": "largest rise of the loss"}
STEPS = {"1 over 0": (1.0, 0.0), "2 over 1": (2.0, 1.0)}
"""Radii whose gradients are compared."""


def _cases(setup: Setup) -> dict[str, tuple]:
    config, run = setup.config, setup.inputs["networks"]
    images = run.images("train", config.num_images, config.subset_seed)
    profile = profiles.measurer(config, run)
    return {part: (profile, images, part, "last") for part in TRAININGS}


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Curves over ``training``, ``seed`` and ``radius``, and ratios of gradients."""
    config, run = setup.config, setup.inputs["networks"]
    measured = arrays.stacked(found, "training")
    rise = measured["loss"] - measured["loss"].sel(radius=0, drop=True)
    values = measured[["gradient"]].assign(rise=rise)
    num_images = config.num_images or run.images("train").y.size
    return values.assign(ratios(values["gradient"])).assign_attrs(
        num_images=num_images, **networks.facts(run)
    )


def ratios(gradient: xr.DataArray) -> dict[str, xr.DataArray]:
    """Geometric means over seeds of ratios of gradients, with their intervals.

    Returns:
        ``growth`` from radius to radius, over ``training`` and ``step``, and
        ``growth_over_clean``, that from 1 to 2 radii over the same of clean training.
    """
    at = {float(r): gradient.sel(radius=r, drop=True) for r in gradient["radius"]}
    growth = {
        step: intervals.along("seed", intervals.geometric, at[b], at[a])
        for step, (b, a) in STEPS.items()
        if {a, b} <= {*at}
    }
    found = {"growth": arrays.stacked(growth, "step")}
    if "2 over 1" in growth:
        own = at[2.0] / at[1.0]
        pair = [own.sel(training=part, drop=True) for part in TRAININGS]
        found["growth_over_clean"] = intervals.along("seed", intervals.geometric, *pair)
    return found


# --- the report ---


def _report(config: Config, values: xr.Dataset) -> Report:
    box = "images" if config.bounded else "points, also outside the cube of images"
    facts = values.attrs
    return Report(
        f"Flatness around training images: {facts['setting']}",
        "Is the loss flat up to the radius of training, and sharp beyond?",
        [*_claims(values), *_levels(values)],
        [Drawn("flatness", _figure(values), "gradient and rise against the radius")],
        [_curves_table(values), _growth_table(values)],
        f"Means over {facts['num_images']} training images, mean ± sd over "
        f"{values.sizes['seed']} seeds; bands from the least to the largest seed, the "
        "dotted line is the radius of training. Lower bounds of maxima over "
        f"{box}. Radii are in units of that of training, and as they are; intervals "
        "are Student's of logarithms, over seeds. Claims are judged where robust "
        f"training accuracy is at least {networks.MEMORISED:g} %; here it is "
        f"{facts['memorised']:.1f} %. Networks: {facts['networks']}.",
    )


def _size(values: xr.Dataset) -> str:
    return f"{values.attrs['num_images']} images, {values.sizes['seed']} seeds"


def _claims(values: xr.Dataset) -> list[findings.Finding]:
    """Flat within the radius, and sharp beyond, each beside clean training."""
    level = values["gradient"].sel(radius=1)
    flat = intervals.geometric(*(level.sel(training=part).values for part in TRAININGS))
    claim = "largest gradient within the radius is below that of clean training; ratio"
    rows = [(claim, flat, findings.below)]
    if "growth_over_clean" in values:
        sharp = intervals.at(values["growth_over_clean"])
        claim = "from 1 to 2 radii it grows more than that of clean training; ratio"
        rows.append((claim, sharp, findings.above))
    return [
        findings.finding(
            claim,
            found,
            size=_size(values),
            verdict=networks.judged(decide(found, 1.0), values.attrs["memorised"]),
        )
        for claim, found, decide in rows
    ]


def _levels(values: xr.Dataset) -> list[findings.Finding]:
    return [
        findings.finding(
            f"largest gradient within the radius, {title}",
            values["gradient"].sel(training=part, radius=1),
            size=_size(values),
            form=".2g",
        )
        for part, title in TRAININGS.items()
    ]


def _curves_table(values: xr.Dataset) -> Table:
    rows = []
    for part, title in TRAININGS.items():
        for radius in values["radius"].values:
            at = values.sel(training=part, radius=radius)
            row = [title, f"{radius:g} ({radius * values.attrs['eps']:.4g})"]
            row += [figures.plus_minus(at[kind], 2, "g") for kind in KINDS]
            rows.append(row)
    header = ["", "radius", *KINDS.values()]
    return Table("Around training images", header, rows)


def _growth_table(values: xr.Dataset) -> Table:
    steps = values["step"].values
    rows = [
        [
            title,
            *(
                f"{intervals.at(values['growth'], training=part, step=step):.3g}"
                for step in steps
            ),
        ]
        for part, title in TRAININGS.items()
    ]
    header = ["", *(f"radius {step}" for step in steps)]
    return Table("Ratios of the largest gradient from radius to radius", header, rows)


def _figure(values: xr.Dataset) -> Any:
    figure, axes = figures.panels(2)
    eps = values.attrs["eps"]
    for axis, (kind, label) in zip(axes, KINDS.items(), strict=True):
        colors = figures.colors(len(TRAININGS))
        for (part, title), color in zip(TRAININGS.items(), colors, strict=True):
            profiles.curve(axis, values[kind].sel(training=part), eps, title, color)
        profiles.mark_training(axis, eps)
        axis.set(ylabel=f"{label}, mean", yscale="log")
    axes[1].set_yscale("symlog", linthresh=0.1)
    axes[0].legend(loc="lower right")
    return figure


STUDY = Study(
    "memorization.robust_memorization",
    profiles.FIELDS,
    _report,
    variants=profiles.VARIANTS,
    needs={"networks": NETWORKS},
    check=profiles.check,
    cases=_cases,
    measure=profiles.measured,
    values=_values,
)
get_config = STUDY.config
