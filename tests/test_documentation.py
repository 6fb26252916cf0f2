"""The pages of the API have every public symbol, and need nothing from elsewhere."""

import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import jax
import pytest

import advjax

BUILD = Path(__file__).parents[1] / "docs" / "build.py"
MODULES = [
    importlib.import_module(f"advjax.{module.name}")
    for module in pkgutil.iter_modules(advjax.__path__)
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The folder of the pages."""
    spec = importlib.util.spec_from_file_location("build", BUILD)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("docs")
    module.build(folder)
    return folder


def _public(module):
    """Names that the module exports, or defines: functions, classes and constants."""
    if hasattr(module, "__all__"):
        # What ``types.Array`` is stands in jax's pages.
        return [name for name in module.__all__ if name != "Array"]
    source = inspect.getsource(module)
    defined = re.findall(r"^(?:def|class) ([a-zA-Z]\w*)", source, re.MULTILINE)
    documented = r'^([a-zA-Z]\w*)(?:: [^=\n]+)? = (?:[^"\n]|\n(?!\n|"""))+\n"""'
    names = defined + re.findall(documented, source, re.MULTILINE)
    return [name for name in names if getattr(module, name) is not jax.Array]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_symbol_has_its_place(module, pages):
    text = (pages / "advjax" / f"{module.__name__.split('.')[1]}.html").read_text()
    names = _public(module)
    assert names
    for name in names:
        assert f'id="{name}"' in text, f"{module.__name__}.{name}"
        place = text.split(f'id="{name}"', 1)[1].split("</section>", 1)[0]
        assert '<div class="docstring">' in place, f"{module.__name__}.{name}"


def test_constants_count_as_symbols():
    assert {"l2", "Norm"} <= {*_public(importlib.import_module("advjax.norms"))}
    assert {"LossFn", "Attack"} <= {*_public(importlib.import_module("advjax.types"))}


def test_the_first_page_has_every_module(pages):
    text = (pages / "advjax.html").read_text()
    for module in MODULES:
        name = module.__name__.split(".")[1]
        assert f'href="advjax/{name}.html"' in text
        assert f"<td><code>{name}</code></td>" in text
    table = re.findall(r"^\| `(\w+)` \|", advjax.__doc__, re.MULTILINE)
    assert sorted(table) == sorted(module.__name__.split(".")[1] for module in MODULES)


def test_pages_are_rendered_and_load_nothing_from_elsewhere(pages):
    for page in pages.rglob("*.html"):
        text = page.read_text()
        assert "=====" not in text, page.name
        assert not re.search(r'(?:src|href)="https?://[^"]+\.(?:js|css)"', text)
        assert "jaxlib._jax" not in text
