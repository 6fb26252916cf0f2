"""How far two attacks from different random starts end apart, over training (Figure 8).

At the end of every epoch attacks of a few and of many steps are run twice on the same
test images. What two attacks differ by has two sources: the loss is no linear function
in the ball, and the steps were too few to forget the start. A linear function is
attacked as well, which has the second source alone.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import data, evaluate, losses
from advjax.types import Array, Attack, Batch, Key, LossFn
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
    checks.increasing(config, "watched_steps")
    checks.integers(config, "num_watched", "watched_steps")
    if config.start == "none":
        raise checks.ConfigError(
            "config.start = 'none': there are no random starts that two attacks could "
            "differ by"
        )


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Trains at every radius and seed, and follows the differences."""
    images, steps = _images(config), config.watched_steps
    watches = {_name(k): watch(config, k, images) for k in steps}
    linear = np.array([linear_reference(config, k, images) for k in steps])
    trained = train_networks(config, workdir, watches=watches)
    found = np.stack([trained.by_radius(trained.curves[_name(k)]) for k in steps])
    _figure(config, found, linear, workdir)
    return _report(config, trained, found, linear, workdir)


def _name(num_steps: int) -> str:
    return f"attack_difference_{num_steps}"


def _images(config: ConfigDict) -> Batch:
    test = recipe.read(config, "test")
    checks.integers(config, "num_watched", most=test.y.size)
    return data.subset(test, config.num_watched, seed=config.subset_seed)


def _attack(config: ConfigDict, num_steps: int) -> Attack:
    """That of training, with another number of its steps and no surrogate."""
    start = recipe.start(config)
    return recipe.pgd(config.norm, num_steps, config.rel_step_size, start)


def watch(config: ConfigDict, num_steps: int, images: Batch) -> Watch:
    """The mean of ‖delta_1 - delta_2‖ over the images, in the norm of the ball.

    In evaluation mode, by attacks on cross-entropy.
    """
    model = recipe.network(config)

    def loss_fn(network, x, y):
        logits = model.predict(*network, x)
        return losses.cross_entropy(logits, y)

    return _mean_difference(config, num_steps, images, loss_fn)


def linear_reference(config: ConfigDict, num_steps: int, images: Batch) -> np.ndarray:
    """The same for linear functions of random directions, at each radius, ``[k]``."""
    key_w, key = jax.random.split(jax.random.key(config.seed))
    directions = jax.random.normal(key_w, images.x.shape)

    def loss_fn(network, x, w):
        del network
        return jnp.sum(w * x, axis=tuple(range(1, x.ndim)))

    mean = _mean_difference(
        config, num_steps, images._replace(y=np.asarray(directions)), loss_fn
    )
    return np.array([mean(None, key, eps) for eps in np.float32(config.eps)])


def _mean_difference(
    config: ConfigDict,
    num_steps: int,
    images: Batch,
    loss_fn: Callable[[Any, Array, Array], Array],
) -> Watch:
    attack = _attack(config, num_steps)
    norm = recipe.NORMS[config.norm]

    @jax.jit
    def one_batch(network, eps, key, x, y):
        of_network: LossFn = partial(loss_fn, network)
        x = data.as_float(x)
        return evaluate.attack_difference(key, of_network, attack, norm, x, y, eps)

    def mean(network: Any, key: Key, eps: Array) -> Array:
        differences = evaluate.in_batches(
            lambda *batch: one_batch(network, eps, *batch),
            *(key, *images),
            batch_size=min(config.test_batch_size, config.num_watched),
        )
        return jnp.mean(differences)

    return mean


