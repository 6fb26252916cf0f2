"""eps* by fine-tuning clean networks: Algorithm A.1, Tables 4 and B.7, Figure B.1.

The clean networks of a finished grid are trained on at a few small radii, with PGD and
with a single step (FGM). A line through the clean loss and the loss at the middle
radius, or at all of them, is extended to the threshold. Its error is that against eps*
of the grid, from scratch; its cost is in gradients of single examples, the clean
training and all tests included. The attacks start as those of the grid.
"""

from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from advjax import transition
from experiments import checks, figures
from experiments.training import recipe
from experiments.training.classifier import train_networks
from experiments.transition.readings import (
    CLEAN,
    Grid,
    attacked_part,
    centre,
    clean_part,
    crossings,
    num_gradients,
    read_grid,
)
from experiments.workdir import Workdir

ATTACKS = ("pgd", "fgm")


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.increasing(config, "eps")
    checks.numbers(config, "eps", above=0)
    checks.single(config, "fgm_rel_step_size", "num_epochs")
    checks.integers(config, "num_epochs", least=0)
    checks.numbers(config, "fgm_rel_step_size", above=0)
    grid = read_grid(config)
    for attack in ATTACKS:
        recipe.validate(tuned_part(config, grid, attack))


class Estimate(NamedTuple):
    """One way to eps*.

    Attributes:
        name: of the way.
        eps_star: ``[r]``.
        status: ``[r]``, names of ``transition.Status``.
        gradients: of single examples, for one seed.
    """

    name: str
    eps_star: np.ndarray
    status: list[str]
    gradients: int


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Fine-tunes, extends the lines, and reports."""
    grid = read_grid(config)
    losses = {}
    for attack in ATTACKS:
        trained = train_networks(tuned_part(config, grid, attack), workdir, attack)
        losses[attack] = trained.at("loss", trained.best_epoch)
    estimates = [_scratch(grid)]
    estimates += [
        _extended(config, grid, attack, losses[attack], chosen)
        for attack in ATTACKS
        for chosen in choices(config)
    ]
    _figure(config, grid, losses, workdir)
    return _report(config, grid, losses, estimates, workdir)


def tuned_part(config: ConfigDict, grid: Grid, attack: str) -> ConfigDict:
    """The grid's configuration with another start, schedule, radii and attack."""
    part = ConfigDict(grid.config.to_dict())
    part.init_from = str(grid.path / CLEAN)
    part.select_from = 0.0
    part.eps_warmup_epochs = 0.0
    fields = ("seed", "eps", "schedule", "schedule_knots", "schedule_values")
    for field in fields:
        part[field] = config[field]
    part.num_epochs = config.num_epochs or max(1, grid.config.num_epochs // 5)
    if attack == "fgm":
        part.num_steps = 1
        part.rel_step_size = config.fgm_rel_step_size
    return part


def choices(config: ConfigDict) -> list[list[int]]:
    """Rows of (0, radii): the middle radius, and all if there are more."""
    number = len(config.eps)
    choices = [[0, (number + 1) // 2], list(range(number + 1))]
    return choices[:number]


def _scratch(grid: Grid) -> Estimate:
    reading = grid.reading()
    sizes = (grid.results["num_train"], grid.results["num_test"])
    per_radius = num_gradients(attacked_part(grid.config), *sizes)
    gradients = _clean_gradients(grid) + (len(grid.config.eps) - 1) * per_radius
    return Estimate("from scratch", reading.eps_star, reading.status, gradients)


def _clean_gradients(grid: Grid) -> int:
    sizes = (grid.results["num_train"], grid.results["num_test"])
    return num_gradients(clean_part(grid.config), *sizes)


def _extended(config, grid, attack, losses, chosen) -> Estimate:
    reading = grid.reading()
    radii = np.array([0.0, *config.eps])[chosen]
    points = np.concatenate([reading.loss[:1], losses])[chosen]
    found = crossings(radii, points, reading.threshold, transition.extrapolate)
    sizes = (grid.results["num_train"], grid.results["num_test"])
    one_radius = num_gradients(tuned_part(config, grid, attack), *sizes)
    number = len(chosen) - 1
    name = f"{attack.upper()}, {number} {'radius' if number == 1 else 'radii'}"
    return Estimate(name, *found, _clean_gradients(grid) + number * one_radius)


def _figure(config, grid, losses, workdir) -> None:
    figure, (axis,) = figures.panels()
    reading = grid.reading()
    figures.crossing(
        axis,
        grid.config.eps,
        reading.loss,
        reading.threshold,
        reading.eps_star,
        "adversarial training, from scratch",
    )
    colors = dict(zip(ATTACKS, (figures.PALETTE[2], figures.PALETTE[3]), strict=True))
    for attack, color in colors.items():
        label = f"fine-tuned by {attack.upper()}"
        figures.band(axis, config.eps, losses[attack], label, color, marker="s")
        # The line of all radii, extended.
        points = np.concatenate([reading.loss[:1], losses[attack]]).mean(axis=1)
        slope, start = np.polyfit([0.0, *config.eps], points, 1)
        ends = np.array([0, 1.1 * (centre(reading.eps_star) or config.eps[-1])])
        axis.plot(ends, start + slope * ends, color=color, linewidth=0.8)
    axis.set_xlabel(f"radius ε of the {grid.config.norm} ball (pixels in [0, 1])")
    axis.set_ylabel("adversarial training loss (nats)")
    axis.set_title(grid.setting, fontsize=8)
    axis.legend(loc="upper left", fontsize=8)
    workdir.save_figure(figure, "fine_tuning")


def _report(config, grid, losses, estimates, workdir) -> dict[str, Any]:
    scratch = estimates[0]
    clean_gradients, num_radii = _clean_gradients(grid), len(grid.config.eps) - 1
    two_radii = clean_gradients + 2 * (scratch.gradients - clean_gradients) / num_radii
    rows, results = [], []
    for estimate in estimates:
        error = np.abs(estimate.eps_star - scratch.eps_star) / scratch.eps_star
        share = estimate.gradients / scratch.gradients
        share_of_two = estimate.gradients / two_radii
        row = [
            estimate.name,
            figures.plus_minus(estimate.eps_star, 4),
            "" if estimate is scratch else figures.plus_minus(100 * error, 1),
            f"{estimate.gradients:,}",
            f"{100 * share:.1f}",
            f"{100 * share_of_two:.1f}",
            ", ".join(sorted({*estimate.status})),
        ]
        rows.append(row)
        results.append(
            {
                **estimate._asdict(),
                "relative_error": error,
                "share_of_gradients": share,
                "share_of_two_radii": share_of_two,
            }
        )
    reading, seeds = grid.reading(), grid.config.num_seeds
    tuned = [
        [f"{eps:.4g}", *(figures.plus_minus(losses[a][k], 4) for a in ATTACKS)]
        for k, eps in enumerate(config.eps)
    ]
    clean = figures.plus_minus(reading.loss[0], 4)
    header = ["", "ε*", "relative error, %", "gradients a seed", "of the grid's, %"]
    header += ["of those of two radii, %", "status"]
    workdir.write_text(
        "report.md",
        f"## Fine-tuning of {grid.setting}\n\n![losses and lines](fine_tuning.png)\n\n"
        f"{tuned_part(config, grid, 'pgd').num_epochs} epochs from the clean network, "
        f"{grid.config.num_epochs} from scratch; mean ± sd over {seeds} seeds. Grid "
        f"{grid.origin}; threshold {figures.plus_minus(reading.threshold, 4)}. "
        "Gradients are of single examples, clean training and tests included, beside "
        f"those of the grid's {num_radii} radii, and of the two that a crossing lies "
        "between.\n\n"
        + figures.table(header, rows)
        + "\nAdversarial training loss at the epoch of smallest adversarial test loss; "
        f"of the clean network {clean}:\n\n"
        + figures.table(["ε", *(name.upper() for name in ATTACKS)], tuned),
    )
    shown = "; ".join(
        f"{row['name']} {figures.plus_minus(100 * row['relative_error'], 1)} % off at "
        f"{100 * row['share_of_gradients']:.1f} % of the grid's gradients"
        for row in results[1:]
    )
    return {
        "summary": [f"{grid.setting}, eps* by fine-tuning: {shown}"],
        "grid": grid.origin,
        "eps": config.eps,
        "clean_loss": reading.loss[0],
        "threshold": reading.threshold,
        "tuned_loss": losses,
        "estimates": results,
    }
