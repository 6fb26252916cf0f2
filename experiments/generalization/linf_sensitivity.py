"""The surrogate linf attack is sensitive to xi as d grows: section 4, measured.

Size: n = 1000, d to 300, 20 replicates. Time: 27 seconds.

    advjax run generalization/linf_sensitivity

Variants: ``smoke``, seconds long, for tests. The sizes are ours.

An l2 attack of radius ε and an linf attack of radius ε/√d, of the same l2 length, on
the same data. The surrogate shrinks the first by 1/√(1 + ξ²/(4r²‖θ‖²)) and each entry
of the second by 1/(1 + ξ/(2|r θ_j|)), where |θ_j| is of order 1/√d. Measured at θ0: the
length that is left of the attack; and after surrogate training: how far the adversarial
training loss stays above its minimum, by an exact solver.

At xi = 0.1 the l2 length left of the linf attack goes from 0.74 at d = 10 to 0.41 at d
= 300, that of the l2 attack stays at 0.96.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import xarray as xr

from advjax import data, descent, linear, norms, solvers
from experiments import arrays, figures, findings, intervals, simulations
from experiments.fields import counts, number, numbers
from experiments.study import Config, Setup, Study
from experiments.writing import Drawn, Report, Table

NORMS = {"l2": norms.l2, "linf": norms.linf}


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    del inputs
    counts((), "", most=config.n).check("d", config.d)


def _designs(setup: Setup) -> dict[str, tuple[str, int]]:
    return {f"{name}_d{d}": (name, d) for name in NORMS for d in setup.config.d}


def _measured(setup: Setup, name: str, d: int) -> xr.Dataset:
    """What is left of the attack, and the excess loss, over replicates and xi."""
    config = setup.config
    theta0 = simulations.dense(1.0, d)
    norm = NORMS[name]
    eps = config.eps / d**0.5 if norm is norms.linf else config.eps
    # The largest curvature, if sgn(r) and ‖θ‖_* were constant; eps is the l2 length of
    # either attack.
    curvature = 2 * (1 + (d / config.n) ** 0.5 + config.eps) ** 2

    def at(x, y, least, xi):
        def loss(theta):
            return linear.adversarial_loss(theta, norm, x, y, eps).mean()

        delta = linear.perturb(theta0, norm, x, y, eps, xi=xi) - x
        update = descent.step(
            lambda theta: linear.adversarial_gradient(theta, norm, x, y, eps, xi=xi),
            config.rel_step_size / curvature,
        )
        theta = descent.last(jnp.zeros(d), update, num_steps=config.num_steps)
        return {
            "left": jnp.mean(jnp.linalg.norm(delta, axis=1)) / config.eps,
            "excess": loss(theta) / least.loss - 1,
            "gap": least.gap / least.loss,
            "losses": jnp.stack([loss(jnp.zeros(d)), loss(theta)]),
        }

    def replicate(key):
        x, y = data.gaussian(key, config.n, theta0, None, config.sigma)
        least = solvers.adversarial(norm, x, y, eps)
        return jax.vmap(lambda xi: at(x, y, least, xi))(jnp.asarray(config.xi))

    measured = simulations.replicated(
        config, replicate, axes=("xi", "end"), coords={"xi": config.xi}
    )
    simulations.check_descent(measured["losses"], f"{name}, d = {d}", over="end")
    return measured


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Moments over replicates for each norm, dimension and xi, and the largest gap."""
    dimensions = setup.config.d
    by_norm = {
        name: arrays.stacked({d: found[f"{name}_d{d}"] for d in dimensions}, "d")
        for name in NORMS
    }
    measured = arrays.stacked(by_norm, "norm")
    return xr.Dataset(
        {name: arrays.moments(measured[name]) for name in ("left", "excess")}
        | {"largest_gap": measured["gap"].max(skipna=False)}
    )


def _report(config: Config, values: xr.Dataset) -> Report:
    return Report(
        "Sensitivity of the surrogate linf attack to ξ (section 4)",
        "Does smoothing take more of an linf attack than of an l2 attack, as the "
        "dimension grows?",
        _findings(config, values),
        [
            Drawn(
                "linf_sensitivity",
                _figure(config, values),
                "length of the attack and excess loss over the dimension",
            )
        ],
        [_table(values)],
        f"n = {config.n}; mean ± sd over {config.num_replicates} replicates, "
        f"{config.num_steps} steps; minima certified to "
        f"{float(values['largest_gap']):.1g}. What is above the minimum at ξ = 0 is due"
        " to the steps, which jump about the kinks of the loss.",
    )