def _figure(config: ConfigDict, found, linear, workdir: Workdir) -> None:
    """``found[steps, epoch, radius, seed]``, ``linear[steps, radius]``."""
    figure, axes = figures.panels(2, len(config.watched_steps))
    epochs = 1 + np.arange(config.num_epochs)
    colors = figures.colors(len(config.eps))
    panels = [(i, unit) for i in range(len(found)) for unit in ("", " over ε")]
    for axis, (i, unit) in zip(axes, panels, strict=True):
        for k, (eps, color) in enumerate(zip(config.eps, colors, strict=True)):
            scale = eps if unit else 1
            curves, level = found[i][:, k] / scale, linear[i, k] / scale
            figures.band(axis, epochs, curves, f"ε = {eps:.3g}", color, marker="")
            axis.axhline(level, color=color, linestyle=":", linewidth=1)
        axis.set(xlabel="epoch", ylabel=f"‖δ₁ − δ₂‖{unit}")
        axis.set_title(f"{config.watched_steps[i]} steps", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.locator_params(axis="x", integer=True)
        axis.legend()
    figure.suptitle(
        f"{_setting(config)}, {config.num_seeds} seeds: mean ± sd; dotted: linear "
        "functions",
        fontsize=10,
    )
    workdir.save_figure(figure, "attack_difference")


def _setting(config: ConfigDict) -> str:
    return f"{config.model} on {config.dataset}, {config.norm}"


def _report(
    config: ConfigDict, trained: Trained, found, linear, workdir: Workdir
) -> dict[str, Any]:
    results = [
        _compared(config, *each)
        for each in zip(config.watched_steps, found, linear, strict=True)
    ]
    header = ["steps", "ε", "epoch 1", f"epoch {_begin(config) + 1}"]
    header += [f"epoch {config.num_epochs}", "growth", "over ε"]
    header += ["linear functions"]
    rows = [row for result in results for row in _rows(config, result)]
    at_end = {
        title: trained.by_radius(trained.curves[name])[-1].astype(float)
        for name, title in _AT_END.items()
    }
    accuracies = [
        [f"{eps:.4g}", *(figures.plus_minus(values[k]) for values in at_end.values())]
        for k, eps in enumerate(config.eps)
    ]
    lines = [line for result in results for line in _lines(config, result)]
    workdir.write_text(
        "report.md",
        f"## Difference of two attacks: {_setting(config)}\n\n"
        "![difference over epochs](attack_difference.png)\n\n"
        f"Mean of ‖δ₁ − δ₂‖ over {config.num_watched} test images, by attacks with "
        f"steps of {config.rel_step_size:g} ε, over {config.num_epochs} epochs on "
        f"{trained.num_train} images by PGD-{config.num_steps}, in which the radius "
        f"rises for {config.eps_warmup_epochs:g}; growth is from epoch "
        f"{_begin(config) + 1} on. Mean ± sd over {config.num_seeds} seeds, in "
        "brackets Student's 95 % intervals, paired by seed. Linear functions have one "
        "maximum in the ball: what their attacks differ by is what is left of the "
        "starts.\n\n"
        f"{figures.table(header, rows)}\nAt the last epoch:\n\n"
        + figures.table(["ε", *at_end], accuracies),
    )
    return {
        "summary": lines,
        "eps": config.eps,
        "by_steps": results,
        "curves": jax.tree.map(np.float32, trained.curves),
    }


_AT_END = {
    "test_accuracy": "test accuracy",
    "test_robust_accuracy": "robust accuracy",
    "zero_grad": "training examples with a zero gradient",
}


def _compared(
    config: ConfigDict, num_steps: int, found: np.ndarray, linear: np.ndarray
) -> dict[str, Any]:
    """Of ``found[epoch, radius, seed]``; contrasts are of the outermost radii."""
    last, units = found[-1], np.array(config.eps)[:, None]
    relative = last / units
    begin = found[_begin(config)]
    return {
        "num_steps": num_steps,
        "attack_difference": found,
        "linear": linear,
        "growth": [intervals.student(row) for row in last - begin],
        "contrast": intervals.student(last[-1] - last[0]),
        "relative_contrast": intervals.student(relative[-1] - relative[0]),
    }


def _begin(config: ConfigDict) -> int:
    """The first epoch, from 0, that trains at the whole radius throughout."""
    return min(math.ceil(config.eps_warmup_epochs), config.num_epochs - 2)


def _rows(config: ConfigDict, result: dict[str, Any]) -> list[list[str]]:
    first, begin, last = result["attack_difference"][[0, _begin(config), -1]]
    return [
        [
            *(f"{result['num_steps']}", f"{eps:.4g}"),
            *(figures.plus_minus(values[k]) for values in (first, begin, last)),
            f"{result['growth'][k]:+.3f}",
            figures.plus_minus(last[k] / eps),
            f"{result['linear'][k]:.3f}",
        ]
        for k, eps in enumerate(config.eps)
    ]


def _lines(config: ConfigDict, result: dict[str, Any]) -> list[str]:
    name = f"attack difference, {_setting(config)}, {result['num_steps']} steps"
    last = result["attack_difference"][-1]
    lines = [
        f"{name}, eps = {eps:.3g}: {figures.plus_minus(last[k])} at the last epoch, "
        f"growth since epoch {_begin(config) + 1} {result['growth'][k]:+.3f}, linear "
        f"functions {result['linear'][k]:.3f}"
        for k, eps in enumerate(config.eps)
    ]
    apart = f"eps = {config.eps[-1]:.3g} minus eps = {config.eps[0]:.3g}"
    contrast = f"{result['contrast']:+.3f}, over eps {result['relative_contrast']:+.3f}"
    return [*lines, f"{name}, {apart}: {contrast}"]
