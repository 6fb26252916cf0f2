"""p-values of adversarial training against clean training (Figures 2 right and 3).

Size: the paper's n = 100 and d in {2, 5, 10}; 300 clean and 500 adversarial runs a
point. Time: 12 seconds.

    advjax run transition/p_values

Variants: ``smoke``, seconds long, for tests.

The null distribution is that of clean training over data sets: of the parameters, and
of the training loss. Adversarial runs on other data sets are tested against it, one by
one, over a grid of log(ε/√(d/n)). A second figure moves the axis to log(ε/ε*), with ε*
where the mean adversarial training loss reaches the mean clean test loss.

eps* by loss crossing is 0.026, 0.067 and 0.129, each ± 0.004 (standard error).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from advjax import data, descent, inference, linear, norms, transition
from experiments import (
    arrays,
    checks,
    devices,
    figures,
    findings,
    intervals,
    simulations,
)
from experiments.fields import count, counts, number
from experiments.study import Config, Setup, Study
from experiments.writing import Drawn, Report, Table

TESTS = ("parameters", "loss", "loss, by rank")
LEVELS = (-2, 0, 2)
"""Values of log(ε/√(d/n)) that the report shows."""
QUARTILES = (0.25, 0.5, 0.75)


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    del inputs
    least = max(config.d) + 2
    if config.num_replicates < least:
        raise checks.ConfigError(
            f"config.num_replicates = {config.num_replicates}: choose numbers at least "
            f"{least}, as the test of {least - 2} parameters needs"
        )


def _dimensions(setup: Setup) -> dict[str, tuple[int, Any]]:
    config = setup.config
    keys = jax.random.split(jax.random.key(config.seed), len(config.d))
    return {f"d{d}": (d, key) for d, key in zip(config.d, keys, strict=True)}


def _logs(config: Config) -> np.ndarray:
    return np.linspace(-config.log_range, config.log_range, config.num_points)


def _tested(setup: Setup, d: int, key: Any) -> xr.Dataset:
    """All p-values of one dimension, over ``run`` and ``log_eps``, and ε*."""
    config = setup.config
    logs = _logs(config)
    eps = jnp.asarray((d / config.n) ** 0.5 * np.exp(logs), jnp.float32)
    key_clean, key_adversarial, key_resample = jax.random.split(key, 3)
    clean_keys = jax.random.split(key_clean, config.num_replicates)
    keys = jax.random.split(key_adversarial, config.num_adversarial)
    program = jax.jit(partial(_statistics, config, d))
    keys = devices.spread(keys, keys.size)
    found = jax.device_get(program(clean_keys, keys, key_resample, eps))
    checks.finite(
        found["losses"].T[None],
        config.num_steps,
        lambda i, run: f"d = {d}, eps = {eps[i]:.3g}, run {run}",
    )
    axes = {
        "p_value": ("test", "run", "log_eps"),
        "losses": ("run", "log_eps"),
        "eps_star_resampled": ("resample",),
    }
    values = {name: (axes.get(name, ()), each) for name, each in found.items()}
    return arrays.dataset(values, {"test": [*TESTS], "log_eps": logs})


def _statistics(config, d, clean_keys, keys, key_resample, eps) -> dict:
    theta0 = simulations.dense(config.theta0_norm, d)

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
    by_test = {
        "parameters": over_runs(inference.p_value, theta, clean_theta),
        "loss": over_runs(inference.p_value, loss, clean_loss),
        "loss, by rank": over_runs(inference.rank_p_value, loss, clean_loss),
    }
    return {
        "p_value": jnp.stack([by_test[test] for test in TESTS]),
        "losses": loss,
        "threshold": threshold,
        "eps_star": eps_star[0],
        "eps_star_resampled": eps_star[1:],
        "status": status[0],
    }


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Quartiles of the p-values over runs, and ε* with its standard error."""
    config = setup.config
    every = arrays.stacked(found, "d").assign_coords(d=[*config.d])
    p = every["p_value"].values
    axes = ("d", "test", "log_eps")
    medians, logs = np.median(p, axis=2), every["log_eps"].values
    at = [
        [[np.interp(level, logs, each) for level in LEVELS] for each in by_test]
        for by_test in medians
    ]
    names = [transition.Status(int(status)).name for status in every["status"]]
    kept = every[["eps_star", "threshold"]].assign_coords(
        test=[*TESTS], log_eps=logs, level=[*LEVELS], quartile=[*QUARTILES]
    )
    return kept.assign(
        scale=("d", [(d / config.n) ** 0.5 for d in config.d]),
        eps_star_se=every["eps_star_resampled"].std("resample", ddof=1, skipna=False),
        status=("d", names),
        median_p_value=(axes, medians),
        quartile_p_value=(("quartile", *axes), np.quantile(p, QUARTILES, axis=2)),
        median_p_value_at=((*axes[:2], "level"), at),
    )


