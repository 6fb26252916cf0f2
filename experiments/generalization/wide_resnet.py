"""The surrogate attack, or LASSO, in deep networks: Figures 2 and 7, Tables 1 and 2.

Networks of the same seeds are trained with several values of one field, ``config.xi``
or ``config.l1_penalty``, from the same start: fresh, or after epochs on clean images.
"""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import checks, figures, intervals
from experiments.training import recipe
from experiments.training.classifier import Trained, train_networks
from experiments.workdir import Workdir

COMPARED = {"xi": "ξ", "l1_penalty": "λ"}


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.one_of(config, "compared", COMPARED)
    checks.integers(config, "num_epochs")
    checks.increasing(config, "compared_values")
    checks.tuples(config, "eps")
    if len(config.eps) != 1:
        msg = f"config.eps = {config.eps!r}: give one radius"
        raise checks.ConfigError(msg)
    checks.single(config, "clean_epochs", "show_from")
    checks.integers(config, "clean_epochs", least=0)
    checks.integers(config, "show_from", least=0, most=config.num_epochs - 1)
    for value in config.compared_values:
        recipe.validate(arm(config, value))
    if config.clean_epochs:
        recipe.validate(clean(config))


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Trains with every value, and compares what the last networks reach."""
    start = ""
    if config.clean_epochs:
        train_networks(clean(config), workdir, "clean")
        start = str(workdir.path / "clean-last.safetensors")
    names = [f"{config.compared}-{value:g}" for value in config.compared_values]
    trained = [
        train_networks(arm(config, value, start), workdir, name)
        for value, name in zip(config.compared_values, names, strict=True)
    ]
    _figure(config, trained, workdir)
    return _report(config, trained, workdir)


def arm(config: ConfigDict, value: float, start: str = "") -> ConfigDict:
    """The recipe of one value, from released parameters if there are some."""
    part = ConfigDict(config.to_dict())
    part[config.compared] = value
    part.init_from = start or part.init_from
    return part


def clean(config: ConfigDict) -> ConfigDict:
    """The recipe of the epochs before, on clean images at the first rate."""
    part = arm(config, 0.0)
    part.objective, part.eps, part.xi = "standard", (0.0,), 0.0
    part.schedule = "constant"
    part.num_epochs = config.clean_epochs
    part.select_from = 0.0
    return part


_PANELS = (
    (
        "adversarial loss",
        {"robust_loss": "--", "test_robust_loss": "-"},
        "training - -   test —",
    ),
    (
        "test accuracy",
        {"test_accuracy": ":", "test_robust_accuracy": "-"},
        "clean ···   adversarial —",
    ),
)


def _figure(config: ConfigDict, trained: list[Trained], workdir: Workdir) -> None:
    """A line for every seed, a colour for every value."""
    figure, axes = figures.panels(2)
    epochs = np.arange(config.show_from, config.num_epochs)
    for axis, (name, styles, title) in zip(axes, _PANELS, strict=True):
        for label, one, color in zip(
            _labels(config), trained, figures.colors(len(trained)), strict=True
        ):
            for curve, style in styles.items():
                values = one.curves[curve][epochs]
                axis.plot(1 + epochs, values, style, color=color, linewidth=1.1)
            axis.plot([], [], color=color, label=label)
        axis.set(xlabel="epoch", ylabel=name)
        axis.locator_params(axis="x", integer=True)
        axis.set_title(title, fontsize=9)
        axis.legend()
    figure.suptitle(_setting(config), fontsize=10)
    workdir.save_figure(figure, "comparison")


def _report(
    config: ConfigDict, trained: list[Trained], workdir: Workdir
) -> dict[str, Any]:
    found = {
        name: 100 * np.stack([one.curves[name][-1] for one in trained])
        for name in _COLUMNS
    }
    gains = {
        name: [intervals.student(row - values[0]) for row in values[1:]]
        for name, values in found.items()
    }
    rows = [
        [
            label,
            *(figures.plus_minus(found[name][i], 2) for name in _COLUMNS),
            *(f"{gains[name][i - 1]:+.2f}" if i else "" for name in _TESTED),
            _printed(config, config.compared_values[i]),
            _surrogate(trained[i]),
            _sparsity(trained[i]),
        ]
        for i, label in enumerate(_labels(config))
    ]
    header = ["", *_COLUMNS.values(), "gain, clean", "gain, adversarial", "printed"]
    header += ["factor, first and last epoch", "weights at zero"]
    start = f" after {config.clean_epochs} clean epochs" if config.clean_epochs else ""
    workdir.write_text(
        "report.md",
        f"## {_setting(config)}\n\n![curves of training](comparison.png)\n\n"
        f"{config.num_epochs} epochs{start} on {trained[0].num_train} examples, tested "
        f"on {trained[0].num_test} by PGD-{config.test_num_steps} without surrogate. "
        f"Accuracies at the last epoch in percent, mean ± sd over {config.num_seeds} "
        "seeds; gains with Student's 95 % intervals, paired by seed. Printed: clean "
        "and adversarial (sd), at the paper's size. Factor: what the surrogate leaves "
        "of the attack to first order, mean over an epoch.\n\n"
        + figures.table(header, rows),
    )
    summary = [
        f"{_setting(config)}, {label}: clean "
        f"{figures.plus_minus(found['test_accuracy'][i], 2)} %, PGD-"
        f"{config.test_num_steps} "
        f"{figures.plus_minus(found['test_robust_accuracy'][i], 2)} %"
        + (f", gain {gains['test_robust_accuracy'][i - 1]:+.2f} points" if i else "")
        for i, label in enumerate(_labels(config))
    ]
    return {
        "summary": summary,
        "compared": config.compared,
        "compared_values": config.compared_values,
        "last": found,
        "gains": gains,
        "curves": [jax.tree.map(np.float32, one.curves) for one in trained],
    }


_TESTED = ("test_accuracy", "test_robust_accuracy")
_COLUMNS = {
    "test_accuracy": "test accuracy",
    "test_robust_accuracy": "adversarial",
    "accuracy": "training accuracy under the training attack",
}


def _labels(config: ConfigDict) -> list[str]:
    return [
        f"{COMPARED[config.compared]} = {value:g}" for value in config.compared_values
    ]


def _printed(config: ConfigDict, value: float) -> str:
    """What the paper prints for this value, at its size."""
    for name, at, clean, clean_sd, robust, robust_sd in config.printed:
        if (name, at) == (config.compared, value):
            return f"{clean:.2f} ({clean_sd:.2f}), {robust:.2f} ({robust_sd:.2f})"
    return "–"


def _surrogate(trained: Trained) -> str:
    if "factor" not in trained.curves:
        return "1"
    first, last = trained.curves["factor"][[0, -1]]
    return f"{figures.plus_minus(first)}, {figures.plus_minus(last)}"


def _sparsity(trained: Trained) -> str:
    if "sparsity" not in trained.curves:
        return "0"
    return f"{figures.plus_minus(100 * trained.curves['sparsity'][-1], 1)} %"


def _setting(config: ConfigDict) -> str:
    network = config.model + (f" (width {config.width})" if config.width else "")
    norm = f"{config.norm}, eps = {config.eps[0]:.3g}"
    return f"{network} on {config.dataset}, {norm}"
