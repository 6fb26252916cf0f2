"""Lemmas 1 and 2 of the theorems on eps*, as printed and corrected, against simulation.

The total variance of clean least squares (min-norm where d > n), and ∆, its test loss
less its training loss. Two terms differ from the paper: for d > n Lemma 1 lacks
(n/d)(1 - n/d)‖θ0‖², and Lemma 2 has a minus where a plus belongs.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import data, linear, norms, replicates, solvers
from experiments import checks, figures
from experiments.workdir import Workdir


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.seed(config)
    checks.integers(config, "num_replicates", least=2)
    checks.integers(config, "n", "d", "chunk_size")
    checks.numbers(config, "theta0_norm", above=0)
    checks.numbers(config, "sigma", above=0)
    checks.tuples(config, "n", "d")
    checks.single(config, "theta0_norm", "sigma")
    if len(config.n) != len(config.d):
        raise checks.ConfigError("config.n, d: give one d for each n")
    for n, d in zip(config.n, config.d, strict=True):
        checks.solvable("d", n, d)
        if abs(n - d) < 4:
            raise checks.ConfigError(
                f"config.d: at n = {n}, d = {d} means have no standard error; choose d "
                "at least 4 away from n"
            )


def run(config: ConfigDict, workdir: Workdir) -> dict:
    """Simulates every design and writes figure and report."""
    rows = []
    for n, d in zip(config.n, config.d, strict=True):
        found = workdir.stage(f"n{n}_d{d}", _simulate, config, n, d)
        scales = {"signal": config.theta0_norm, "sigma": config.sigma}
        rows.append(
            {
                "n": n,
                "d": d,
                "variance": _row(
                    found["variance"],
                    _printed_variance(n, d, config.sigma),
                    linear.least_squares_variance(n, d, **scales),
                ),
                "gap": _row(
                    found["gap"],
                    _printed_gap(n, d, config.sigma),
                    linear.generalization_gap(n, d, **scales),
                ),
            }
        )
    _figure(config, rows, workdir)
    return _report(config, rows, workdir)


def _printed_variance(n, d, sigma):
    return sigma**2 * min(n, d) / (abs(n - d) - 1)


def _printed_gap(n, d, sigma):
    """For d > n the paper gives only an order."""
    return sigma**2 * d * (1 / (n - d - 1) - 1 / n) if d < n else None


def _simulate(config, n, d) -> dict:
    """‖θ̂ - Eθ̂‖² and ∆ of every data set, ``[replicate]``."""
    theta0 = jnp.full(d, config.theta0_norm / d**0.5)
    # E P θ0 for the projection P on the rows of x, by symmetry.
    centre = min(1, n / d) * theta0

    def replicate(key):
        x, y = data.gaussian(key, n, theta0, None, config.sigma)
        theta = solvers.min_norm(x, y)
        test = linear.population_risk(
            theta, norms.l2, linear.Population(theta0, None, config.sigma), 0.0
        )
        train = jnp.mean((x @ theta - y) ** 2)
        return {"variance": jnp.sum((theta - centre) ** 2), "gap": test - train}

    key = jax.random.fold_in(jax.random.key(config.seed), n * 10_000 + d)
    keys = jax.random.split(key, config.num_replicates)
    return replicates.sharded_vmap(replicate, chunk_size=config.chunk_size)(keys)


def _row(draws, printed, corrected) -> dict:
    mean, error = draws.mean(), draws.std(ddof=1) / len(draws) ** 0.5
    corrected = float(corrected)
    return {
        "simulated": float(mean),
        "standard_error": float(error),
        "printed": printed,
        "corrected": corrected,
        "z_printed": None if printed is None else float((mean - printed) / error),
        "z_corrected": float((mean - corrected) / error),
    }


def _figure(config, rows, workdir) -> None:
    figure, axes = figures.panels(2)
    ratio = [row["d"] / row["n"] for row in rows]
    for axis, name in zip(axes, ("variance", "gap"), strict=True):
        mean, error, corrected = (
            [row[name][key] for row in rows]
            for key in ("simulated", "standard_error", "corrected")
        )
        printed = [row[name]["printed"] or np.nan for row in rows]
        axis.errorbar(
            ratio, mean, 2 * np.array(error), fmt="o", color="0.2", label="simulated"
        )
        axis.plot(ratio, corrected, "x", color=figures.PALETTE[0], label="corrected")
        axis.plot(ratio, printed, "+", color=figures.PALETTE[1], label="printed")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("d/n")
        axis.legend()
    axes[0].set_title("total variance of least squares (Lemma 1)", fontsize=10)
    axes[1].set_title("test less training loss (Lemma 2)", fontsize=10)
    figure.suptitle(
        f"{config.num_replicates} data sets; bars: two standard errors", fontsize=10
    )
    workdir.save_figure(figure, "moments")


def _report(config, rows, workdir) -> dict:
    def cells(row):
        printed, z_printed = row["printed"], row["z_printed"]
        return [
            f"{row['simulated']:.4f} ± {row['standard_error']:.4f}",
            "order only" if printed is None else f"{printed:.4f} ({z_printed:+.1f})",
            f"{row['corrected']:.4f} ({row['z_corrected']:+.1f})",
        ]

    table = [
        [f"{row['n']}", f"{row['d']}", *cells(row["variance"]), *cells(row["gap"])]
        for row in rows
    ]
    header = ["n", "d", "variance", "printed", "corrected", "∆", "printed", "corrected"]
    workdir.write_text(
        "report.md",
        "## Lemmas 1 and 2, printed and corrected\n\n"
        "![variance and gap against d/n](moments.png)\n\n"
        f"Mean ± standard error over {config.num_replicates} data sets; in brackets "
        "how many standard errors the simulation lies above the formula.\n\n"
        + figures.table(header, table),
    )
    both = [row[name] for row in rows for name in ("variance", "gap")]
    worst = max(abs(row["z_corrected"]) for row in both)
    wrong = sum(abs(row["z_printed"] or 0) > 4 for row in both)
    summary = (
        f"moments of least squares: corrected formulas within {worst:.1f} standard "
        f"errors in {len(both)} comparisons, printed ones off by more than 4 in {wrong}"
    )
    return {
        "summary": [summary],
        "num_replicates": config.num_replicates,
        "designs": rows,
    }
