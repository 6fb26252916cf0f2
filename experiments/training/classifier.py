"""Adversarial training of networks on images: the engine of the deep studies.

A network is trained for every radius and seed. Every epoch ends with a test: clean,
under PGD, and under FGSM, whose robust accuracy runs away from that under PGD where
single-step training overfits catastrophically. The network of smallest adversarial test
loss and the last one are kept. A killed run resumes at its last checkpoint and ends
with the same numbers.
"""

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments import figures, interrupts, progress
from experiments.provenance import environment
from experiments.training import parameters, recipe
from experiments.training.checkpoints import Checkpoints
from experiments.training.engine import Engine, Watch
from experiments.training.parameters import Released
from experiments.workdir import Workdir

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
    with Workdir(workdir, config) as directory:
        content = directory.results() or directory.finish(**run(config, directory))
    return content["results"]


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Trains a network for every radius and seed of the configuration.

    Args:
        config: with the fields of ``recipe.defaults()``.
        workdir: receives log, checkpoints, figure, report, and the parameters as
            ``best.safetensors`` and ``last.safetensors``.

    Returns:
        ``curves[epoch, r]``, the selected epoch, eps and seed of each of ``r`` runs.

    Raises:
        Exception: as ``train_networks``.
    """
    trained = train_networks(config, workdir)
    _figure(config, trained, workdir)
    best = _table(trained, trained.best_epoch)
    last_epoch = np.full_like(trained.best_epoch, config.num_epochs - 1)
    spread = f"mean ± sd over {config.num_seeds} seeds"
    workdir.write_text(
        "report.md",
        f"## {_title(config)}\n\n![curves of training](curves.png)\n\n"
        f"{config.num_epochs} epochs on {trained.num_train} examples, tested on "
        f"{trained.num_test}; {spread}. Robust accuracy is under PGD with "
        f"{config.test_num_steps} steps, out of all examples; the gap is that under "
        "FGSM minus that under PGD.\n\n### Epoch of smallest adversarial test loss\n\n"
        f"{best}\n### Last epoch\n\n{_table(trained, last_epoch)}",
    )
    return {
        "summary": _summary(config, trained, last_epoch),
        "eps": trained.eps,
        "seed": trained.seeds,
        "best_epoch": trained.best_epoch,
        "curves": trained.curves,
    }


class Trained(NamedTuple):
    """What training leaves beside the released networks.

    Attributes:
        eps: ``[r]``.
        seeds: ``[r]``, their numbers.
        best_epoch: ``[r]``, that of smallest adversarial test loss.
        curves: ``[epoch, r]`` of ``engine.HISTORY`` and of what its docstring adds.
        num_train: examples of an epoch.
        num_test: examples of a test.
    """

    eps: np.ndarray
    seeds: np.ndarray
    best_epoch: np.ndarray
    curves: dict[str, np.ndarray]
    num_train: int
    num_test: int

    def at(self, name: str, epoch: np.ndarray) -> np.ndarray:
        """A metric at the epoch of each run, ``[radius, seed]``."""
        values = np.take_along_axis(self.curves[name], epoch[None], axis=0)[0]
        return self.by_radius(values.astype(float))

    def by_radius(self, values: np.ndarray) -> np.ndarray:
        """``values[..., r]`` as ``[..., radius, seed]``."""
        return values.reshape(*values.shape[:-1], -1, self.seeds.max() + 1)


def train_networks(
    config: ConfigDict,
    workdir: Workdir,
    part: str = "",
    watches: Mapping[str, Watch] | None = None,
    kept_epochs: Collection[int] = (),
) -> Trained:
    """Trains and tests all networks, and releases the best and the last ones.

    Args:
        config: with the fields of ``recipe.defaults()``.
        workdir: receives log, checkpoints, and the parameters.
        part: of a study that trains several times: the log names it, and its files are
            ``checkpoints/<part>``, ``<part>-best.safetensors`` and the same with last.
        watches: what else to follow over the epochs, by name.
        kept_epochs: after so many epochs networks are released as well, as
            ``<part>-epoch-<number>.safetensors``.

    Raises:
        ConfigError: for a configuration that its data or devices do not admit.
        DataError: if the data cannot be read.
        WorkdirError: if a checkpoint cannot be written, or is of another network.
        DivergedError: if a training loss is not finite.
    """
    engine = Engine(config, watches)
    label = part or f"{config.dataset}, {config.model}, {config.objective}"
    about = {"part": part} if part else {}
    prefix = f"{part}-" if part else ""

    def release(name: str, networks, epoch: np.ndarray) -> None:
        _release(
            workdir.path / f"{prefix}{name}.safetensors",
            config,
            engine,
            networks,
            epoch,
        )

    workdir.begin()
    with Checkpoints(workdir.path / "checkpoints" / part) as stored:
        now = stored.restore(engine.start(load=stored.is_empty))
        try:
            for epoch in progress.steps(config.num_epochs, label, first=now.num_tested):
                begin, step = time.monotonic(), now.step
                with interrupts.deferred():
                    for reached in engine.epoch(now, epoch):
                        now = reached
                        if engine.is_checkpoint(now.step):
                            stored.save(now.step, now)
                        if interrupts.is_pending():
                            break
                # In the first epoch of a process this counts compilation as well.
                share = (now.step - step) / engine.steps_per_epoch
                rate = share * engine.images_per_epoch / (time.monotonic() - begin)
                tested = engine.test(now, epoch, images_per_second=rate)
                with interrupts.deferred():
                    now = tested
                    row = {name: values[epoch] for name, values in now.history.items()}
                    workdir.log(**about, epoch=epoch, eps=engine.eps, **row)
                    if epoch + 1 in kept_epochs:
                        kept = np.full(engine.eps.size, epoch)
                        release(f"epoch-{epoch + 1}", now.states, kept)
                    stored.save(now.step, now)
        except interrupts.Interrupted as error:
            # A second signal ends the process, at whatever it is then.
            stored.save(now.step, now)
            raise interrupts.Interrupted(error.signum, f"step {now.step}") from error
    best_epoch = np.asarray(now.best.epoch)
    release("best", now.best, best_epoch)
    release("last", now.states, np.full_like(best_epoch, config.num_epochs - 1))
    sizes = (engine.num_train, engine.num_test)
    return Trained(engine.eps, engine.seeds, best_epoch, now.history, *sizes)


def _release(path: Path, config, engine: Engine, networks, epoch: np.ndarray) -> None:
    about = {
        "config": config.to_dict(),
        "eps": engine.eps,
        "seed": engine.seeds,
        "epoch": epoch,
        "commit": environment()["commit"],
    }
    found = Released(networks.params, networks.batch_stats, about)
    parameters.write(path, found)


def _title(config: ConfigDict) -> str:
    return f"{config.model} on {config.dataset}, {config.objective}, {config.norm}"


_COLUMNS = {
    "loss": "training loss",
    "accuracy": "training accuracy",
    "test_loss": "test loss",
    "test_accuracy": "test accuracy",
    "test_robust_loss": "adv. test loss",
    "test_robust_accuracy": "robust accuracy",
    "test_fgsm_gap": "FGSM gap",
    "test_zero_grad": "zero gradients",
    "test_undefined": "undefined",
}


def _table(trained: Trained, epoch: np.ndarray) -> str:
    columns = {title: trained.at(name, epoch) for name, title in _COLUMNS.items()}
    rows = [
        [f"{eps:.4g}", *(figures.plus_minus(v[i], 4) for v in columns.values())]
        for i, eps in enumerate(trained.by_radius(trained.eps)[:, 0])
    ]
    return figures.table(["ε", *columns], rows)


def _summary(config: ConfigDict, trained: Trained, epoch: np.ndarray) -> list[str]:
    clean, robust = (
        100 * trained.at(name, epoch)
        for name in ("test_accuracy", "test_robust_accuracy")
    )
    return [
        f"{_title(config)}, eps = {eps:.4g}: clean {figures.plus_minus(clean[i], 2)} "
        f"%, PGD-{config.test_num_steps} {figures.plus_minus(robust[i], 2)} % at the "
        "last epoch"
        for i, eps in enumerate(trained.by_radius(trained.eps)[:, 0])
    ]


def _figure(config: ConfigDict, trained: Trained, workdir: Workdir) -> None:
    """A line for every seed, a colour for every radius."""
    figure, (left, right) = figures.panels(2)
    epochs = 1 + np.arange(config.num_epochs)
    radii = trained.by_radius(trained.eps)[:, 0]
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
                curves = trained.by_radius(trained.curves[name])[:, i]
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
