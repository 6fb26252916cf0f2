"""Curves of low loss between clean and adversarially trained networks: Figure 4.

Size: 4 pairs at 4 radii on MNIST. Time: 20 minutes on one core.

    advjax run transition/connectivity:mnist --config.grid=runs/GRID
    advjax run transition/connectivity:cifar10,gpu --config.grid=runs/GRID

where GRID is a finished ``classifier_grid`` with at least two seeds, whose networks are
joined.

Variants, joined by commas: ``cifar10``, the radii of the figure, ``mnist`` or
``digits``; ``polychain`` for the Bezier curve; ``adversarial`` for its objective;
``same``, ends of one seed. Sizes: ``paper``, the default; ``gpu``, shorter; ``smoke``,
for tests.

For each chosen radius of the grid, clean networks (left) are joined with networks
trained at that radius (right) by a curve with one trainable bend. The plane through the
three points is coloured by the clean training loss, and the loss is read along the
curve and along the straight line. Batch statistics are estimated anew at every point.

The networks are those that the grid selected, soon after the first drop of the rate,
where the paper takes the 101st epoch because the best ones lie around it. The ends of a
pair come from different seeds, so that the panel at radius 0, two clean networks,
differs from the others in the attack alone; ``seed_shift = 0`` pairs networks of one
initialisation and order of the data.

Of the MNIST grid at ``cpu`` barriers are 0.04 and less along the curves, and above eps*
no low-loss region beside the robust network.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree

from advjax import curves, norms
from advjax.curves import Path
from advjax.types import Params
from experiments import arrays, checks, figures, findings, intervals, progress
from experiments.fields import at_most, count, number, numbers, one_of, some
from experiments.study import Config, Setup, Study
from experiments.training import recipe
from experiments.transition import paths, readings
from experiments.transition.paths import Loss, Pairs
from experiments.transition.readings import GRID
from experiments.writing import Drawn, Report, Table

MARGIN = 0.2  # of the plane, beyond the three points
BENDS = "bends"


def _check(config: Config, inputs: Mapping[str, Any]) -> None:
    grid = inputs["grid"]
    num_seeds, num_train = grid.config.num_seeds, grid.values.attrs["num_train"]
    for eps in config.eps:
        grid.row(eps)
    if config.seed_shift and num_seeds == 1:
        raise checks.ConfigError(
            f"config.seed_shift = {config.seed_shift!r}: the grid {grid.path} has one "
            "seed; choose the variant 'same', or a grid with --config.num_seeds=2"
        )
    at_most(config, "seed_shift", num_seeds - 1)
    at_most(config, "num_eval", num_train)
    if config.seed_shift == 0 and config.eps[0] == 0:
        raise checks.ConfigError(
            "config.seed_shift = 0: at eps = 0 both ends are one network; leave it "
            f"out, or shift by one of the {num_seeds} seeds of the grid"
        )
    recipe.validate(paths.training(config, grid))


def _trains(config: Config, inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {BENDS: partial(paths.train_bends, config, inputs["grid"])}


def _cases(setup: Setup) -> dict[str, tuple]:
    """The curve and the plane of every pair."""
    config = setup.config
    pairs = paths.read(config, setup.inputs["grid"])
    evaluate = paths.loss(config, pairs)
    found = {}
    for i, (bend, _) in enumerate(setup.networks(BENDS)):
        a, b = (
            jax.tree.map(lambda leaf, i=i: leaf[i], end) for end in pairs.paths[::2]
        )
        for name, measure in (("curve", _along), ("plane", _plane)):
            found[f"{name}-{i}"] = (measure, pairs, evaluate, i, Path(a, bend, b))
    return found


def _measured(setup: Setup, measure: Any, *arguments: Any) -> xr.Dataset:
    return measure(setup.config, *arguments)


def _name(pairs: Pairs, i: int) -> str:
    left, right = pairs.seeds[i]
    return f"eps = {pairs.eps[i]:.4g}, seeds {left} and {right}"


def _along(
    config: Config, pairs: Pairs, evaluate: Loss, i: int, path: Path
) -> xr.Dataset:
    """Losses at equally spaced t along the curve and the line, and distances."""
    ts = np.linspace(0, 1, config.num_points)
    found = {}
    for kind, curve in (("curve", pairs.curve), ("line", curves.line)):
        point = jax.jit(curve)
        values = [
            evaluate(point(path, ts[j]), pairs.eps[i])
            for j in progress.steps(len(ts), f"{_name(pairs, i)}: {kind}")
        ]
        clean, own = np.array(values).T
        found[f"{kind}_clean"], found[kind] = (("t",), clean), (("t",), own)
    plane = curves.plane(path)
    scalars = {
        "distance": plane.width,
        "height": plane.height,
        "norm_a": _norm(path.a),
        "norm_b": _norm(path.b),
    }
    scalars = {name: ((), value) for name, value in scalars.items()}
    return arrays.dataset(found | scalars, {"t": ts})


def _norm(params: Params) -> np.ndarray:
    return np.asarray(norms.l2.value(ravel_pytree(params)[0]))


def _plane(
    config: Config, pairs: Pairs, evaluate: Loss, i: int, path: Path
) -> xr.Dataset:
    """Clean training losses on a grid of the plane, with the curve in it.

    The plane has coordinates ``alpha``, from the clean to the other end, and ``beta``,
    towards the bend; ``point`` is of this pair of numbers.
    """
    plane = curves.plane(path)
    at = jax.jit(curves.Plane.at)
    axis = np.linspace(-MARGIN, 1 + MARGIN, config.grid_size)
    losses = np.empty((len(axis), len(axis)))  # [beta, alpha]
    for each in progress.steps(losses.size, f"{_name(pairs, i)}: plane"):
        j, k = divmod(each, len(axis))
        losses[j, k] = evaluate(at(plane, axis[k], axis[j]), 0.0)[0]
    # Coordinates on the curve are those of the three points, mixed alike.
    corners = Path(*(jnp.stack(plane.coordinates(end)) for end in path))
    ts = jnp.linspace(0, 1, config.num_points)
    level = 2 * evaluate(path.a, 0.0)[0]
    return arrays.dataset(
        {
            "plane": (("beta", "alpha"), losses),
            "curve_at": (("t", "point"), jax.vmap(pairs.curve, (None, 0))(corners, ts)),
            "bend_at": (("point",), corners.bend),
            "asymmetry_plane": ((), asymmetry(losses).mean()),
            "share_low": (("side",), low_loss_shares(losses, level)),
        },
        {"alpha": axis, "beta": axis, "side": ["clean", "other"]},
    )


def sides(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The left and the right half of ``values[..., position]``, without the middle."""
    half = values.shape[-1] // 2
    return values[..., :half], values[..., values.shape[-1] - half :]


