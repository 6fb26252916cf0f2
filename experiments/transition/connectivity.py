"""Curves of low loss between clean and adversarially trained networks: Figure 4.

For each chosen radius of a finished grid, clean networks (left) are joined with
networks trained at that radius (right) by a curve with one trainable bend. The plane
through the three points is coloured by the clean training loss, and the loss is read
along the curve and along the straight line. Batch statistics are estimated anew at
every point.

The networks are those that the grid selected, soon after the first drop of the rate,
where the paper takes the 101st epoch because the best ones lie around it. The ends of a
pair come from different seeds, so that the panel at radius 0, two clean
networks, differs from the others in the attack alone; ``seed_shift = 0`` pairs networks
of one initialisation and order of the data.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from ml_collections import ConfigDict

from advjax import curves, norms
from advjax.curves import Path
from advjax.types import Params
from experiments import checks, figures, progress
from experiments.training import recipe
from experiments.transition import paths
from experiments.transition.paths import Loss, Setup
from experiments.transition.readings import centre, read_grid
from experiments.workdir import Workdir

MARGIN = 0.2  # of the plane, beyond the three points


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    grid = read_grid(config)
    checks.increasing(config, "eps")
    for eps in config.eps:
        grid.row(eps)
    checks.one_of(config, "curve", paths.CURVES)
    checks.one_of(config, "objective", ("standard", "adversarial"))
    if config.seed_shift and grid.config.num_seeds == 1:
        raise checks.ConfigError(
            f"config.seed_shift = {config.seed_shift!r}: the grid {grid.path} has one "
            "seed; choose the variant 'same', or a grid with --config.num_seeds=2"
        )
    most = grid.config.num_seeds - 1
    checks.integers(config, "seed_shift", least=0, most=most)
    if config.seed_shift == 0 and config.eps[0] == 0:
        raise checks.ConfigError(
            "config.seed_shift = 0: at eps = 0 both ends are one network; leave it "
            f"out, or shift by one of the {grid.config.num_seeds} seeds of the grid"
        )
    checks.integers(config, "num_epochs", "eval_batch_size")
    checks.integers(config, "num_points", "grid_size", least=2)
    checks.integers(config, "num_eval", least=0)
    checks.single(config, "num_epochs", "num_points", "grid_size", "weight_decay")
    checks.numbers(config, "weight_decay")
    recipe.validate(paths.training(config, grid))


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Trains the bends, reads the losses, and reports."""
    setup = paths.read(config)
    trained = paths.trained(config, setup, workdir)
    evaluate = paths.loss(config, setup)
    rows, planes = [], []
    for i, eps in enumerate(setup.eps):
        path = jax.tree.map(lambda leaf, i=i: leaf[i], trained)
        name = f"eps = {eps:.4g}, seeds {setup.pairs[i][0]} and {setup.pairs[i][1]}"
        along = partial(_along, config, setup, evaluate, path, eps)
        rows.append(workdir.stage(f"curve-{i}", along, name))
        plane = partial(_plane, config, setup, evaluate, path)
        planes.append(workdir.stage(f"plane-{i}", plane, name))
    along, planes = (
        {name: np.stack([row[name] for row in found]) for name in found[0]}
        for found in (rows, planes)
    )
    _plane_figure(config, setup, planes, workdir)
    _curve_figure(config, setup, along, workdir)
    return _report(config, setup, along, planes, workdir)


def _along(config, setup: Setup, evaluate: Loss, path: Path, eps, name: str) -> dict:
    """Losses at equally spaced t along the curve and the line, and distances."""
    ts = np.linspace(0, 1, config.num_points)
    found = {}
    for kind, curve in (("curve", setup.curve), ("line", curves.line)):
        point = jax.jit(curve)
        values = [
            evaluate(point(path, ts[i]), eps)
            for i in progress.steps(len(ts), f"{name}: {kind}")
        ]
        found[f"{kind}_clean"], found[kind] = np.array(values).T
    plane = curves.plane(path)
    return {
        **found,
        "distance": np.asarray(plane.width),
        "height": np.asarray(plane.height),
        "norm_a": _norm(path.a),
        "norm_b": _norm(path.b),
    }


def _norm(params: Params) -> np.ndarray:
    return np.asarray(norms.l2.value(ravel_pytree(params)[0]))


def _plane(config, setup: Setup, evaluate: Loss, path: Path, name: str) -> dict:
    """Clean training losses on a grid of the plane, with the curve in it."""
    plane = curves.plane(path)
    at = jax.jit(curves.Plane.at)
    axis = np.linspace(-MARGIN, 1 + MARGIN, config.grid_size)
    values = np.empty((len(axis), len(axis)))  # [beta, alpha]
    for i in progress.steps(values.size, f"{name}: plane"):
        j, k = divmod(i, len(axis))
        values[j, k] = evaluate(at(plane, axis[k], axis[j]), 0.0)[0]
    # Coordinates on the curve are those of the three points, mixed alike.
    corners = Path(*(jnp.stack(plane.coordinates(end)) for end in path))
    ts = jnp.linspace(0, 1, config.num_points)
    return {
        "loss": values,
        "axis": axis,
        "curve": np.asarray(jax.vmap(setup.curve, (None, 0))(corners, ts)).T,
        "bend": np.asarray(corners.bend),
        "asymmetry": asymmetry(values).mean(),
        "shares": low_loss_shares(values, 2 * evaluate(path.a, 0.0)[0]),
    }


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


def barrier(values: np.ndarray) -> np.ndarray:
    """Max over t minus the larger end, of losses ``[..., t]``."""
    return values.max(axis=-1) - np.maximum(values[..., 0], values[..., -1])


