"""Flatness and the robust generalisation gap: Figure 3, Theorem 6.3, Proposition 6.4.

At the radius δ of training, through adversarial training: local flatness, the mean of
the largest gradient norm around training images, and global flatness, that around test
images; and what robust losses, and robust errors, on test images are above those on
training images. Theorem 6.3 bounds this gap by N^(-1/(d+2)) (global flatness +
constant), and its proof sets δ = N^(-1/(d+2)), which is far from the δ in use.
Proposition 6.4 says that an attack raises the test loss by Ω(δ E‖∇ₓL(x)‖₁).
"""

from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments import figures, intervals
from experiments.training import finished
from experiments.workdir import Workdir

PANELS = {
    "gap in loss": "robust test loss − robust training loss",
    "gap in error": "robust test error − robust training error, %",
}


class Learning(NamedTuple):
    """What ``learning_process`` found, and where."""

    results: dict[str, Any]
    radii: tuple[float, ...]
    origin: str


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    _read(config)


def _read(config: ConfigDict) -> Learning:
    wanted = "a finished experiments/memorization/configs/learning_process.py"
    found = finished.read(
        "learning", config.learning, "memorization.learning_process", wanted
    )
    finished.set_digest(config, "learning_digest", found.digest)
    return Learning(found.results, found.config.radii, found.origin)


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Reads the curves of the learning process, and reports."""
    learning = _read(config)
    numbers = _numbers(learning)
    _figure(learning.results, numbers, workdir)
    return _report(learning, numbers, workdir)


def _numbers(learning: Learning) -> dict[str, np.ndarray]:
    """All ``[epoch, seed]``, but the factor of Theorem 6.3."""
    at, results = learning.radii.index(1), learning.results
    train, test = (
        {name: np.array(values) for name, values in results["curves"][split].items()}
        for split in ("train", "test")
    )
    gaps = {name: test[name] - train[name] for name in ("loss", "error")}
    rise = test["loss"][..., at] - test["loss"][..., 0]
    factor = results["num_train"] ** (-1 / (results["num_inputs"] + 2))
    first_order = results["eps"] * test["gradient"][..., 0]
    return {
        "local flatness": train["gradient"][..., at],
        "global flatness": test["gradient"][..., at],
        "gap in loss": gaps["loss"][..., at],
        "gap in error": 100 * gaps["error"][..., at],
        "clean gap in error": 100 * gaps["error"][..., 0],
        "robust test error": 100 * test["error"][..., at],
        "N^(-1/(d+2)) × global flatness": factor * test["gradient"][..., at],
        "δ × global flatness": results["eps"] * test["gradient"][..., at],
        "rise of the test loss": rise,
        "first order": first_order,
        "rise over first order": intervals.quotient(rise, first_order),
        "factor": np.array(factor),
    }


def _figure(results: dict, numbers: dict, workdir: Workdir) -> None:
    figure, axes = figures.panels(3)
    epochs = results["epochs"]
    for name, color in zip(("local", "global"), figures.colors(2), strict=True):
        label = f"{name} ({'training' if name == 'local' else 'test'} images)"
        figures.band(axes[0], epochs, numbers[f"{name} flatness"], label, color)
    axes[0].set(xlabel="epoch", ylabel=f"largest ‖∇ₓL‖₁ within {results['eps']:.3g}")
    axes[0].legend()
    shades = figures.shades(len(epochs))
    for axis, (name, label) in zip(axes[1:], PANELS.items(), strict=True):
        for i, epoch in enumerate(epochs):
            pair = (numbers["global flatness"][i], numbers[name][i])
            axis.scatter(*pair, color=shades[i], s=22, label=f"epoch {epoch}")
        axis.set(xlabel="global flatness", ylabel=label)
    axes[1].legend()
    workdir.save_figure(figure, "gap")


def _correlations(flatness: np.ndarray, gap: np.ndarray) -> list[float]:
    """Spearman's over epochs, of each seed."""
    return [
        intervals.spearman(*pair).mean for pair in zip(flatness.T, gap.T, strict=True)
    ]


def _report(learning: Learning, numbers: dict, workdir: Workdir) -> dict[str, Any]:
    results = learning.results
    num_images = results["num_images"]
    num_seeds = numbers["gap in loss"].shape[1]
    columns = [name for name, values in numbers.items() if values.ndim]
    epochs, setting = results["epochs"], results["setting"]
    rows = [
        [str(epoch), *(figures.plus_minus(numbers[name][i]) for name in columns)]
        for i, epoch in enumerate(epochs)
    ]
    flat = {name: numbers[f"{name} flatness"] for name in ("local", "global")}
    correlations = {gap: _correlations(flat["global"], numbers[gap]) for gap in PANELS}
    growth = {
        name: intervals.student(values[-1] - values[0]) for name, values in flat.items()
    }
    faster = intervals.student(
        np.diff([v[-1] - v[0] for v in flat.values()], axis=0)[0]
    )
    ranks = ", ".join(
        f"{gap} {np.mean(each):.2f} (seeds {min(each):.2f} to {max(each):.2f})"
        for gap, each in correlations.items()
    )
    ratio = numbers["rise over first order"]
    least, most = ratio.min(), ratio.max()
    ends = [figures.plus_minus(numbers[gap][-1]) for gap in PANELS]
    change = f"{growth['local']:+.2f}, of global {growth['global']:+.2f}"
    said = {
        f"from epoch {epochs[0]} to {epochs[-1]}": f"change of local flatness {change},"
        f" their difference {faster:+.2f}",
        "rank correlation over epochs with global flatness": f"{ranks}; gap at the end "
        f"{ends[0]} in loss, {ends[1]} points in error",
        "rise of the test loss over δ E‖∇ₓL(x)‖₁ (Proposition 6.4)": f"{least:.2f} to "
        f"{most:.2f}; N^(-1/(d+2)) = {numbers['factor']:.4f} (Theorem 6.3) "
        f"where δ is {results['eps']:.4f}",
    }
    lines = [f"{setting}, {what}: {values}" for what, values in said.items()]
    workdir.write_text(
        "report.md",
        f"## Flatness and the robust generalisation gap: {setting}\n\n"
        "![flatness by epoch, and gaps against global flatness](gap.png)\n\n"
        f"At the radius of training, by {num_images['train']} training and "
        f"{num_images['test']} test images; mean ± sd over {num_seeds} seeds. Errors "
        "in points. First order: δ E‖∇ₓL(x)‖₁ on test images. In brackets Student's "
        "95 % intervals over seeds. Rank correlations are over the epochs of one seed "
        "each: whatever drifts with the epochs correlates. The constant of Theorem "
        "6.3 is unknown, so that the bound itself cannot be tested.\n\n"
        + figures.table(["epoch", *columns], rows)
        + "\n"
        + "\n".join(f"- {line}" for line in lines)
        + f"\n\nFrom: {learning.origin}.\n",
    )
    return {
        "summary": lines,
        "epochs": epochs,
        "numbers": numbers,
        "correlations": correlations,
    }
