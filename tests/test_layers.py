"""The architecture, as far as it can be checked by reading imports."""

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import advjax

LIBRARY = Path(advjax.__file__).parent
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(LIBRARY)], "advjax."))

# What each module may import from the library; everything may import ``types``.
ALLOWED = {
    "types": set(),
    "norms": {"types"},
    "losses": {"types"},
    "data": {"types", "data"},
    "augmentation": {"types"},
    "models": {"types", "models"},
    "transition": {"types"},
    "curves": {"types"},
    "spectrum": {"types"},
    "dynamics": {"types"},
    "influence": {"types", "dynamics", "penalties"},
    "inference": {"types"},
    "train": {"types"},
    "attacks": {"types", "norms"},
    "flatness": {"types", "norms", "attacks"},
    "margins": {"types", "norms", "losses"},
    "memorization": {"types", "norms"},
    "linear": {"types", "norms"},
    "lazy": {"types", "norms"},
    "descent": {"types", "norms"},
    "solvers": {"types", "norms", "linear"},
    "replicates": set(),
    "penalties": {"types", "norms"},
    "objectives": {"types", "losses", "penalties"},
    "evaluate": {"types", "losses"},
}


def _imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda p: p.stem)
def test_imports_flow_one_way(path):
    own = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
    names = [name.split(".") for name in _imported(path)]
    assert not [name for name in names if name[0] in ("experiments", "tests", "colab")]
    used = {name[1] for name in names if name[0] == "advjax" and len(name) > 1}
    assert used <= ALLOWED.get(own, set()), f"{own} imports {used}"
    assert own == "models" or "flax" not in {name[0] for name in names}


def test_the_library_does_not_import_the_heavy_packages():
    heavy = ("tensorflow_datasets", "orbax", "matplotlib", "sklearn", "flax.nnx")
    code = f"""
import sys, {", ".join(["advjax", *MODULES])}
found = [name for name in {heavy!r} if name in sys.modules]
sys.exit(f"imported: {{found}}" if found else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_and_public_function_is_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for attribute, value in vars(module).items():
        if attribute.startswith("_") or getattr(value, "__module__", "") != name:
            continue
        assert value.__doc__, f"{name}.{attribute}"


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(name)
    globs = {
        "jax": importlib.import_module("jax"),
        "jnp": importlib.import_module("jax.numpy"),
    }
    assert doctest.testmod(module, extraglobs=globs).failed == 0


def test_every_module_of_the_library_has_its_tests():
    tests = {path.stem for path in Path(__file__).parent.glob("test_*.py")}
    own = {name.split(".")[1] for name in MODULES}
    # The attacks and the objectives are tested by the contract table.
    assert own - {"types", "attacks", "objectives"} <= {
        t.removeprefix("test_") for t in tests
    }
