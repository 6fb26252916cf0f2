"""What xi does to training under a strong attack (Figure 1).

At a radius beyond the threshold of θ* = 0 the minimum lies on a kink. Descent along the
attack jumps about it; along the surrogate attack A_{eps,xi} it settles. Every replicate
is one data set, on which all values of xi train from one start.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import data, descent, linear, norms, replicates
from experiments import checks, figures
from experiments.workdir import Workdir


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.seed(config)
    checks.integers(config, "num_replicates", "num_steps", "num_last", least=2)
    checks.integers(config, "num_last", most=config.num_steps)
    checks.integers(config, "d", "n", "chunk_size")
    checks.numbers(config, "eps")
    checks.increasing(config, "xi")
    checks.tuples(config, "xi", least=2)
    checks.single(config, "d", "n", "eps", "step_size", "sigma", "start_norm")
    checks.numbers(config, "step_size", above=0)
    checks.numbers(config, "sigma", above=0)
    checks.numbers(config, "start_norm", above=0)


def run(config: ConfigDict, workdir: Workdir) -> dict:
    """Trains every replicate and writes figure and report."""
    keys = jax.random.split(jax.random.key(config.seed), config.num_replicates)
    losses = workdir.stage("losses", _losses, config, keys)
    checks.descended(
        np.moveaxis(losses["train"], -1, 0),
        lambda r, j: f"replicate {r}, xi = {config.xi[j]:g}",
    )
    last = np.std(losses["test"][..., -config.num_last :], axis=-1, ddof=1)
    _figure(config, losses, workdir)
    return _report(config, losses, last, workdir)


def _losses(config, keys) -> dict:
    """Surrogate training and adversarial test losses, ``[replicate, xi, step]``."""
    theta0 = jnp.ones(config.d)
    population = linear.Population(theta0, None, config.sigma)

    def fit(key, xi):
        key_data, key_start = jax.random.split(key)
        x, y = data.gaussian(key_data, config.n, theta0, None, config.sigma)
        start = jax.random.normal(key_start, (config.d,))
        args = (norms.l2, x, y, config.eps)
        update = descent.step(
            lambda theta: linear.adversarial_gradient(theta, *args, xi=xi),
            config.step_size,
        )
        return descent.path(
            config.start_norm * norms.l2.steepest(start),
            update,
            num_steps=config.num_steps,
            observe=lambda theta: {
                "train": linear.adversarial_loss(theta, *args, xi=xi).mean(),
                "test": linear.population_risk(theta, norms.l2, population, config.eps),
            },
        )

    fits = replicates.sharded_vmap(
        jax.vmap(fit, (None, 0)), chunk_size=config.chunk_size
    )
    return fits(keys, jnp.asarray(config.xi))


def _figure(config, losses, workdir) -> None:
    figure, (axis,) = figures.panels(1)
    steps = np.arange(config.num_steps + 1)
    for j, color in enumerate(figures.colors(len(config.xi))):
        label = f"ξ = {config.xi[j]:g}"
        axis.plot(steps, losses["test"][0, j], color=color, label=f"{label}, test")
        axis.plot(
            steps,
            losses["train"][0, j],
            color=color,
            linestyle="--",
            label=f"{label}, train (surrogate)",
        )
    axis.set_xlabel("gradient descent step t")
    axis.set_ylabel("loss")
    axis.set_title(
        f"ε = {config.eps:g}, d = {config.d}, n = {config.n}: one data set", fontsize=10
    )
    axis.legend()
    workdir.save_figure(figure, "fluctuation")


def _report(config, losses, last, workdir) -> dict:
    rows = [
        [
            f"{xi:g}",
            figures.plus_minus(losses["train"][:, j, -1]),
            figures.plus_minus(losses["test"][:, j, -1]),
            figures.plus_minus(last[:, j], 4),
        ]
        for j, xi in enumerate(config.xi)
    ]
    ratio = last[:, 0] / last[:, -1]
    header = ["ξ", "training loss (surrogate)", "test loss", "fluctuation"]
    workdir.write_text(
        "report.md",
        "## Fluctuation of training with and without the surrogate (Figure 1)\n\n"
        "![training and test loss against step](fluctuation.png)\n\n"
        f"At step {config.num_steps}, mean ± sd over {config.num_replicates} data sets."
        f" The fluctuation of a run is the standard deviation of its last "
        f"{config.num_last} test losses.\n\n" + figures.table(header, rows),
    )
    summary = (
        f"fluctuation, eps = {config.eps:g}: xi = {config.xi[0]:g} fluctuates "
        f"{figures.plus_minus(ratio, 1)} times as much as xi = {config.xi[-1]:g} "
        f"(at least {ratio.min():.1f} times), over {config.num_replicates} data sets"
    )
    return {
        "summary": [summary],
        "num_replicates": config.num_replicates,
        "fluctuation": {"mean": last.mean(0), "sd": last.std(0, ddof=1)},
        "ratio": {
            "mean": ratio.mean(),
            "sd": ratio.std(ddof=1),
            "smallest": ratio.min(),
        },
        "test_loss": {
            "mean": losses["test"][..., -1].mean(0),
            "sd": losses["test"][..., -1].std(0, ddof=1),
        },
    }
