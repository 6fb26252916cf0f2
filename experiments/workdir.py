"""The work directory of one run: the only code that writes to the disk.

    config.json     the resolved configuration; the directory belongs to it
    metrics.jsonl   one JSON object a line, flushed as it comes; each start of the
                    run adds a line with commit, versions and device
    stages/         finished stages as .npz, which a run started again does not repeat,
                    each with a .json of its digest and of the environment it was
                    computed in
    *.png           figures
    report.md       figures and tables
    results.json    the numbers, and the digest of every other file, written last: a
                    directory with it is complete

Files are written beside their place and moved there, so an interrupted run leaves no
half of a file, except for the last line of metrics.jsonl. Nothing is written before the
first result: a run that is refused leaves no directory.
"""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from experiments import files, ownership, provenance


class WorkdirError(files.FileError):
    """The directory belongs to something else, or to another process."""


class Workdir:
    """A directory owned by one configuration, and by one process at a time.

    A context manager, which takes the directory and gives it back. Opening it again
    with the same configuration resumes the run.
    """

    def __init__(self, path: str | Path, config: ConfigDict):
        """Looks at the directory; writes nothing.

        Raises:
            WorkdirError: for a cloud path, and if the directory holds another
                configuration or foreign files.
        """
        # One slash is what is left of two in a ``Path``.
        if re.match(r"[a-z][a-z0-9]+:/", str(path)):
            msg = (
                f"workdir {path} is a cloud path, which no process can own: choose a "
                "local directory, and copy it there"
            )
            raise WorkdirError(msg)
        self.path = Path(path)
        self.config = files.plain(config.to_dict())
        self._owner: ownership.Owner | None = None
        self._has_begun = False
        # Of several processes, which share the directory, the first writes for all.
        self._writes = jax.process_index() == 0
        self._check()

    def __enter__(self) -> "Workdir":
        """Takes the directory, unless its run is complete.

        Raises:
            WorkdirError: if another process has it, or nothing can be written.
        """
        if self._writes and not (self.path / _RESULTS).exists():
            self._own()
        return self

    def __exit__(self, *error: object) -> None:
        """Gives the directory back."""
        if self._owner is not None:
            self._owner.release()
        self._owner, self._has_begun = None, False

    def begin(self) -> None:
        """Makes the directory that of this run, before its first file.

        Raises:
            WorkdirError: as ``__enter__``; of other processes, if the first one has not
                begun in a minute.
        """
        if self._has_begun:
            return
        config_path = self.path / _CONFIG
        if not self._writes:
            _wait_for(config_path)
            self._check()
            self._has_begun = True
            return
        self._own()
        self._has_begun = True
        try:
            if not config_path.exists():
                self.write_text(_CONFIG, files.dumps(self.config, indent=2))
            (self.path / _STAGES).mkdir(exist_ok=True)
            self.log(start=files.sign(provenance.environment()))
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def log(self, **values: Any) -> None:
        """Appends one line to metrics.jsonl; nan and infinities become null."""
        self.begin()
        if not self._writes:
            return
        path = self.path / _METRICS
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        with path.open("a") as file:
            file.write("\n" * torn + files.dumps(values) + "\n")

    def stage(
        self, name: str, compute: Callable[..., Mapping[str, Any]], *args: Any
    ) -> dict[str, Any]:
        """``compute(*args)`` as NumPy arrays, stored so that it happens once per run.

        The result is a dict of arrays, or of dicts of arrays, such as parameters.

        Raises:
            FileError: if what is stored is damaged.
        """
        path = self.path / _STAGES / f"{name}.npz"
        if not path.exists():
            begin = time.monotonic()
            arrays = jax.device_get(flatten_dict(compute(*args), sep="/"))
            if any(np.asarray(array).dtype.hasobject for array in arrays.values()):
                msg = f"stage {name} returned objects that are not arrays of numbers"
                raise ValueError(msg)
            self.begin()
            made = {"seconds": time.monotonic() - begin, **provenance.environment()}
            with files.replacing(path) as part:
                np.savez(part, **arrays)
                part.flush()
                made["arrays"] = files.digest(Path(part.name))
                # First, so that arrays are never without their digest.
                self.write_text(f"{_STAGES}/{name}.json", files.signed(made))
        stated = files.read_signed(path.with_suffix(".json"))
        if files.digest(path) != stated.get("arrays"):
            raise files.damaged(path, "it has changed")
        with np.load(path, allow_pickle=False) as stored:
            return unflatten_dict(dict(stored), sep="/")

    def write_text(self, name: str, text: str) -> Path:
        """Writes a file at once."""
        self.begin()
        path = self.path / name
        if self._writes:
            with files.replacing(path) as part:
                part.write(text.encode())
        return path

    def save_figure(self, figure: Any, name: str) -> Path:
        """Writes ``name.png`` and closes the figure."""
        import matplotlib.pyplot as plt

        self.begin()
        path = self.path / f"{name}.png"
        if self._writes:
            with files.replacing(path) as part:
                figure.savefig(part, format="png")
        plt.close(figure)
        return path

    def results(self) -> dict | None:
        """What ``finish`` wrote, or None while the run is not complete.

        Raises:
            FileError: for a file of the complete run that is damaged or missing.
        """
        return complete(self.path) if (self.path / _RESULTS).exists() else None

    def finish(self, **results: Any) -> dict:
        """Writes results.json, which completes the run, and returns its content."""
        self.begin()
        stages = {
            path.stem: files.read_signed(path)
            for path in sorted((self.path / _STAGES).glob("*.json"))
        }
        content = {
            "config": self.config,
            "environment": provenance.environment(),
            "environments": provenance.starts(self.path / _METRICS),
            "stages": stages,
            "results": results,
            "files": self._digests(),
        }
        self.write_text(_RESULTS, files.signed(content))
        return files.plain(content)

    def _check(self) -> None:
        config_path = self.path / _CONFIG
        if config_path.exists():
            _same_config(config_path, self.config)
        elif _is_foreign(self.path):
            msg = f"workdir {self.path} holds files of something else"
            raise WorkdirError(f"{msg}; choose another")

    def _own(self) -> None:
        if self._owner is not None:
            return
        try:
            self._owner = ownership.Owner(self.path)
        except ownership.HeldError as error:
            raise WorkdirError(str(error)) from None
        except OSError as error:
            raise _unwritable(self.path, error) from error
        try:
            self._check()  # again: another process may have come first
        except WorkdirError:
            self._owner.release()
            self._owner = None
            raise

    def _digests(self) -> dict[str, str]:
        """Of every file of the run but its checkpoints."""
        kept = sorted(path for each in _KEPT for path in self.path.glob(each))
        return {
            path.relative_to(self.path).as_posix(): files.digest(path) for path in kept
        }