def _findings(config: Config, values: xr.Dataset) -> list[findings.Finding]:
    at = values.isel(xi=-1, d=[0, -1])
    small, large = at["d"].values
    size = (
        f"n = {config.n}, ξ = {float(at['xi']):g}, {config.num_replicates} replicates"
    )

    def ends(name: str, norm: str) -> list[intervals.Interval]:
        moments = at[name].sel(norm=norm)
        return [intervals.over(each, config.num_replicates) for each in moments]

    few, many = ends("left", "linf")
    few_l2, many_l2 = ends("left", "l2")
    change, change_l2 = intervals.apart(many, few), intervals.apart(many_l2, few_l2)
    few_loss, many_loss = ends("excess", "linf")
    return [
        findings.finding(
            f"less is left of the linf attack at d = {large}, {many.mean:.3f}, than at "
            f"{small}, {few.mean:.3f}: difference",
            change,
            size=size,
            form="+.3f",
            verdict=findings.below(change),
        ),
        findings.finding(
            f"as much is left of the l2 attack at d = {large} as at {small}, "
            f"{few_l2.mean:.3f}, within 0.01: difference",
            change_l2,
            size=size,
            form="+.3f",
            verdict=findings.equal(change_l2, 0.0, within=0.01),
        ),
        # No verdict: the minima are certified to less than they differ by.
        findings.finding(
            f"linf training ends above the minimum, relative, at d = {large} "
            f"({few_loss.mean:.2g} at {small})",
            many_loss,
            size=size,
            form=".2g",
        ),
    ]


def _table(values: xr.Dataset) -> Table:
    rows = [
        [
            name,
            f"{d}",
            f"{xi:g}",
            figures.plus_minus(values["left"].sel(norm=name, d=d, xi=xi)),
            figures.plus_minus(values["excess"].sel(norm=name, d=d, xi=xi), 4),
        ]
        for name in NORMS
        for d in values["d"].values
        for xi in values["xi"].values
    ]
    header = ["norm", "d", "ξ", "length left", "training loss above its minimum"]
    return Table("Length of the attack and excess loss", header, rows)


def _figure(config: Config, values: xr.Dataset) -> Any:
    """A colour for every xi, a line style for every norm."""
    figure, axes = figures.panels(2)
    smoothing = values["xi"].values
    for axis, key in zip(axes, ("left", "excess"), strict=True):
        for name, line in zip(NORMS, ("--", "-"), strict=True):
            for xi, color in zip(
                smoothing, figures.shades(len(smoothing)), strict=True
            ):
                moments = values[key].sel(norm=name, xi=xi)
                axis.errorbar(
                    values["d"],
                    moments.sel(moment="mean"),
                    moments.sel(moment="sd"),
                    color=color,
                    linestyle=line,
                    marker="o",
                    markersize=4,
                    label=f"{name}, ξ = {xi:g}",
                )
        axis.set(xscale="log", xlabel="dimension d")
    axes[0].set_title("l2 length left of the attack at θ0", fontsize=10)
    axes[1].set_title("training loss above its minimum, relative", fontsize=10)
    axes[1].set_yscale("log")
    figures.legend_below(figure, axes[0])
    figure.suptitle(
        f"n = {config.n}, ε = {config.eps:g} (l2) and {config.eps:g}/√d (linf), "
        f"{config.num_replicates} replicates: mean ± sd",
        fontsize=10,
    )
    return figure


STUDY = Study(
    "generalization.linf_sensitivity",
    {
        **simulations.fields(
            num_replicates=20, chunk_size=20, num_steps=300, n=1000, sigma=1.0
        ),
        "rel_step_size": number(
            0.2,
            "step size of gradient descent, times the largest curvature",
            above=0,
            most=1,
        ),
        "d": counts(
            (10, 30, 100, 300), "dimensions of the inputs, increasing", increasing=True
        ),
        "eps": number(
            0.5, "radius of the l2 attack; that of linf is eps/sqrt(d)", above=0
        ),
        "xi": numbers(
            (0.0, 0.001, 0.01, 0.1),
            "smoothing of the attack, increasing; 0 for the attack itself",
            increasing=True,
        ),
    },
    _report,
    variants=(
        {
            "full": {},
            "smoke": {"num_replicates": 2, "num_steps": 30, "d": (3, 5), "n": 20},
        },
    ),
    check=_check,
    cases=_designs,
    measure=_measured,
    values=_values,
)
get_config = STUDY.config
