"""The closed form of perturbations on trained networks: Table 1 and Figure 1.

Size: 1000 images of MNIST, 100 with free gates; ten networks. Time: 10 minutes.

    advjax run difficulty/closed_form --config.networks=runs/NETWORKS

where the networks are those of ``difficulty/networks:clean,table``.

Variants: ``noise``, with noise of 0.01 on pixels, off the kinks of gates; ``cpu``, the
default, with free gates on 100 images; ``paper``, on 1000; ``smoke``, small, for tests.

Three comparisons with the perturbation of infinitely many steps (Theorem 2). With the
gates of the ReLUs fixed, kappa = E‖delta* - delta‖/E‖delta*‖ at every strength and
number of steps, in double precision: what is left of it at many steps is that H_z
changes along the path. With free gates, the same, which the paper has in its appendix
J. And the angles to l2 and linf attacks of a few steps on the network itself (section
3.2).

Where an image is black, the gates of a convolution without biases are exactly on their
kink, and some open with the first step, however small it is: with free gates there is
no limit of small strength then. ``config.noise`` moves them off it.

At strength 0.001 kappa is between 7e-7 and 3e-5 with fixed gates, and grows as the
square of the strength.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from advjax.types import Batch
from experiments import arrays, figures, findings, intervals
from experiments.difficulty import measuring, perturbations, reports
from experiments.fields import count, counts, number, with_defaults
from experiments.study import Config, Setup, Study
from experiments.writing import Drawn, Report, Table

# --- measurement ---


def _measured(setup: Setup, name: str) -> xr.Dataset:
    config, model = setup.config, measuring.model(setup, name)
    batch = _noisy(config, measuring.images(setup))

    def measure(network):
        predict = partial(measuring.predict, model, network)
        return perturbations.measured(config, batch, predict)

    return measuring.over_seeds(setup, name, measure)


def _noisy(config: Config, batch: Batch) -> Batch:
    """Pixels with uniform noise in [0, config.noise] added."""
    bits = np.random.PCG64(config.subset_seed).random_raw(batch.x.size)
    noise = (bits >> 40).reshape(batch.x.shape) / 2.0**24
    return batch._replace(x=batch.x + np.float32(config.noise * noise))


# --- values ---


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """kappa, with intervals over images; angles; and what Figure 1 shows."""
    name, first = next(iter(found.items()))
    values = arrays.stacked({k: _summary(each) for k, each in found.items()}, "network")
    values = values.merge(perturbations.pictures(first.isel(seed=0)))
    return measuring.with_facts(
        setup,
        values,
        num_images=first.sizes["image"],
        num_free_images=first.sizes["free_image"],
        num_without_gradient=sum(map(_num_without_angle, found.values())),
        shown=name,
    )


ATTACKS = ("l2", "linf")


def _mismatch(found: xr.Dataset) -> xr.DataArray:
    return arrays.stacked({a: found[f"{a}_mismatch"] for a in ATTACKS}, "attack")


def _num_without_angle(found: xr.Dataset) -> int:
    """Images that lack one, to an attack or at a strength."""
    return int(np.isnan(_mismatch(found)).any(("attack", "strength")).sum())


def _summary(found: xr.Dataset) -> xr.Dataset:
    """Of one network, over its images and seeds; angles of images that have one."""
    over, free = ("seed", "image"), ("seed", "free_image")
    last = found.isel(num_steps=-1, drop=True)

    def quotient(a, b, over):
        return found[a].mean(over, skipna=False) / found[b].mean(over, skipna=False)

    return xr.Dataset(
        {
            "kappa": quotient("error", "size", over),
            "fixed_kappa": _ratio(last["error"], last["size"], over),
            "free_kappa": _ratio(found["free_error"], found["free_size"], free),
            "mismatch": _mismatch(found).mean(free),
            "eigenvalue_change": quotient("eigenvalue_change", "eigenvalue", free),
        }
    )


def _ratio(error: xr.DataArray, size: xr.DataArray, over: tuple[str, str]):
    """Mean over mean, with its interval over images and seeds together."""
    pair = (each.stack(case=over) for each in (error, size))
    return intervals.along("case", intervals.ratio, *pair)


# --- report ---


def halving(kappa: xr.DataArray) -> xr.DataArray:
    """By what twice as many steps divide kappa, from its first two numbers of steps."""
    first, second = kappa["num_steps"].values[:2]
    ratio = kappa.isel(num_steps=0) / kappa.isel(num_steps=1)
    return ratio.isel(strength=0, drop=True) ** (np.log(2) / np.log(second / first))


def order(kappa: xr.DataArray) -> xr.DataArray:
    """The power of the strength that kappa grows as, from its first two strengths."""
    if kappa.sizes["strength"] < 2:
        return kappa.isel(strength=0, num_steps=-1, drop=True) * np.nan
    first, second = kappa["strength"].values[:2]
    left = kappa.isel(num_steps=-1, drop=True)
    ratio = left.isel(strength=1, drop=True) / left.isel(strength=0, drop=True)
    return np.log(ratio) / np.log(second / first)


def _report(config: Config, values: xr.Dataset) -> Report:
    facts = values.attrs
    noise = f", noise of {config.noise:g}" if config.get("noise") else ""
    steps, strengths = values["num_steps"].values, values["strength"].values
    return Report(
        f"Closed form of perturbations: {facts['setting']}{noise}",
        "Is the perturbation of many gradient steps the one in closed form of Theorem "
        "2?",
        _findings(config, values),
        [
            Drawn("kappa", _figure(config, values), "κ by network, steps and strength"),
            Drawn(
                "perturbations",
                perturbations.figure(values, f"{facts['shown']}, β = {strengths[0]:g}"),
                "perturbations and their differences",
            ),
        ],
        [_fixed_table(values), _free_table(values), _attacks_table(values)],
        f"κ = E‖δ* − δ‖/E‖δ*‖ of one trained network. With fixed gates over "
        f"{facts['num_images']} test images, in double precision from Jacobians of "
        "single precision. m doubled: κ at "
        f"{steps[0]} steps over κ at twice as many, at β = {strengths[0]:g}; 2 is an "
        "error of 1/m. Order in β: between the first two strengths, of what is left at "
        f"{steps[-1]} steps. With free gates over {facts['num_free_images']} images, "
        f"{config.free_num_steps} steps of the network itself; l2 and the effective "
        f"part of linf by {config.few_steps} steps to the length of δ, without "
        "clipping; change of the largest eigenvalue of H_x over the attack, relative, "
        "of the means. Where an image is black, gates of convolutions without biases "
        "are on their kink: there κ with free gates has no limit of small strength. "
        f"{facts['num_without_gradient']} images lack an angle; means of angles are "
        "over the others. Intervals: 1.96 standard errors over images. In Figure 1 "
        "columns are in units of the largest entry of δ, differences enlarged as "
        "written.\n\n"
        f"Networks: {facts['networks']}.",
    )


def _findings(config: Config, values: xr.Dataset) -> list[findings.Finding]:
    beta, steps = values["strength"].values[0], values["num_steps"].values
    number, facts = f"{values.sizes['network']} networks", values.attrs
    fixed = f"{number}, {facts['num_images']} images, {steps[-1]} steps"
    free = f"{number}, {facts['num_free_images']} images, {config.free_num_steps} steps"
    few = f"{number}, {facts['num_free_images']} images, {config.few_steps} steps"
    paper = reports.printed_span("kappa", values["network"].values)
    at = values.isel(strength=0)
    return [
        findings.finding(
            f"κ at strength {beta:g}, gates fixed",
            reports.span(at["fixed_kappa"].sel(bound="mean")),
            printed=paper,
            size=fixed,
            # The paper prints neither strengths nor numbers of steps.
            verdict=findings.unlike(paper),
        ),
        findings.finding(
            "κ at half as many steps over κ, gates fixed; of an error of 1/m it is 2",
            reports.span(halving(values["kappa"]), ".2f"),
            size=f"{number}, {steps[0]} steps",
        ),
        findings.finding(
            f"power of the strength that κ at {steps[-1]} steps grows as, gates fixed",
            reports.span(order(values["kappa"]), ".2f"),
            size=fixed,
        ),
        findings.finding(
            f"κ at strength {beta:g}, gates free",
            reports.span(at["free_kappa"].sel(bound="mean")),
            size=free,
        ),
        *(
            findings.finding(
                f"1 − cos to the {attack} attack at strength {beta:g}, gates free",
                reports.span(at["mismatch"].sel(attack=attack)),
                size=few,
            )
            for attack in ATTACKS
        ),
    ]


def _kappas(values: xr.Dataset, gates: str, name: str) -> list[str]:
    kappas = values[f"{gates}_kappa"].sel(network=name)
    strengths = values["strength"].values
    return [f"{intervals.at(kappas, strength=beta):.1e}" for beta in strengths]


def _fixed_table(values: xr.Dataset) -> Table:
    paper = reports.printed_errors("kappa")
    numbers = [halving(values["kappa"]), order(values["kappa"])]
    rows = [
        [
            *(name, reports.shown(paper.get(name))),
            *_kappas(values, "fixed", name),
            *(f"{float(each.sel(network=name)):.2f}" for each in numbers),
        ]
        for name in values["network"].values
    ]
    kappas = [f"κ, β = {beta:g}" for beta in values["strength"].values]
    header = ["network", "printed κ", *kappas, "m doubled", "order in β"]
    steps = values["num_steps"].values[-1]
    return Table(f"Table 1: gates fixed, {steps} steps", header, rows)


def _free_table(values: xr.Dataset) -> Table:
    names = values["network"].values
    rows = [[name, *_kappas(values, "free", name)] for name in names]
    kappas = [f"κ, β = {beta:g}" for beta in values["strength"].values]
    return Table("Gates free", ["network", *kappas], rows)


def _attacks_table(values: xr.Dataset) -> Table:
    betas = values["strength"].values
    ends = [*dict.fromkeys((betas[0], betas[-1]))]
    header = ["network"]
    header += [f"1 − cos, {name}, β = {b:g}" for name in ATTACKS for b in ends]
    header += [f"change of λ₁, β = {beta:g}" for beta in betas]
    rows = []
    for name in values["network"].values:
        at = values.sel(network=name)
        angles = at["mismatch"].sel(strength=ends).transpose("attack", "strength")
        numbers = [*angles.values.ravel(), *at["eigenvalue_change"].values]
        rows.append([name, *(f"{each:.1e}" for each in numbers)])
    return Table("Gates free: other attacks, and the largest eigenvalue", header, rows)


def _figure(config: Config, values: xr.Dataset) -> Any:
    """Table 1, and how kappa depends on steps and strength, with and without gates."""
    figure, axes = figures.panels(3)
    names = values["network"].values
    for name, style in reports.styles(names).items():
        at = values.sel(network=name)
        axes[1].loglog(at["num_steps"], at["kappa"].isel(strength=0), **style)
        fixed, free = (at[f"{kind}_kappa"].sel(bound="mean") for kind in _FILLS)
        axes[2].loglog(at["strength"], fixed, **style)
        axes[2].loglog(at["strength"], free, **style, linestyle=":", fillstyle="none")
    _draw_table_1(axes[0], values)
    beta, steps = values["strength"].values[0], values["num_steps"].values
    highest = 2 * float(values["kappa"].isel(strength=0, num_steps=0).max())
    guide = highest * steps[0] / steps
    axes[1].loglog(steps, guide, color="0.4", linestyle="--", linewidth=1, label="1/m")
    axes[1].legend(loc="upper right")
    axes[1].set(xlabel="number of steps m", ylabel="relative error κ")
    axes[1].set_title(f"gates fixed, β = {beta:g}", fontsize=10)
    axes[2].set(xlabel="strength β", ylabel="relative error κ")
    title = f"gates fixed —, {steps[-1]} steps; free ···, {config.free_num_steps} steps"
    axes[2].set_title(title, fontsize=10)
    reports.legend(figure, axes[2], names)
    return figure


_FILLS = {"fixed": "full", "free": "none"}
"""Of markers, by gates."""


def _draw_table_1(axis, values: xr.Dataset) -> None:
    """What Table 1 prints beside ours, with intervals."""
    at, names = values.isel(strength=0), values["network"].values
    for kind, fill in _FILLS.items():
        styles = reports.styles(names)
        styles = {name: {**style, "fillstyle": fill} for name, style in styles.items()}
        reports.points(axis, at[f"{kind}_kappa"], styles)
    reports.label_networks(axis, names, reports.printed_errors("kappa"))
    axis.set_ylabel("relative error κ")
    title = f"β = {float(at['strength']):g}: gates fixed ●, free ○, printed —"
    axis.set_title(title, fontsize=10)


STUDY = Study(
    "difficulty.closed_form",
    {
        **with_defaults(measuring.FIELDS, num_images=1000),
        # The paper's are unknown. Its errors need small strengths and many steps.
        "horizons": measuring.strengths((0.001, 0.01, 0.1, 1.0)),
        "num_steps": counts(
            (10, 20, 50, 100, 200, 500, 1000),
            "numbers of steps with fixed gates, increasing",
            length=2,
            increasing=True,
        ),
        "free_num_images": count(100, "images to measure with free gates"),
        "free_num_steps": count(50, "steps of the ascent with free gates"),
        "few_steps": count(10, "steps of the l2 and linf attacks that are compared"),
        "batch_size": measuring.batch_size(100),
        "noise": number(0, "largest uniform noise that is added to pixels"),
    },
    _report,
    variants=(
        {"plain": {}, "noise": {"noise": 0.01, "horizons": (0.001, 0.01)}},
        {
            "cpu": {},
            "paper": {"free_num_images": 1000},
            "smoke": {
                "num_images": 10,
                "free_num_images": 10,
                "horizons": (0.01, 0.1),
                "num_steps": (10, 20),
                "free_num_steps": 3,
                "few_steps": 3,
            },
        },
    ),
    needs={"networks": measuring.CLASSES},
    cases=measuring.names,
    measure=_measured,
    values=_values,
)
get_config = STUDY.config
