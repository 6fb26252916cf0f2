"""What training on perturbed inputs adds to the weights' update: Table 2.

On networks of a binary task with fixed gates, of one image at a time: phi* is the
effect of Δg_W on ‖∇_x z‖²/2 by differentiation, phi that of Theorem 3, and
kappa' = E|phi* - phi|/E|phi*|. Likewise for Theorem 4, the whole effect of adversarial
training, and Theorem 5, the perturbation at half its length. W is the first layer, as
it is; for shared weights see ``advjax.influence``. All is in double precision.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import dynamics, influence, losses
from advjax.types import Array
from experiments import checks, devices, figures, intervals
from experiments.difficulty import networks, printed
from experiments.difficulty.networks import Family
from experiments.workdir import Workdir

THEOREMS = ("theorem 3", "theorem 4", "theorem 5")


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.increasing(config, "horizons")
    checks.numbers(config, "horizons", above=0)
    checks.integers(config, "num_steps", "batch_size")
    checks.single(config, "num_steps", "batch_size")
    networks.read_binary(config)


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Measures every network, and reports."""
    family = networks.read(config)
    found = networks.measured(config, family, workdir, _measured)
    return _report(config, family, found, workdir)


def _measured(config: ConfigDict, family: Family, name: str) -> dict[str, np.ndarray]:
    """Measured and predicted effects, ``[seed, horizon, n]``."""
    batch = family.images(config)
    with devices.double_precision():
        model = family.model(name, dtype=None)
        x, y = np.asarray(batch.x, float), networks.signs(batch.y)
        per_seed = []
        for network in family.networks(name):
            params, stats = jax.tree.map(lambda leaf: np.asarray(leaf, float), network)
            z = networks.first_layer_logit(model, params, stats)
            one = partial(_of_image, config, z, networks.first_layer(params))
            per_seed.append(networks.in_batches(jax.vmap(one), config.batch_size, x, y))
    found = jax.tree.map(lambda *leaves: np.stack(leaves), *per_seed)
    return jax.tree.map(lambda leaf: np.moveaxis(leaf, 1, -1), found)


def _of_image(config: ConfigDict, z: Callable, w, x: Array, y: Array) -> dict:
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


def _interval(values: dict[str, np.ndarray], j: int) -> intervals.Interval:
    error, real = (values[kind][:, j].ravel() for kind in ("error", "real"))
    return intervals.ratio(error, np.abs(real))


def _report(
    config: ConfigDict, family: Family, found: dict, workdir: Workdir
) -> dict[str, Any]:
    paper = printed.errors("kappa_prime")
    errors = {
        name: {
            theorem: [
                _interval(values[theorem], j) for j in range(len(config.horizons))
            ]
            for theorem in THEOREMS
        }
        for name, values in found.items()
    }
    strengths = [f"β = {beta:g}" for beta in config.horizons]
    tables = [
        f"### {theorem.capitalize()}\n\n"
        + figures.table(
            [
                "network",
                *(["printed κ′"] if theorem == THEOREMS[0] else []),
                *strengths,
            ],
            [
                [
                    name,
                    *(
                        [printed.shown(paper.get(name))]
                        if theorem == THEOREMS[0]
                        else []
                    ),
                    *(f"{interval:.1e}" for interval in each[theorem]),
                ]
                for name, each in errors.items()
            ],
        )
        for theorem in THEOREMS
    ]
    negative = {
        name: float(np.mean(values["theorem 3"]["real"][:, -1] < 0))
        for name, values in found.items()
    }
    number = next(iter(found.values()))["theorem 3"]["real"].shape[-1]
    workdir.write_text(
        "report.md",
        f"## Effects on the first layer: {family.setting}\n\nE|φ* − φ|/E|φ*| over "
        f"{number} test images, ascent by {config.num_steps} steps, gates fixed, in "
        "double precision; in brackets 1.96 standard errors over images, of one "
        "trained network. Theorem 5 is of the perturbation at half its length.\n\n"
        + "\n".join(tables)
        + "\nShare "
        f"of images where the additional effect at {strengths[-1]} makes the gradient "
        "smaller: "
        + ", ".join(f"{name} {100 * share:.0f} %" for name, share in negative.items())
        + f".\n\nNetworks: {family.origin}.\n",
    )
    first = ", ".join(
        f"{name} {each['theorem 3'][0].mean:.1e}" for name, each in errors.items()
    )
    setting = f"strength {config.horizons[0]:g}, {config.num_steps} steps"
    return {
        "summary": [f"kappa' at {setting}, gates fixed: {first}"],
        "errors": errors,
        "share_of_negative_effects": negative,
    }
