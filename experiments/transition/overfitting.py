"""How much more a network overfits after the first drop of the rate: Figure 5.

The generalisation gap is the adversarial test loss minus the adversarial training loss,
both cross-entropies. Its ratio is to the gap of the first epoch at the lower rate, the
101st of the paper's 200. Nothing is trained: the curves are those of a finished grid.
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments import figures
from experiments.training import recipe
from experiments.transition.readings import Grid, read_grid
from experiments.workdir import Workdir


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    read_grid(config)


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Reads the gaps off the curves of the grid, and reports."""
    grid = read_grid(config)
    curves = {name: np.array(grid.results["curves"][name], float) for name in _CURVES}
    first = recipe.first_selectable(grid.config)
    gap = curves["test_robust_loss"] - curves["robust_loss"]
    ratio = gap_ratio(gap, first)
    _figure(grid, gap, ratio, first, workdir)
    eps_star = grid.reading().eps_star
    rows = [
        [
            f"{eps:.4g} ({255 * eps:.3g}/255)",
            *(figures.plus_minus(v[k], 4) for v in (gap[first], gap[-1], ratio[-1])),
        ]
        for k, eps in enumerate(grid.config.eps)
    ]
    header = ["ε", f"gap at epoch {first}", "gap at the last epoch", "their ratio"]
    workdir.write_text(
        "report.md",
        f"## Overfitting of {grid.setting}\n\n![gap against epoch](overfitting.png)\n\n"
        "Gap: adversarial test loss minus adversarial training loss; mean ± sd over "
        f"{grid.config.num_seeds} seeds, epochs from 0. ε* = "
        f"{figures.plus_minus(eps_star, 4)}. Curves of "
        f"{grid.origin}.\n\n{figures.table(header, rows)}",
    )
    shown = ", ".join(
        f"{figures.plus_minus(ratio[-1][k], 2)} at eps = {eps:.4g}"
        for k, eps in enumerate(grid.config.eps)
    )
    summary = (
        f"{grid.setting}: the generalisation gap at the last epoch over that at "
        f"epoch {first} is {shown}; eps* = {figures.plus_minus(eps_star, 4)}"
    )
    return {
        "summary": [summary],
        "grid": grid.origin,
        "eps": grid.config.eps,
        "first_epoch": first,
        "gap": gap,
        "ratio": ratio,
        "eps_star": eps_star,
    }


_CURVES = ("robust_loss", "test_robust_loss")


def gap_ratio(gap: np.ndarray, first: int) -> np.ndarray:
    """``gap[first:] / gap[first]``, nan where that is not above zero."""
    base = np.where(gap[first] > 0, gap[first], np.nan)
    return gap[first:] / base


def _figure(grid: Grid, gap, ratio, first: int, workdir: Workdir) -> None:
    figure, (left, right) = figures.panels(2)
    radii, epochs = grid.config.eps, np.arange(len(gap))
    shown = slice(first // 2, None)  # before, the gap is that of untrained networks
    for k, color in enumerate(figures.shades(len(radii))):
        label = f"ε = {radii[k]:.3g}"
        figures.band(left, epochs[shown], gap[shown, k], label, color, marker="")
        figures.band(right, epochs[first:], ratio[:, k], label, color, marker="")
    left.axvline(first, color="0.3", linewidth=0.8, linestyle=":")
    left.set(xlabel="epoch", ylabel="adv. test loss - adv. training loss")
    right.set(xlabel="epoch", ylabel=f"gap over that at epoch {first}")
    right.legend(fontsize=8)
    figure.suptitle(f"{grid.setting}: mean ± sd", fontsize=10)
    workdir.save_figure(figure, "overfitting")
