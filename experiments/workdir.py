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

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict, FrozenConfigDict

from experiments import checks, files, ownership, provenance


class WorkdirError(files.FileError):
    """The directory belongs to something else, or to another process."""


class Workdir:
    """A directory owned by one configuration, and by one process at a time.

    A context manager, which takes the directory and gives it back. Opening it again
    with the same configuration resumes the run.
    """

    def __init__(
        self,
        path: str | Path,
        config: ConfigDict | FrozenConfigDict,
        free: Collection[str] = (),
    ):
        """Looks at the directory; writes nothing.

        Args:
            path: the directory.
            config: the configuration of the run.
            free: fields that may change when the run is resumed.

        Raises:
            WorkdirError: for a cloud path, and if the directory holds another
                configuration or foreign files.
        """
        self.path = files.local(path, "workdir")
        self.config = files.plain(config.to_dict())
        self._free = frozenset(free)
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
            _wait_for(config_path, "opened")
            self._check()
            self._has_begun = True
            return
        self._own()
        self._check_provenance()
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
        if not _agreed(path.exists()):
            self._compute(path, compute, args)
        stated = files.read_signed(path.with_suffix(".json"))
        if files.digest(path) != stated.get("arrays"):
            raise files.damaged(path, "it has changed")
        with np.load(path, allow_pickle=False) as stored:
            return unflatten_dict(dict(stored), sep="/")

    def _compute(self, path: Path, compute: Callable, args: tuple) -> None:
        """Computes a stage, and writes it; other processes wait for the first one."""
        begin = time.monotonic()
        arrays = jax.device_get(flatten_dict(compute(*args), sep="/"))
        if any(np.asarray(array).dtype.hasobject for array in arrays.values()):
            msg = f"stage {path.stem} returned objects that are not arrays of numbers"
            raise ValueError(msg)
        self.begin()
        if not self._writes:
            _wait_for(path, "written")
            return
        made = {"seconds": time.monotonic() - begin, **provenance.environment()}
        with files.replacing(path) as part:
            np.savez(part, **arrays)
            part.flush()
            made["arrays"] = files.digest(Path(part.name))
            # First, so that arrays are never without their digest.
            self.write_text(f"{_STAGES}/{path.stem}.json", files.signed(made))

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
            "files": _digests(self.path),
        }
        self.write_text(_RESULTS, files.signed(content))
        return files.plain(content)

    @property
    def identity(self) -> str:
        """A digest of what makes the run what it is."""
        own = json.dumps(identity(self.config, self._free), sort_keys=True)
        return hashlib.sha256(own.encode()).hexdigest()

    def _check_provenance(self) -> None:
        """What was begun goes on with the same settings of jax, and with its log."""
        metrics = self.path / _METRICS
        before = provenance.starts(metrics) if metrics.exists() else []
        work = ("checkpoints/**/*.sha256", f"{_STAGES}/*.npz")
        if not before and any(any(self.path.glob(each)) for each in work):
            msg = f"{metrics} is missing, which says how the run was made so far; put "
            raise WorkdirError(f"{msg}it back, or remove {self.path} to start anew")
        here = provenance.settings(provenance.environment())
        for there in map(provenance.settings, before):
            for name, value in there.items():
                if here.get(name) != value:
                    msg = f"workdir {self.path} was begun with {name} = {value}, and "
                    raise WorkdirError(f"{msg}it is {here.get(name)} now")

    def _check(self) -> None:
        config_path = self.path / _CONFIG
        if self.path.is_dir():
            _check_regular(self.path)
        if not config_path.exists() and (self.path / _RESULTS).exists():
            complete(self.path)
        # Asked again, for another process may begin the directory in between.
        is_ours = config_path.exists() or not _is_foreign(self.path)
        if not is_ours and not config_path.exists():
            msg = f"workdir {self.path} holds files of something else"
            raise WorkdirError(f"{msg}; choose another")
        if config_path.exists():
            _same_config(config_path, self.config, self._free)

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


_CONFIG, _METRICS, _RESULTS = "config.json", "metrics.jsonl", "results.json"
_REPORT = "report.md"
_STAGES = "stages"
_KEPT = (
    *(_CONFIG, _METRICS, _REPORT, "*.png", "*.safetensors"),
    *(f"{_STAGES}/*.npz", f"{_STAGES}/*.json"),
)


def _check_regular(path: Path) -> None:
    """Raises WorkdirError for a link or a pipe, which could lead anywhere."""
    for file in path.iterdir():
        is_regular = file.is_file() or file.is_dir()
        if file.is_symlink() or not is_regular:
            raise WorkdirError(f"{file} is no regular file; remove it")


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
    summary = content["results"].get("summary")
    is_list = isinstance(summary, list) and all(isinstance(s, str) for s in summary)
    if not is_list or not isinstance(content["environment"].get("commit"), str):
        raise files.damaged(results, "it is not as runs write it")
    # Published results are without configuration, log and stages.
    wanted = {_REPORT} | {
        name for name in (_CONFIG, _METRICS) if (path / name).exists()
    }
    if not wanted <= {*content["files"]}:
        raise files.damaged(results, "it does not name the files of the run")
    for name, stated in content["files"].items():
        if not name.isprintable():
            raise files.damaged(results, f"{checks.printable(name)!r} is no name")
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
    is_there = _CONFIG in content["files"]
    if is_there and files.read_json(path / _CONFIG) != content["config"]:
        raise files.damaged(results, f"it is not of the run of {_CONFIG}")
    return content


def resigned(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``results.json`` with the digests that its files have now."""
    return {**content, "files": _digests(path)}


def _digests(path: Path) -> dict[str, str]:
    """Of every file of a run but its checkpoints."""
    kept = sorted(file for each in _KEPT for file in path.glob(each))
    return {file.relative_to(path).as_posix(): files.digest(file) for file in kept}


def _unwritable(path: Path, error: OSError) -> WorkdirError:
    return WorkdirError(f"workdir {path} cannot be written: {error.strerror}")


_PATIENCE = 60.0  # seconds


def _wait_for(path: Path, what: str) -> None:
    """Until the first process has made a file.

    Raises:
        WorkdirError: if it has not in a minute.
    """
    deadline = time.monotonic() + _PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            msg = f"workdir {path.parent} was not {what} by the first process"
            raise WorkdirError(msg)
        time.sleep(0.05)


def _agreed(condition: bool) -> bool:
    """What the first of several processes sees; others may see it a moment later."""
    if jax.process_count() == 1:
        return condition
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.array(condition)))


def _is_foreign(path: Path) -> bool:
    if not path.is_dir():
        return path.exists()
    ours = {*ownership.FILES, f"{_CONFIG}.part"}
    return any(file.name not in ours for file in path.iterdir())


def identity(config: Mapping[str, Any], free: Collection[str]) -> dict[str, Any]:
    """The fields that make a run what it is: all but those that are ``free``."""
    config = files.plain(dict(config.items()))
    return {name: value for name, value in config.items() if name not in free}


def _same_config(path: Path, config: dict, free: Collection[str]) -> None:
    stored = identity(files.read_json(path), free)
    config = identity(config, free)
    for field in sorted({*stored, *config}):
        there, here = stored.get(field), config.get(field)
        if there != here:
            msg = (
                f"workdir {path.parent} holds another run: config.{field} is {there!r} "
                f"there and {here!r} here; choose another, or remove it"
            )
            raise WorkdirError(msg)
