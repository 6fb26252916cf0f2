"""The work directory of one run: the only code that writes to the disk.

    config.json     the resolved configuration; the directory belongs to it
    metrics.jsonl   one JSON object a line, flushed as it comes; each start of the
                    run adds a line with commit, versions and device
    stages/         finished stages as .npz, which a run started again does not repeat,
                    each with a .json of the environment it was computed in
    *.png           figures
    report.md       figures and tables
    results.json    the numbers, written last: a directory with it is complete

Files are written beside their place and moved there, so an interrupted run leaves no
half of a file, except for the last line of metrics.jsonl.
"""

import contextlib
import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from experiments import devices

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "advjax")


class WorkdirError(ValueError):
    """The directory belongs to something else."""


class Workdir:
    """A directory owned by one configuration.

    Opening it again with the same configuration resumes the run.
    """

    def __init__(self, path: str | Path, config: ConfigDict):
        """Creates the directory, or opens one of the same configuration.

        Raises:
            WorkdirError: if the directory holds another configuration or foreign
                files; nothing is written then.
        """
        self.path = Path(path)
        self.config = _plain(config.to_dict())
        # Of several processes, which share the directory, the first writes for all.
        self._writes = jax.process_index() == 0
        config_path = self.path / "config.json"
        if not self._writes:
            _wait_for(config_path)
        if config_path.exists():
            _same_config(config_path, self.config)
        elif _is_foreign(self.path):
            msg = f"workdir {self.path} holds files of something else"
            raise WorkdirError(f"{msg}; choose another")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not config_path.exists():
                self.write_text("config.json", dumps(self.config, indent=2))
            (self.path / "stages").mkdir(exist_ok=True)
            self.log(start=environment())
        except OSError as error:
            msg = f"workdir {self.path} cannot be written: {error.strerror}"
            raise WorkdirError(msg) from error

    def log(self, **values: Any) -> None:
        """Appends one line to metrics.jsonl; nan and infinities become null."""
        if not self._writes:
            return
        path = self.path / "metrics.jsonl"
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        with path.open("a") as file:
            file.write("\n" * torn + dumps(values) + "\n")

    def stage(
        self, name: str, compute: Callable[..., Mapping[str, Any]], *args: Any
    ) -> dict[str, Any]:
        """``compute(*args)`` as NumPy arrays, stored so that it happens once per run.

        The result is a dict of arrays, or of dicts of arrays, such as parameters.
        """
        path = self.path / "stages" / f"{name}.npz"
        if not path.exists():
            begin = time.monotonic()
            arrays = jax.device_get(flatten_dict(compute(*args), sep="/"))
            if any(np.asarray(array).dtype.hasobject for array in arrays.values()):
                msg = f"stage {name} returned objects that are not arrays of numbers"
                raise ValueError(msg)
            made = {"seconds": time.monotonic() - begin, **environment()}
            self.write_text(f"stages/{name}.json", dumps(made, indent=2))
            with replacing(path) as part:
                np.savez(part, **arrays)
        with np.load(path, allow_pickle=False) as stored:
            return unflatten_dict(dict(stored), sep="/")

    def write_text(self, name: str, text: str) -> Path:
        """Writes a file at once."""
        path = self.path / name
        if self._writes:
            with replacing(path) as part:
                part.write(text.encode())
        return path

    def save_figure(self, figure: Any, name: str) -> Path:
        """Writes ``name.png`` and closes the figure."""
        import matplotlib.pyplot as plt

        path = self.path / f"{name}.png"
        if self._writes:
            with replacing(path) as part:
                figure.savefig(part, format="png")
        plt.close(figure)
        return path

    def results(self) -> dict | None:
        """What ``finish`` wrote, or None while the run is not complete."""
        path = self.path / "results.json"
        return json.loads(path.read_text()) if path.exists() else None

    def finish(self, **results: Any) -> dict:
        """Writes results.json, which completes the run, and returns its content."""
        stages = {
            path.stem: json.loads(path.read_text())
            for path in sorted((self.path / "stages").glob("*.json"))
        }
        content = {
            "config": self.config,
            "environment": environment(),
            "stages": stages,
            "results": results,
        }
        self.write_text("results.json", dumps(content, indent=2))
        return json.loads(dumps(content))


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
    return any(file.name != "config.json.part" for file in path.iterdir())


def environment() -> dict[str, Any]:
    """Commit, versions, device, generator and arguments: what a number depends on."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
        "cores": devices.num_cores(),
        "generator": str(jax.config.jax_default_prng_impl),
        "arguments": [arg for arg in sys.argv[1:] if not arg.startswith("--workdir")],
    }


def _commit() -> str:
    """The checked-out commit, marked if files differ from it."""
    root = Path(__file__).resolve().parents[1]

    def git(*arguments):
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        # An environment may lie within somebody else's repository.
        if Path(git("rev-parse", "--show-toplevel")).resolve() == root:
            options = ("--always", "--dirty", "--abbrev=12", "--exclude=*")
            return git("describe", *options)
    except (OSError, subprocess.CalledProcessError):
        pass
    return _installed_commit()


def _installed_commit() -> str:
    """The commit that pip installed from, if it was a repository."""
    try:
        stated = metadata.distribution("advjax").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return "unknown"
    origin = json.loads(stated or "{}").get("vcs_info", {})
    return origin.get("commit_id", "unknown")[:12]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


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
    try:
        stored = json.loads(path.read_text())
    except ValueError as error:
        msg = f"{path} is not JSON: {error}; choose another workdir"
        raise WorkdirError(msg) from error
    stored, config = identity(stored), identity(config)
    for field in sorted({*stored, *config}):
        there, here = stored.get(field), config.get(field)
        if there != here:
            msg = (
                f"workdir {path.parent} holds another run: config.{field} is {there!r} "
                f"there and {here!r} here; choose another, or remove it"
            )
            raise WorkdirError(msg)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file beside ``path`` that takes its place when all is written."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def dumps(value: Any, **options: Any) -> str:
    """JSON of any numbers and arrays; nan and infinities become null."""
    return json.dumps(_plain(value), allow_nan=False, **options)


def _plain(value: Any) -> Any:
    """JSON's own types, numbers as Python's, nan and infinities as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        value = np.asarray(value)
        if value.dtype == np.float32:
            # The shortest digits that are this float32, not those of a double.
            digits = [float(str(x)) for x in value.ravel()]
            value = np.array(digits, float).reshape(value.shape)
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
