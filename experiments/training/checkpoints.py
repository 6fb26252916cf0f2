"""Checkpoints of runs, by orbax, and released parameters, as one file without pickle.

A checkpoint appears under its name when it is complete; what a killed process left
half-written has another name and is ignored.
"""

import json
import logging
import re
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from advjax.types import Params
from experiments.workdir import WorkdirError, dumps, replacing


class Checkpoints:
    """The two newest checkpoints of one run; a context manager."""

    def __init__(self, path: Path):
        """Opens or creates the directory.

        Raises:
            WorkdirError: if nothing can be written there.
        """
        import orbax.checkpoint as ocp

        # They log the traceback of every error that is raised as well.
        for name in ("absl", "concurrent.futures"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._args = ocp.args
        self.path = path.absolute()
        if jax.process_index() == 0:
            _check_writable(self.path)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(
            self.path, options=options, item_handlers=ocp.StandardCheckpointHandler()
        )

    def __enter__(self) -> "Checkpoints":
        """Returns itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the directory."""
        self._manager.close()

    @property
    def is_empty(self) -> bool:
        """Whether there is no complete checkpoint."""
        return self._manager.latest_step() is None

    def save(self, step: int, tree: Any) -> None:
        """Writes a checkpoint, and then removes the oldest of three.

        Raises:
            WorkdirError: if it cannot be written; the two before are kept.
        """
        try:
            self._manager.save(step, args=self._args.StandardSave(tree))
        except (OSError, ValueError) as error:
            # tensorstore puts the reason between the names of files and its settings.
            reason = re.sub(r'.*": | \[.*', "", " ".join(str(error).split()))
            msg = (
                f"no checkpoint can be written in {self.path}: {reason}; the newest "
                f"complete one is of step {self._manager.latest_step()}"
            )
            raise WorkdirError(msg) from error

    def restore(self, like: Any) -> Any:
        """The newest complete checkpoint, or ``like`` if there is none.

        Raises:
            WorkdirError: if it is not of the shape of ``like``, or cannot be read.
        """
        if self.is_empty:
            return like
        step = self._manager.latest_step()
        path = self.path / str(step)
        try:
            stored = self._manager.item_metadata(step)
            _check(_shapes(stored), _shapes(like), f"{path} is of another network")
            return self._manager.restore(step, args=self._args.StandardRestore(like))
        except WorkdirError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            msg = f"{path} is damaged; remove it to go on from the one before: {reason}"
            raise WorkdirError(msg) from error


def _check_writable(path: Path) -> None:
    trial = path / ".writable"
    try:
        path.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as error:
        msg = f"no checkpoint can be written in {path}: {error.strerror}"
        raise WorkdirError(msg) from error


_PARTS = ("params", "batch_stats")


class Released(NamedTuple):
    """Trained networks, one for each of ``r`` runs in the leading axis.

    Attributes:
        params: parameters.
        batch_stats: statistics of normalisation layers.
        about: what they are: configuration, eps and seed of each run, commit.
    """

    params: Params
    batch_stats: Params
    about: dict[str, Any]


def release(path: Path, released: Released) -> None:
    """Writes one ``.npz`` of plain arrays, which NumPy alone can read."""
    if jax.process_index():
        return
    trees = dict(zip(_PARTS, released[:2], strict=True))
    arrays = jax.device_get(flatten_dict(trees, sep="/"))
    with replacing(path) as part:
        np.savez(part, about=np.array(dumps(released.about)), **arrays)


def released(path: str | Path) -> Released:
    """Reads what ``release`` wrote.

    Raises:
        WorkdirError: if the file is missing or holds something else.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as found:
            arrays = dict(found)
        about = json.loads(str(arrays.pop("about")))
        if not {"config", "eps", "seed", "epoch"} <= {*about}:
            raise KeyError("about")
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        reason = " ".join(str(error).split())
        msg = f"{path} holds no released parameters: {reason}"
        raise WorkdirError(msg) from error
    trees = unflatten_dict(arrays, sep="/")
    return Released(*(trees.get(name, {}) for name in _PARTS), about)


Network = tuple[Params, Params]
"""Parameters and batch statistics."""


def check_network(stored: Network, network: Network) -> None:
    """Refuses parameters of another network.

    Args:
        stored: with a leading axis of runs.
        network: arrays or shapes, without that axis.

    Raises:
        WorkdirError: naming the first array whose name or shape differs.
    """
    trees = dict(zip(_PARTS, stored, strict=True))
    needed = dict(zip(_PARTS, network, strict=True))
    there = {name: shape[1:] for name, shape in _shapes(trees).items()}
    _check(there, _shapes(needed), "the parameters are of another network")


def _check(there: dict[str, tuple], wanted: dict[str, tuple], problem: str) -> None:
    for name in sorted({*there, *wanted}):
        if there.get(name) != wanted.get(name):
            stored, needed = there.get(name, "absent"), wanted.get(name, "absent")
            raise WorkdirError(f"{problem}: {name} is {stored} there, {needed} here")


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every array, by its path; of a key, that of its data."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(map(_entry, path)): _shape(leaf) for path, leaf in leaves}


def _entry(step: Any) -> str:
    names = ("key", "name", "idx")
    return next(str(getattr(step, name)) for name in names if hasattr(step, name))


def _shape(leaf: Any) -> tuple[int, ...]:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return tuple(leaf.shape)
