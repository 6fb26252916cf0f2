"""Adversarial training where n ≫ d reaches R*(ε), and what that costs: Figure 5, c(ε).

Size: the paper's, 100 replicates; n = 1000. Time: 8 seconds.

    advjax run generalization/low_dimension

Variants: ``smoke``, seconds long, for tests. The paper's are d, θ0, σ, ξ, the step size
and the number of replicates.

Surrogate training on many data sets against the population's optimum, and "adversarial
training hurts standard estimation" as the number c(ε) = (R(θ*(ε), 0) - R(θ0, 0)) / v²,
v² = ‖θ0‖² + σ²: in closed form, and measured at the exact minimisers of the empirical
adversarial loss.

At eps = 0.5 the adversarial test loss is 5.408 ± 0.009, where R* is 5.385, and the
standard one 1.348 ± 0.045, where that of θ* is 1.344.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from advjax import data, descent, linear, norms, solvers
from experiments import arrays, figures, findings, intervals, simulations
from experiments.fields import at_most, count, number
from experiments.study import Config, Setup, Study
from experiments.writing import Drawn, Report, Table

CURVES = {
    "train": "training loss (surrogate)",
    "test": "adversarial test loss, R*(ε) dashed",
    "standard": "standard test loss",
}


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    del inputs
    at_most(config, "d", config.n - 1)


def _curves(config: Config) -> xr.Dataset:
    """The curves, over replicates, radii and steps."""
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

    steps = np.arange(config.num_steps + 1)
    curves = simulations.replicated(
        config,
        replicate,
        axes=("eps", "step"),
        coords={"eps": config.eps, "step": steps},
    )
    simulations.check_descent(curves["train"])
    return curves


def _cost(config: Config) -> xr.Dataset:
    """The number c at exact empirical minimisers, over replicates and radii."""
    theta0 = jnp.ones(config.d)
    radii = jnp.linspace(0, config.eps_most, config.num_points)

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
        return jax.vmap(lambda eps: at(x, y, eps))(radii)

    return simulations.replicated(
        config, replicate, axes=("radius",), coords={"radius": radii}
    )


def _c(config: Config, standard: jax.Array) -> jax.Array:
    least = config.sigma**2
    return (standard - least) / (config.d + least)


PARTS = {"curves": _curves, "cost": _cost}


def _parts(setup: Setup) -> dict[str, tuple[str]]:
    del setup
    return {name: (name,) for name in PARTS}


def _measured(setup: Setup, name: str) -> xr.Dataset:
    return PARTS[name](setup.config)


def _optimum(config: Config, axis: str, radii: np.ndarray) -> xr.Dataset:
    """R*(ε), the standard risk of θ*(ε), and c(ε), in closed form."""
    theta0 = jnp.ones(config.d)

    def at(eps):
        population = linear.Population(theta0, None, config.sigma)
        theta, risk = linear.optimal(norms.l2, population, eps)
        standard = linear.population_risk(theta, norms.l2, population, 0.0)
        return {"risk": risk, "standard": standard, "c": _c(config, standard)}

    found = jax.jit(jax.vmap(at))(jnp.asarray(radii, jnp.float32))
    return arrays.dataset(
        {f"optimal_{name}": ((axis,), values) for name, values in found.items()},
        {axis: radii},
    )


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Moments over replicates, and the optimum at the radii of each kind.

    ``eps`` are radii of training, ``radius`` those of exact minimisers, and
    ``fine`` a fine grid.
    """
    config, curves, cost = setup.config, found["curves"], found["cost"]
    fine = jnp.linspace(0, config.eps_most, 200)
    by_radius = _optimum(config, "radius", cost["radius"].values)
    last = curves.isel(step=-1, drop=True)
    # As many steps as a figure can show.
    shown = curves.isel(step=slice(None, None, max(1, config.num_steps // 100)))
    return xr.merge(
        [
            _optimum(config, "eps", curves["eps"].values),
            by_radius[["optimal_c"]].rename(optimal_c="exact_c"),
            _optimum(config, "fine", fine)[["optimal_c"]].rename(optimal_c="fine_c"),
            {f"{name}_last": arrays.moments(last[name]) for name in CURVES},
            {f"{name}_curve": arrays.moments(shown[name]) for name in CURVES},
            {
                "measured_c": arrays.moments(cost["c"]),
                "largest_gap": cost["gap"].max(skipna=False),
            },
        ],
        join="exact",
    )


def _report(config: Config, values: xr.Dataset) -> Report:
    difference = np.abs(values["measured_c"].sel(moment="mean") - values["exact_c"])
    return Report(
        "Low dimension and the cost of robustness (Figure 5)",
        "Does adversarial training where n ≫ d reach R*(ε), and what does it cost in "
        "standard test loss?",
        _findings(config, values),
        [
            Drawn(
                "low_dimension", _figure(config, values), "losses over steps, and c(ε)"
            )
        ],
        [_table(values)],
        f"d = {config.d}, n = {config.n}, ξ = {config.xi:g}; at step "
        f"{config.num_steps}, mean ± sd over {config.num_replicates} replicates; test "
        "losses are population risks. c(ε) is the standard excess risk of θ*(ε) over "
        "v². The points beside its closed form are exact minimisers of the empirical "
        f"adversarial loss (largest certified gap {float(values['largest_gap']):.1g} "
        "of the mean of y²); their mean c is within "
        f"{float(difference.max(skipna=False)):.4f} of it.",
    )


def _findings(config: Config, values: xr.Dataset) -> list[findings.Finding]:
    number = config.num_replicates
    size = f"d = {config.d}, n = {config.n}, {number} replicates"
    found = []
    for eps in values["eps"].values:
        at = values.sel(eps=eps)
        loss = intervals.over(at["test_last"], number)
        risk = float(at["optimal_risk"])
        found.append(
            findings.finding(
                f"ε = {eps:g}: the test loss is within 2 % of R* = {risk:.3f}",
                loss,
                printed="close to R* (curves)",
                size=size,
                form=".3f",
                verdict=findings.equal(loss, risk, within=0.02 * risk),
            )
        )
    standard = values["standard_last"]
    first, last = (intervals.over(standard.isel(eps=i), number) for i in (0, -1))
    rise, cost = intervals.apart(last, first), float(values["optimal_c"][-1])
    small, large = (f"{values['eps'].values[i]:g}" for i in (0, -1))
    return [
        *found,
        findings.finding(
            f"ε = {large}: the standard test loss is above that at ε = {small}, "
            f"{first.mean:.3f}, by",
            rise,
            printed=f"away from {config.sigma**2:g} (curves)",
            size=size,
            form=".3f",
            verdict=findings.above(rise),
        ),
        findings.finding(
            f"ε = {large}: robustness costs standard risk, c(ε) > 0",
            cost,
            size="closed form",
            verdict=findings.follows(is_so=cost > 0),
        ),
    ]


def _table(values: xr.Dataset) -> Table:
    rows = []
    for eps in values["eps"].values:
        at = values.sel(eps=eps)
        train, test, standard = (figures.plus_minus(at[f"{k}_last"]) for k in CURVES)
        risk, exact = (f"{float(at[f'optimal_{k}']):.3f}" for k in ("risk", "standard"))
        c = f"{float(at['optimal_c']):.4f}"
        rows.append([f"{eps:g}", train, test, risk, standard, exact, c])
    header = ["ε", "training loss", "adversarial test loss", "R*(ε)"]
    header += ["standard test loss", "of θ*(ε)", "c(ε)"]
    return Table("Losses at the end, and the optimum", header, rows)


def _figure(config: Config, values: xr.Dataset) -> Any:
    figure, axes = figures.panels(2, 2)
    for axis, (name, title) in zip(axes, CURVES.items(), strict=False):
        figures.bands(axis, values[f"{name}_curve"], "step", "eps", "ε = {:g}")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step of gradient descent")
    axes[0].legend()  # the colours of the others, too, where it would cover lines
    risks = values["optimal_risk"].values
    for risk, color in zip(risks, figures.colors(len(risks)), strict=True):
        axes[1].axhline(risk, color=color, linestyle="--", linewidth=1)
    axis, c = axes[-1], values["measured_c"]
    axis.plot(values["fine"], values["fine_c"], color="0.2", label="c(ε), closed form")
    axis.errorbar(
        values["radius"],
        c.sel(moment="mean"),
        c.sel(moment="sd"),
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
    return figure


STUDY = Study(
    "generalization.low_dimension",
    {
        # The paper gives neither n nor the number of steps, and of the radii only 0.5.
        **simulations.fields(
            num_replicates=100,
            chunk_size=20,
            d=10,
            n=1000,
            sigma=1.0,
            xi=0.1,
            step_size=0.01,
            num_steps=500,
            eps=(0.0, 0.1, 0.25, 0.5),
        ),
        # c(ε) is constant from 1.195 on.
        "eps_most": number(1.5, "largest radius at which c(eps) is measured", above=0),
        "num_points": count(11, "radii at which c(eps) is measured", least=2),
    },
    _report,
    variants=(
        {
            "full": {},
            "smoke": {
                "num_replicates": 3,
                "n": 50,
                "num_steps": 10,
                "num_points": 3,
            },
        },
    ),
    check=_check,
    cases=_parts,
    measure=_measured,
    values=_values,
)
get_config = STUDY.config
