"""What xi does to training under a strong attack: Figure 1.

Size: the paper's, and 100 data sets instead of one. Time: 4 seconds.

    advjax run generalization/fluctuation

Variants: ``smoke``, seconds long, for tests.

At a radius beyond the threshold of θ* = 0 the minimum lies on a kink. Descent along the
attack jumps about it; along the surrogate attack A_{eps,xi} it settles. Every replicate
is one data set, on which all values of xi train from one start.

The test loss at xi = 0 fluctuates some 300 times as much as at xi = 0.05, over 100 data
sets, and 35 times at least.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import xarray as xr

from advjax import data, descent, linear, norms
from experiments import arrays, figures, findings, intervals, simulations
from experiments.fields import at_most, count, number, numbers
from experiments.study import Config, Setup, Study
from experiments.writing import Drawn, Report, Table


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    del inputs
    at_most(config, "num_last", config.num_steps)


def _measured(setup: Setup) -> xr.Dataset:
    """Surrogate training and adversarial test losses over data sets, xi and steps."""
    config = setup.config
    theta0 = jnp.ones(config.d)
    population = linear.Population(theta0, None, config.sigma)

    def fit(key, xi):
        key_data, key_start = jax.random.split(key)
        x, y = data.gaussian(key_data, config.n, theta0, None, config.sigma)
        start = jax.random.normal(key_start, (config.d,))
        args = (norms.l2, x, y, config.eps)
        update = descent.step(
            lambda theta: linear.adversarial_gradient(theta, *args, xi=xi),
            config.step_size,
        )
        return descent.path(
            config.start_norm * norms.l2.steepest(start),
            update,
            num_steps=config.num_steps,
            observe=lambda theta: {
                "train": linear.adversarial_loss(theta, *args, xi=xi).mean(),
                "test": linear.population_risk(theta, norms.l2, population, config.eps),
            },
        )

    over_xi = jax.vmap(fit, (None, 0))
    losses = simulations.replicated(
        config,
        over_xi,
        jnp.asarray(config.xi),
        axes=("xi", "step"),
        coords={"xi": config.xi},
    )
    simulations.check_descent(losses["train"])
    return losses


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """The fluctuation of a run, the deviation of its last test losses, and losses."""
    losses = found["all"]
    last = losses["test"].isel(step=slice(-setup.config.num_last, None))
    fluctuation = last.std("step", ddof=1, skipna=False)
    ratio = fluctuation.isel(xi=0, drop=True) / fluctuation.isel(xi=-1, drop=True)
    return xr.Dataset(
        {
            "fluctuation": arrays.moments(fluctuation),
            "ratio": arrays.moments(ratio),
            "smallest_ratio": ratio.min(skipna=False),
            "train_loss": arrays.moments(losses["train"].isel(step=-1)),
            "test_loss": arrays.moments(losses["test"].isel(step=-1)),
            "example_train": losses["train"].isel(replicate=0),
            "example_test": losses["test"].isel(replicate=0),
        }
    )


def _report(config: Config, values: xr.Dataset) -> Report:
    return Report(
        "Fluctuation of training with and without the surrogate (Figure 1)",
        "Does training under a strong attack settle once the attack is smoothed?",
        _findings(config, values),
        [Drawn("fluctuation", _figure(config, values), "losses")],
        [_table(values)],
        f"d = {config.d}, n = {config.n}, ε = {config.eps:g}; at step "
        f"{config.num_steps}, mean ± sd over {config.num_replicates} data sets. The "
        "fluctuation of a run is the standard deviation of its last "
        f"{config.num_last} test losses. The figure shows the first data set.",
    )


def _findings(config: Config, values: xr.Dataset) -> list[findings.Finding]:
    size = f"d = {config.d}, n = {config.n}, {config.num_replicates} data sets"
    first, last = (f"ξ = {xi:g}" for xi in (config.xi[0], config.xi[-1]))
    ratio = intervals.over(values["ratio"], config.num_replicates)
    least = float(values["smallest_ratio"])
    test_loss = values["test_loss"].isel(xi=-1)
    return [
        findings.finding(
            f"training at {first} fluctuates more than at {last}: ratio",
            ratio,
            printed="more (curves)",
            size=size,
            verdict=findings.above(ratio, 1.0),
        ),
        findings.finding(
            f"smallest such ratio of a data set, {last}", least, size=size
        ),
        findings.finding(
            f"adversarial test loss where training at {last} settles",
            intervals.over(test_loss, config.num_replicates),
            size=size,
            form=".3f",
        ),
    ]


def _table(values: xr.Dataset) -> Table:
    columns = {
        "training loss (surrogate)": values["train_loss"],
        "test loss": values["test_loss"],
        "fluctuation": values["fluctuation"],
    }
    rows = figures.rows(columns, "xi")
    return Table("Losses at the end, and their fluctuation", ["ξ", *columns], rows)


def _figure(config: Config, values: xr.Dataset) -> Any:
    figure, (axis,) = figures.panels()
    radii = values["xi"].values
    for xi, color in zip(radii, figures.colors(radii.size), strict=True):
        label = f"ξ = {xi:g}"
        test, train = (
            values[name].sel(xi=xi) for name in ("example_test", "example_train")
        )
        axis.plot(test, color=color, label=f"{label}, test")
        options = {"color": color, "linestyle": "--"}
        axis.plot(train, **options, label=f"{label}, training (surrogate)")
    axis.set(xlabel="step of gradient descent", ylabel="loss under attack")
    title = f"ε = {config.eps:g}, d = {config.d}, n = {config.n}: one data set"
    axis.set_title(title, fontsize=10)
    axis.legend()
    return figure


STUDY = Study(
    "generalization.fluctuation",
    {
        # The paper gives neither start nor step size. Its curves begin near a loss of
        # 15, where random directions of this length do; larger steps fluctuate at both
        # xi.
        **simulations.fields(
            num_replicates=100,
            chunk_size=100,
            num_steps=100,
            d=10,
            n=1000,
            sigma=1.0,
            step_size=1e-3,
        ),
        "start_norm": number(0.22, "length of the coefficients at the start", above=0),
        "num_last": count(
            50, "last steps, over which the fluctuation is measured", least=2
        ),
        "eps": number(3, "radius of the l2 attack"),
        "xi": numbers(
            (0.0, 0.05),
            "smoothing of the attack, increasing; 0 for the attack itself",
            length=2,
            increasing=True,
        ),
    },
    _report,
    variants=(
        {
            "full": {},
            "smoke": {"num_replicates": 3, "n": 50, "num_steps": 10, "num_last": 5},
        },
    ),
    check=_check,
    measure=_measured,
    values=_values,
)
get_config = STUDY.config