def _report(config: Config, values: xr.Dataset) -> Report:
    shift = np.log(values["scale"] / values["eps_star"])
    labels = {
        "p_values": ("log(ε / √(d/n))", xr.zeros_like(shift)),
        "p_values_loss_crossing": ("log(ε / ε*), ε* by loss crossing", shift),
    }
    drawn = [
        Drawn(name, _figure(config, values, *axis), f"p-values over {axis[0]}")
        for name, axis in labels.items()
    ]
    return Report(
        "p-values of linear regression (Figures 2 right and 3)",
        "From which radius on does adversarial training differ from clean training, by "
        "the variation over data sets?",
        [
            *_findings(config, values),
            _exponent_finding(config, values),
        ],
        drawn,
        [_table(values)],
        f"n = {config.n}, {config.num_replicates} clean replicates, "
        f"{config.num_adversarial} adversarial runs a point. Medians at "
        "log(ε/√(d/n)) = -2, 0 and 2; ε* with its standard error by the bootstrap; nan "
        "where a resample has none. The step size shrinks with 1 + ε², which the "
        f"attack adds to the curvature, at {config.num_steps} steps for all.",
    )


def _findings(config: Config, values: xr.Dataset):
    size = f"n = {config.n}, {config.num_adversarial} adversarial runs"
    for d in values["d"].values:
        at = values.sel(d=d)
        scale = f"√(d/n) = {float(at['scale']):.3f}"
        yield findings.finding(
            f"ε* by loss crossing, d = {d}, {scale}",
            intervals.normal(at["eps_star"], at["eps_star_se"]),
            interval="by the bootstrap",
            size=size,
        )


def exponent(values: xr.Dataset) -> intervals.Interval:
    """The slope of log ε* in log(d/n), whose errors are those of ε* to first order."""
    x = 2 * np.log(values["scale"])
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    error = weights * values["eps_star_se"] / values["eps_star"]
    slope = (weights * np.log(values["eps_star"])).sum(skipna=False)
    return intervals.normal(slope, (error**2).sum(skipna=False) ** 0.5)


def _exponent_finding(config: Config, values: xr.Dataset) -> findings.Finding:
    found = exponent(values)
    return findings.finding(
        "exponent of ε* by loss crossing in d/n: within "
        f"{simulations.ORDER_WITHIN:g} of 1/2",
        found,
        printed="1/2",
        interval="by the bootstrap",
        size=f"{values.sizes['d']} dimensions, {config.num_adversarial} runs a point",
        verdict=findings.equal(found, 0.5, simulations.ORDER_WITHIN),
        form=".2f",
    )


def _figure(config: Config, values: xr.Dataset, label: str, shift: xr.DataArray) -> Any:
    """Quartiles of the p-values of each dimension over logs that are shifted."""
    figure, axes = figures.panels(2, sharey=True)
    for axis, test in zip(axes, ("parameters", "loss"), strict=True):
        dimensions = values["d"].values
        for d, color in zip(dimensions, figures.colors(dimensions.size), strict=True):
            x = values["log_eps"] + float(shift.sel(d=d))
            quartiles = values["quartile_p_value"].sel(d=d, test=test)
            low, middle, high = quartiles.transpose("quartile", "log_eps")
            axis.plot(x, middle, color=color, label=f"d = {d}")
            axis.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        axis.axvline(0, color="0.3", linewidth=0.8, linestyle=":")
        axis.set_xlabel(label)
        axis.set_title(f"test of the {test}", fontsize=10)
        axis.set_ylim(0, 1)
        axis.legend()
    axes[0].set_ylabel("p-value: median and quartiles")
    figure.suptitle(
        f"n = {config.n}, {config.num_replicates} clean replicates, "
        f"{config.num_adversarial} adversarial runs a point",
        fontsize=10,
    )
    return figure


def _table(values: xr.Dataset) -> Table:
    header = ["d", "√(d/n)", "ε* by loss crossing"]
    header += [f"p ({test}) at {level:+d}" for test in TESTS for level in LEVELS]
    rows = []
    for d in values["d"].values:
        at = values.sel(d=d)
        status = str(at["status"].values)
        star = f"{float(at['eps_star']):.3f} ± {float(at['eps_star_se']):.3f}"
        row = [f"{d}", f"{float(at['scale']):.3f}"]
        row.append(star if status == "CROSSES" else status)
        row += [
            f"{float(at['median_p_value_at'].sel(test=test, level=level)):.2g}"
            for test in TESTS
            for level in LEVELS
        ]
        rows.append(row)
    return Table("ε* and median p-values", header, rows)


STUDY = Study(
    "transition.p_values",
    {
        **simulations.fields(n=100, num_steps=100, theta0_norm=1.0, sigma=1.0),
        "d": counts((2, 5, 10), "dimensions of the inputs", increasing=True),
        "num_replicates": count(300, "clean runs, of a data set each"),
        # The paper states neither these nor steps. 500 runs a point put the error of
        # a median p-value at about 0.02.
        "num_adversarial": count(500, "adversarial runs at each radius", least=2),
        "step_size": number(0.1, "step size of gradient descent", above=0),
        "log_range": number(
            3, "largest absolute value of log(eps/sqrt(d/n))", least=max(LEVELS)
        ),
        "num_points": count(25, "radii", least=2),
        "num_resamples": count(200, "resamples of the bootstrap over runs", least=2),
    },
    _report,
    variants=(
        {
            "full": {},
            "smoke": {
                "num_replicates": 20,
                "num_adversarial": 10,
                "num_steps": 10,
                "num_points": 5,
                "num_resamples": 5,
            },
        },
    ),
    check=_check,
    cases=_dimensions,
    measure=_tested,
    values=_values,
)
get_config = STUDY.config
