"""How eps* scales with d/n: Theorems 1 and 2 over designs of three regimes.

Size: 17 designs, 200 replicates each. Time: 3 minutes.

    advjax run transition/scaling

Variants: ``smoke``, seconds long, for tests. The sizes are ours.

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

Where d ≪ n the loss crosses at a power 0.983 of d/n, 95 % interval 0.956 to 1.011, and
the trajectory departs at 0.470, 0.467 to 0.473; where d ≫ n the powers are 0.512 and
0.506.
"""

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from advjax import data, descent, linear, norms, solvers, transition
from advjax.types import Array, Key
from experiments import arrays, checks, figures, findings, simulations
from experiments.fields import count, counts, number
from experiments.intervals import Interval
from experiments.study import Config, Setup, Study
from experiments.writing import Drawn, Report, Table

RATIOS = ("loss", "trajectory")
LEVELS = {"1": 1.0, "1/2": 0.5}
REGIMES = {"small": "d ≪ n", "moderate": "d ~ n", "large": "d ≫ n"}
"""By the fields of the configuration, ``small_n`` and ``small_d``."""
FITTED = ("d ≪ n", "d ≫ n")
"""Where a power law can hold: least squares has a pole at d = n."""


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    del inputs
    for field in REGIMES:
        checks.same_length(config, f"{field}_n", f"{field}_d")
        for n, d in _sizes(config, field):
            checks.solvable(f"{field}_d", n, d)
        if len({d / n for n, d in _sizes(config, field)}) < 2:
            raise checks.ConfigError(f"config.{field}_d: give two different d/n")


def _sizes(config: Config, field: str) -> list[tuple[int, int]]:
    """The pairs n and d of the designs of a regime."""
    return [*zip(config[f"{field}_n"], config[f"{field}_d"], strict=True)]


def _designs(setup: Setup) -> dict[str, tuple[int, int]]:
    by_regime = [_sizes(setup.config, field) for field in REGIMES]
    return {f"n{n}_d{d}": (n, d) for n, d in itertools.chain(*by_regime)}


def _eps(config, n, d):
    """Radii that span both scales."""
    low, high = sorted((d / n, (d / n) ** 0.5))
    return jnp.geomspace(low / 4, 8 * high, config.num_points)


def _measured(setup: Setup, n: int, d: int) -> xr.Dataset:
    """Losses and trajectory gaps of one design, over replicates and radii, and ∆."""
    config = setup.config
    eps = _eps(config, n, d)
    found = simulations.replicated(
        config,
        partial(_replicate, config, n, d, eps),
        axes=("point", "end"),
        key=simulations.design_key(config, n, d),
    )
    # Strong attacks leave paths that wander about zero.
    losses, setting = found["losses"], f"n = {n}, d = {d}"
    simulations.check_descent(losses, setting, over="end", most=10)
    return found.drop_vars("losses").assign(eps=("point", np.asarray(eps)))


def _replicate(config: Config, n: int, d: int, eps: Array, key: Key) -> dict:
    """Both ratios' numerators over radii, and ∆, of one data set."""
    theta0 = simulations.dense(config.theta0_norm, d)
    x, y = data.gaussian(key, n, theta0, None, config.sigma)
    basis = linear.span(x, theta0)
    x, target = x @ basis, theta0 @ basis
    clean = solvers.min_norm(x, y)
    population = linear.Population(target, None, config.sigma)
    test = linear.population_risk(clean, norms.l2, population, 0.0)
    found = jax.vmap(lambda eps: solvers.adversarial(norms.l2, x, y, eps))(eps)
    train, noise = jnp.mean((x @ clean - y) ** 2), y - x @ target
    control = jnp.mean(noise**2) - config.sigma**2 if d < n else 0.0
    trajectory = partial(_trajectory, config, n, d, x, y)
    return {
        "rise": found.loss - train,
        "difference": test - train + control,
        **jax.vmap(trajectory)(eps),
    }


