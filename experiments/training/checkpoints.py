"""Checkpoints of runs, by orbax, with digests that are checked when they are read.

One flipped bit would be another network without a word. A checkpoint is complete with
``<number>.sha256`` beside it, written last: the digests of its files, as of
``sha256sum``, and that of the run which it belongs to.
"""

import io
import logging
import re
import shutil
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

import jax

from experiments.files import DiskError, FileError, digest, replacing
from experiments.training import parameters


class Checkpoints:
    """The two newest checkpoints of one run; a context manager."""

    def __init__(self, path: Path, run: str):
        """Opens or creates the directory, and sets aside what is damaged in it.

        Args:
            path: the directory.
            run: identity of the run that its checkpoints belong to.

        Raises:
            FileError: if nothing can be written there, or no checkpoint is whole.
        """
        import orbax.checkpoint as ocp

        # They log the traceback of every error that is raised as well.
        for name in ("absl", "asyncio", "concurrent.futures"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._args, self._run = ocp.args, run
        self.path = path.absolute()
        if jax.process_index() == 0:
            _check_writable(self.path)
            _set_aside_damaged(self.path, run)
        _wait_for_all("checkpoints are checked")
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

    def save(self, number: int, tree: Any) -> None:
        """Writes a checkpoint, and then removes the oldest of three.

        One that is there already, as where a signal came at its end, is kept.

        Args:
            number: what the tree depends on; larger than those before.
            tree: the state of the run.

        Raises:
            DiskError: if it cannot be written; the two before are kept.
        """
        if number in self._manager.all_steps():
            self._sign(number)
            return
        stderr, sys.stderr = sys.stderr, _MainThreadOnly(sys.stderr)
        try:
            self._manager.save(number, args=self._args.StandardSave(tree))
            self._sign(number)
            sys.stderr = stderr  # but not after an error
        except (OSError, ValueError) as error:
            # tensorstore puts the reason between the names of files and its settings.
            reason = re.sub(r'.*": | \[.*', "", " ".join(str(error).split()))
            msg = (
                f"no checkpoint can be written in {self.path}: {reason}; those before "
            )
            msg += "are kept"
            raise DiskError(msg) from error

    def _sign(self, step: int) -> None:
        """Writes the digests of a checkpoint, and removes those of others."""
        if jax.process_index():
            return
        lines = [f"{self._run}  {_RUN}\n"]
        lines += [
            f"{digest(file)}  {file.relative_to(self.path).as_posix()}\n"
            for file in _files(self.path / str(step))
        ]
        with replacing(_signature(self.path, step)) as part:
            part.write("".join(lines).encode())
        for signature in self.path.glob("*.sha256"):
            if not (self.path / signature.stem).is_dir():
                signature.unlink()

    def restore(self, like: Any) -> Any:
        """The newest complete checkpoint, or ``like`` if there is none.

        Raises:
            FileError: if it is not of the shape of ``like``, or cannot be read.
        """
        if self.is_empty:
            return like
        step = self._manager.latest_step()
        path = self.path / str(step)
        try:
            stored = self._manager.item_metadata(step)
            parameters.check_shapes(stored, like, f"{path} is of another network")
            return self._manager.restore(step, args=self._args.StandardRestore(like))
        except FileError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            msg = f"{path} is damaged; remove it to go on from the one before: {reason}"
            raise FileError(msg) from error


class _MainThreadOnly(io.TextIOBase):
    """A stream that takes words of the main thread alone.

    After an error, threads of tensorstore report to an event loop that has ended, and
    each would print a traceback beside the one line about the error.
    """

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        if threading.current_thread() is threading.main_thread():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        self.stream.flush()


def _check_writable(path: Path) -> None:
    trial = path / ".writable"
    try:
        path.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as error:
        msg = f"no checkpoint can be written in {path}: {error.strerror}"
        raise FileError(msg) from error


_RUN = "run"


def _set_aside_damaged(path: Path, run: str) -> None:
    """Renames checkpoints that are not whole, from the newest to the first whole one.

    Raises:
        FileError: if none is left.
    """
    steps = [int(each.name) for each in path.iterdir() if _NUMBER.fullmatch(each.name)]
    if not steps and any(path.glob("*.sha256")):
        gone = (
            f"advjax: the checkpoints in {path} are gone; starting from the beginning"
        )
        print(gone, file=sys.stderr)
    damaged = []
    for step in sorted(steps, reverse=True):
        problem = _problem(path, step, run)
        if problem is None:
            break
        damaged.append(step)
        print(f"advjax: checkpoint {path / str(step)}: {problem}", file=sys.stderr)
    is_any_left = len(damaged) < len(steps)
    if damaged and not is_any_left and not _is_unfinished(path, damaged):
        msg = f"no checkpoint in {path} is whole: remove that directory to start anew"
        raise FileError(msg)
    for step in damaged:
        aside = path / f"damaged-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        (path / str(step)).rename(aside)
        _signature(path, step).unlink(missing_ok=True)
    if damaged:
        after = "the one before" if is_any_left else "the beginning"
        print(f"advjax: set aside as damaged-*; going on from {after}", file=sys.stderr)


def _is_unfinished(path: Path, steps: list[int]) -> bool:
    """Whether the only checkpoint is one at whose end the process was killed."""
    return len(steps) == 1 and not _signature(path, steps[0]).exists()


_NUMBER = re.compile("[0-9]+")


def _problem(path: Path, step: int, run: str) -> str | None:
    """What speaks against a checkpoint, or None if it is whole."""
    signature = _signature(path, step)
    if not signature.is_file():
        return "it has no digests, as when a process is killed while it writes"
    pairs = [
        line.partition("  ")
        for line in signature.read_text(errors="replace").split("\n")
    ]
    stated = {name: value for value, _, name in pairs if name}
    if stated.pop(_RUN, run) != run:
        return "it belongs to another run"
    there = {
        file.relative_to(path).as_posix(): file for file in _files(path / str(step))
    }
    for name in sorted({*stated, *there}):
        if name not in there:
            return f"{name} is missing"
        if name not in stated or digest(there[name]) != stated[name]:
            return f"{name} has changed"
    return None


def _signature(path: Path, step: int) -> Path:
    return path / f"{step}.sha256"


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def _wait_for_all(name: str) -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