def _title(setup: Setup, eps: float) -> str:
    eps_star = centre(setup.grid.reading().eps_star)
    return f"ε = {eps:.3g}" + (f" ({eps / eps_star:.2g} ε*)" if eps_star else "")


def _plane_figure(config, setup: Setup, planes: dict, workdir: Workdir) -> None:
    """The planes of the first pair."""
    first = np.flatnonzero(setup.pairs[:, 0] == 0)
    figure, axes = figures.panels(min(2, len(first)), -(-len(first) // 2))
    every = planes["loss"][first]
    levels = np.geomspace(max(every.min(), 1e-6), min(5.0, every.max()), 12)
    for axis, i, eps in zip(axes, first, config.eps, strict=False):
        both = (planes["axis"][i], planes["axis"][i])
        shown = np.clip(planes["loss"][i], levels[0], levels[-1])
        filled = figures.contours(axis, *both, shown, levels)
        axis.plot(*planes["curve"][i], color="white", linewidth=1.6)
        axis.plot([0, 1], [0, 0], color="white", linestyle="--", linewidth=1)
        axis.plot([0, 1], [0, 0], "o", color="white", markeredgecolor="black")
        axis.plot(*planes["bend"][i], "D", color="white", markeredgecolor="black")
        axis.set_title(_title(setup, eps), fontsize=10)
        axis.grid(visible=False)
        axis.set(xlabel="clean (0) to adversarial (1)", ylabel="towards the bend")
    for axis in axes[len(first) :]:
        axis.set_visible(False)
    bar = figure.colorbar(filled, ax=list(axes), format="%.2g")
    bar.set_label("clean training loss")
    figure.suptitle(setup.grid.setting, fontsize=10)
    workdir.save_figure(figure, "planes")


def _curve_figure(config, setup: Setup, along: dict, workdir: Workdir) -> None:
    figure, axes = figures.panels(2, sharey=True)
    ts = np.linspace(0, 1, config.num_points)
    kinds = (("curve", f"along the {config.curve}"), ("line", "along the line"))
    for axis, (kind, title) in zip(axes, kinds, strict=True):
        by_eps = along[kind].reshape(len(config.eps), -1, len(ts))
        for k, color in enumerate(figures.shades(len(config.eps))):
            label = _title(setup, config.eps[k])
            figures.band(axis, ts, by_eps[k].T, label, color, marker="")
        axis.set(xlabel="t, clean (0) to adversarial (1)", title=title, yscale="log")
    axes[0].set_ylabel(f"{config.objective} training loss")
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{setup.grid.setting}: mean ± sd", fontsize=10)
    workdir.save_figure(figure, "along")


def _report(config, setup: Setup, along, planes, workdir) -> dict[str, Any]:
    def by_eps(values):
        return values.reshape(len(config.eps), -1, *values.shape[1:])

    quantities = {
        "loss of the clean end": along["curve"][:, 0],
        "of the other end": along["curve"][:, -1],
        "barrier of the curve": barrier(along["curve"]),
        "barrier of the line": barrier(along["line"]),
        "asymmetry of the curve": asymmetry(along["curve"]),
        "asymmetry of the plane": planes["asymmetry"],
        "share of the clean half below twice the clean end's loss": planes["shares"][
            :, 0
        ],
        "share of the other half": planes["shares"][:, 1],
        "distance / norm of the clean end": along["distance"] / along["norm_a"],
        "norm of the other end / of the clean end": along["norm_b"] / along["norm_a"],
    }
    quantities = {name: by_eps(values) for name, values in quantities.items()}
    rows = [
        [
            f"{eps:.4g}",
            *(figures.plus_minus(values[k], 4) for values in quantities.values()),
        ]
        for k, eps in enumerate(config.eps)
    ]
    num_pairs = len(setup.eps) // len(config.eps)
    eps_star = figures.plus_minus(setup.grid.reading().eps_star, 4)
    header = ["ε", *quantities]
    workdir.write_text(
        "report.md",
        f"## Connectivity of {setup.grid.setting}\n\n"
        "![clean training loss in the planes](planes.png)\n\n"
        "![loss along the curves](along.png)\n\n"
        f"{config.curve} curves, {config.num_epochs} epochs of the {config.objective} "
        f"objective; {config.objective} training loss on {setup.eval.y.size} examples "
        f"at {config.num_points} points; mean ± sd over {num_pairs} pairs of seeds, "
        f"{config.seed_shift} apart, each network in two pairs. The figure has the "
        "planes of the first pair: circles are the ends, the diamond is the bend. "
        "Barrier: the largest loss minus the larger of the ends'. Asymmetry: mean log "
        "loss of the half on the adversarial side minus that of the clean half; at ε = "
        f"0 the sides are alike but for chance. ε* = {eps_star}; grid "
        f"{setup.grid.origin}.\n\n{figures.table(header, rows)}",
    )
    shares = by_eps(planes["shares"])
    shown = "; ".join(
        f"eps = {eps:.4g}: barrier "
        f"{figures.plus_minus(quantities['barrier of the curve'][k], 3)} (line "
        f"{figures.plus_minus(quantities['barrier of the line'][k], 2)}), low loss on "
        f"{figures.plus_minus(100 * shares[k, :, 0], 0)} % of the clean half "
        f"and {figures.plus_minus(100 * shares[k, :, 1], 0)} % of the other"
        for k, eps in enumerate(config.eps)
    )
    title = f"{setup.grid.setting}, {config.curve} with {config.objective} loss"
    return {
        "summary": [f"{title}: {shown}"],
        "grid": setup.grid.origin,
        "eps": config.eps,
        "pairs": setup.pairs,
        "quantities": quantities,
        "along": along,
    }
