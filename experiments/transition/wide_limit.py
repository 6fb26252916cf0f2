"""A wide lazy network trains like the linear model (Proposition 1).

Size: sigmoid networks of up to 3000 hidden units, 20 replicates. Time: 23 seconds.

    advjax run transition/wide_limit

Variants: ``smoke``, seconds long, for tests. The sizes are ours.

Root mean square over fresh x of f(x) - xᵀθ, network less linear model, after the same
number of steps from vanishing starts at matched step sizes, as the number of hidden
units h grows. The proposition has it below √(d/n) for large h, at every radius.

The difference falls with h as h to the power -0.89 ± 0.03, at eps = 0.5 -0.92 ± 0.09.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from advjax import data, descent, lazy, linear, norms
from experiments import arrays, checks, figures, findings, intervals, simulations
from experiments.fields import count, counts, number
from experiments.study import Config, Setup, Study
from experiments.writing import Drawn, Report, Table


def _widths(setup: Setup) -> dict[str, tuple[int]]:
    return {f"h{h}": (h,) for h in setup.config.num_hidden}


def _differences(setup: Setup, h: int) -> xr.Dataset:
    """Root mean square differences, over ``replicate`` and ``eps``."""
    config = setup.config
    found = simulations.replicated(
        config,
        _replicate(config, h),
        axes=("eps", "end"),
        coords={"eps": config.eps},
    )
    simulations.check_descent(found["losses"], f"h = {h}", over="end")
    checks.finite(
        found["difference"].values.T[None],
        config.num_steps,
        lambda i, r: f"h = {h}, eps = {config.eps[i]:g}, replicate {r}",
    )
    return found[["difference"]]


def _replicate(config: Config, h: int):
    """``key -> {"difference": [eps], "losses": [eps, 2]}`` of networks of a width."""
    theta0 = simulations.dense(config.theta0_norm, config.d)

    def fit(network, start, x, y, fresh, eps):
        network_update = descent.step(
            lambda theta: lazy.adversarial_gradient(
                theta, network, norms.l2, x, y, eps
            ),
            lazy.step_size(network, config.linear_step_size),
        )
        linear_update = descent.step(
            lambda theta: linear.adversarial_gradient(theta, norms.l2, x, y, eps),
            config.linear_step_size,
        )
        # The linear model starts where the network is to first order, not at 0: the
        # first attack has full size in whatever direction the start has.
        theta, theta_linear = descent.last(
            (start, lazy.as_linear(start, network)),
            lambda pair: (network_update(pair[0]), linear_update(pair[1])),
            num_steps=config.num_steps,
        )
        difference = lazy.predict(theta, network, fresh) - fresh @ theta_linear

        def loss(theta):
            return lazy.adversarial_loss(theta, network, norms.l2, x, y, eps).mean()

        return {
            "difference": jnp.sqrt(jnp.mean(difference**2)),
            "losses": jnp.stack([loss(start), loss(theta)]),
        }

    def replicate(key):
        key_data, key_a, key_start, key_fresh = jax.random.split(key, 4)
        x, y = data.gaussian(key_data, config.n, theta0, None, config.sigma)
        # Bounded away from 0, as the proposition asks of the output weights.
        a = lazy.output_weights(key_a, num_hidden=h)
        network = lazy.Network(
            jnp.where(a < 0, -1, 1) * (1 + jnp.abs(a)) / 2, lazy.sigmoid
        )
        start = lazy.init(
            key_start, num_hidden=h, num_inputs=config.d, scale=h**config.delta
        )
        fresh = jax.random.normal(key_fresh, (config.num_test, config.d))
        return jax.vmap(lambda eps: fit(network, start, x, y, fresh, eps))(
            jnp.asarray(config.eps)
        )

    return replicate


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Means and deviations over replicates of the difference and its exponent in h."""
    config = setup.config
    difference = arrays.stacked(found, "h")["difference"]
    difference = difference.assign_coords(h=[*config.num_hidden])
    exponent = exponents(difference)
    return xr.Dataset(
        {
            "difference": arrays.moments(difference),
            "exponent": arrays.moments(exponent),
        }
    )


def exponents(difference: xr.DataArray) -> xr.DataArray:
    """The slope of the log difference in log h, of each replicate and radius."""
    x = np.log(difference["h"])
    x = x - x.mean()
    return (x * np.log(difference)).sum("h", skipna=False) / (x**2).sum()


