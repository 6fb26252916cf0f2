"""What training on perturbed inputs adds to the weights' update: Table 2.

Size: 300 images of MNIST, odd against even; ten networks. Time: 2 minutes.

    advjax run difficulty/weight_effects --config.networks=runs/NETWORKS

where the networks are those of ``difficulty/networks:adversarial,table``.

Variants: ``cpu``, the default, on 300 images; ``paper``, on 1000; ``smoke``, small, for
tests.

On networks of a binary task with fixed gates, of one image at a time: phi* is the
effect of Δg_W on ‖∇_x z‖²/2 by differentiation, phi that of Theorem 3, and
kappa' = E|phi* - phi|/E|phi*|. Likewise for Theorem 4, the whole effect of adversarial
training, and Theorem 5, the perturbation at half its length. W is the first layer, as
it is; for shared weights see ``advjax.influence``. All is in double precision.

At strength 0.001 kappa' is between 2e-7 and 6e-7.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from advjax import dynamics, influence, losses
from advjax.types import Array
from experiments import arrays, devices, figures, findings, intervals
from experiments.batches import in_batches
from experiments.difficulty import measuring, reports
from experiments.fields import count, with_defaults
from experiments.study import Config, Setup, Study
from experiments.writing import Drawn, Report, Table

THEOREMS = ("theorem 3", "theorem 4", "theorem 5")


# --- measurement ---


def _measured(setup: Setup, name: str) -> xr.Dataset:
    """Measured effects, and the errors of those that theory predicts."""
    config, batch = setup.config, measuring.images(setup)
    with devices.double_precision():
        model = measuring.model(setup, name, dtype=None)
        x, y = np.asarray(batch.x, float), measuring.signs(batch.y)

        def measure(network):
            params, stats = jax.tree.map(lambda leaf: np.asarray(leaf, float), network)
            z = measuring.first_layer_logit(model, params, stats)
            one = partial(_of_image, config, z, measuring.first_layer(params))
            every = jax.jit(jax.vmap(one))
            return _labelled(config, in_batches(every, config.batch_size, x, y))

        return measuring.over_seeds(setup, name, measure)


def _labelled(config: Config, found: Mapping[str, Any]) -> xr.Dataset:
    parts = {
        theorem: arrays.dataset(
            {name: (("image", "strength"), each) for name, each in values.items()},
            {"strength": config.horizons},
        )
        for theorem, values in found.items()
    }
    return arrays.stacked({theorem: parts[theorem] for theorem in THEOREMS}, "theorem")


def _of_image(config: Config, z: Callable, w, x: Array, y: Array) -> dict:
    """By theorem, over strengths: the real effect, and the error of the predicted."""
    loss = partial(losses.logistic, y=y)

    def frozen(w, x_new):
        return dynamics.frozen(partial(z, w), x)(x_new)

    value, u = jax.value_and_grad(z, argnums=1)(w, x)
    ascend = dynamics.ascend_logits(num_steps=config.num_steps)

    def at(horizon):
        path = ascend(lambda z: loss(z[0]), value[None], u[None], horizon)
        g_z, h_z = jax.grad(loss)(value), path.logit_hessian[0, 0]
        square = jnp.sum(u**2)
        strength = horizon * h_z * square
        whole = influence.Influence(path.delta, g_z, h_z, square, strength, strength)
        real = influence.effect(w, frozen, loss, x, path.delta)
        half = influence.effect(w, frozen, loss, x, path.delta / 2)
        third = influence.predicted_effect(real, whole)
        return {
            "theorem 3": (real.additional, third),
            "theorem 4": (real.adversarial, real.original + third),
            "theorem 5": (
                half.additional,
                influence.predicted_effect(half, whole, rel_length=0.5),
            ),
        }

    # One after the other: strengths are few, and vmap over them would batch kernels.
    results = [at(horizon) for horizon in config.horizons]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)
    return {
        name: {"real": real, "error": jnp.abs(theory - real)}
        for name, (real, theory) in stacked.items()
    }


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    values = arrays.stacked({k: _summary(each) for k, each in found.items()}, "network")
    number = next(iter(found.values())).sizes["image"]
    return measuring.with_facts(setup, values, num_images=number)


def _summary(found: xr.Dataset) -> xr.Dataset:
    """Of one network, over its images and seeds."""
    every = found.stack(case=("seed", "image"))
    pair = (every["error"], np.abs(every["real"]))
    negative = every["real"].sel(theorem=THEOREMS[0]).isel(strength=-1, drop=True) < 0
    return xr.Dataset(
        {
            "relative_error": intervals.along("case", intervals.ratio, *pair),
            "share_of_negative_effects": negative.mean("case").drop_vars("theorem"),
        }
    )


# --- report ---


def _report(config: Config, values: xr.Dataset) -> Report:
    facts = values.attrs
    return Report(
        f"Effects on the first layer: {facts['setting']}",
        "Does what training on perturbed inputs adds to the update of the weights "
        "change the input gradient as Theorems 3 to 5 say?",
        _findings(config, values),
        [Drawn("errors", _figure(values), "errors of Theorems 3 to 5 by network")],
        [*(_table(values, theorem) for theorem in THEOREMS), _shares_table(values)],
        f"E|φ* − φ|/E|φ*| over {facts['num_images']} test images, ascent by "
        f"{config.num_steps} steps, gates fixed, in double precision; in brackets 1.96 "
        "standard errors over images, of one trained network. Theorem 5 is of the "
        f"perturbation at half its length.\n\nNetworks: {facts['networks']}.",
    )


def _findings(config: Config, values: xr.Dataset) -> list[findings.Finding]:
    beta, largest = values["strength"].values[[0, -1]]
    names = values["network"].values
    size = f"{names.size} networks, {values.attrs['num_images']} images, "
    size += f"{config.num_steps} steps"
    errors = values["relative_error"].sel(strength=beta, bound="mean")
    printed = {THEOREMS[0]: reports.printed_span("kappa_prime", names)}
    share = 100 * values["share_of_negative_effects"]
    return [
        *(
            findings.finding(
                f"relative error of {theorem} at strength {beta:g}",
                reports.span(errors.sel(theorem=theorem)),
                printed=(paper := printed.get(theorem, "")),
                size=size,
                # The paper prints neither strengths nor numbers of steps.
                verdict=findings.unlike(paper),
            )
            for theorem in THEOREMS
        ),
        findings.finding(
            "images whose input gradient becomes smaller by the additional effect",
            f"{reports.span(share, '.0f')} %",
            size=f"{size}, β = {largest:g}",
        ),
    ]


def _table(values: xr.Dataset, theorem: str) -> Table:
    strengths = values["strength"].values
    paper = reports.printed_errors("kappa_prime")
    is_printed = theorem == THEOREMS[0]
    rows = []
    for name in values["network"].values:
        at = values["relative_error"].sel(network=name, theorem=theorem)
        row = [name] + [reports.shown(paper.get(name))] * is_printed
        row += [f"{intervals.at(at, strength=beta):.1e}" for beta in strengths]
        rows.append(row)
    header = ["network"] + ["printed κ′"] * is_printed
    header += [f"β = {beta:g}" for beta in strengths]
    return Table(theorem.capitalize(), header, rows)


def _shares_table(values: xr.Dataset) -> Table:
    largest = values["strength"].values[-1]
    shares = values["share_of_negative_effects"]
    rows = [
        [n, f"{100 * float(shares.sel(network=n)):.0f}"]
        for n in shares["network"].values
    ]
    title = "Images where the additional effect makes the gradient smaller"
    return Table(title, ["network", f"%, β = {largest:g}"], rows)


def _figure(values: xr.Dataset) -> Any:
    figure, axes = figures.panels(len(THEOREMS), sharey=True)
    strengths, names = values["strength"].values, values["network"].values
    for axis, theorem in zip(axes, THEOREMS, strict=True):
        for beta, color in zip(strengths, figures.colors(len(strengths)), strict=True):
            bounds = values["relative_error"].sel(theorem=theorem, strength=beta)
            style = {"color": color, "marker": "o", "markersize": 4}
            styles = dict.fromkeys(names, style)
            reports.points(axis, bounds, styles, f"β = {beta:g}")
        paper = reports.printed_errors("kappa_prime")
        reports.label_networks(axis, names, paper if theorem == THEOREMS[0] else {})
        axis.set_title(theorem.capitalize())
    axes[0].set_ylabel("relative error E|φ* − φ|/E|φ*|")
    figures.legend_below(figure, axes[0])
    return figure


STUDY = Study(
    "difficulty.weight_effects",
    {
        **with_defaults(measuring.FIELDS, num_images=300),
        "horizons": measuring.strengths((0.001, 0.01, 0.1)),
        "num_steps": count(1000, "steps of the ascent"),
        "batch_size": measuring.batch_size(50),
    },
    _report,
    variants=(
        {
            "cpu": {},
            "paper": {"num_images": 1000},
            "smoke": {"num_images": 6, "horizons": (0.001, 0.01), "num_steps": 20},
        },
    ),
    needs={"networks": measuring.BINARY},
    cases=measuring.names,
    measure=_measured,
    values=_values,
)
get_config = STUDY.config
