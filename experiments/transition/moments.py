"""Lemmas 1 and 2 of the theorems on eps*, as printed and corrected, against simulation.

Size: 7 designs, 10 000 data sets each. Time: 23 seconds.

    advjax run transition/moments

Variants: ``smoke``, seconds long, for tests. The sizes are ours.

Lemma 1 is about the total variance of clean least squares (min-norm where d > n), and
Lemma 2 about ∆, its test loss less its training loss. Two terms differ from the paper:
for d > n Lemma 1 lacks (n/d)(1 - n/d)‖θ0‖², and Lemma 2 has a minus where a plus
belongs.

The corrected formulas are within 2.0 standard errors in 14 comparisons; 7 printed ones
are off by more than 4.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr

from advjax import data, linear, norms, solvers
from experiments import checks, figures, findings, intervals, simulations
from experiments.fields import counts
from experiments.intervals import Interval
from experiments.study import Config, Setup, Study
from experiments.writing import Drawn, Report, Table

WITHIN = 0.05
"""Of the ratio to a formula that counts as right."""
LEMMAS = {"variance": "Lemma 1", "gap": "Lemma 2"}
FORMULAS = ("printed", "corrected")


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    del inputs
    checks.same_length(config, "n", "d")
    for n, d in zip(config.n, config.d, strict=True):
        checks.solvable("d", n, d)
        if abs(n - d) < 4:
            raise checks.ConfigError(
                f"config.d: at n = {n}, d = {d} means have no standard error; choose d "
                "at least 4 away from n"
            )


def _designs(setup: Setup) -> dict[str, tuple[int, int]]:
    designs = zip(setup.config.n, setup.config.d, strict=True)
    return {f"n{n}_d{d}": (n, d) for n, d in designs}


def _simulated(setup: Setup, n: int, d: int) -> xr.Dataset:
    """‖θ̂ - Eθ̂‖² and ∆ of every data set, over ``replicate``."""
    config = setup.config
    theta0 = simulations.dense(config.theta0_norm, d)
    # E P θ0 for the projection P on the rows of x, by symmetry.
    centre = min(1, n / d) * theta0

    def replicate(key):
        x, y = data.gaussian(key, n, theta0, None, config.sigma)
        theta = solvers.min_norm(x, y)
        test = linear.population_risk(
            theta, norms.l2, linear.Population(theta0, None, config.sigma), 0.0
        )
        train = jnp.mean((x @ theta - y) ** 2)
        return {"variance": jnp.sum((theta - centre) ** 2), "gap": test - train}

    key = simulations.design_key(config, n, d)
    return simulations.replicated(config, replicate, key=key)


def printed(config: Config, n: int, d: int) -> dict[str, float]:
    """The formulas of the paper; nan for ∆ where d > n, which has only an order."""
    gap = config.sigma**2 * d * (1 / (n - d - 1) - 1 / n) if d < n else np.nan
    return {"variance": config.sigma**2 * min(n, d) / (abs(n - d) - 1), "gap": gap}


def corrected(config: Config, n: int, d: int) -> dict[str, float]:
    """The formulas of ``advjax.linear``."""
    scales = {"signal": config.theta0_norm, "sigma": config.sigma}
    return {
        "variance": float(linear.least_squares_variance(n, d, **scales)),
        "gap": float(linear.generalization_gap(n, d, **scales)),
    }


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Means with standard errors, and the formulas, over designs and quantities.

    ``z`` is how many standard errors the mean lies above a formula.
    """
    designs = []
    for name, (n, d) in _designs(setup).items():
        draws = found[name].to_array("quantity")
        deviation = draws.std("replicate", ddof=1, skipna=False)
        by_formula = [formula(setup.config, n, d) for formula in (printed, corrected)]
        formulas = [[each[name] for name in LEMMAS] for each in by_formula]
        design = xr.Dataset(
            {
                "simulated": draws.mean("replicate", skipna=False),
                "standard_error": deviation / setup.config.num_replicates**0.5,
                "formula": (("by", "quantity"), formulas),
            },
            {"quantity": [*LEMMAS], "by": [*FORMULAS]},
        )
        designs.append(design.assign(n=n, d=d))
    values = xr.concat(designs, "design", join="exact")
    z = (values["simulated"] - values["formula"]) / values["standard_error"]
    return values.assign(z=z)


def _report(config: Config, values: xr.Dataset) -> Report:
    return Report(
        "Lemmas 1 and 2, printed and corrected",
        "Do the printed formulas for the variance of least squares and for its "
        "generalisation gap hold?",
        [
            *_printed_findings(config, values),
            _finding(config, values, "corrected Lemmas 1 and 2", by="corrected"),
        ],
        [Drawn("moments", _figure(values), "formulas over simulation against d/n")],
        [_table(values)],
        f"Mean ± standard error over {config.num_replicates} data sets; in brackets "
        "how many standard errors the simulation lies above the formula. Findings have "
        "the design whose interval reaches farthest from 1.",
    )


