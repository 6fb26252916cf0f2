"""Every notebook is its script, runs from beginning to end, and keeps Colab's jax."""

import ast
import json
import os
import runpy
import tomllib
from pathlib import Path

import jupytext
import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
COLAB = ROOT / "colab"
SCRIPTS = sorted(COLAB.glob("[0-9]*.py"))
PAIR = runpy.run_path(str(COLAB / "pair.py"))
URL = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]

# What the parameters cell is followed by, so that each takes seconds.
SMALL = {
    "00_quickstart": "NUM_STEPS, NUM_EPOCHS, NUM_SEEDS, RADII = 2, 2, 2, (0.0, 0.1)",
    "01_phase_transition": """
RADII, TUNED_RADII, CURVE_RADII = (0.0, 0.06, 0.16), (0.01, 0.04), (0.0, 0.16)
NUM_STEPS, NUM_SEEDS, NUM_EPOCHS, TUNED_EPOCHS, CURVE_EPOCHS = 2, 2, 8, 4, 4
DIMENSIONS, NUM_EXAMPLES, NUM_REPLICATES = (2,), 50, 20
""",
    "02_linear_theory": """
NUM_REPLICATES, NUM_EXAMPLES, NUM_DRAWS, NUM_STEPS = 2, 50, 1000, 10
SAMPLE_SIZES, WIDTHS = (20,), (5,)
""",
    "03_difficulty": """
NUM_STEPS, NUM_SEEDS, NUM_EPOCHS, NUM_IMAGES, NUM_WATCHED = 2, 2, 3, 10, 3
ASCENT_STEPS, HORIZONS, NUM_MATVECS, NUM_EIGS = (10,), (0.01, 0.1), 4, 2
GROWTH_STEPS, GROWTH_SIZE = 20, 2.0
""",
    "04_robust_memorization": """
NUM_STEPS, NUM_SEEDS, NUM_EPOCHS, NUM_IMAGES, NUM_RESTARTS = 2, 2, 4, 10, 2
RADII, DIMENSION, NUM_DATA, STAGE_STEPS = (0.0, 1.0, 2.0), 50, 2, 20
""",
}


def _cells(script):
    return jupytext.read(script, fmt="py:percent").cells


def _tagged(cells, tag):
    return [i for i, cell in enumerate(cells) if tag in cell.metadata.get("tags", [])]


def test_there_are_five_and_each_has_small_settings():
    assert [script.stem[:2] for script in SCRIPTS] == ["00", "01", "02", "03", "04"]
    assert set(SMALL) == {script.stem for script in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_is_its_script_without_outputs(script):
    text = script.with_suffix(".ipynb").read_text()
    assert text == PAIR["notebook"](script), "make notebooks"
    nbformat.validate(nbformat.reads(text, as_version=4))
    for cell in json.loads(text)["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_begins_with_its_badge_and_the_same_set_up(script):
    cells = _cells(script)
    repository = URL["Repository"].removeprefix("https://github.com/")
    link = (
        f"colab.research.google.com/github/{repository}/blob/main/colab/{script.stem}"
    )
    assert f"(https://{link}.ipynb)" in cells[0].source
    first = next(cell.source for cell in cells if cell.cell_type == "code")
    quickstart = (
        cell.source for cell in _cells(SCRIPTS[0]) if cell.cell_type == "code"
    )
    assert first == next(quickstart)
    assert f"git+{URL['Repository']}" in first
    assert len(_tagged(cells, "parameters")) == 1


def _assigned(source):
    nodes = ast.walk(ast.parse(source))
    return {n.id for n in nodes if isinstance(n, ast.Name) and n.id.isupper()}


def _run(cells, tmp_path):
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    return notebook


FIRST, *OTHERS = SCRIPTS
RUN = [FIRST, *(pytest.param(script, marks=pytest.mark.slow) for script in OTHERS)]


@pytest.mark.parametrize("script", RUN, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_figures(script, tmp_path, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)
    cells = _cells(script)
    (at,) = _tagged(cells, "parameters")
    assert _assigned(SMALL[script.stem]) <= _assigned(cells[at].source)
    cells.insert(at + 1, nbformat.v4.new_code_cell(SMALL[script.stem]))
    notebook = _run(cells, tmp_path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) >= 2
    for output in outputs:
        assert output.get("name") != "stderr", output.text
        assert "<matplotlib" not in str(output.get("data", ""))
    assert not list(tmp_path.iterdir())


def test_the_set_up_pins_the_jax_that_is_there():
    """Without advjax it installs it, and asks pip for the versions that are there."""
    setup = next(c.source for c in _cells(SCRIPTS[0]) if c.cell_type == "code")
    given = []
    code = setup.replace(
        "import subprocess\n",
        "class subprocess:\n    run = lambda argv, check: given.append(argv)\n",
    ).replace('util.find_spec("advjax") is None', "True")
    exec(code, {"given": given})  # noqa: S102
    ((_, *arguments),) = given
    assert arguments[:4] == ["-m", "pip", "install", "--quiet"]
    source = os.environ.get("ADVJAX", f"git+{URL['Repository']}")
    assert arguments[4] == f"advjax[colab] @ {source}"
    assert [pin.split("==")[0] for pin in arguments[5:]] == ["jax", "jaxlib", "flax"]