def _trajectory(
    config: Config, n: int, d: int, x: Array, y: Array, eps: Array
) -> dict[str, Array]:
    """The largest gap of the attacked path to the clean one, and ends of its loss."""
    # The largest curvature, if sgn(r) and ‖θ‖ were constant.
    curvature = 2 * (1 + (d / n) ** 0.5 + eps) ** 2
    step_size = config.rel_step_size / curvature
    variance = linear.least_squares_variance(
        n, d, signal=config.theta0_norm, sigma=config.sigma
    )

    def update(eps):
        def gradient(theta):
            return linear.adversarial_gradient(theta, norms.l2, x, y, eps)

        return descent.step(gradient, step_size)

    def both(pair):
        return update(eps)(pair[0]), update(0.0)(pair[1])

    def observed(pair):
        loss = linear.adversarial_loss(pair[0], norms.l2, x, y, eps).mean()
        return {"gap": norms.l2.value(pair[0] - pair[1]), "loss": loss}

    start = jnp.zeros(x.shape[1])
    path = descent.path(
        (start, start), both, num_steps=config.num_steps, observe=observed
    )
    return {
        "trajectory": jnp.max(path["gap"]) / jnp.sqrt(variance),
        "losses": path["loss"][jnp.array([0, -1])],
    }


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Mean ratios over radii, radii at which they reach levels, and exponents.

    The first of ``resample`` is of all replicates, and the others are of the bootstrap;
    kept are the first, the standard error, and the share of resamples that reach it.
    """
    config, regimes = setup.config, _regimes(setup.config)
    designs = [
        _radii(config, n, d, found[name]).assign(regime=regime, n=n, d=d)
        for (name, (n, d)), regime in zip(_designs(setup).items(), regimes, strict=True)
    ]
    values = xr.concat(designs, "design", join="exact")
    radius = values["radius"]
    is_reached = np.isfinite(radius[..., 1:]).mean("resample")
    log_scale = np.log(values["d"] / values["n"])
    fits = {
        regime: _exponent(
            log_scale[values["regime"] == regime],
            np.log(radius[values["regime"] == regime]),
        )
        for regime in FITTED
    }
    exponent = arrays.stacked(fits, "fitted")
    return values.drop_vars("radius").assign(
        radius=radius.isel(resample=0),
        radius_se=radius[..., 1:].std("resample", skipna=False),
        share_of_resamples=is_reached,
        exponent=exponent.isel(resample=0),
        exponent_95=_interval(exponent),
    )


def _regimes(config: Config) -> list[str]:
    return [regime for field, regime in REGIMES.items() for _ in config[f"{field}_n"]]


def _radii(config: Config, n: int, d: int, measured: xr.Dataset) -> xr.Dataset:
    """Where the ratios reach their levels, for all replicates and for resamples."""
    generator = np.random.default_rng([config.seed, n, d])
    size = (config.num_resamples, config.num_replicates)
    rows = generator.integers(0, config.num_replicates, size)
    rows = np.vstack([np.arange(config.num_replicates), rows])
    rise, difference, trajectory = (
        measured[name].values[rows].mean(axis=1)
        for name in ("rise", "difference", "trajectory")
    )
    curves = np.stack([rise / difference[:, None], trajectory])
    # Where a ratio is first reached; that of the trajectory falls again at radii so
    # large that neither path gets far in the given steps.
    highest = np.maximum.accumulate(curves, axis=-1)
    log_eps = jnp.log(measured["eps"].values)
    cross = jax.jit(jax.vmap(transition.crossing, (None, 0, None)))
    radius = [
        [np.exp(cross(log_eps, jnp.asarray(each), level).eps_star) for each in highest]
        for level in LEVELS.values()
    ]
    return arrays.dataset(
        {
            "eps": (("point",), measured["eps"].values),
            "ratio_curve": (("ratio", "point"), curves[:, 0]),
            "radius": (("level", "ratio", "resample"), radius),
        },
        {"ratio": RATIOS, "level": [*LEVELS]},
    ).transpose("ratio", "level", "point", "resample")


def _exponent(log_scale: xr.DataArray, log_radius: xr.DataArray) -> xr.DataArray:
    """The slope of log radius in log d/n over the designs of a regime."""
    x = log_scale - log_scale.mean()
    return (x * log_radius).sum("design", skipna=False) / (x**2).sum()


def _interval(resampled: xr.DataArray) -> xr.DataArray:
    """The 95 % interval; nan unless the mean and all resamples reach the level."""
    others = resampled.isel(resample=slice(1, None))
    ends = others.quantile((0.025, 0.975), "resample", skipna=False)
    is_reached = np.isfinite(resampled).all("resample")
    return ends.where(is_reached).rename(quantile="end").drop_vars("end")


def _is_reached(values: xr.Dataset) -> xr.DataArray:
    """Whether the mean curve and those of all resamples cross."""
    return np.isfinite(values["radius"]) & (values["share_of_resamples"] == 1)


def _fit(values: xr.Dataset, ratio: str, level: str, regime: str) -> Interval:
    """An exponent with its interval; nan where the level is not reached."""
    at = values.sel(ratio=ratio, level=level, fitted=regime)
    low, high = map(float, at["exponent_95"])
    mean = float(at["exponent"]) if np.isfinite(low) else np.nan
    return Interval(mean, low, high)


def _text(fit: Interval) -> str:
    return "not reached" if np.isnan(fit.mean) else f"{fit:.3f}"


def _report(config: Config, values: xr.Dataset) -> Report:
    criteria = [(ratio, level) for ratio in RATIOS for level in LEVELS]
    names = [f"{ratio} reaches {level}" for ratio, level in criteria]
    exponents = [
        [regime, *(_text(_fit(values, *each, regime)) for each in criteria)]
        for regime in FITTED
    ]
    return Report(
        "The scale of ε* in linear regression (Theorems 1 and 2)",
        "Do the radii where the loss crosses and where the trajectory departs grow as "
        "√(d/n)?",
        [
            _finding(config, values, ratio, level, regime)
            for regime, level in zip(FITTED, LEVELS, strict=True)
            for ratio in RATIOS
        ],
        [
            Drawn("scaling", _scaling_figure(config, values), "radii over d/n"),
            Drawn("collapse", _collapse_figure(values), "ratios on both scales"),
        ],
        [
            Table("Exponents of the radius in d/n", ["regime", *names], exponents),
            _radii_table(values, criteria, names),
        ],
        "Exponents with 95 % intervals by the bootstrap over "
        f"{config.num_replicates} replicates, given these designs. The theorems have "
        "1/2 throughout; the corrected Lemma 2 has 1 for the loss where d ≪ n. Radius "
        "± standard error; ε* is where the loss reaches 1. Not reached: by the mean, "
        "or by one of its resamples.",
    )


def _finding(
    config: Config, values: xr.Dataset, ratio: str, level: str, regime: str
) -> findings.Finding:
    fit = _fit(values, ratio, level, regime)
    number = int((values["regime"] == regime).sum())
    return findings.finding(
        f"exponent of the radius in d/n, {regime}, by the {ratio} at {level}: within "
        f"{simulations.ORDER_WITHIN:g} of 1/2",
        fit,
        printed="1/2",
        size=f"{number} designs, {config.num_replicates} replicates",
        form=".3f",
        verdict=findings.equal(fit, 0.5, simulations.ORDER_WITHIN),
    )


def _radii_table(values: xr.Dataset, criteria: list, names: list[str]) -> Table:
    is_reached = _is_reached(values)
    rows = []
    for i in range(values.sizes["design"]):
        at = values.isel(design=i)
        n, d = int(at["n"]), int(at["d"])
        row = [str(at["regime"].values), f"{n}", f"{d}", f"{d / n:.4g}"]
        row.append(f"{(d / n) ** 0.5:.3f}")
        for ratio, level in criteria:
            one = at.sel(ratio=ratio, level=level)
            reached = bool(is_reached.isel(design=i).sel(ratio=ratio, level=level))
            text = f"{float(one['radius']):.4f} ± {float(one['radius_se']):.4f}"
            row.append(text if reached else "not reached")
        rows.append(row)
    return Table("Radii", ["regime", "n", "d", "d/n", "√(d/n)", *names], rows)


def _by_regime(values: xr.Dataset):
    """Designs of each regime with its colour."""
    for regime, color in zip(REGIMES.values(), figures.colors(3), strict=True):
        yield regime, color, values.isel(design=values["regime"].values == regime)


def _collapse_figure(values: xr.Dataset) -> Any:
    figure, axes = figures.panels(2, 2)
    scales = {"√(d/n)": 0.5, "(d/n)": 1.0}
    panels = [(ratio, *scale) for ratio in RATIOS for scale in scales.items()]
    for axis, (ratio, scale, exponent) in zip(axes, panels, strict=True):
        for regime, color, part in _by_regime(values):
            x = (part["eps"] / (part["d"] / part["n"]) ** exponent).transpose()
            y = part["ratio_curve"].sel(ratio=ratio).transpose("point", "design")
            lines = axis.plot(x, y, color=color, linewidth=1)
            lines[0].set_label(regime)
        axis.axhline(1, color="0.3", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", yscale="log", xlabel=f"ε / {scale}")
        axis.set_title(f"ratio of the {ratio}", fontsize=10)
        axis.legend(fontsize=8)
    return figure


def _scaling_figure(config: Config, values: xr.Dataset) -> Any:
    figure, axes = figures.panels(2)
    is_reached = _is_reached(values)
    for axis, ratio in zip(axes, RATIOS, strict=True):
        for level in LEVELS:
            at = {"ratio": ratio, "level": level}
            shown = values.isel(design=is_reached.sel(at).values)
            for regime, color, part in _by_regime(shown):
                if not part.sizes["design"]:
                    continue
                fit = _fit(values, ratio, level, regime) if regime in FITTED else None
                slope = "no fit" if fit is None or np.isnan(fit.mean) else _text(fit)
                axis.errorbar(
                    part["d"] / part["n"],
                    part["radius"].sel(at),
                    part["radius_se"].sel(at),
                    fmt="o" if level == "1" else "s",
                    fillstyle="full" if level == "1" else "none",
                    markersize=5,
                    color=color,
                    label=f"ratio {level}, {regime}: {slope}",
                )
        axis.set_title(
            f"radius at which the ratio of the {ratio} is reached", fontsize=10
        )
        scale = values["d"] / values["n"]
        grid = np.geomspace(scale.min(), scale.max())
        axis.plot(grid, grid**0.5, color="0.5", linestyle="--", label="√(d/n)")
        axis.plot(grid, grid, color="0.5", linestyle=":", label="d/n")
        axis.set(xscale="log", yscale="log", xlabel="d/n")
        axis.legend(fontsize=7)
    axes[0].set_ylabel("radius ε")
    figure.suptitle(
        f"{config.num_replicates} replicates a design; bars: standard errors; "
        "exponents with 95 % intervals",
        fontsize=10,
    )
    return figure


_N, _D = "training examples of each design with ", "dimension of the inputs with "
STUDY = Study(
    "transition.scaling",
    {
        **simulations.fields(
            num_replicates=200,
            chunk_size=50,
            num_steps=200,
            theta0_norm=1.0,
            sigma=1.0,
        ),
        "num_resamples": count(
            1000, "resamples of the bootstrap over replicates", least=2
        ),
        "num_points": count(25, "radii", least=2),
        "rel_step_size": number(
            1,
            "step size of gradient descent, over the largest curvature",
            above=0,
            most=1,
        ),
        "small_n": counts(
            (200, 500, 500, 1000, 1000, 2000, 2000), _N + "d ≪ n", length=2
        ),
        "small_d": counts((10, 10, 20, 10, 40, 5, 20), _D + "d ≪ n", length=2),
        "moderate_n": counts((200, 100, 100, 50, 50), _N + "d ~ n", length=2),
        "moderate_d": counts((50, 50, 80, 80, 100), _D + "d ~ n", length=2),
        "large_n": counts((20, 20, 20, 10, 10), _N + "d ≫ n", length=2),
        "large_d": counts((200, 400, 1000, 1000, 2000), _D + "d ≫ n", length=2),
    },
    _report,
    variants=(
        {
            "full": {},
            "smoke": {
                "num_replicates": 4,
                "num_resamples": 10,
                "num_points": 5,
                "num_steps": 5,
                "small_n": (50, 100),
                "small_d": (3, 3),
                "moderate_n": (20, 10),
                "moderate_d": (10, 15),
                "large_n": (5, 5),
                "large_d": (50, 100),
            },
        },
    ),
    check=_check,
    cases=_designs,
    measure=_measured,
    values=_values,
)
get_config = STUDY.config
