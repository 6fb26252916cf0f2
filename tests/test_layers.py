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
    "arguments": set(),
    "norms": {"arguments"},
    "losses": {"arguments"},
    "transition": {"arguments"},
    "augmentation": {"arguments"},
    "regions": {"arguments"},
    "criteria": {"arguments"},
    "data": {"data", "arguments"},
    "models": {"models", "arguments"},
    "curves": {"arguments"},
    "convolutions": set(),
    "hessians": {"arguments", "convolutions"},
    "spectrum": {"arguments", "hessians", "norms"},
    "dynamics": {"arguments", "convolutions"},
    "inference": {"arguments"},
    "replicates": {"arguments"},
    "penalties": {"arguments", "norms"},
    "influence": {"arguments", "convolutions", "dynamics", "penalties"},
    "linear": {"arguments", "norms"},
    "lazy": {"arguments", "norms"},
    "descent": {"arguments", "norms"},
    "memorization": {"arguments", "norms"},
    "solvers": {"arguments", "norms", "linear"},
    "flags": set(),
    "margins": {"arguments", "criteria", "flags", "norms", "losses", "regions"},
    "attacks": {
        "attacks",
        "arguments",
        "convolutions",
        "criteria",
        "flags",
        "losses",
        "norms",
        "programs",
        "regions",
    },
    "flatness": {
        "arguments",
        "flags",
        "norms",
        "losses",
        "regions",
        "attacks",
        "criteria",
    },
    "objectives": {"arguments", "losses", "norms", "penalties"},
    "train": {"arguments", "convolutions", "criteria"},
    "programs": set(),
    "free": {"arguments", "convolutions", "criteria", "norms", "train"},
    "evaluate": {"arguments", "criteria", "flags", "norms", "regions"},
    "weights": {"arguments"},
    "pytorch": {"models", "weights"},
    "critical": {"arguments", "fit", "transition"},
    "fit": {
        "arguments",
        "attacks",
        "evaluate",
        "losses",
        "norms",
        "programs",
        "train",
        "weights",
    },
}


def _imported(path, text=None):
    """Absolute names of all modules that a file imports, relative imports resolved."""
    package = path.relative_to(LIBRARY.parent).parts[:-1]
    for node in ast.walk(ast.parse(text or path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) + 1 - node.level]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _used(path, text=None):
    """The modules and packages of the library that a file imports, but ``types``."""
    names = [name.split(".") for name in _imported(path, text)]
    return {n[1] for n in names if n[0] == "advjax" and len(n) > 1} - {"types"}


@pytest.mark.parametrize(
    ("text", "used"),
    [
        ("from advjax import attacks", {"attacks"}),
        ("import advjax.attacks as a", {"attacks"}),
        ("from advjax.attacks import pgd", {"attacks"}),
        ("from . import attacks, norms", {"attacks", "norms"}),
        ("from .attacks import pgd", {"attacks"}),
        ("def f():\n    from .attacks import pgd", {"attacks"}),
    ],
)
def test_the_law_sees_every_kind_of_import(text, used):
    assert _used(LIBRARY / "norms.py", text) == used
    deeper = text.replace("from .", "from ..")
    assert _used(LIBRARY / "data" / "tfds.py", deeper) == used


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda p: p.stem)
def test_imports_flow_one_way(path):
    own = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
    packages = {name.split(".")[0] for name in _imported(path)}
    assert not packages & {"experiments", "tests", "colab"}
    used = _used(path)
    assert used <= ALLOWED.get(own, set()), f"{own} imports {used}"
    assert own == "models" or "flax" not in packages


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


@pytest.mark.parametrize("name", [name for name in MODULES if name.count(".") == 1])
def test_what_is_public_is_said_to_be(name):
    """``__all__`` lists all that a module defines under a public name."""
    module = importlib.import_module(name)
    own = {
        attribute
        for attribute, value in vars(module).items()
        if not attribute.startswith("_") and getattr(value, "__module__", None) == name
    }
    # From the file, since building the pages changes the module.
    tree = ast.parse(Path(module.__file__).read_text())
    (listed,) = [
        {*ast.literal_eval(node.value)}
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    ]
    assert own <= listed, own - listed
    assert all(hasattr(module, attribute) for attribute in listed)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(name)
    globs = {
        "jax": importlib.import_module("jax"),
        "jnp": importlib.import_module("jax.numpy"),
    }
    assert doctest.testmod(module, extraglobs=globs).failed == 0


def test_every_module_is_in_the_list_of_the_package():
    for name in {name.split(".")[1] for name in MODULES}:
        assert f"| `{name}` |" in advjax.__doc__, name


def test_every_module_of_the_library_has_its_tests():
    tests = {path.stem for path in Path(__file__).parent.glob("test_*.py")}
    own = {name.split(".")[1] for name in MODULES}
    # The attacks and the objectives are tested by the contract table.
    assert own - {"types", "attacks", "objectives"} <= {
        t.removeprefix("test_") for t in tests
    }
