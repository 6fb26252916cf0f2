"""Adversarial training where n ≫ d reaches R*(ε), and what that costs (Figure 5).

Surrogate training on many data sets against the population's optimum, and "adversarial
training hurts standard estimation" as the number c(ε) = (R(θ*(ε), 0) - R(θ0, 0)) / v²,
v² = ‖θ0‖² + σ²: in closed form, and measured at the exact minimisers of the empirical
adversarial loss.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import data, descent, linear, norms, replicates, solvers
from experiments import checks, figures
from experiments.workdir import Workdir

CURVES = {
    "train": "training loss (surrogate)",
    "test": "adversarial test loss, R*(ε) dashed",
    "standard": "standard test loss",
}


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.seed(config)
    checks.integers(config, "num_replicates", "num_steps", "num_points", least=2)
    checks.integers(config, "n", "chunk_size")
    checks.integers(config, "d", most=config.n - 1)
    checks.single(config, "d", "n", "xi", "step_size", "sigma", "eps_most")
    checks.increasing(config, "eps")
    checks.numbers(config, "eps_most", above=0)
    checks.numbers(config, "xi")
    checks.numbers(config, "step_size", above=0)
    checks.numbers(config, "sigma", above=0)


def run(config: ConfigDict, workdir: Workdir) -> dict:
    """Trains every replicate at every radius and writes figure and report."""
    keys = jax.random.split(jax.random.key(config.seed), config.num_replicates)
    curves = workdir.stage("curves", _curves, config, keys)
    checks.descended(
        np.moveaxis(curves["train"], -1, 0),
        lambda r, j: f"replicate {r}, eps = {config.eps[j]:g}",
    )
    optimum = workdir.stage("optimum", _optimum, config)
    cost = workdir.stage("cost", _cost, config, keys)
    _figure(config, curves, optimum, cost, workdir)
    return _report(config, curves, optimum, cost, workdir)


def _curves(config, keys) -> dict:
    """The curves, ``[replicate, radius, step]``."""
    theta0 = jnp.ones(config.d)

    def fit(x, y, eps):
        def observe(theta):
            loss = linear.adversarial_loss(theta, norms.l2, x, y, eps, xi=config.xi)
            args = (theta, norms.l2, linear.Population(theta0, None, config.sigma))
            return {
                "train": loss.mean(),
                "test": linear.population_risk(*args, eps),
                "standard": linear.population_risk(*args, 0.0),
            }

        update = descent.step(
            lambda theta: linear.adversarial_gradient(
                theta, norms.l2, x, y, eps, xi=config.xi
            ),
            config.step_size,
        )
        start = jnp.zeros(config.d)
        return descent.path(start, update, num_steps=config.num_steps, observe=observe)

    def replicate(key):
        x, y = data.gaussian(key, config.n, theta0, None, config.sigma)
        return jax.vmap(lambda eps: fit(x, y, eps))(jnp.asarray(config.eps))

    return replicates.sharded_vmap(replicate, chunk_size=config.chunk_size)(keys)


def _optimum(config) -> dict:
    """R*(ε), the standard risk of θ*(ε) and c(ε), at ``eps`` and on a fine grid."""
    theta0 = jnp.ones(config.d)

    def at(eps):
        population = linear.Population(theta0, None, config.sigma)
        theta, risk = linear.optimal(norms.l2, population, eps)
        standard = linear.population_risk(theta, norms.l2, population, 0.0)
        return {"risk": risk, "standard": standard, "c": _c(config, standard)}

    grid = jnp.linspace(0, config.eps_most, 200)
    radii = {
        "at eps": jnp.asarray(config.eps),
        "on grid": grid,
        "measured": _radii(config),
    }
    return {
        name: jax.jit(jax.vmap(at))(eps) | {"eps": eps} for name, eps in radii.items()
    }


def _c(config, standard):
    least = config.sigma**2
    return (standard - least) / (config.d + least)


def _radii(config):
    return jnp.linspace(0, config.eps_most, config.num_points)


def _cost(config, keys) -> dict:
    """The number c at exact empirical minimisers, ``[replicate, radius]``."""
    theta0 = jnp.ones(config.d)

    def at(x, y, eps):
        found = solvers.adversarial(norms.l2, x, y, eps)
        population = linear.Population(theta0, None, config.sigma)
        risk = linear.population_risk(found.theta, norms.l2, population, 0.0)
        return {
            "c": _c(config, risk),
            "gap": found.gap / jnp.mean(y**2),
        }

    def replicate(key):
        x, y = data.gaussian(key, config.n, theta0, None, config.sigma)
        return jax.vmap(lambda eps: at(x, y, eps))(_radii(config))

    return replicates.sharded_vmap(replicate, chunk_size=config.chunk_size)(keys)


def _figure(config, curves, optimum, cost, workdir) -> None:
    figure, axes = figures.panels(2, 2)
    steps = np.arange(config.num_steps + 1)
    labels = [f"ε = {eps:g}" for eps in config.eps]
    for axis, (name, title) in zip(axes, CURVES.items(), strict=False):
        figures.bands(axis, steps, curves[name], labels)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("gradient descent step t")
        axis.legend()
    for risk, color in zip(
        optimum["at eps"]["risk"], figures.colors(len(labels)), strict=True
    ):
        axes[1].axhline(risk, color=color, linestyle="--", linewidth=1)
    axis, exact = axes[-1], optimum["on grid"]
    axis.plot(exact["eps"], exact["c"], color="0.2", label="c(ε), closed form")
    axis.errorbar(
        optimum["measured"]["eps"],
        cost["c"].mean(axis=0),
        cost["c"].std(axis=0, ddof=1),
        fmt="o",
        markersize=4,
        color=figures.PALETTE[1],
        label=f"minimisers at n = {config.n}",
    )
    axis.set_title("what robustness costs: c(ε)", fontsize=10)
    axis.set_xlabel("radius ε")
    axis.legend()
    figure.suptitle(
        f"d = {config.d}, n = {config.n}, ξ = {config.xi:g}, {config.num_replicates} "
        "replicates: mean ± sd",
        fontsize=10,
    )
    workdir.save_figure(figure, "low_dimension")


def _report(config, curves, optimum, cost, workdir) -> dict:
    last = {name: curves[name][..., -1] for name in CURVES}
    exact = optimum["at eps"]
    rows = [
        [
            f"{eps:g}",
            figures.plus_minus(last["train"][:, j]),
            figures.plus_minus(last["test"][:, j]),
            f"{exact['risk'][j]:.3f}",
            figures.plus_minus(last["standard"][:, j]),
            f"{exact['standard'][j]:.3f}",
            f"{exact['c'][j]:.4f}",
        ]
        for j, eps in enumerate(config.eps)
    ]
    header = ["ε", "training loss", "adversarial test loss", "R*(ε)"]
    header += ["standard test loss", "of θ*(ε)", "c(ε)"]
    difference = np.abs(cost["c"].mean(axis=0) - optimum["measured"]["c"]).max()
    workdir.write_text(
        "report.md",
        "## Low dimension and the cost of robustness (Figure 5)\n\n"
        "![losses against step, and c(ε)](low_dimension.png)\n\n"
        f"At step {config.num_steps}, mean ± sd over {config.num_replicates} "
        "replicates; test losses are population risks. The right panel's points are "
        "exact minimisers of the empirical adversarial loss (largest certified gap "
        f"{cost['gap'].max():.1g} of the mean of y²); their mean c is within "
        f"{difference:.4f} of the closed form.\n\n" + figures.table(header, rows),
    )
    eps, test, standard = (
        config.eps[-1],
        figures.plus_minus(last["test"][:, -1]),
        figures.plus_minus(last["standard"][:, -1]),
    )
    summary = (
        f"low dimension, eps = {eps:g}: adversarial test loss {test} (R* = "
        f"{exact['risk'][-1]:.3f}), standard test loss {standard} (of θ* "
        f"{exact['standard'][-1]:.3f})"
    )
    return {
        "summary": [summary],
        "num_replicates": config.num_replicates,
        "eps": config.eps,
        "optimum": exact,
        **{
            name: {"mean": runs.mean(axis=0), "sd": runs.std(axis=0, ddof=1)}
            for name, runs in last.items()
        },
        "c": {
            "eps": optimum["measured"]["eps"],
            "closed_form": optimum["measured"]["c"],
            "mean": cost["c"].mean(axis=0),
            "sd": cost["c"].std(axis=0, ddof=1),
        },
    }
