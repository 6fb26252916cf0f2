"""p-values of adversarial training against clean training (Figures 2 right and 3).

The null distribution is that of clean training over data sets: of the parameters, and
of the training loss. Adversarial runs on other data sets are tested against it, one by
one, over a grid of log(ε/√(d/n)). A second figure moves the axis to log(ε/ε*), with ε*
where the mean adversarial training loss reaches the mean clean test loss.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import data, descent, inference, linear, norms, transition
from experiments import checks, devices, figures
from experiments.workdir import Workdir

LEVELS = (-2, 0, 2)
"""Values of log(ε/√(d/n)) that the report shows."""


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.seed(config)
    checks.integers(config, "num_adversarial", "num_points", "num_resamples", least=2)
    checks.integers(config, "num_replicates", least=max(config.d) + 2)
    checks.integers(config, "d", "n", "num_steps")
    checks.numbers(config, "log_range", least=max(map(abs, LEVELS)))
    checks.numbers(config, "step_size", above=0)
    checks.numbers(config, "sigma", above=0)
    checks.numbers(config, "theta0_norm", above=0)


def run(config: ConfigDict, workdir: Workdir) -> dict:
    """Runs every dimension and writes figures and report."""
    logs = np.linspace(-config.log_range, config.log_range, config.num_points)
    keys = jax.random.split(jax.random.key(config.seed), len(config.d))
    runs = []
    for d, key in zip(config.d, keys, strict=True):
        scale = (d / config.n) ** 0.5
        eps = jnp.asarray(scale * np.exp(logs), jnp.float32)
        result = workdir.stage(f"d{d}", _tests, config, key, d, eps)
        checks.finite(
            result["losses"].T[None],
            config.num_steps,
            lambda i, run, d=d, eps=eps: f"d = {d}, eps = {eps[i]:.3g}, run {run}",
        )
        runs.append(result)
    scales = [(d / config.n) ** 0.5 for d in config.d]
    _figure(config, runs, [logs] * len(runs), "log(ε / √(d/n))", "p_values", workdir)
    shifted = [
        logs + np.log(scale / run["eps_star"])
        for scale, run in zip(scales, runs, strict=True)
    ]
    label = "log(ε / ε*), ε* by loss crossing"
    _figure(config, runs, shifted, label, "p_values_loss_crossing", workdir)
    return _report(config, runs, logs, workdir)


def _tests(config, key, d, eps) -> dict:
    """All p-values of one dimension, ``[adversarial run, radius]``, and ε*."""
    key_clean, key_adversarial, key_resample = jax.random.split(key, 3)
    clean_keys = jax.random.split(key_clean, config.num_replicates)
    keys = jax.random.split(key_adversarial, config.num_adversarial)
    program = jax.jit(partial(_statistics, config, d))
    keys = devices.spread(keys, keys.size)
    return program(clean_keys, keys, key_resample, eps)


def _statistics(config, d, clean_keys, keys, key_resample, eps) -> dict:
    theta0 = jnp.full(d, config.theta0_norm / d**0.5)

    def fit(key, eps):
        x, y = data.gaussian(key, config.n, theta0, None, config.sigma)
        update = descent.step(
            lambda theta: linear.adversarial_gradient(theta, norms.l2, x, y, eps),
            # The attack adds 2 eps² to the curvature; the step shrinks as it grows.
            config.step_size / (1 + eps**2),
        )
        theta = descent.last(jnp.zeros(d), update, num_steps=config.num_steps)
        return theta, jnp.mean(linear.adversarial_loss(theta, norms.l2, x, y, eps))

    def test_loss(theta):
        population = linear.Population(theta0, jnp.eye(d), config.sigma)
        return linear.population_risk(theta, norms.l2, population, 0.0)

    def over_runs(p_value, observed, replicates):
        return jax.vmap(jax.vmap(p_value, (0, None)), (0, None))(observed, replicates)

    clean_theta, clean_loss = jax.vmap(lambda key: fit(key, 0.0))(clean_keys)
    theta, loss = jax.vmap(jax.vmap(fit, (None, 0)), (0, None))(keys, eps)
    threshold = jnp.mean(jax.vmap(test_loss)(clean_theta))
    # The bootstrap over data sets, after the curve of all of them.
    shape = (config.num_resamples, keys.size)
    rows = jax.random.randint(key_resample, shape, 0, keys.size)
    weights = jax.vmap(partial(jnp.bincount, length=keys.size))(rows) / keys.size
    curves = jnp.concatenate([jnp.mean(loss, axis=0)[None], weights @ loss])
    cross = jax.vmap(transition.crossing, (None, 0, None))
    eps_star, status = cross(eps, curves, threshold)
    return {
        "parameters": over_runs(inference.p_value, theta, clean_theta),
        "loss": over_runs(inference.p_value, loss, clean_loss),
        "loss, by rank": over_runs(inference.rank_p_value, loss, clean_loss),
        "losses": loss,
        "threshold": threshold,
        "eps_star": eps_star[0],
        "eps_star_resampled": eps_star[1:],
        "status": status[0],
    }


def _figure(config, runs, logs, label, name, workdir) -> None:
    """Quantiles of the p-values of each dimension over its own ``logs``."""
    figure, axes = figures.panels(2, sharey=True)
    for axis, statistic in zip(axes, ("parameters", "loss"), strict=True):
        for d, run, x, color in zip(
            config.d, runs, logs, figures.colors(len(runs)), strict=True
        ):
            low, middle, high = np.quantile(run[statistic], (0.25, 0.5, 0.75), axis=0)
            axis.plot(x, middle, color=color, label=f"d = {d}")
            axis.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        axis.axvline(0, color="0.3", linewidth=0.8, linestyle=":")
        axis.set_xlabel(label)
        axis.set_title(f"test of the {statistic}", fontsize=10)
        axis.set_ylim(0, 1)
        axis.legend()
    axes[0].set_ylabel("p-value: median and quartiles")
    figure.suptitle(
        f"n = {config.n}, {config.num_replicates} clean replicates, "
        f"{config.num_adversarial} adversarial runs a point",
        fontsize=10,
    )
    workdir.save_figure(figure, name)


def _report(config, runs, logs, workdir) -> dict:
    statistics = ("parameters", "loss", "loss, by rank")
    rows, results, summary = [], [], []
    for d, run in zip(config.d, runs, strict=True):
        scale = (d / config.n) ** 0.5
        medians = {name: np.median(run[name], axis=0) for name in statistics}
        at = {
            level: {
                name: float(np.interp(level, logs, p)) for name, p in medians.items()
            }
            for level in LEVELS
        }
        error = float(np.std(run["eps_star_resampled"], ddof=1))
        status = transition.Status(int(run["status"])).name
        star = f"{run['eps_star']:.3f} ± {error:.3f}" if run["status"] == 0 else status
        rows.append(
            [f"{d}", f"{scale:.3f}", star]
            + [f"{at[level][name]:.2g}" for name in statistics for level in LEVELS]
        )
        summary.append(
            f"linear regression, d = {d}, n = {config.n}: eps* = {star} (standard "
            f"error) by loss crossing, √(d/n) = {scale:.3f}"
        )
        results.append(
            {
                "d": d,
                "scale": scale,
                "eps_star": run["eps_star"],
                "eps_star_se": error,
                "status": status,
                "threshold": run["threshold"],
                "median_p_value_at": at,
                "median_p_value": medians,
            }
        )
    header = ["d", "√(d/n)", "ε* by loss crossing"]
    header += [f"p ({name}) at {level:+d}" for name in statistics for level in LEVELS]
    workdir.write_text(
        "report.md",
        "## p-values of linear regression (Figures 2 right and 3)\n\n"
        "![p-values on the scale √(d/n)](p_values.png)\n\n"
        "![p-values on the scale of the crossing](p_values_loss_crossing.png)\n\n"
        "Medians at log(ε/√(d/n)) = -2, 0 and 2; ε* with its standard error by the "
        f"bootstrap, {config.num_adversarial} runs; nan where a resample has none. The "
        "step size shrinks with 1 + ε², which the attack adds to the curvature, at "
        f"{config.num_steps} steps for all.\n\n" + figures.table(header, rows),
    )
    return {"summary": summary, "log_eps_over_scale": logs, "dimensions": results}
