"""LASSO makes adversarial training consistent where d ≫ n and θ0 is sparse (Theorem 9).

Proximal gradient descent on the adversarial loss plus λ‖θ‖₁, λ = c v √(s log d / n),
against the same descent without penalty, as n grows at fixed sparsity s: excess
adversarial risk over R*(ε), and ‖θ̂ - θ*‖₁/λ. A lower bound on the minimum certifies
where the penalised descent stops.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import data, descent, linear, norms, replicates, solvers
from experiments import checks, figures
from experiments.workdir import Workdir

PENALTIES = ("no penalty", "LASSO")


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.seed(config)
    checks.integers(config, "num_replicates", least=2)
    checks.integers(config, "num_steps", "chunk_size")
    checks.integers(config, "d", least=2)
    checks.single(config, "d", "num_active", "eps", "penalty_factor", "sigma")
    checks.integers(config, "num_active", most=config.d)
    checks.increasing(config, "n")
    checks.integers(config, "n")
    checks.numbers(config, "eps", above=0)
    checks.numbers(config, "penalty_factor", above=0)
    checks.numbers(config, "sigma", above=0)


def run(config: ConfigDict, workdir: Workdir) -> dict:
    """Trains every replicate at every n and writes figure and report."""
    keys = jax.random.split(jax.random.key(config.seed), config.num_replicates)
    runs = []
    for n in config.n:
        result = workdir.stage(f"n{n}", _fits, config, n, keys)
        checks.descended(
            np.moveaxis(result["objective"], -1, 0),
            lambda r, j, n=n: f"n = {n}, replicate {r}, {PENALTIES[j]}",
        )
        runs.append(result)
    _figure(config, runs, workdir)
    return _report(config, runs, workdir)


def _penalty(config, n) -> float:
    v = (config.num_active + config.sigma**2) ** 0.5
    rate = (config.num_active * np.log(config.d) / n) ** 0.5
    return float(config.penalty_factor * v * rate)


def _fits(config, n, keys) -> dict:
    """Risks and distances of both descents, ``[replicate, penalty]``."""
    theta0 = data.sparse_coefficients(config.d, num_active=config.num_active)
    population = linear.Population(theta0, None, config.sigma)
    optimum = linear.optimal(norms.l2, population, config.eps)
    # The largest curvature, if sgn(r) and ‖θ‖ were constant.
    curvature = 2 * (1 + (config.d / n) ** 0.5 + config.eps) ** 2

    def fit(x, y, penalty):
        args = (norms.l2, x, y, config.eps)

        def objective(theta):
            loss = linear.adversarial_loss(theta, *args).mean()
            return loss + penalty * norms.l1.value(theta)

        update = descent.step(
            lambda theta: linear.adversarial_gradient(theta, *args),
            1 / curvature,
            prox=descent.lasso(penalty),
        )
        start = jnp.zeros(config.d)
        theta = descent.last(start, update, num_steps=config.num_steps)
        bound = solvers.lower_bound(theta, *args, penalty=penalty)
        risk = linear.population_risk(theta, norms.l2, population, config.eps)
        return {
            "objective": jnp.stack([objective(start), objective(theta)]),
            "gap": (objective(theta) - bound) / objective(theta),
            "excess": risk - optimum.risk,
            "distance": norms.l1.value(theta - optimum.theta),
            "nonzero": jnp.sum(theta != 0),
        }

    def replicate(key):
        x, y = data.gaussian(key, n, theta0, None, config.sigma)
        penalties = jnp.array([0.0, _penalty(config, n)])
        return jax.vmap(lambda penalty: fit(x, y, penalty))(penalties)

    return replicates.sharded_vmap(replicate, chunk_size=config.chunk_size)(keys)


def _interval(runs) -> tuple[np.ndarray, np.ndarray]:
    """Mean and half of the 95 % interval, over replicates."""
    return runs.mean(axis=0), 1.96 * runs.std(axis=0, ddof=1) / len(runs) ** 0.5


def _figure(config, runs, workdir) -> None:
    figure, axes = figures.panels(2)
    for j, (name, color) in enumerate(zip(PENALTIES, figures.colors(2), strict=True)):
        mean, half = np.transpose([_interval(run["excess"][:, j]) for run in runs])
        axes[0].errorbar(config.n, mean, half, color=color, marker="o", label=name)
        distances = [
            run["distance"][:, j] / _penalty(config, n)
            for n, run in zip(config.n, runs, strict=True)
        ]
        mean, half = np.transpose([_interval(runs) for runs in distances])
        axes[1].errorbar(config.n, mean, half, color=color, marker="o", label=name)
    null = config.num_active + config.sigma**2
    least = linear.optimal(
        norms.l2,
        linear.Population(
            data.sparse_coefficients(config.d, num_active=config.num_active),
            None,
            config.sigma,
        ),
        config.eps,
    ).risk
    axes[0].axhline(
        null - least, color="0.3", linestyle=":", linewidth=1, label="θ = 0"
    )
    axes[0].set_ylabel("excess adversarial risk")
    axes[1].set_ylabel("‖θ̂ − θ*‖₁ / λ")
    axes[1].set_yscale("log")
    for axis in axes:
        axis.set_xscale("log")
        axis.set_xticks(config.n, [str(n) for n in config.n])
        axis.minorticks_off()
        axis.set_xlabel("examples n")
        axis.legend()
    figure.suptitle(
        f"d = {config.d}, s = {config.num_active}, ε = {config.eps:g}, "
        f"{config.num_replicates} replicates: mean and its 95 % interval",
        fontsize=10,
    )
    workdir.save_figure(figure, "lasso")


def _report(config, runs, workdir) -> dict:
    rows, results = [], []
    for n, run in zip(config.n, runs, strict=True):
        excess, penalty = run["excess"], _penalty(config, n)
        gain = excess[:, 0] - excess[:, 1]
        distance = run["distance"][:, 1] / penalty
        rows.append(
            [
                f"{n}",
                f"{penalty:.2f}",
                figures.plus_minus(excess[:, 0]),
                figures.plus_minus(excess[:, 1]),
                f"{gain.mean():.3f} ± {_interval(gain)[1]:.3f}",
                figures.plus_minus(distance, 1),
                f"{run['nonzero'][:, 1].mean():.0f}",
                f"{run['gap'][:, 1].max():.1%}",
            ]
        )
        results.append(
            {
                "n": n,
                "penalty": penalty,
                "excess": {"mean": excess.mean(0), "sd": excess.std(0, ddof=1)},
                "gain": {"mean": gain.mean(), "interval_95": _interval(gain)[1]},
                "distance_over_penalty": {
                    "mean": distance.mean(),
                    "sd": distance.std(ddof=1),
                },
                "nonzero": run["nonzero"].mean(0),
                "largest_relative_gap": run["gap"][:, 1].max(),
            }
        )
    header = ["n", "λ", "excess risk, no penalty", "LASSO", "gain (95 % interval)"]
    header += ["‖θ̂ − θ*‖₁/λ", "nonzero", "largest gap"]
    workdir.write_text(
        "report.md",
        "## LASSO and consistency in high dimension (Theorem 9)\n\n"
        "![excess risk and distance against n](lasso.png)\n\n"
        f"d = {config.d}, θ0 of {config.num_active} ones, ε = {config.eps:g}, "
        f"{config.num_steps} proximal steps; mean ± sd over {config.num_replicates} "
        "replicates, gains paired. Nonzero: mean number of entries that LASSO keeps. "
        "Gap: a bound on how far the penalised objective is above its minimum, relative"
        " to it. Without penalty the same steps are taken; where they end is not "
        "certified.\n\n" + figures.table(header, rows),
    )
    means = np.array([run["excess"].mean(axis=0) for run in runs])
    summary = (
        f"LASSO, d = {config.d}, eps = {config.eps:g}: excess adversarial risk at n = "
        f"{' / '.join(map(str, config.n))} is "
        f"{' / '.join(f'{mean:.2f}' for mean in means[:, 1])}, without penalty "
        f"{' / '.join(f'{mean:.2f}' for mean in means[:, 0])}"
    )
    return {
        "summary": [summary],
        "num_replicates": config.num_replicates,
        "by_n": results,
    }
