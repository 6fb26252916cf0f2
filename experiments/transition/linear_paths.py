"""Paths of clean and adversarial training in linear regression (Figure 2 left).

For each regime of Table B.1, gradient descent from zero with and without attack on the
same data, and the relative difference ‖θ(t)(ε) - θ(t)(0)‖ / ‖θ(t)(0)‖ over the steps,
averaged over replicates, all of which run at once.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import data, descent, linear, norms, replicates
from experiments import checks, figures
from experiments.workdir import Workdir

COLUMNS = ("d", "n", "eps_small", "eps_star", "eps_large", "step_size")


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.seed(config)
    checks.integers(config, "num_replicates", "num_steps", least=2)
    checks.integers(config, "d", "n")
    checks.numbers(config, "eps_star")
    checks.numbers(config, "eps_small")
    checks.numbers(config, "eps_large")
    checks.numbers(config, "step_size", above=0)
    checks.numbers(config, "sigma", above=0)
    checks.numbers(config, "theta0_norm", above=0)
    if len({len(config[column]) for column in COLUMNS}) > 1:
        raise checks.ConfigError(f"config.{', '.join(COLUMNS)} differ in length")


def run(config: ConfigDict, workdir: Workdir) -> dict:
    """Runs the regimes and writes figure and report."""
    keys = jax.random.split(jax.random.key(config.seed), config.num_replicates)
    regimes = []
    for i, (d, n, *radii, step_size) in enumerate(
        zip(*(config[column] for column in COLUMNS), strict=True)
    ):
        arguments = (config, keys, d, n, jnp.asarray(radii), step_size)
        result = workdir.stage(f"regime_{i}", _differences, *arguments)
        differences = result["differences"]
        checks.finite(differences.T, 1, lambda j, r: f"radius {j}, replicate {r}")
        regimes.append((d, n, radii, differences))
    _figure(regimes, workdir)
    return _report(config, regimes, workdir)


def _differences(config, keys, d, n, radii, step_size) -> dict:
    """Relative differences, ``[replicate, radius, step]``."""
    theta0 = jnp.full(d, config.theta0_norm / d**0.5)

    def replicate(key):
        x, y = data.gaussian(key, n, theta0, None, config.sigma)

        def path(eps):
            update = descent.step(
                lambda theta: linear.adversarial_gradient(theta, norms.l2, x, y, eps),
                step_size,
            )
            return descent.path(jnp.zeros(d), update, num_steps=config.num_steps)[1:]

        clean = path(0.0)
        length = jnp.linalg.norm(clean, axis=-1)
        return jax.lax.map(
            lambda eps: jnp.linalg.norm(path(eps) - clean, axis=-1) / length, radii
        )

    return {"differences": replicates.sharded_vmap(replicate)(keys)}


def _figure(regimes, workdir) -> None:
    figure, axes = figures.panels(len(regimes))
    for axis, (d, n, radii, differences) in zip(axes, regimes, strict=True):
        # From θ = 0 the first step meets no attack, so the difference begins at step 2.
        steps = np.arange(2, differences.shape[-1] + 1)
        names = ("small", "critical", "large")
        labels = [
            f"{name}: ε = {eps:g}" for name, eps in zip(names, radii, strict=True)
        ]
        figures.bands(axis, steps, differences[..., 1:], labels)
        axis.set_title(f"d = {d}, n = {n}", fontsize=10)
        axis.set_xlabel("gradient descent step t")
        axis.set_yscale("log")
        axis.legend()
    axes[0].set_ylabel("‖θ(t)(ε) − θ(t)(0)‖ / ‖θ(t)(0)‖")
    figure.suptitle(
        f"clean against adversarial training, {regimes[0][3].shape[0]} replicates: "
        "mean ± sd",
        fontsize=10,
    )
    workdir.save_figure(figure, "linear_paths")


def _report(config, regimes, workdir) -> dict:
    rows, summary = [], []
    for d, n, radii, differences in regimes:
        last = differences[..., -1]
        for j, (name, eps) in enumerate(
            zip(("small", "critical", "large"), radii, strict=True)
        ):
            difference = figures.plus_minus(last[:, j])
            rows.append([f"{d}", f"{n}", name, f"{eps:g}", difference])
        small, large = (figures.plus_minus(last[:, j]) for j in (0, 2))
        summary.append(
            f"linear paths, d = {d}, n = {n}: relative difference at step "
            f"{config.num_steps} is {small} at eps = {radii[0]:g} and {large} at "
            f"eps = {radii[2]:g}"
        )
    header = ["d", "n", "attack", "ε", f"difference at step {config.num_steps}"]
    workdir.write_text(
        "report.md",
        "## Paths of linear regression (Figure 2 left, Table B.1)\n\n"
        f"![relative difference against step](linear_paths.png)\n\n"
        f"Mean ± sd over {config.num_replicates} replicates.\n\n"
        + figures.table(header, rows),
    )
    return {
        "summary": summary,
        "num_replicates": config.num_replicates,
        "regimes": [
            {"d": d, "n": n, "eps": radii, "mean": x.mean(0), "sd": x.std(0, ddof=1)}
            for d, n, radii, x in regimes
        ],
    }