def asymmetry(values: np.ndarray) -> np.ndarray:
    """Mean log loss of the right half minus that of the left, of ``[..., position]``.

    Positive where losses are lower on the left, clean, side.
    """
    left, right = (np.log(side).mean(axis=-1) for side in sides(values))
    return right - left


def low_loss_shares(values: np.ndarray, level: float) -> np.ndarray:
    """The shares of both halves of a plane ``[beta, alpha]`` below a loss, ``[2]``."""
    return np.array([(side < level).mean() for side in sides(values)])


def barrier(losses: xr.DataArray) -> xr.DataArray:
    """Max over ``t`` minus the larger end."""
    ends = losses.isel(t=[0, -1])
    return losses.max("t", skipna=False) - ends.max("t", skipna=False)


def _values(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Of each radius and left seed; planes of the first pair alone."""
    config, grid = setup.config, setup.inputs["grid"]
    num_seeds = grid.config.num_seeds
    pairs = [
        xr.merge([found[f"curve-{i}"], found[f"plane-{i}"]], join="exact")
        for i in range(len(config.eps) * num_seeds)
    ]
    rows = {
        eps: arrays.stacked(dict(enumerate(pairs[k : k + num_seeds])), "seed")
        for eps, k in zip(config.eps, range(0, len(pairs), num_seeds), strict=True)
    }
    values = arrays.stacked(rows, "eps")
    for name in ("plane", "curve_at", "bend_at"):
        values[name] = values[name].isel(seed=0, drop=True)
    values["eps_star"] = ("grid_seed", grid.reading["eps_star"].values)
    return with_quantities(values).assign_attrs(
        setting=grid.setting,
        grid=grid.origin,
        num_eval=config.num_eval or grid.values.attrs["num_train"],
    )


def with_quantities(values: xr.Dataset) -> xr.Dataset:
    """And what the losses along curve and line say."""
    curve = values["curve"]
    axes = [name for name in curve.dims if name != "t"]
    by_position = curve.transpose(..., "t")
    return values.assign(
        loss_clean_end=curve.isel(t=0),
        loss_other_end=curve.isel(t=-1),
        barrier_curve=barrier(curve),
        barrier_line=barrier(values["line"]),
        asymmetry_curve=(axes, asymmetry(by_position.values)),
        relative_distance=values["distance"] / values["norm_a"],
        relative_norm=values["norm_b"] / values["norm_a"],
    )


def _report(config: Config, values: xr.Dataset) -> Report:
    facts, num_pairs = values.attrs, values.sizes["seed"]
    star = figures.plus_minus(values["eps_star"], 4)
    planes = _plane_figure(values) if "plane" in values else None
    return Report(
        f"Connectivity of {facts['setting']}",
        "Do curves of low loss join clean and robust networks, and on whose side of "
        "the plane is the loss low?",
        [*_findings(config, values)],
        [
            Drawn("planes", planes, "clean training loss in the planes"),
            Drawn("along", _curve_figure(config, values), "loss along the curves"),
        ],
        [_losses_table(values), _halves_table(values)],
        f"{config.curve} curves, {config.num_epochs} epochs of the {config.objective} "
        f"objective; {config.objective} training loss on {facts['num_eval']} examples "
        f"at {config.num_points} points; mean ± sd over {num_pairs} pairs of seeds, "
        f"{config.seed_shift} apart, each network in two pairs, which makes intervals "
        "approximate. The figure has the planes of the first pair: circles are the "
        "ends, the diamond is the bend. Barrier: the largest loss minus the larger of "
        "the ends'. Low: below twice the loss of the clean end. Asymmetry: mean log "
        "loss of the half on the adversarial side minus that of the clean half; at "
        f"ε = 0 the sides are alike but for chance. ε* = {star}; grid {facts['grid']}.",
    )


def _findings(config: Config, values: xr.Dataset):
    """Barriers at the largest radius, and the halves of the planes at each."""
    size = f"{values.sizes['seed']} pairs"
    last = values.isel(eps=-1)
    difference = intervals.student(last["barrier_curve"] - last["barrier_line"])
    yield findings.finding(
        f"the barrier of the curve is below that of the line, ε = {config.eps[-1]:.4g}",
        difference,
        printed="a curve of low loss (contours)",
        size=size,
        form="+.3g",
        verdict=findings.below(difference),
    )
    eps_star = values["eps_star"].max(skipna=False)
    for eps in values["eps"].values:
        shares = values["share_low"].sel(eps=eps)
        more = intervals.student(
            100 * (shares.sel(side="clean") - shares.sel(side="other"))
        )
        is_beyond = bool(eps > eps_star)
        yield findings.finding(
            f"low loss on the clean half of the plane more than on the other, "
            f"{_label(values, eps)}",
            more,
            printed="more, above ε* (contours)" if is_beyond else "",
            size=size,
            form="+.1f",
            unit=" points",
            verdict=findings.above(more) if is_beyond else findings.NO_CLAIM,
        )


def _label(values: xr.Dataset, eps: float) -> str:
    eps_star = readings.centre(values["eps_star"])
    return f"ε = {eps:.3g}" + (f" ({eps / eps_star:.2g} ε*)" if eps_star else "")


def _plane_figure(values: xr.Dataset) -> Any:
    radii = values["eps"].values
    figure, axes = figures.panels(min(2, radii.size), -(-radii.size // 2))
    every = values["plane"]
    levels = np.geomspace(max(every.min(), 1e-6), min(5.0, every.max()), 12)
    for axis, eps in zip(axes, radii, strict=False):
        at = values.sel(eps=eps)
        shown = np.clip(at["plane"].transpose("beta", "alpha"), levels[0], levels[-1])
        filled = figures.contours(axis, at["alpha"], at["beta"], shown, levels)
        curve = at["curve_at"].transpose("point", "t")
        axis.plot(*curve, color="white", linewidth=1.6)
        axis.plot([0, 1], [0, 0], color="white", linestyle="--", linewidth=1)
        mark = {"color": "white", "markeredgecolor": "black"}
        axis.plot([0, 1], [0, 0], "o", **mark)
        axis.plot(*at["bend_at"], "D", **mark)
        axis.set_title(_label(values, eps), fontsize=10)
        axis.grid(visible=False)
        axis.set(xlabel="clean (0) to adversarial (1)", ylabel="towards the bend")
    for axis in axes[radii.size :]:
        axis.set_visible(False)
    bar = figure.colorbar(filled, ax=list(axes), format="%.2g")
    bar.set_label("clean training loss")
    figure.suptitle(values.attrs["setting"], fontsize=10)
    return figure


def _curve_figure(config: Config, values: xr.Dataset) -> Any:
    figure, axes = figures.panels(2, sharey=True)
    radii = values["eps"].values
    kinds = {"curve": f"along the {config.curve}", "line": "along the line"}
    for axis, (kind, title) in zip(axes, kinds.items(), strict=True):
        for eps, color in zip(radii, figures.shades(radii.size), strict=True):
            losses = values[kind].sel(eps=eps)
            # The least and the largest, since a deviation may reach below zero.
            figures.span(axis, losses, "t", _label(values, eps), color, marker="")
        axis.set(xlabel="t, clean (0) to adversarial (1)", title=title, yscale="log")
    axes[0].set_ylabel(f"{config.objective} training loss")
    axes[1].legend(fontsize=8, loc="lower center")
    title = f"{values.attrs['setting']}: mean, least and largest"
    figure.suptitle(title, fontsize=10)
    return figure


_LOSSES = {
    "loss_clean_end": "loss of the clean end",
    "loss_other_end": "of the other end",
    "barrier_curve": "barrier of the curve",
    "barrier_line": "barrier of the line",
    "relative_distance": "distance / norm of the clean end",
    "relative_norm": "norm of the other end / of the clean end",
}


def _losses_table(values: xr.Dataset) -> Table:
    columns = {label: values[name] for name, label in _LOSSES.items()}
    return Table("Losses and distances", ["ε", *columns], figures.rows(columns))


def _halves_table(values: xr.Dataset) -> Table:
    shares = values["share_low"]
    columns = {
        "asymmetry of the curve": values["asymmetry_curve"],
        "asymmetry of the plane": values["asymmetry_plane"],
        "low on the clean half, share": shares.sel(side="clean"),
        "on the other half": shares.sel(side="other"),
    }
    return Table("The two halves", ["ε", *columns], figures.rows(columns))


def _mnist(config) -> None:
    config.update(readings.row("mnist", "linf", (0.0, 0.05, 0.15, 0.25)))
    config.num_epochs, config.num_eval = 20, 4000


def _gpu(config) -> None:
    if config.dataset == "cifar10":
        config.num_epochs, config.num_eval = 10, 2000


def _smoke(config) -> None:
    config.eps = config.eps[:2]
    config.num_epochs, config.num_eval = 2, 0
    config.num_points = config.grid_size = 3


def _same(config) -> None:
    config.seed_shift, config.eps = 0, config.eps[1:]


_DIGITS = readings.row("digits", "linf", (0.0, 0.04, 0.1, 0.16))
_CIFAR10 = readings.row("cifar10", "linf", tuple(k / 255 for k in (0, 0.5, 2, 8)))
STUDY = Study(
    "transition.connectivity",
    {
        **readings.ROW_FIELDS,
        "eps": numbers(_DIGITS["eps"], "radii of the grid", increasing=True),
        "seed_shift": count(
            1, "seeds from one end of a curve to the other; 0 for the same", least=0
        ),
        "curve": one_of("bezier", "bezier or polychain", paths.CURVES),
        "objective": one_of(
            "standard", "standard or adversarial", ("standard", "adversarial")
        ),
        # Garipov et al.'s training of VGG and ResNets, 50 of their 200 epochs; the
        # decay of Rice et al. on the point of the curve.
        "num_epochs": count(50, "epochs of training"),
        **some(
            recipe.FIELDS,
            seed=2,
            learning_rate=0.03,
            schedule="linear",
            schedule_knots=(0.5, 0.9),
            schedule_values=(1.0, 0.01),
        ),
        "weight_decay": number(5e-4, "decay of the parameters on the curve"),
        "num_points": count(61, "points on a curve", least=2),
        "grid_size": count(21, "points a side of the plane through a curve", least=2),
        "num_eval": count(
            10_000, "training images for the losses of a curve; 0 for all", least=0
        ),
        "eval_batch_size": count(500, "images at once, for the losses of a curve"),
    },
    _report,
    variants=(
        {
            "digits": {**_DIGITS, "num_eval": 0},
            "cifar10": _CIFAR10,
            "mnist": _mnist,
        },
        {"paper": {}, "gpu": _gpu, "smoke": _smoke},
        {"bezier": {}, "polychain": {"curve": "polychain"}},
        {"standard": {}, "adversarial": {"objective": "adversarial"}},
        {"shifted": {}, "same": _same},
    ),
    needs={"grid": GRID},
    check=_check,
    trains=_trains,
    cases=_cases,
    measure=_measured,
    values=_values,
)
get_config = STUDY.config
