"""All studies by name, found where they are declared: ``transition.scaling``."""

import ast
import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import checks

if TYPE_CHECKING:  # a list of studies does not wait for jax
    from experiments.study import Study

FOLDER = Path(__file__).parent


def of(config: Mapping[str, Any]) -> "Study":
    """The study that a configuration is for.

    Raises:
        ConfigError: if it names none.
    """
    return find(config.get("experiment", ""))


def find(name: str) -> "Study":
    """The study of a name.

    Raises:
        ConfigError: for an unknown name.
    """
    known = names()
    if name not in known:
        msg = f"config.experiment = {name!r}: {checks.choose(name, known)}"
        raise checks.ConfigError(msg)
    return importlib.import_module(f"experiments.{name}").STUDY


def names() -> tuple[str, ...]:
    """The names of all studies."""
    return tuple(name.replace("/", ".") for name in files())


def files() -> dict[str, Path]:
    """The modules of all studies, by names with a slash; parsed, and not imported."""
    modules = sorted(FOLDER.glob("*/*.py"))
    return {
        f"{f.parent.name}/{f.stem}": f
        for f in modules
        if _is_study(f, f.stat().st_mtime_ns)
    }


@functools.cache
def _is_study(file: Path, modified: int) -> bool:
    del modified  # a file is read again when it was written again
    source = file.read_text(encoding="utf-8")
    return "STUDY = " in source and any(
        isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "STUDY"
        for node in ast.parse(source).body
    )
