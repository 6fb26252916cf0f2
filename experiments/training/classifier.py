"""Adversarial training of networks on images: the engine of the deep studies.

A network is trained for every radius and seed. Every epoch ends with a test: clean,
under PGD, and under FGSM, whose robust accuracy runs away from that under PGD where
single-step training overfits catastrophically. The network of smallest adversarial test
loss and the last one are kept. A killed run resumes at its last checkpoint and ends
with the same numbers.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments import figures, progress
from experiments.training import checkpoints, recipe
from experiments.training.checkpoints import Checkpoints, Released
from experiments.training.engine import Engine, Progress
from experiments.workdir import Workdir, environment

validate = recipe.validate


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Trains from a notebook or another program as the command line does.

    Returns:
        What ``run`` returns; a complete directory is not trained again.

    Raises:
        WorkdirError: also if the directory holds something else.
        Exception: as ``run``.
    """
    validate(config)
    directory = Workdir(workdir, config)
    content = directory.results() or directory.finish(**run(config, directory))
    return content["results"]


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Trains a network for every radius and seed of the configuration.

    Args:
        config: with the fields of ``recipe.defaults()``.
        workdir: receives log, checkpoints, figure, report, and the parameters as
            ``best.npz`` and ``last.npz``.

    Returns:
        ``curves[epoch, r]``, the selected epoch, eps and seed of each of ``r`` runs.

    Raises:
        ConfigError: for a configuration that its data or devices do not admit.
        DataError: if the data cannot be read.
        WorkdirError: if a checkpoint cannot be written, or is of another network.
        DivergedError: if a training loss is not finite.
    """
    engine = Engine(config)
    label = f"{config.dataset}, {config.model}, {config.objective}"
    with Checkpoints(workdir.path / "checkpoints") as stored:
        now = stored.restore(engine.start(load=stored.is_empty))
        first = now.step // engine.steps_per_epoch
        for epoch in progress.steps(config.num_epochs, label, first=first):
            begin, share = time.monotonic(), 1 - now.step / engine.steps_per_epoch % 1
            for reached in engine.epoch(now, epoch):
                now = reached
                if now.step % engine.steps_per_epoch and config.checkpoint_steps:
                    stored.save(now.step, now)
            # In the first epoch of a process this counts compilation as well.
            rate = share * engine.images_per_epoch / (time.monotonic() - begin)
            now = engine.test(now, epoch, images_per_second=rate)
            row = {name: values[epoch] for name, values in now.history.items()}
            workdir.log(epoch=epoch, eps=engine.eps, **row)
            stored.save(now.step, now)
    return _finish(config, engine, now, workdir)


def _finish(config: ConfigDict, engine: Engine, now: Progress, workdir: Workdir):
    """Releases both networks of every run, and reports."""
    about = {
        "config": config.to_dict(),
        "eps": engine.eps,
        "seed": engine.seeds,
        "commit": environment()["commit"],
    }
    best_epoch = np.asarray(now.best.epoch)
    last_epoch = np.full_like(best_epoch, config.num_epochs - 1)
    for name, networks, epoch in (
        ("best", now.best, best_epoch),
        ("last", now.states, last_epoch),
    ):
        found = Released(
            networks.params, networks.batch_stats, {**about, "epoch": epoch}
        )
        checkpoints.release(workdir.path / f"{name}.npz", found)
    _figure(config, engine, now.history, workdir)
    tables = {
        name: _table(engine, now.history, epoch)
        for name, epoch in (("best", best_epoch), ("last", last_epoch))
    }
    summary = _summary(config, engine, now.history, last_epoch)
    spread = f"mean ± sd over {config.num_seeds} seeds"
    workdir.write_text(
        "report.md",
        f"## {_title(config)}\n\n![curves of training](curves.png)\n\n"
        f"{config.num_epochs} epochs on {engine.num_train} examples, tested on "
        f"{engine.num_test}; {spread}. Robust accuracy is under PGD with "
        f"{config.test_num_steps} steps, out of all examples; the gap is that under "
        "FGSM minus that under PGD.\n\n### Epoch of smallest adversarial test loss\n\n"
        f"{tables['best']}\n### Last epoch\n\n{tables['last']}",
    )
    return {
        "summary": summary,
        "eps": engine.eps,
        "seed": engine.seeds,
        "best_epoch": best_epoch,
        "curves": now.history,
    }


def _title(config: ConfigDict) -> str:
    return f"{config.model} on {config.dataset}, {config.objective}, {config.norm}"


def _at(history: dict, name: str, epoch: np.ndarray) -> np.ndarray:
    return np.take_along_axis(history[name], epoch[None], axis=0)[0]


def _by_radius(engine: Engine, values: np.ndarray) -> np.ndarray:
    """``values[..., r]`` as ``[..., radius, seed]``."""
    return values.reshape(*values.shape[:-1], -1, engine.seeds.max() + 1)


_COLUMNS = {
    "loss": "training loss",
    "accuracy": "training accuracy",
    "test_loss": "test loss",
    "test_accuracy": "test accuracy",
    "test_robust_loss": "adv. test loss",
    "test_robust_accuracy": "robust accuracy",
    "test_fgsm_gap": "FGSM gap",
    "test_zero_grad": "zero gradients",
}


def _table(engine: Engine, history: dict, epoch: np.ndarray) -> str:
    columns = {
        title: _at(history, name, epoch).astype(float)
        for name, title in _COLUMNS.items()
    }
    by_radius = {title: _by_radius(engine, v) for title, v in columns.items()}
    rows = [
        [f"{eps:.4g}", *(figures.plus_minus(v[i], 4) for v in by_radius.values())]
        for i, eps in enumerate(_by_radius(engine, engine.eps)[:, 0])
    ]
    return figures.table(["ε", *columns], rows)


def _summary(config, engine, history, epoch) -> list[str]:
    clean, robust = (
        _by_radius(engine, 100 * _at(history, name, epoch))
        for name in ("test_accuracy", "test_robust_accuracy")
    )
    return [
        f"{_title(config)}, eps = {eps:.4g}: clean {figures.plus_minus(clean[i], 2)} "
        f"%, PGD-{config.test_num_steps} {figures.plus_minus(robust[i], 2)} % at the "
        "last epoch"
        for i, eps in enumerate(_by_radius(engine, engine.eps)[:, 0])
    ]


def _figure(config, engine, history, workdir) -> None:
    """A line for every seed, a colour for every radius."""
    figure, (left, right) = figures.panels(2)
    epochs = 1 + np.arange(config.num_epochs)
    radii = _by_radius(engine, engine.eps)[:, 0]
    panels = {
        left: {"loss": "--", "test_robust_loss": "-"},
        right: {
            "test_accuracy": ":",
            "test_fgsm_accuracy": "-.",
            "test_robust_accuracy": "-",
        },
    }
    for axis, styles in panels.items():
        for i, color in enumerate(figures.colors(radii.size)):
            for name, style in styles.items():
                curves = _by_radius(engine, history[name])[:, i]
                lines = axis.plot(epochs, curves, style, color=color, linewidth=1.2)
            lines[0].set_label(f"ε = {radii[i]:.3g}")
    left.set(xlabel="epoch", ylabel="loss", title="training - -   adv. test —")
    left.legend()
    right.set(
        xlabel="epoch",
        ylabel="test accuracy",
        title="clean ···   FGSM -·-   PGD —",
        ylim=(0, 1.02),
    )
    workdir.save_figure(figure, "curves")
