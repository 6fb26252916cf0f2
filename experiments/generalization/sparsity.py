"""When the robust optimum is sparse: Proposition 8, Example 1.

Size: d = 20, n = 1000, 100 replicates. Time: 11 seconds.

    advjax run generalization/sparsity

Variants: ``smoke``, seconds long, for tests. The sizes are ours.

θ0 is sparse. Where active and inactive inputs are uncorrelated (block covariance)
θ*(ε) keeps its zeros; where all are correlated (full covariance) it does not. Both in
closed form, and at exact minimisers of the empirical adversarial loss.

The largest inactive coefficient of θ* is 0 with block and 0.160 with full covariance.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.scipy.linalg import block_diag

from advjax import data, linear, norms, solvers
from experiments import arrays, checks, figures, findings, intervals, simulations
from experiments.fields import at_most, count, number
from experiments.study import Config, Setup, Study
from experiments.writing import Drawn, Report, Table

DESIGNS = ("block", "full")
ZERO = 1e-6
"""What counts as zero: closed forms are evaluated in single precision."""


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    del inputs
    at_most(config, "d", config.n - 1)
    at_most(config, "num_active", config.d - 1)
    try:
        _covariances(config)
    except ValueError as error:
        raise checks.ConfigError(f"config.{error}") from error


def _covariances(config: Config) -> dict[str, jax.Array]:
    active, inactive = config.num_active, config.d - config.num_active
    blocks = (data.equicorrelated(size, config.rho) for size in (active, inactive))
    return {
        "block": block_diag(*blocks),
        "full": data.equicorrelated(config.d, config.rho),
    }


def _designs(setup: Setup) -> dict[str, tuple[str]]:
    del setup
    return {name: (name,) for name in DESIGNS}


def _measured(setup: Setup, name: str) -> xr.Dataset:
    """θ*(ε) over ``eps``, and minimisers over replicates and ``measured_eps``."""
    config, cov = setup.config, _covariances(setup.config)[name]
    theta0 = data.sparse_coefficients(config.d, num_active=config.num_active)
    fine = jnp.linspace(0, config.eps_most, config.num_points)
    coarse = jnp.linspace(0, config.eps_most, config.num_measured)

    def replicate(key):
        x, y = data.gaussian(key, config.n, theta0, cov, config.sigma)
        found = jax.vmap(lambda eps: solvers.adversarial(norms.l2, x, y, eps))(coarse)
        return {"measured": found.theta, "gap": found.gap / jnp.mean(y**2)}

    exact = jax.jit(
        jax.vmap(
            lambda eps: linear.optimal(
                norms.l2, linear.Population(theta0, cov, config.sigma), eps
            )
        )
    )(fine)
    found = simulations.replicated(
        config,
        replicate,
        axes=("measured_eps", "coefficient"),
        coords={"measured_eps": coarse},
    )
    theta = (("eps", "coefficient"), np.asarray(exact.theta))
    return found.assign(theta=theta).assign_coords(eps=np.asarray(fine))


def _parts(config: Config) -> dict[str, slice]:
    """The coefficients of θ0 that are not 0, and the others."""
    active = config.num_active
    return {"active": slice(0, active), "inactive": slice(active, None)}


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """For each design: coefficients of θ*, and moments of those of the minimisers.

    Of a data set they are means over its active, or inactive, coefficients. The figures
    of merit are at the strongest attack, where all are furthest from θ0.
    """
    parts = _parts(setup.config)
    all_found = arrays.stacked(found, "design")
    inactive = all_found["theta"].isel(coefficient=parts["inactive"])
    largest = np.abs(inactive).max(["eps", "coefficient"], skipna=False)
    measured, over = all_found["measured"], {"dim": "coefficient", "skipna": False}
    by_part = {
        name: measured.isel(coefficient=part).mean(**over)
        for name, part in parts.items()
    }
    means = arrays.stacked(by_part, "part")
    return xr.Dataset(
        {
            "largest_inactive": largest,
            "last_inactive": inactive.isel(eps=-1, drop=True).mean("coefficient"),
            "measured_inactive": arrays.moments(
                means.sel(part="inactive", drop=True).isel(measured_eps=-1, drop=True)
            ),
            "largest_gap": all_found["gap"].max(skipna=False),
            "theta": all_found["theta"],
            "measured": arrays.moments(means),
        }
    )


def _report(config: Config, values: xr.Dataset) -> Report:
    return Report(
        "Sparsity of the robust optimum (Proposition 8, Example 1)",
        "Does the robust optimum keep the zeros of θ0?",
        [
            finding
            for name, is_sparse in zip(DESIGNS, (True, False), strict=True)
            for finding in _findings(config, values, name, is_sparse=is_sparse)
        ],
        [Drawn("sparsity", _figure(config, values), "coefficients over the radius")],
        [_table(config, values)],
        f"θ0 has {config.num_active} ones among d = {config.d}; ρ = {config.rho:g}, n ="
        f" {config.n}. Empirical minimisers have a certified gap of at most "
        f"{float(values['largest_gap']):.1g} of the mean of y²; of each data set the "
        f"mean over coefficients, mean ± sd over {config.num_replicates} data sets.",
    )


def _findings(
    config: Config, values: xr.Dataset, name: str, *, is_sparse: bool
) -> list[findings.Finding]:
    at = values.sel(design=name)
    exact = float(at["largest_inactive"])
    measured = intervals.over(at["measured_inactive"], config.num_replicates)
    does = "keeps" if is_sparse else "does not keep"
    return [
        findings.finding(
            f"{name} covariance: θ* {does} its zeros; largest inactive coefficient",
            exact,
            size=f"closed form, d = {config.d}",
            verdict=findings.follows(is_so=(exact < ZERO) == is_sparse),
        ),
        findings.finding(
            f"{name} covariance: the mean inactive coefficient of minimisers is "
            f"{'within 0.01 of' if is_sparse else 'above'} 0",
            measured,
            size=f"n = {config.n}, {config.num_replicates} data sets",
            form=".4f",
            verdict=findings.equal(measured, 0.0, within=0.01)
            if is_sparse
            else findings.above(measured),
        ),
    ]


def _table(config: Config, values: xr.Dataset) -> Table:
    rows = []
    for name in DESIGNS:
        at = values.sel(design=name)
        row = [
            name,
            f"{float(at['largest_inactive']):.2g}",
            f"{float(at['last_inactive']):.4f}",
            figures.plus_minus(at["measured_inactive"], 4),
        ]
        rows.append(row)
    header = ["covariance", "largest inactive coefficient of θ*, any ε"]
    header += [f"their mean at ε = {config.eps_most:g}", "of the minimisers"]
    return Table("Inactive coefficients", header, rows)


def _figure(config: Config, values: xr.Dataset) -> Any:
    figure, axes = figures.panels(len(DESIGNS), sharey=True)
    parts = _parts(config)
    for axis, name in zip(axes, DESIGNS, strict=True):
        at = values.sel(design=name)
        for (label, part), color in zip(parts.items(), figures.colors(2), strict=True):
            exact = at["theta"].isel(coefficient=part).transpose("eps", "coefficient")
            lines = axis.plot(values["eps"], exact, color=color)
            lines[0].set_label(f"{label}: θ*")
            mean, sd = at["measured"].sel(part=label).transpose("moment", ...)
            axis.errorbar(
                values["measured_eps"],
                mean,
                sd,
                fmt="o",
                markersize=4,
                color=color,
                label=f"{label}: minimisers at n = {config.n}",
            )
        axis.set_title(f"{name} covariance, ρ = {config.rho:g}", fontsize=10)
        axis.set_xlabel("radius ε")
        axis.legend()
    axes[0].set_ylabel("coefficients")
    return figure


STUDY = Study(
    "generalization.sparsity",
    {
        **simulations.fields(
            num_replicates=100, chunk_size=100, num_active=5, n=1000, sigma=1.0
        ),
        "d": count(20, "dimension of the inputs", least=3),
        "rho": number(0.5, "correlation of the inputs", least=-1),
        "eps_most": number(1.5, "largest radius", above=0),
        "num_points": count(61, "radii at which the optimum is computed", least=2),
        "num_measured": count(11, "radii at which data sets are fitted", least=2),
    },
    _report,
    variants=(
        {
            "full": {},
            "smoke": {
                "num_replicates": 3,
                "d": 6,
                "num_active": 2,
                "n": 50,
                "num_points": 5,
                "num_measured": 3,
            },
        },
    ),
    check=_check,
    cases=_designs,
    measure=_measured,
    values=_values,
)
get_config = STUDY.config
