"""Interpolation by adversarial training where d ≫ n (Figures 3 and 9 to 11).

Surrogate adversarial training from zero fits the data exactly at these radii, and
generalises as badly as the min-norm interpolator; under the plain attack (xi = 0) the
training loss stops a little above zero. The gradient gap is the size of
∇R̂(θ, ε) - ∇R̂(θ, 0) along the adversarial path, over that of ∇R̂(0, 0).
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
    "test": "adversarial test loss",
    "gap": "gradient gap",
}


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.seed(config)
    checks.integers(config, "num_replicates", "num_steps", least=2)
    checks.integers(config, "d", "n", "chunk_size")
    checks.integers(config, "num_active", most=config.d)
    checks.increasing(config, "eps")
    checks.single(config, "d", "n", "xi", "step_size", "sigma")
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
    _figure(config, curves, workdir)
    return _report(config, curves, workdir)


def _curves(config, keys) -> dict:
    """The curves, ``[replicate, radius, step]``, and the interpolator's test losses."""
    theta0 = data.sparse_coefficients(config.d, num_active=config.num_active)
    eps = jnp.asarray(config.eps)

    def risk(theta, theta0, eps):
        return linear.population_risk(
            theta, norms.l2, linear.Population(theta0, None, config.sigma), eps
        )

    def fit(x, y, theta0, eps):
        def gradient(theta, eps):
            return linear.adversarial_gradient(theta, norms.l2, x, y, eps, xi=config.xi)

        def observe(theta):
            difference = gradient(theta, eps) - gradient(theta, 0.0)
            loss = linear.adversarial_loss(theta, norms.l2, x, y, eps, xi=config.xi)
            return {
                "train": loss.mean(),
                "test": risk(theta, theta0, eps),
                "gap": norms.l2.value(difference) / first,
            }

        start = jnp.zeros_like(theta0)
        first = norms.l2.value(gradient(start, 0.0))
        return descent.path(
            start,
            descent.step(lambda theta: gradient(theta, eps), config.step_size),
            num_steps=config.num_steps,
            observe=observe,
        )

    def replicate(key):
        x, y = data.gaussian(key, config.n, theta0, None, config.sigma)
        basis = linear.span(x, theta0)
        x, target = x @ basis, theta0 @ basis
        interpolator = solvers.min_norm(x, y)
        return jax.vmap(lambda eps: fit(x, y, target, eps))(eps) | {
            "interpolator": jax.vmap(lambda eps: risk(interpolator, target, eps))(eps)
        }

    return replicates.sharded_vmap(replicate, chunk_size=config.chunk_size)(keys)


def _figure(config, curves, workdir) -> None:
    figure, axes = figures.panels(len(CURVES))
    steps = np.arange(config.num_steps + 1)
    for axis, (name, title) in zip(axes, CURVES.items(), strict=True):
        figures.bands(axis, steps, curves[name], [f"ε = {e:g}" for e in config.eps])
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("gradient descent step t")
        axis.legend()
    axes[0].set_yscale("log")
    figure.suptitle(
        f"d = {config.d}, n = {config.n}, ξ = {config.xi:g}, {config.num_replicates} "
        "replicates: mean ± sd",
        fontsize=10,
    )
    workdir.save_figure(figure, "interpolation")


def _report(config, curves, workdir) -> dict:
    half = config.num_steps // 2
    columns = {
        f"training loss, step {half}": curves["train"][..., half],
        f"training loss, step {config.num_steps}": curves["train"][..., -1],
        "test loss": curves["test"][..., -1],
        "test loss of the interpolator": curves["interpolator"],
        "largest gradient gap": curves["gap"].max(axis=-1),
    }
    rows = [
        [f"{eps:g}", *(figures.plus_minus(runs[:, j], 4) for runs in columns.values())]
        for j, eps in enumerate(config.eps)
    ]
    workdir.write_text(
        "report.md",
        "## Interpolation in high dimension (Figures 3 and 9 to 11)\n\n"
        "![losses and gradient gap against step](interpolation.png)\n\n"
        f"d = {config.d}, n = {config.n}, ξ = {config.xi:g}; mean ± sd over "
        f"{config.num_replicates} replicates. Test losses are population risks, at "
        f"step {config.num_steps}. The gradient gap is the size of the difference "
        "between adversarial and clean gradient, over that of the gradient at θ = 0. "
        f"A predictor of zero has {config.num_active + config.sigma**2:g}.\n\n"
        + figures.table(["ε", *columns], rows),
    )
    test = " / ".join(
        figures.plus_minus(column, 2) for column in curves["test"][..., -1].T
    )
    largest = curves["train"][..., half].max()
    summary = (
        f"interpolation, d = {config.d}, xi = {config.xi:g}: training loss at most "
        f"{largest:.2g} at step {half}, adversarial test loss {test} at eps = "
        + " / ".join(f"{eps:g}" for eps in config.eps)
    )
    return {
        "summary": [summary],
        "num_replicates": config.num_replicates,
        "eps": config.eps,
        **{
            name: {"mean": runs.mean(axis=0), "sd": runs.std(axis=0, ddof=1)}
            for name, runs in columns.items()
        },
    }
