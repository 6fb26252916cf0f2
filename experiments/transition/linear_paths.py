"""Paths of clean and adversarial training in linear regression (Figure 2 left).

Size: the paper's, both regimes of Table B.1, 100 replicates. Time: 3 seconds.

    advjax run transition/linear_paths

Variants: ``smoke``, seconds long, for tests.

For each regime, gradient descent from zero with and without attack on the same data,
and the relative difference ‖θ(t)(ε) - θ(t)(0)‖ / ‖θ(t)(0)‖ over the steps, averaged
over replicates, all of which run at once.

The relative differences at step 100 are 0.008, 0.016, 0.175 and 0.009, 0.585, 0.879.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from advjax import data, descent, linear, norms
from experiments import (
    arrays,
    checks,
    figures,
    findings,
    intervals,
    printed,
    simulations,
)
from experiments.fields import count, counts, numbers
from experiments.study import Config, Setup, Study
from experiments.writing import Drawn, Report, Table

ATTACKS = {"small": "eps_small", "critical": "eps_star", "large": "eps_large"}


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    del inputs
    checks.same_length(config, "d", "n", *ATTACKS.values(), "step_size")


def _regimes(setup: Setup) -> dict[str, tuple[int]]:
    return {f"regime_{i}": (i,) for i in range(len(setup.config.d))}


def _differences(setup: Setup, i: int) -> xr.Dataset:
    """Relative differences of a regime, over ``replicate``, ``attack`` and ``step``."""
    config = setup.config
    d, n, step_size = config.d[i], config.n[i], config.step_size[i]
    eps = jnp.asarray([config[field][i] for field in ATTACKS.values()])
    theta0 = simulations.dense(config.theta0_norm, d)

    def replicate(key):
        x, y = data.gaussian(key, n, theta0, None, config.sigma)

        def path(eps):
            update = descent.step(
                lambda theta: linear.adversarial_gradient(theta, norms.l2, x, y, eps),
                step_size,
            )
            return descent.path(jnp.zeros(d), update, num_steps=config.num_steps)[1:]

        clean = path(0.0)
        length = jnp.linalg.norm(clean, axis=-1)
        difference = jax.lax.map(
            lambda eps: jnp.linalg.norm(path(eps) - clean, axis=-1) / length, eps
        )
        return {"difference": difference}

    axes = ("attack", "step")
    coords = {"attack": [*ATTACKS], "step": np.arange(1, config.num_steps + 1)}
    found = simulations.replicated(config, replicate, axes=axes, coords=coords)
    by_step = found["difference"].values.T
    checks.finite(by_step, 1, lambda j, r: f"radius {j}, replicate {r}")
    return found


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Means and standard deviations over replicates, of each regime."""
    config = setup.config
    difference = xr.concat(
        [each["difference"] for each in found.values()], "regime", join="exact"
    )
    eps = [config[field] for field in ATTACKS.values()]
    return xr.Dataset(
        {
            "difference": arrays.moments(difference),
            "eps": (("attack", "regime"), np.array(eps, float)),
            "d": ("regime", [*config.d]),
            "n": ("regime", [*config.n]),
        }
    )


def _report(config: Config, values: xr.Dataset) -> Report:
    last = values.isel(step=-1)
    return Report(
        "Paths of linear regression (Figure 2 left, Table B.1)",
        "Does adversarial training follow the path of clean training at radii below "
        "ε*, and leave it above?",
        [
            _finding(config, last.isel(regime=i).sel(attack=attack))
            for i in range(values.sizes["regime"])
            for attack in ATTACKS
        ],
        [Drawn("linear_paths", _figure(config, values), "relative difference by step")],
        [_table(last)],
        f"Mean ± sd over {config.num_replicates} replicates. Radii of Table B.1, which "
        "has neither step sizes nor θ0 and σ. From θ = 0 the first step meets no "
        "attack.",
    )


def _text(at: xr.Dataset) -> str:
    return f"d = {int(at['d'])}, n = {int(at['n'])}"


def _finding(config: Config, last: xr.Dataset) -> findings.Finding:
    number = config.num_replicates
    eps = float(last["eps"])
    return findings.finding(
        f"relative difference, {_text(last)}, ε = {eps:g} ({last['attack'].item()})",
        intervals.over(last["difference"], number),
        size=f"{number} replicates, step {config.num_steps}",
    )


def _figure(config: Config, values: xr.Dataset) -> Any:
    """Mean and standard deviation over the steps."""
    num_regimes = values.sizes["regime"]
    figure, axes = figures.panels(num_regimes)
    # From θ = 0 the first step meets no attack, so the difference begins at step 2.
    shown = values.isel(step=slice(1, None))
    for i, axis in enumerate(axes):
        regime = shown.isel(regime=i)
        for attack, color in zip(ATTACKS, figures.colors(len(ATTACKS)), strict=True):
            at = regime.sel(attack=attack)
            label = f"{attack}: ε = {float(at['eps']):g}"
            figures.band(axis, at["difference"], "step", label, color, marker="")
        axis.set_title(_text(regime), fontsize=10)
        axis.set(xlabel="gradient descent step t", yscale="log")
        axis.legend()
    axes[0].set_ylabel("‖θ(t)(ε) − θ(t)(0)‖ / ‖θ(t)(0)‖")
    figure.suptitle(
        f"clean against adversarial training, {config.num_replicates} replicates: "
        "mean ± sd",
        fontsize=10,
    )
    return figure


def _table(last: xr.Dataset) -> Table:
    header = ["d", "n", "attack", "ε", f"difference at step {int(last['step'])}"]
    rows = []
    for i in range(last.sizes["regime"]):
        for attack in ATTACKS:
            at = last.isel(regime=i).sel(attack=attack)
            difference = figures.plus_minus(at["difference"])
            sizes = [f"{int(at['d'])}", f"{int(at['n'])}"]
            rows.append([*sizes, attack, f"{float(at['eps']):g}", difference])
    return Table("Relative differences", header, rows)


def _table_b1(column: str, kind: type = float) -> tuple:
    """A column of the table, with a row for each regime."""
    rows = printed.rows("phase_transition_table_b1_simulation")
    return tuple(kind(row[column]) for row in rows)


STUDY = Study(
    "transition.linear_paths",
    {
        **simulations.fields(num_replicates=100, theta0_norm=1.0, sigma=1.0),
        "num_steps": count(100, "steps of gradient descent", least=2),
        "d": counts(_table_b1("d", int), "dimension of the inputs in each regime"),
        "n": counts(_table_b1("n", int), "training examples in each regime"),
        "eps_small": numbers(_table_b1("small_eps"), "radii below eps* by regime"),
        "eps_star": numbers(_table_b1("eps_star"), "radii about eps* by regime"),
        "eps_large": numbers(_table_b1("large_eps"), "radii above eps* by regime"),
        # Table B.1 gives none. They must stay below 2 over the largest curvature,
        # 460 + 2·20² in the second regime.
        "step_size": numbers(
            (0.05, 5e-4), "step size of gradient descent in each regime", above=0
        ),
    },
    _report,
    variants=(
        {
            "full": {},
            "smoke": {"num_replicates": 4, "num_steps": 5, "d": (20, 200)},
        },
    ),
    check=_check,
    cases=_regimes,
    measure=_differences,
    values=_values,
)
get_config = STUDY.config
