"""Interpolation by adversarial training where d ≫ n: Figures 3 and 9 to 11.

Size: the paper's, 100 replicates. Time: 4 seconds a variant.

    advjax run generalization/interpolation
    advjax run generalization/interpolation:exact,d5000

Variants: ``surrogate`` and ``d1000``, the default (Figure 3); ``exact`` attacks with xi
= 0 (Figure 9), ``d5000`` is Figure 10, and the two together Figure 11; ``smoke``,
seconds long, for tests.

Surrogate adversarial training from zero fits the data exactly at these radii, and
generalises as badly as the min-norm interpolator; under the plain attack (xi = 0) the
training loss stops a little above zero. The gradient gap is the size of
∇R̂(θ, ε) - ∇R̂(θ, 0) along the adversarial path, over that of ∇R̂(0, 0).

The training loss at step 50 is at most 0.002, the test losses are 10.83 ± 0.06, 10.85 ±
0.06 and 11.07 ± 0.03, at d = 5000 10.97, 10.98 and 11.07 ± 0.01.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import xarray as xr

from advjax import data, descent, linear, norms, solvers
from experiments import arrays, figures, findings, intervals, simulations
from experiments.fields import at_most
from experiments.study import Config, Setup, Study
from experiments.writing import Drawn, Report, Table

CURVES = {
    "train": "training loss (surrogate)",
    "test": "adversarial test loss",
    "gap": "gradient gap",
}


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    del inputs
    at_most(config, "num_active", config.d)


def _measured(setup: Setup) -> xr.Dataset:
    """Curves over replicates, radii and steps, and the interpolator's test losses."""
    config = setup.config
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

    curves = simulations.replicated(
        config, replicate, axes=("eps", "step"), coords={"eps": config.eps}
    )
    simulations.check_descent(curves["train"])
    return curves


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Means and deviations over replicates: of what tables show, and of curves."""
    curves = found["all"]
    last = curves["test"].isel(step=-1)
    kept = {
        "train_half": curves["train"].isel(step=setup.config.num_steps // 2),
        "train_last": curves["train"].isel(step=-1),
        "test_last": last,
        "interpolator": curves["interpolator"],
        "test_over_interpolator": last / curves["interpolator"],
        "largest_gap": curves["gap"].max("step", skipna=False),
        **{f"{name}_curve": curves[name] for name in CURVES},
    }
    return xr.Dataset({name: arrays.moments(each) for name, each in kept.items()})


def _report(config: Config, values: xr.Dataset) -> Report:
    return Report(
        "Interpolation in high dimension (Figures 3 and 9 to 11)",
        "Does adversarial training where d ≫ n fit the data, and generalise no better "
        "than the min-norm interpolator?",
        _findings(config, values),
        [
            Drawn(
                "interpolation",
                _figure(config, values),
                "losses and gradient gap over steps",
            )
        ],
        [_table(config, values)],
        f"d = {config.d}, n = {config.n}, ξ = {config.xi:g}; mean ± sd over "
        f"{config.num_replicates} replicates. Test losses are population risks, at "
        f"step {config.num_steps}. The gradient gap is the size of the difference "
        "between adversarial and clean gradient, over that of the gradient at θ = 0. "
        f"A predictor of zero has {simulations.null_risk(config):g}.",
    )


def _findings(config: Config, values: xr.Dataset) -> list[findings.Finding]:
    number = config.num_replicates
    size = f"d = {config.d}, n = {config.n}, ξ = {config.xi:g}, {number} replicates"
    most, found = 0.01 * simulations.null_risk(config), []
    for eps in values["eps"].values:
        loss = intervals.over(values["train_last"].sel(eps=eps), number)
        found.append(
            findings.finding(
                f"ε = {eps:g}: the training loss falls below 1 % of that of θ = 0",
                loss,
                printed="around zero (curves)",
                size=size,
                form=".2g",
                verdict=findings.below(loss, most),
            )
        )
    for eps in values["eps"].values:
        ratio = intervals.over(values["test_over_interpolator"].sel(eps=eps), number)
        found.append(
            findings.finding(
                f"ε = {eps:g}: the test loss over that of the interpolator is 1 ± 1 %",
                ratio,
                size=size,
                form=".4f",
                verdict=findings.equal(ratio, 1.0, within=0.01),
            )
        )
    gap = values["largest_gap"].isel(eps=-1)
    found.append(
        findings.finding(
            f"largest gradient gap at ε = {float(gap['eps']):g}",
            intervals.over(gap, number),
            size=size,
        )
    )
    return found


def _table(config: Config, values: xr.Dataset) -> Table:
    columns = {
        "train_half": f"training loss, step {config.num_steps // 2}",
        "train_last": f"training loss, step {config.num_steps}",
        "test_last": "test loss",
        "interpolator": "test loss of the interpolator",
        "largest_gap": "largest gradient gap",
    }
    rows = figures.rows({name: values[name] for name in columns})
    return Table("Losses and gradient gaps", ["ε", *columns.values()], rows)


def _figure(config: Config, values: xr.Dataset) -> Any:
    figure, axes = figures.panels(len(CURVES))
    for axis, (name, title) in zip(axes, CURVES.items(), strict=True):
        figures.bands(axis, values[f"{name}_curve"], "step", "eps", "ε = {:g}")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step of gradient descent")
        axis.legend()
    axes[0].set_yscale("log")
    figure.suptitle(
        f"d = {config.d}, n = {config.n}, ξ = {config.xi:g}, {config.num_replicates} "
        "replicates: mean ± sd",
        fontsize=10,
    )
    return figure


STUDY = Study(
    "generalization.interpolation",
    # The paper does not print the number of steps.
    simulations.fields(
        num_replicates=100,
        chunk_size=20,
        num_steps=100,
        d=1000,
        n=20,
        num_active=10,
        sigma=1.0,
        eps=(0.0, 0.01, 0.1),
        xi=0.5,
        step_size=1e-3,
    ),
    _report,
    variants=(
        {"surrogate": {}, "exact": {"xi": 0.0}},
        {"d1000": {}, "d5000": {"d": 5000, "step_size": 2e-4}},
        {"full": {}, "smoke": {"num_replicates": 3, "d": 100, "num_steps": 10}},
    ),
    check=_check,
    measure=_measured,
    values=_values,
)
get_config = STUDY.config
