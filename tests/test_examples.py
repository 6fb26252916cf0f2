"""The scripts of docs/examples: they run, and print what their page says."""

import re
import runpy
from pathlib import Path

import pytest

from advjax import weights

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))


def _shown(script):
    """What the page says that a script prints."""
    page = (EXAMPLES / "README.md").read_text()
    return page.split(f"$ python {script}\n")[1].split("```")[0].split("\n\n")[0]


_NUMBER = r"-?\d+(?:\.\d*)?(?:e[+-]\d+)?"


def _words(text):
    return re.sub(_NUMBER, "", text).split()


def _numbers(text):
    return [float(each) for each in re.findall(_NUMBER, text)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_print_what_their_page_says(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / script))
    printed = capsys.readouterr().out
    assert _words(printed) == _words(_shown(script))
    # Another processor rounds otherwise, and training makes more of it.
    expected = pytest.approx(_numbers(_shown(script)), rel=0.5, abs=1e-5)
    assert _numbers(printed) == expected
    if script == "linen_cnn.py":
        assert weights.about("net.safetensors") == {"eps": 0.1}


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_short_and_on_the_page(script):
    assert len((EXAMPLES / script).read_text().splitlines()) < 30
    assert f"[{script}]({script})" in (EXAMPLES / "README.md").read_text()