def _report(config: Config, values: xr.Dataset) -> Report:
    radii = values["eps"].values
    return Report(
        "The wide limit of lazy networks (Proposition 1)",
        "Does a wide lazy network, trained adversarially, predict as the linear model "
        "does?",
        [
            *(_difference_finding(config, values, eps) for eps in radii),
            *(_exponent_finding(config, values, eps) for eps in radii),
        ],
        [Drawn("wide_limit", _figure(config, values), "difference against width")],
        [_table(values)],
        f"d = {config.d}, n = {config.n}, {config.num_steps} steps. Root mean square "
        "difference between the predictions of network and linear model; "
        f"√(d/n) = {_scale(config):.3f}. Mean ± sd over {config.num_replicates} "
        "replicates.",
    )


def _scale(config: Config) -> float:
    return (config.d / config.n) ** 0.5


def _difference_finding(
    config: Config, values: xr.Dataset, eps: float
) -> findings.Finding:
    widest = values["difference"].isel(h=-1).sel(eps=eps)
    found, h = intervals.over(widest, config.num_replicates), int(widest["h"])
    return findings.finding(
        f"rms difference to the linear model is below √(d/n) = {_scale(config):.3f} at "
        f"h = {h}, ε = {eps:g}",
        found,
        printed="o(√(d/n)), a limit",
        size=f"h = {h}, {config.num_replicates} replicates",
        verdict=findings.below(found, _scale(config)),
        form=".4f",
    )


def _exponent_finding(
    config: Config, values: xr.Dataset, eps: float
) -> findings.Finding:
    first, last = values["h"].values[[0, -1]]
    return findings.finding(
        f"the difference vanishes as h grows: its exponent in h, ε = {eps:g}",
        intervals.over(values["exponent"].sel(eps=eps), config.num_replicates),
        printed="o(√(d/n)), a limit",
        size=f"h = {first} to {last}, {config.num_replicates} replicates",
        # No number of widths decides a limit.
        verdict=findings.UNDECIDED,
        form=".2f",
    )


def _figure(config: Config, values: xr.Dataset) -> Any:
    figure, (axis,) = figures.panels()
    radii = values["eps"].values
    for eps, color in zip(radii, figures.colors(radii.size), strict=True):
        difference = values["difference"].sel(eps=eps)
        figures.band(axis, difference, "h", f"ε = {eps:g}", color)
    line = {"color": "0.3", "linestyle": ":", "linewidth": 1}
    axis.axhline(_scale(config), **line, label="√(d/n)")
    axis.set(xscale="log", yscale="log", xlabel="hidden units h")
    axis.set_ylabel("rms of f(x) − xᵀθ")
    axis.set_title(
        f"d = {config.d}, n = {config.n}, {config.num_steps} steps, "
        f"{config.num_replicates} replicates: mean ± sd",
        fontsize=10,
    )
    axis.legend()
    return figure


def _table(values: xr.Dataset) -> Table:
    def row(name, each, digits):
        moments = [each.sel(eps=eps) for eps in values["eps"].values]
        return [name, *(figures.plus_minus(one, digits) for one in moments)]

    difference = values["difference"]
    rows = [row(f"{h}", difference.sel(h=h), 4) for h in values["h"].values]
    rows.append(row("exponent in h", values["exponent"], 2))
    header = ["h", *(f"ε = {eps:g}" for eps in values["eps"].values)]
    return Table("Root mean square difference", header, rows)


STUDY = Study(
    "transition.wide_limit",
    {
        **simulations.fields(
            num_replicates=20,
            chunk_size=10,
            num_steps=100,
            d=5,
            n=100,
            eps=(0.0, 0.1, 0.5),
            theta0_norm=1.0,
            sigma=1.0,
        ),
        "num_test": count(1000, "fresh examples on which predictions are compared"),
        "num_hidden": counts(
            (10, 30, 100, 300, 1000, 3000), "hidden units", length=2, increasing=True
        ),
        "delta": number(
            # The proposition asks for a large one.
            1,
            "delta in the variance of the start, 1/(d h h^delta)",
            above=0,
        ),
        "linear_step_size": number(
            0.1, "step size of the linear model; the network's matches it", above=0
        ),
    },
    _report,
    variants=(
        {
            "full": {},
            "smoke": {
                "num_replicates": 2,
                "num_steps": 5,
                "num_test": 20,
                "num_hidden": (5, 10),
            },
        },
    ),
    cases=_widths,
    measure=_differences,
    values=_values,
)
get_config = STUDY.config
