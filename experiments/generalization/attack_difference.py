"""How far two attacks from different random starts end apart, over training (Figure 8).

At the end of every epoch the attack of training is run twice on the same test images.
The more the two perturbations differ, the less one of them says about the maximum of
the loss in the ball, and the rougher the gradient of adversarial training is.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import data, evaluate, losses
from experiments import checks, figures, intervals
from experiments.training import recipe
from experiments.training.classifier import Trained, train_networks
from experiments.training.engine import Watch
from experiments.workdir import Workdir


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    recipe.validate(config)
    checks.increasing(config, "eps")
    checks.tuples(config, "eps", least=2)
    checks.numbers(config, "eps", above=0)
    checks.integers(config, "num_epochs", least=2)
    checks.single(config, "num_watched")
    checks.integers(config, "num_watched")
    if config.start == "none" or config.objective == "standard":
        field = "start" if config.start == "none" else "objective"
        raise checks.ConfigError(
            f"config.{field} = {config[field]!r}: there are no random starts that two "
            "attacks could differ by"
        )


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Trains at every radius and seed, and follows the difference."""
    watches = {"attack_difference": watch(config)}
    trained = train_networks(config, workdir, watches=watches)
    found = trained.by_radius(trained.curves["attack_difference"])
    _figure(config, found, workdir)
    return _report(config, trained, found, workdir)


def watch(config: ConfigDict) -> Watch:
    """The mean of ‖delta_1 - delta_2‖ over a fixed part of the test images.

    In evaluation mode, by the attack of training without surrogate on cross-entropy,
    in the norm of the ball.

    Raises:
        ConfigError: if there are not so many images.
        DataError: if they cannot be read.
    """
    test = recipe.read(config, "test")
    checks.integers(config, "num_watched", most=test.y.size)
    x, y = data.subset(test, config.num_watched, seed=config.subset_seed)
    model, attack = recipe.network(config), recipe.attack(config)
    length = recipe.NORMS[config.norm].value

    @jax.jit
    def one_batch(network, eps, key, x, y):
        def loss_fn(x, y):
            logits, _ = model.apply(*network, x, train=False)
            return losses.cross_entropy(logits, y)

        x = data.as_float(x)
        return evaluate.attack_difference(key, loss_fn, attack, length, x, y, eps)

    def difference(network, key, eps):
        found = evaluate.in_batches(
            lambda *batch: one_batch(network, eps, *batch),
            *(key, x, y),
            batch_size=min(config.test_batch_size, config.num_watched),
        )
        return jnp.mean(found)

    return difference


def _figure(config: ConfigDict, found: np.ndarray, workdir: Workdir) -> None:
    figure, axes = figures.panels(2)
    epochs = 1 + np.arange(config.num_epochs)
    for k, (eps, color) in enumerate(
        zip(config.eps, figures.colors(len(config.eps)), strict=True)
    ):
        for axis, unit in zip(axes, (1, eps), strict=True):
            label = f"ε = {eps:.3g}"
            figures.band(axis, epochs, found[:, k] / unit, label, color, marker="")
    for axis, name in zip(
        axes, ("difference ‖δ₁ − δ₂‖", "difference / ε"), strict=True
    ):
        axis.set(xlabel="epoch", ylabel=name)
        axis.set_ylim(bottom=0)
        axis.legend()
    figure.suptitle(
        f"{config.model} on {config.dataset}, {config.norm} PGD-{config.num_steps}, "
        f"{config.num_seeds} seeds: mean ± sd",
        fontsize=10,
    )
    workdir.save_figure(figure, "attack_difference")


def _report(
    config: ConfigDict, trained: Trained, found: np.ndarray, workdir: Workdir
) -> dict[str, Any]:
    """``found[epoch, radius, seed]``."""
    radii = np.array(config.eps)
    relative = found / radii[:, None]
    growth = [intervals.student(found[-1, k] - found[0, k]) for k in range(len(radii))]
    contrast = {
        "difference": intervals.student(found[-1, -1] - found[-1, 0]),
        "relative": intervals.student(relative[-1, -1] - relative[-1, 0]),
    }
    last = np.full_like(trained.best_epoch, config.num_epochs - 1)
    accuracy = trained.at("test_accuracy", last)
    robust = trained.at("test_robust_accuracy", last)
    zero_grad = trained.at("test_zero_grad", last) / trained.num_test
    rows = [
        [
            f"{eps:.4g}",
            *(figures.plus_minus(values[k]) for values in (found[0], found[-1])),
            f"{growth[k]:+.3f}",
            *(figures.plus_minus(values[k]) for values in (relative[0], relative[-1])),
            *(figures.plus_minus(v[k]) for v in (accuracy, robust, zero_grad)),
        ]
        for k, eps in enumerate(radii)
    ]
    header = ["ε", "first epoch", "last epoch", "growth", "first, over ε"]
    header += ["last, over ε", "test accuracy", "robust accuracy"]
    header += ["zero gradients"]
    setting = f"{config.model} on {config.dataset}, {config.norm}"
    apart = f"ε = {radii[-1]:.3g} minus ε = {radii[0]:.3g}"
    workdir.write_text(
        "report.md",
        f"## Difference of two attacks: {setting}\n\n"
        "![difference over epochs](attack_difference.png)\n\n"
        f"Mean of ‖δ₁ − δ₂‖ over {config.num_watched} test images, by PGD-"
        f"{config.num_steps} with steps of {config.rel_step_size:g} ε, after the first "
        f"and the last of {config.num_epochs} epochs on {trained.num_train} images; "
        f"mean ± sd over {config.num_seeds} seeds, in brackets Student's 95 % "
        f"intervals, paired by seed. Zero gradients: share of the "
        "test images where the attack meets one, so that two attacks differ by their "
        f"starts alone.\n\n{figures.table(header, rows)}\nAt the last epoch, {apart}: "
        f"{contrast['difference']:+.3f}; over ε {contrast['relative']:+.3f}.\n",
    )
    lines = [
        f"attack difference, {setting}, eps = {eps:.3g}: "
        f"{figures.plus_minus(found[-1, k])} at the last epoch "
        f"({figures.plus_minus(relative[-1, k])} over eps), growth since the first "
        f"{growth[k]:+.3f}"
        for k, eps in enumerate(radii)
    ]
    lines.append(
        f"attack difference, {setting}, eps = {radii[-1]:.3g} minus eps = "
        f"{radii[0]:.3g}: {contrast['difference']:+.3f}, over eps "
        f"{contrast['relative']:+.3f} (95 % intervals)"
    )
    return {
        "summary": lines,
        "eps": radii,
        "attack_difference": found,
        "growth": growth,
        "contrast": contrast,
        "curves": jax.tree.map(np.float32, trained.curves),
    }