def _printed_findings(config: Config, values: xr.Dataset):
    """Of both lemmas on both sides of d = n, but where only an order is printed."""
    is_low = (values["d"] < values["n"]).values
    for quantity, lemma in LEMMAS.items():
        for side, chosen in (("d < n", is_low), ("d > n", ~is_low)):
            part = values.isel(design=chosen).sel(quantity=[quantity])
            if np.isfinite(part["z"].sel(by="printed")).any():
                claim = f"{lemma}, {side}, ± {100 * WITHIN:g} %"
                yield _finding(config, part, claim, by="printed")


def _finding(
    config: Config, values: xr.Dataset, claim: str, by: str
) -> findings.Finding:
    """Of the design and quantity whose interval ends farthest from its formula."""
    every = values.sel(by=by).stack(each=("design", "quantity"))
    every = every.isel(each=np.isfinite(every["formula"].values))
    ratio, error = (
        every[k] / every["formula"] for k in ("simulated", "standard_error")
    )
    off = abs(ratio - 1) + 1.96 * abs(error)
    worst = every.isel(each=int(off.argmax("each", skipna=False)))
    sd = worst["standard_error"] * config.num_replicates**0.5
    mean = intervals.of_moments(worst["simulated"], sd, config.num_replicates)
    over = Interval(*(float(end / worst["formula"]) for end in mean))
    where = f"n = {int(worst['n'])}, d = {int(worst['d'])}"
    size = f"{every.sizes['each']} comparisons, {config.num_replicates} data sets"
    is_claimed = by == "printed"
    return findings.finding(
        f"{claim}: simulation over formula, at worst",
        over,
        printed="1" if is_claimed else "",
        size=f"{where}; {size}",
        form=".3f",
        verdict=findings.equal(over, 1, WITHIN) if is_claimed else findings.NO_CLAIM,
    )


def _figure(values: xr.Dataset) -> Any:
    """Formulas over the simulated means: what is wrong lies away from 1."""
    figure, axes = figures.panels(2, sharey=True)
    titles = {
        "variance": "total variance of least squares (Lemma 1)",
        "gap": "test less training loss (Lemma 2)",
    }
    ratio = values["d"] / values["n"]
    blue, red = figures.colors(2)
    for axis, (quantity, title) in zip(axes, titles.items(), strict=True):
        at = values.sel(quantity=quantity)
        share = at["formula"] / at["simulated"]
        error = 2 * at["standard_error"] / at["simulated"]
        axis.axhline(1, color="0.3", linewidth=0.8, linestyle=":", label="simulation")
        circles = {"fmt": "o", "fillstyle": "none", "markersize": 9, "color": blue}
        by_us, by_paper = (share.sel(by=by) for by in ("corrected", "printed"))
        axis.errorbar(ratio, by_us, error, **circles, label="corrected formula")
        axis.plot(ratio, by_paper, "x", color=red, label="printed formula")
        axis.set(xscale="log", xlabel="d/n", title=title, ylim=(0, 1.15))
    axes[0].legend(loc="lower left")
    axes[0].set_ylabel("formula over simulated mean")
    return figure


def _table(values: xr.Dataset) -> Table:
    header = ["n", "d"]
    for name in ("variance", "∆"):
        header += [name, "printed", "corrected"]
    rows = []
    for i in range(values.sizes["design"]):
        at = values.isel(design=i)
        row = [f"{int(at['n'])}", f"{int(at['d'])}"]
        for quantity in LEMMAS:
            row += _cells(at.sel(quantity=quantity))
        rows.append(row)
    return Table("Simulation and formulas", header, rows)


def _cells(at: xr.Dataset) -> list[str]:
    cells = [f"{float(at['simulated']):.4f} ± {float(at['standard_error']):.4f}"]
    for by in FORMULAS:
        formula, z = (float(at[name].sel(by=by)) for name in ("formula", "z"))
        cells.append("order only" if np.isnan(z) else f"{formula:.4f} ({z:+.1f})")
    return cells


STUDY = Study(
    "transition.moments",
    {
        **simulations.fields(
            num_replicates=10_000, chunk_size=500, theta0_norm=1.0, sigma=1.0
        ),
        "n": counts((200, 200, 100, 100, 50, 20, 20), "training examples"),
        "d": counts((5, 20, 50, 80, 100, 100, 400), "dimensions of the inputs"),
    },
    _report,
    variants=(
        {
            "full": {},
            "smoke": {
                "num_replicates": 20,
                "chunk_size": 20,
                "n": (20, 5),
                "d": (3, 12),
            },
        },
    ),
    check=_check,
    cases=_designs,
    measure=_simulated,
    values=_values,
)
get_config = STUDY.config
