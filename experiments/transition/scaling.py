"""How eps* scales with d/n: Theorems 1 and 2 as measurements.

Two ratios that grow with the radius, means over replicates:

    loss        (R̂(θ̂(ε), ε) - R̂(θ̂(0), 0)) / ∆, ∆ = R(θ̂(0), 0) - R̂(θ̂(0), 0)
    trajectory  max over t of ‖θ(t)(ε) - θ(t)(0)‖ / ‖Std(θ̂(0))‖

By definition eps* is where the first ratio reaches 1: there the adversarial training
loss is the clean test loss. Where d ≥ n both stay near 1 at most, so that the radius of
one half is reported too. Where d ≪ n and where d ≫ n the exponent of the radius in d/n
is fitted, with its 95 % interval by the bootstrap over replicates. The theorems have
√(d/n) for both ratios; from the corrected Lemma 2 one expects the first to scale as d/n
where d ≪ n.

Both paths of a pair take the step size that its radius allows. Where d < n, ∆ is
measured less its part of mean zero, σ² - mean(noise²), which is most of its variance.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import data, descent, linear, norms, replicates, solvers, transition
from experiments import checks, figures
from experiments.workdir import Workdir

RATIOS = ("loss", "trajectory")
LEVELS = {"1": 1.0, "1/2": 0.5}
CRITERIA = tuple((ratio, level) for ratio in RATIOS for level in LEVELS)
FIELDS = {"small": "d ≪ n", "moderate": "d ~ n", "large": "d ≫ n"}
"""Fields of the configuration, as ``small_n`` and ``small_d``, and their regimes."""
FITTED = ("d ≪ n", "d ≫ n")
"""Where a power law can hold: least squares has a pole at d = n."""


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.seed(config)
    checks.integers(config, "num_replicates", "num_points", "num_resamples", least=2)
    checks.integers(config, "num_steps", "chunk_size")
    checks.numbers(config, "theta0_norm", above=0)
    checks.numbers(config, "sigma", above=0)
    checks.numbers(config, "rel_step_size", above=0, most=1)
    for field in FIELDS:
        checks.tuples(config, f"{field}_n", f"{field}_d", least=2)
        checks.integers(config, f"{field}_n", f"{field}_d")
        sizes = config[f"{field}_n"], config[f"{field}_d"]
        if len(sizes[0]) != len(sizes[1]):
            raise checks.ConfigError(f"config.{field}_n, {field}_d: differ in length")
        for n, d in zip(*sizes, strict=True):
            checks.solvable(f"{field}_d", n, d)
        if len({d / n for n, d in zip(*sizes, strict=True)}) < 2:
            raise checks.ConfigError(f"config.{field}_d: give two different d/n")


def run(config: ConfigDict, workdir: Workdir) -> dict:
    """Measures every design and writes figure and report."""
    rows = []
    for field, regime in FIELDS.items():
        designs = zip(config[f"{field}_n"], config[f"{field}_d"], strict=True)
        for n, d in designs:
            stage = workdir.stage(f"n{n}_d{d}", _measure, config, n, d)
            checks.descended(
                np.moveaxis(stage["losses"], -1, 0),
                lambda r, i, n=n, d=d: f"n = {n}, d = {d}, replicate {r}, radius {i}",
                most=10,  # strong attacks leave paths that wander about zero
            )
            design = {"regime": regime, "n": n, "d": d, "eps": stage["eps"]}
            rows.append(design | _radii(config, n, d, stage))
    fits = {
        (criterion, regime): _exponent(rows, criterion, regime)
        for criterion in CRITERIA
        for regime in FITTED
    }
    _scaling_figure(config, rows, fits, workdir)
    _collapse_figure(rows, workdir)
    return _report(config, rows, fits, workdir)


def _eps(config, n, d):
    """Radii that span both scales."""
    low, high = sorted((d / n, (d / n) ** 0.5))
    return jnp.geomspace(low / 4, 8 * high, config.num_points)


def _measure(config, n, d) -> dict:
    """Losses and trajectory gaps, ``[replicate, radius]``, ∆ ``[replicate]``."""
    theta0 = jnp.full(d, config.theta0_norm / d**0.5)
    eps = _eps(config, n, d)
    variance = linear.least_squares_variance(
        n, d, signal=config.theta0_norm, sigma=config.sigma
    )

    def replicate(key):
        x, y = data.gaussian(key, n, theta0, None, config.sigma)
        basis = linear.span(x, theta0)
        x, target = x @ basis, theta0 @ basis
        clean = solvers.min_norm(x, y)
        test = linear.population_risk(
            clean, norms.l2, linear.Population(target, None, config.sigma), 0.0
        )

        def loss(theta, eps):
            return linear.adversarial_loss(theta, norms.l2, x, y, eps).mean()

        def trajectory(eps):
            # The largest curvature, if sgn(r) and ‖θ‖ were constant.
            curvature = 2 * (1 + (d / n) ** 0.5 + eps) ** 2
            step_size = config.rel_step_size / curvature

            def update(eps):
                return descent.step(
                    lambda theta: linear.adversarial_gradient(
                        theta, norms.l2, x, y, eps
                    ),
                    step_size,
                )

            def both(pair):
                return update(eps)(pair[0]), update(0.0)(pair[1])

            start = jnp.zeros_like(target)
            path = descent.path(
                (start, start),
                both,
                num_steps=config.num_steps,
                observe=lambda pair: {
                    "gap": norms.l2.value(pair[0] - pair[1]),
                    "loss": loss(pair[0], eps),
                },
            )
            return {
                "trajectory": jnp.max(path["gap"]) / jnp.sqrt(variance),
                "losses": path["loss"][jnp.array([0, -1])],
            }

        found = jax.vmap(lambda eps: solvers.adversarial(norms.l2, x, y, eps))(eps)
        train, noise = jnp.mean((x @ clean - y) ** 2), y - x @ target
        control = jnp.mean(noise**2) - config.sigma**2 if d < n else 0.0
        return {
            "rise": found.loss - train,
            "difference": test - train + control,
            **jax.vmap(trajectory)(eps),
        }

    keys = jax.random.split(
        jax.random.fold_in(jax.random.key(config.seed), n * 10_000 + d),
        config.num_replicates,
    )
    return replicates.sharded_vmap(replicate, chunk_size=config.chunk_size)(keys) | {
        "eps": eps
    }


def _radii(config, n, d, stage) -> dict:
    """Where the ratios reach their levels, for all replicates and for resamples."""
    generator = np.random.default_rng([config.seed, n, d])
    size = (config.num_resamples, config.num_replicates)
    rows = generator.integers(0, config.num_replicates, size)
    rows = np.vstack([np.arange(config.num_replicates), rows])
    rise, difference, trajectory = (
        stage[name][rows].mean(axis=1) for name in ("rise", "difference", "trajectory")
    )
    curves = {"loss": rise / difference[:, None], "trajectory": trajectory}
    # Where a ratio is first reached; that of the trajectory falls again at radii so
    # large that neither path gets far in the given steps.
    highest = {ratio: np.maximum.accumulate(c, axis=1) for ratio, c in curves.items()}
    cross = jax.jit(jax.vmap(transition.crossing, (None, 0, None)))
    log_eps = jnp.log(stage["eps"])
    return {name: curve[0] for name, curve in curves.items()} | {
        (ratio, level): np.exp(
            cross(log_eps, jnp.asarray(highest[ratio]), LEVELS[level]).eps_star
        )
        for ratio, level in CRITERIA
    }


def _exponent(rows, criterion, regime) -> np.ndarray:
    """The slope of log radius in log d/n, for all replicates and for resamples."""
    rows = [row for row in rows if row["regime"] == regime]
    x = np.log([row["d"] / row["n"] for row in rows])
    y = np.log([row[criterion] for row in rows])
    x = x - x.mean()
    return x @ y / (x @ x)


def _reached(radii) -> bool:
    """Whether the mean curve and those of all but 2.5 % of the resamples cross."""
    return bool(np.isfinite(radii[0]) and np.isfinite(radii[1:]).mean() >= 0.975)


def _interval(fit) -> list[float] | None:
    """The 95 % interval, unless some design does not reach the level."""
    return np.nanquantile(fit[1:], (0.025, 0.975)).tolist() if _reached(fit) else None


def _exponent_text(fit) -> str:
    if not _reached(fit):
        return "not reached"
    low, high = _interval(fit)
    return f"{fit[0]:.3f} [{low:.3f}, {high:.3f}]"


def _error(radii) -> float | None:
    """The standard error of a radius, by the bootstrap."""
    return float(np.nanstd(radii[1:])) if _reached(radii) else None


def _collapse_figure(rows, workdir) -> None:
    figure, axes = figures.panels(2, 2)
    for axis, (ratio, exponent, scale) in zip(
        axes,
        [(r, e, s) for r in RATIOS for e, s in ((0.5, "√(d/n)"), (1, "(d/n)"))],
        strict=True,
    ):
        for regime, color in zip(FIELDS.values(), figures.colors(3), strict=True):
            part = [row for row in rows if row["regime"] == regime]
            for i, row in enumerate(part):
                axis.plot(
                    row["eps"] / (row["d"] / row["n"]) ** exponent,
                    row[ratio],
                    color=color,
                    linewidth=1,
                    label=regime if i == 0 else None,
                )
        axis.axhline(1, color="0.3", linewidth=0.8, linestyle=":")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel(f"ε / {scale}")
        axis.set_title(f"ratio of the {ratio}", fontsize=10)
        axis.legend(fontsize=8)
    workdir.save_figure(figure, "collapse")


def _scaling_figure(config, rows, fits, workdir) -> None:
    figure, axes = figures.panels(2)
    for i, criterion in enumerate(CRITERIA):
        axis, (ratio, level) = axes[i // 2], criterion
        for regime, color in zip(FIELDS.values(), figures.colors(3), strict=True):
            part = [
                row
                for row in rows
                if row["regime"] == regime and _reached(row[criterion])
            ]
            if not part:
                continue
            fitted = (criterion, regime) in fits and _reached(fits[criterion, regime])
            slope = _exponent_text(fits[criterion, regime]) if fitted else "no fit"
            axis.errorbar(
                [row["d"] / row["n"] for row in part],
                [row[criterion][0] for row in part],
                [_error(row[criterion]) for row in part],
                fmt="o" if level == "1" else "s",
                fillstyle="full" if level == "1" else "none",
                markersize=5,
                color=color,
                label=f"ratio {level}, {regime}: {slope}",
            )
        axis.set_title(
            f"radius at which the ratio of the {ratio} is reached", fontsize=10
        )
    grid = np.geomspace(*np.quantile([row["d"] / row["n"] for row in rows], (0, 1)))
    for axis in axes:
        axis.plot(grid, grid**0.5, color="0.5", linestyle="--", label="√(d/n)")
        axis.plot(grid, grid, color="0.5", linestyle=":", label="d/n")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("d/n")
        axis.legend(fontsize=7)
    axes[0].set_ylabel("radius ε")
    figure.suptitle(
        f"{config.num_replicates} replicates a design; bars: standard errors; "
        "exponents with 95 % intervals",
        fontsize=10,
    )
    workdir.save_figure(figure, "scaling")


def _report(config, rows, fits, workdir) -> dict:
    def radius(radii):
        if not _reached(radii):
            return "not reached"
        return f"{radii[0]:.4f} ± {_error(radii):.4f}"

    names = [f"{ratio} reaches {level}" for ratio, level in CRITERIA]
    table = [
        [row["regime"], f"{row['n']}", f"{row['d']}", f"{row['d'] / row['n']:.4g}"]
        + [f"{(row['d'] / row['n']) ** 0.5:.3f}"]
        + [radius(row[criterion]) for criterion in CRITERIA]
        for row in rows
    ]
    exponents = [
        [regime, *(_exponent_text(fits[criterion, regime]) for criterion in CRITERIA)]
        for regime in FITTED
    ]
    workdir.write_text(
        "report.md",
        "## The scale of ε* in linear regression (Theorems 1 and 2)\n\n"
        "![radii against d/n](scaling.png)\n\n"
        "![ratios against the radius on both scales](collapse.png)\n\n"
        "Exponents of the radius in d/n, with 95 % intervals by the bootstrap over "
        f"{config.num_replicates} replicates, given these designs. The theorems have "
        "1/2 throughout; the corrected Lemma 2 has 1 for the loss where d ≪ n.\n\n"
        + figures.table(["regime", *names], exponents)
        + "\nRadius ± standard error; ε* is where the loss reaches 1. Not reached: by "
        "the mean, or by more than 2.5 % of its resamples.\n\n"
        + figures.table(["regime", "n", "d", "d/n", "√(d/n)", *names], table),
    )
    summary = [
        f"scaling where {regime}: exponent of the radius in d/n by the loss "
        f"{_exponent_text(fits[('loss', level), regime])}, by the trajectory "
        f"{_exponent_text(fits[('trajectory', level), regime])} (ratio {level})"
        for regime, level in zip(FITTED, ("1", "1/2"), strict=True)
    ]
    return {
        "summary": summary,
        "num_replicates": config.num_replicates,
        "designs": [
            {name: row[name] for name in ("regime", "n", "d", "eps", *RATIOS)}
            | {
                f"{ratio} reaches {level}": {
                    "radius": row[ratio, level][0],
                    "se": _error(row[ratio, level]),
                    "share_of_resamples": np.isfinite(row[ratio, level][1:]).mean(),
                }
                for ratio, level in CRITERIA
            }
            for row in rows
        ],
        "exponents": {
            f"{ratio} reaches {level}, {regime}": {
                "exponent": fit[0],
                "interval_95": _interval(fit),
            }
            for ((ratio, level), regime), fit in fits.items()
        },
    }
