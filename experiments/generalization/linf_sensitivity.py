"""The surrogate linf attack is sensitive to xi as d grows (section 4).

An l2 attack of radius ε and an linf attack of radius ε/√d, of the same l2 length, on
the same data. The surrogate shrinks the first by 1/√(1 + ξ²/(4r²‖θ‖²)) and each entry
of the second by 1/(1 + ξ/(2|r θ_j|)), where |θ_j| is of order 1/√d. Measured at θ0: the
length that is left of the attack; and after surrogate training: how far the adversarial
training loss stays above its minimum, by an exact solver.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import data, descent, linear, norms, replicates, solvers
from experiments import checks, figures
from experiments.workdir import Workdir

NORMS = {"l2": norms.l2, "linf": norms.linf}


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.seed(config)
    checks.integers(config, "num_replicates", least=2)
    checks.integers(config, "n", "num_steps", "chunk_size")
    checks.single(config, "n", "eps", "sigma", "rel_step_size")
    checks.integers(config, "d", most=config.n)
    checks.increasing(config, "d")
    checks.increasing(config, "xi")
    checks.numbers(config, "eps", above=0)
    checks.numbers(config, "rel_step_size", above=0, most=1)
    checks.numbers(config, "sigma", above=0)


def run(config: ConfigDict, workdir: Workdir) -> dict:
    """Measures every dimension and writes figure and report."""
    keys = jax.random.split(jax.random.key(config.seed), config.num_replicates)
    runs = {}
    for name in NORMS:
        parts = []
        for d in config.d:
            part = workdir.stage(f"{name}_d{d}", _measure, config, name, d, keys)
            checks.descended(
                np.moveaxis(part["losses"], -1, 0),
                lambda r, j, d=d, name=name: (
                    f"{name}, d = {d}, replicate {r}, xi = {config.xi[j]:g}"
                ),
            )
            parts.append(part)
        runs[name] = {key: np.stack([part[key] for part in parts]) for key in parts[0]}
    _figure(config, runs, workdir)
    return _report(config, runs, workdir)


def _measure(config, name, d, keys) -> dict:
    """What is left of the attack, and the excess loss, ``[replicate, xi]``."""
    theta0 = jnp.full(d, d**-0.5)
    norm = NORMS[name]
    eps = config.eps / d**0.5 if norm is norms.linf else config.eps
    # The largest curvature, if sgn(r) and ‖θ‖_* were constant; eps is the l2 length of
    # either attack.
    curvature = 2 * (1 + (d / config.n) ** 0.5 + config.eps) ** 2

    def at(x, y, least, xi):
        def loss(theta):
            return linear.adversarial_loss(theta, norm, x, y, eps).mean()

        delta = linear.perturb(theta0, norm, x, y, eps, xi=xi) - x
        update = descent.step(
            lambda theta: linear.adversarial_gradient(theta, norm, x, y, eps, xi=xi),
            config.rel_step_size / curvature,
        )
        theta = descent.last(jnp.zeros(d), update, num_steps=config.num_steps)
        return {
            "left": jnp.mean(jnp.linalg.norm(delta, axis=1)) / config.eps,
            "excess": loss(theta) / least.loss - 1,
            "gap": least.gap / least.loss,
            "losses": jnp.stack([loss(jnp.zeros(d)), loss(theta)]),
        }

    def replicate(key):
        x, y = data.gaussian(key, config.n, theta0, None, config.sigma)
        least = solvers.adversarial(norm, x, y, eps)
        return jax.vmap(lambda xi: at(x, y, least, xi))(jnp.asarray(config.xi))

    return replicates.sharded_vmap(replicate, chunk_size=config.chunk_size)(keys)


def _figure(config, runs, workdir) -> None:
    figure, axes = figures.panels(2)
    colors = figures.colors(len(config.xi))
    for axis, key in zip(axes, ("left", "excess"), strict=True):
        for name, line in zip(NORMS, ("--", "-"), strict=True):
            for j, (xi, color) in enumerate(zip(config.xi, colors, strict=True)):
                values = runs[name][key][..., j]
                axis.errorbar(
                    config.d,
                    values.mean(axis=1),
                    values.std(axis=1, ddof=1),
                    color=color,
                    linestyle=line,
                    marker="o",
                    markersize=4,
                    label=f"{name}, ξ = {xi:g}",
                )
        axis.set_xscale("log")
        axis.set_xlabel("dimension d")
    axes[0].set_title("l2 length left of the attack at θ0", fontsize=10)
    axes[1].set_title("training loss above its minimum, relative", fontsize=10)
    axes[1].set_yscale("log")
    axes[0].legend(fontsize=8, handlelength=4)
    figure.suptitle(
        f"n = {config.n}, ε = {config.eps:g} (l2) and {config.eps:g}/√d (linf), "
        f"{config.num_replicates} replicates: mean ± sd",
        fontsize=10,
    )
    workdir.save_figure(figure, "linf_sensitivity")


def _report(config, runs, workdir) -> dict:
    rows = [
        [
            name,
            f"{d}",
            f"{xi:g}",
            figures.plus_minus(runs[name]["left"][i, :, j]),
            figures.plus_minus(runs[name]["excess"][i, :, j], 4),
        ]
        for name in NORMS
        for i, d in enumerate(config.d)
        for j, xi in enumerate(config.xi)
    ]
    header = ["norm", "d", "ξ", "length left", "training loss above its minimum"]
    gap = max(runs[name]["gap"].max() for name in NORMS)
    workdir.write_text(
        "report.md",
        "## Sensitivity of the surrogate linf attack to ξ (section 4)\n\n"
        "![attack length and excess loss against dimension](linf_sensitivity.png)\n\n"
        f"Mean ± sd over {config.num_replicates} replicates, {config.num_steps} steps; "
        f"minima certified to {gap:.1g}. What is above the minimum at ξ = 0 is due to "
        "the steps, which jump about the kinks of the loss.\n\n"
        + figures.table(header, rows),
    )
    left = {name: runs[name]["left"].mean(axis=1)[:, -1] for name in NORMS}
    summary = (
        f"linf sensitivity, xi = {config.xi[-1]:g}: from d = {config.d[0]} to "
        f"{config.d[-1]} the length left of the attack goes from {left['linf'][0]:.2f}"
        f" to {left['linf'][-1]:.2f} (linf) and from {left['l2'][0]:.2f} to "
        f"{left['l2'][-1]:.2f} (l2)"
    )
    return {
        "summary": [summary],
        "num_replicates": config.num_replicates,
        **{
            name: {
                key: {
                    "mean": runs[name][key].mean(1),
                    "sd": runs[name][key].std(1, ddof=1),
                }
                for key in ("left", "excess")
            }
            for name in NORMS
        },
    }
