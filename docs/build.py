"""Builds the pages of the API from the docstrings.

    python docs/build.py [directory]        # or: make docs

Every public symbol is there, which ``tests/test_documentation.py`` checks.
"""

import ast
import contextlib
import inspect
import sys
import warnings
from pathlib import Path

import pdoc

from advjax import types


def build(directory: Path) -> None:
    """Writes ``index.html`` and a page for every module; they need no network."""
    pdoc.render.configure(docformat="google", footer_text="advjax")
    with warnings.catch_warnings():
        # Types that other packages name and do not export are shown as they are.
        warnings.filterwarnings("ignore", message="Error parsing type annotation")
        with _without_array():
            pdoc.pdoc("advjax", output_directory=directory)
    for page in directory.rglob("*.html"):
        # Where jax.Array is defined is nobody's business.
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace("jax.jaxlib._jax.Array", "jax.Array"), "utf-8")


@contextlib.contextmanager
def _without_array():
    """``types.Array`` is jax.Array, which is jax's to document."""
    listed = types.__all__
    types.__all__ = [name for name in _defined(types) if name != "Array"]
    try:
        yield
    finally:
        types.__all__ = listed


def _defined(module) -> list[str]:
    """The names that a module defines, in order."""
    targets = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.Assign):
            targets += [target.id for target in node.targets]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            targets.append(node.name)
    return targets


if __name__ == "__main__":
    target = Path(*sys.argv[1:2] or ["build/docs"])
    build(target)
    print(f"{target}/index.html")