_CONFIG, _METRICS, _RESULTS = "config.json", "metrics.jsonl", "results.json"
_STAGES = "stages"
_KEPT = (
    *(_CONFIG, _METRICS, "report.md", "*.png", "*.safetensors"),
    *(f"{_STAGES}/*.npz", f"{_STAGES}/*.json"),
)


def complete(path: Path) -> dict[str, Any]:
    """The results of a complete run, after a look at all of its files.

    Raises:
        FileError: for a file that is damaged or missing.
    """
    results = path / _RESULTS
    content = files.read_signed(results)
    for name in ("config", "environment", "stages", "results", "files"):
        if not isinstance(content.get(name), dict):
            raise files.damaged(results, f"{name} is missing")
    for name, stated in content["files"].items():
        file = path / name
        is_inside = file.resolve().is_relative_to(path.resolve())
        if not (is_inside and file.is_file()):
            found = "is missing"
        elif files.digest(file) != stated:
            found = "has changed"
        else:
            continue
        msg = f"{file} {found} since the run was complete; remove {results} to make it"
        raise files.FileError(f"{msg} again from what is whole")
    return content


def _unwritable(path: Path, error: OSError) -> WorkdirError:
    return WorkdirError(f"workdir {path} cannot be written: {error.strerror}")


_PATIENCE = 60.0  # seconds


def _wait_for(path: Path) -> None:
    """Until the first process has made the directory its own.

    Raises:
        WorkdirError: if it has not in a minute.
    """
    deadline = time.monotonic() + _PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            msg = f"workdir {path.parent} was not opened by the first process"
            raise WorkdirError(msg)
        time.sleep(0.05)


def _is_foreign(path: Path) -> bool:
    if not path.is_dir():
        return path.exists()
    ours = {*ownership.FILES, f"{_CONFIG}.part"}
    return any(file.name not in ours for file in path.iterdir())


# Where and how a run computes, which may change when it is resumed. A grid that it
# starts from may move: its digest is among the other fields.
_MACHINE = (
    *("data_dir", "dispatch", "hosts", "num_devices"),
    *("grid", "grids", "learning", "networks"),
)


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that make a run what it is."""
    return {name: value for name, value in config.items() if name not in _MACHINE}


def _same_config(path: Path, config: dict) -> None:
    stored, config = identity(files.read_json(path)), identity(config)
    for field in sorted({*stored, *config}):
        there, here = stored.get(field), config.get(field)
        if there != here:
            msg = (
                f"workdir {path.parent} holds another run: config.{field} is {there!r} "
                f"there and {here!r} here; choose another, or remove it"
            )
            raise WorkdirError(msg)
