"""What a number depends on beside its configuration: commit, versions, device."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from experiments import devices, files

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "advjax")


# Settings of jax that change numbers.
_SETTINGS = (
    "jax_default_matmul_precision",
    "jax_enable_x64",
    "jax_threefry_partitionable",
)


def environment() -> dict[str, Any]:
    """Commit, versions, device, generator and arguments: what a number depends on."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
        "cores": devices.num_cores(),
        "generator": str(jax.config.jax_default_prng_impl),
        "settings": {name: str(getattr(jax.config, name)) for name in _SETTINGS},
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


def settings(environment: Mapping[str, Any]) -> dict[str, str]:
    """What must not change when a run is resumed, as far as it was recorded."""
    own = environment.get("settings")
    named = dict(own) if isinstance(own, dict) else {}
    if "generator" in environment:
        named["jax_default_prng_impl"] = environment["generator"]
    return named


def starts(path: Path) -> list[dict[str, Any]]:
    """The environments that had a part in a run, in its metrics.jsonl, once each.

    Raises:
        FileError: for a damaged line; one that a killed process left is torn,
            and the next start or nothing comes after it.
    """
    found, torn = [], None
    for i, text in enumerate(path.read_bytes().splitlines(), start=1):
        line = files.parsed(text)
        start = None if line is None else line.get("start")
        if torn and not start:
            raise files.damaged(path, f"line {torn} is no JSON object")
        torn = i if line is None else None
        if start and start not in found:
            if not files.is_signed(start):
                raise files.damaged(path, f"line {i} has changed")
            found.append(start)
    return [files.unsigned(start) for start in found]
