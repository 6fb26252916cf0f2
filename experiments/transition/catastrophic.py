"""Single-step training that overfits catastrophically: Tables 2 and B.6.

Networks of a finished grid are trained again, with one step of 1.25 eps from a random
start (FGSM, which the paper calls FGM too) for the PGD of the grid, at a range of
radii. A run is unstable where its accuracy under PGD is below that of guessing,
although it has learnt to resist its own attack on most of the training data. The paper
finds the smallest unstable radius above eps*.
"""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import checks, figures
from experiments.training import recipe
from experiments.training.classifier import Trained, train_networks
from experiments.transition.readings import Grid, centre, read_grid
from experiments.workdir import Workdir


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.increasing(config, "eps")
    checks.numbers(config, "eps", above=0)
    checks.single(config, "rel_step_size")
    checks.numbers(config, "rel_step_size", above=0)
    recipe.validate(single_step(config, read_grid(config)))


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Trains with one step at every radius, and reports what PGD finds."""
    grid = read_grid(config)
    trained = train_networks(single_step(config, grid), workdir, "fgsm")
    epoch = trained.best_epoch
    robust = trained.at("test_robust_accuracy", epoch)
    num_classes = len(grid.config.classes) or recipe.DATASETS[grid.config.dataset]
    fallen = collapsed(robust, trained.at("accuracy", epoch), num_classes)
    unstable = unstable_radius(config.eps, fallen)
    eps_star = grid.reading().eps_star
    _figure(config, grid, trained, robust, 1 / num_classes, workdir)
    found = _in_words(config.eps, unstable)
    columns = {name: trained.at(name, epoch) for name in _COLUMNS}
    rows = [
        [
            f"{eps:.4g} ({255 * eps:.3g}/255)",
            *(figures.plus_minus(values[k], 4) for values in columns.values()),
            f"{fallen[k].sum()} of {fallen[k].size}",
        ]
        for k, eps in enumerate(config.eps)
    ]
    workdir.write_text(
        "report.md",
        f"## Catastrophic overfitting of {grid.setting}\n\n"
        f"![accuracy under FGSM and PGD](catastrophic.png)\n\nOne step of "
        f"{config.rel_step_size:g} ε from a random start; "
        f"tested by PGD-{grid.config.test_num_steps} at the epoch of smallest "
        "adversarial test loss after the first drop of the rate, mean ± sd over "
        f"{grid.config.num_seeds} seeds. Smallest unstable ε: {found}. ε* of the grid, "
        f"{grid.origin}: {figures.plus_minus(eps_star, 4)}.\n\n"
        + figures.table(["ε", *_COLUMNS.values(), "unstable seeds"], rows),
    )
    summary = (
        f"{grid.setting}, trained by FGSM: smallest unstable eps = {found}, beside "
        f"eps* = {figures.plus_minus(eps_star, 4)}"
    )
    return {
        "summary": [summary],
        "grid": grid.origin,
        "eps": config.eps,
        "eps_star": eps_star,
        "unstable_eps": unstable,
        "best_epoch": epoch,
        "selected": columns,
        "curves": jax.tree.map(np.float32, trained.curves),
    }


def single_step(config: ConfigDict, grid: Grid) -> ConfigDict:
    """The grid's configuration with one step for its attack, at other radii."""
    part = ConfigDict(grid.config.to_dict())
    part.objective = "adversarial"
    part.eps = config.eps
    part.num_steps = 1
    part.rel_step_size = config.rel_step_size
    part.start = config.start or part.start
    return part


def collapsed(
    robust_accuracy: np.ndarray, training_accuracy: np.ndarray, num_classes: int
) -> np.ndarray:
    """Below guessing under PGD, and right on most of the training data under FGSM."""
    return (robust_accuracy < 1 / num_classes) & (training_accuracy > 0.5)


def unstable_radius(radii: tuple[float, ...], collapsed: np.ndarray) -> np.ndarray:
    """The smallest radius of each seed that is ``collapsed[k, r]``; nan for none."""
    first = np.array(radii)[np.argmax(collapsed, axis=0)]
    return np.where(collapsed.any(axis=0), first, np.nan)


def _in_words(radii: tuple[float, ...], unstable: np.ndarray) -> str:
    """The smallest radius on any seed, and that of each."""
    finite = unstable[np.isfinite(unstable)]
    if not finite.size:
        return f"none up to {radii[-1]:.4g} on {unstable.size} seeds"
    smallest = finite.min()
    seeds = ", ".join("none" if np.isnan(r) else f"{r:.4g}" for r in unstable)
    return f"{smallest:.4g} ({255 * smallest:.3g}/255) on any seed, by seeds {seeds}"


_COLUMNS = {
    "loss": "training loss",
    "accuracy": "training accuracy",
    "test_robust_loss": "PGD test loss",
    "test_robust_accuracy": "PGD test accuracy",
    "test_fgsm_accuracy": "FGSM test accuracy",
    "test_accuracy": "test accuracy",
}


def _figure(config, grid: Grid, trained: Trained, robust, guessing, workdir) -> None:
    figure, (axis,) = figures.panels()
    single_step = trained.at("test_fgsm_accuracy", trained.best_epoch)
    for values, label, color in (
        (single_step, "under FGSM", figures.PALETTE[2]),
        (robust, f"under PGD-{grid.config.test_num_steps}", figures.PALETTE[0]),
    ):
        axis.plot(config.eps, values, "o", markersize=3, color=color, alpha=0.6)
        axis.plot(config.eps, values.mean(axis=1), color=color, label=label)
    axis.axhline(guessing, color="0.5", linewidth=0.8, linestyle="--", label="guessing")
    if (eps_star := centre(grid.reading().eps_star)) is not None:
        mark = {"color": "0.3", "linewidth": 0.8, "linestyle": ":"}
        axis.axvline(eps_star, **mark, label="ε* by PGD training")
    axis.set(xlabel="radius ε", ylabel="test accuracy", ylim=(0, 1.02))
    axis.set_title(f"{grid.setting}\ntrained by FGSM", fontsize=8)
    axis.legend()
    workdir.save_figure(figure, "catastrophic")
