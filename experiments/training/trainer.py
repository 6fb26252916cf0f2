"""Trains the networks of a training in a work directory, resumably."""

import math
import time
from pathlib import Path

import numpy as np
import xarray as xr

from experiments import arrays, interrupts, progress
from experiments.provenance import environment
from experiments.training import parameters
from experiments.training.checkpoints import Checkpoints
from experiments.training.engine import Engine, Progress
from experiments.training.parameters import Released
from experiments.training.parts import Training
from experiments.workdir import Workdir


def train_networks(training: Training, workdir: Workdir, part: str = "") -> xr.Dataset:
    """Trains and tests all networks, and releases the best and the last ones.

    Args:
        training: what to train.
        workdir: receives log, checkpoints, and the parameters.
        part: of a study that trains several times: the log names it, and its files are
            ``checkpoints/<part>``, ``<part>-best.safetensors``, the same with last, and
            ``<part>-epoch-<number>.safetensors`` for epochs to keep.

    Returns:
        Curves over ``epoch``, ``eps`` and ``seed`` of ``engine.HISTORY`` and of what
        its docstring adds; ``best_epoch``, that of smallest adversarial test loss; and
        as facts ``num_train`` and ``num_test``, examples of an epoch and of a test.

    Raises:
        ConfigError: for a training that its data or devices do not admit.
        WorkdirError: if a checkpoint cannot be written, or is of another network.
        DivergedError: if a loss is not finite.
    """
    engine = Engine(training)
    workdir.begin()
    folder, saved = workdir.path / "checkpoints" / part, -math.inf
    with Checkpoints(folder, workdir.identity) as stored:
        now = stored.restore(engine.start(load=stored.is_empty))
        label, first = part or training.label, now.num_tested
        try:
            for epoch in progress.steps(training.num_epochs, label, first=first):
                begin, step = time.monotonic(), now.step
                with interrupts.deferred():
                    for reached in engine.epoch(now, epoch):
                        now = reached
                        if engine.is_checkpoint(now.step):
                            stored.save(engine.number(now), now)
                        if interrupts.is_pending():
                            break
                # In the first epoch of a process this counts compilation as well.
                share = (now.step - step) / engine.steps_per_epoch
                rate = share * engine.images_per_epoch / (time.monotonic() - begin)
                tested = engine.test(now, epoch, images_per_second=rate)
                with interrupts.deferred():
                    now = tested
                    _log(workdir, part, engine, now, epoch)
                    is_last = epoch + 1 == training.num_epochs
                    if is_last or time.monotonic() - saved >= _SECONDS:
                        stored.save(engine.number(now), now)
                        saved = time.monotonic()
        except interrupts.Interrupted as error:
            # A second signal ends the process, at whatever it is then.
            stored.save(engine.number(now), now)
            raise interrupts.Interrupted(error.signum, f"step {now.step}") from error
    best_epoch = np.asarray(now.best.epoch)
    best, last = (
        parameters.file(workdir.path, part, name) for name in ("best", "last")
    )
    _release(best, engine, now.best, best_epoch)
    _release(last, engine, now.states, training.num_epochs - 1)
    return _labelled(training, now.history, best_epoch)


def _labelled(
    training: Training, history: dict[str, np.ndarray], best_epoch: np.ndarray
) -> xr.Dataset:
    """Curves ``[epoch, r]`` and epochs ``[r]``, over radii and seeds."""
    shape = (len(training.eps), training.num_seeds)
    axes = ("epoch", "eps", "seed")
    values = {name: (axes, v.reshape(-1, *shape)) for name, v in history.items()}
    values["best_epoch"] = (axes[1:], best_epoch.reshape(shape))
    coords = {
        "epoch": np.arange(training.num_epochs),
        "eps": np.array(training.eps, float),
        "seed": np.arange(training.num_seeds),
    }
    sizes = {"num_train": training.num_train, "num_test": training.num_test}
    return arrays.dataset(values, coords, **sizes)


def at(trained: xr.Dataset, name: str, epoch: xr.DataArray) -> xr.DataArray:
    """A curve at the epoch of each run, over ``eps`` and ``seed``."""
    return trained[name].isel(epoch=epoch.astype(int)).drop_vars("epoch")


_SECONDS = 5.0
"""Time between checkpoints at the ends of epochs, which may be much shorter."""


def _log(
    workdir: Workdir, part: str, engine: Engine, now: Progress, epoch: int
) -> None:
    """The epoch's row in the log, and its networks if they are to be kept."""
    row = {name: values[epoch] for name, values in now.history.items()}
    about = {"part": part} if part else {}
    workdir.log(**about, epoch=epoch, eps=engine.eps, **row)
    if epoch + 1 in engine.training.kept_epochs:
        file = parameters.file(workdir.path, part, f"epoch-{epoch + 1}")
        _release(file, engine, now.states, epoch)


def _release(path: Path, engine: Engine, networks, epoch: np.ndarray | int) -> None:
    about = {
        **engine.training.about,
        "eps": engine.eps,
        "seed": engine.seeds,
        "epoch": np.broadcast_to(epoch, engine.eps.shape),
        "commit": environment()["commit"],
    }
    parameters.write(path, Released(networks.params, networks.batch_stats, about))
