"""eps* of a network from scratch: Tables 1, 3 and B.2 to B.5, and Figure A.1.

Networks are trained at every radius of a grid. eps* is where the adversarial training
loss, which rises with the radius, crosses the clean test loss of clean training. Both
are read at one epoch a run, by two rules: the smallest adversarial test loss among the
epochs after the first drop of the rate, the rule of the networks that are released, and
among all epochs. The training loss is the mean over the epoch, each batch at the
network of its step, as in the paper.

``fine_tuning``, ``catastrophic``, ``overfitting``, ``connectivity`` and ``comparison``
start from the work directory of a finished grid.
"""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import checks, figures
from experiments.training import recipe
from experiments.training.classifier import Trained, train_networks
from experiments.transition.readings import (
    RULES,
    Reading,
    at,
    attacked_part,
    clean_part,
    read_off,
    setting,
)
from experiments.workdir import Workdir


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.increasing(config, "eps", first=0.0)
    checks.tuples(config, "eps", least=2)
    checks.one_of(config, "objective", set(recipe.OBJECTIVES) - {"standard"})
    checks.single(config, "printed_eps_star")
    checks.numbers(config, "printed_eps_star")
    recipe.validate(config)
    if (
        config.schedule == "piecewise"
        and config.select_from != config.schedule_knots[0]
    ):
        raise checks.ConfigError(
            f"config.select_from = {config.select_from!r}: give the first drop of the "
            f"rate, config.schedule_knots[0] = {config.schedule_knots[0]!r}"
        )


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Trains clean and attacked networks, finds eps*, and reports."""
    clean = train_networks(clean_part(config), workdir, "clean")
    attacked = train_networks(attacked_part(config), workdir, "attacked")
    curves = {
        name: np.concatenate(
            [part.by_radius(part.curves[name]) for part in (clean, attacked)], axis=1
        )
        for name in clean.curves
    }
    readings = [read_off(config, curves, rule) for rule in RULES]
    main = readings[0]
    _transition_figure(config, main, workdir)
    _curves_figure(config, curves, workdir)
    _report(config, clean, curves, readings, workdir)
    found = figures.plus_minus(main.eps_star, 4)
    seeds = f"sd over {config.num_seeds} seeds" if config.num_seeds > 1 else "1 seed"
    return {
        "summary": [f"{setting(config, clean.num_train)}: eps* = {found} ({seeds})"],
        "num_train": clean.num_train,
        "num_test": clean.num_test,
        "eps": config.eps,
        "readings": [reading._asdict() for reading in readings],
        # The first epoch compiles.
        "images_per_second": np.median(attacked.curves["images_per_second"][1:]),
        "curves": jax.tree.map(np.float32, curves),
    }


def _transition_figure(config: ConfigDict, reading: Reading, workdir: Workdir) -> None:
    figure, (axis,) = figures.panels()
    figures.crossing(
        axis,
        config.eps,
        reading.loss,
        reading.threshold,
        reading.eps_star,
        "adversarial training, from scratch",
    )
    axis.set_xlabel(f"radius ε of the {config.norm} ball (pixels in [0, 1])")
    axis.set_ylabel("adversarial training loss (nats)")
    axis.set_title(
        f"{config.dataset}, {config.model}, {config.num_seeds} seeds", fontsize=10
    )
    axis.legend(loc="upper left")
    workdir.save_figure(figure, "transition")


def _curves_figure(config: ConfigDict, curves: dict, workdir: Workdir) -> None:
    """A colour for every radius, a line for every seed."""
    figure, axes = figures.panels(2)
    titles = {"loss": "training loss", "test_robust_loss": "adversarial test loss"}
    epochs = np.arange(config.num_epochs)
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        for k, color in enumerate(figures.shades(len(config.eps))):
            lines = axis.plot(epochs, curves[name][:, k], color=color, linewidth=1.2)
            lines[0].set_label(f"ε = {config.eps[k]:.3g}")
        axis.set(xlabel="epoch", title=title, yscale="log")
    axes[0].legend(fontsize=8)
    workdir.save_figure(figure, "curves")


_COLUMNS = {
    "loss": "adv. training loss",
    "accuracy": "adv. training accuracy",
    "test_robust_loss": "adv. test loss",
    "test_robust_accuracy": "adv. test accuracy",
    "test_loss": "test loss",
    "test_accuracy": "test accuracy",
}


def _table(config: ConfigDict, curves: dict, reading: Reading) -> str:
    columns = {name: at(curves, name, reading.epoch) for name in _COLUMNS}
    rows = [
        [
            f"{eps:.4g} ({255 * eps:.3g}/255)",
            ", ".join(f"{epoch:.0f}" for epoch in reading.epoch[k]),
            *(figures.plus_minus(values[k], 4) for values in columns.values()),
        ]
        for k, eps in enumerate(config.eps)
    ]
    return figures.table(["ε", "epochs", *_COLUMNS.values()], rows)


def _report(config, clean: Trained, curves, readings: list[Reading], workdir) -> None:
    is_surrogate = config.objective != "adversarial"
    rows = []
    for reading in readings:
        row = [
            reading.rule,
            figures.plus_minus(reading.threshold, 4),
            figures.plus_minus(reading.eps_star, 4),
            figures.plus_minus(255 * reading.eps_star, 1),
            figures.plus_minus(reading.eps_star_cubic, 4),
            ", ".join(sorted({*reading.status})),
        ]
        if is_surrogate:
            row.append(figures.plus_minus(reading.eps_star_robust, 4))
        rows.append(row)
    header = ["smallest adversarial test loss", "threshold", "ε*", "255 ε*"]
    header += ["ε* by a cubic", "status"]
    header += ["ε* by cross-entropy"] * is_surrogate
    printed = config.printed_eps_star
    beside = f" The paper prints {255 * printed:.3g}/255 at its size." * bool(printed)
    tables = [
        f"\n### Smallest adversarial test loss {reading.rule}\n\n"
        + _table(config, curves, reading)
        for reading in readings
    ]
    workdir.write_text(
        "report.md",
        f"## ε* of {setting(config, clean.num_train)}\n\n"
        "![loss against radius](transition.png)\n\n![curves of training](curves.png)"
        f"\n\n{config.num_epochs} epochs, tested on {clean.num_test} examples, mean ± "
        f"sd over {config.num_seeds} seeds; epochs count from 0, those after the first "
        f"drop from {recipe.first_selectable(config)}. The threshold is the clean test "
        "loss of clean training. ε* is where the chord between two radii crosses it, "
        "the paper's rule; a monotone cubic through the losses shows what that choice "
        f"is worth.{beside}\n\n" + figures.table(header, rows) + "".join(tables),
    )
