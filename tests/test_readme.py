"""The README's Python runs as it stands there."""

import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from advjax import dynamics
from experiments import command

README = Path(__file__).parents[1] / "README.md"


def test_the_snippets_of_the_readme_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)  # noqa: S102
    assert len(blocks) == 8
    ensemble, caveats, outcome, *_ = capsys.readouterr().out.splitlines()
    assert "Row(name='square'" in ensemble
    assert caveats == "()"
    assert outcome.startswith("Estimate(value=")
    assert outcome.endswith(" ()")
    assert namespace["info"].fooled.shape == (32,)
    assert namespace["fitted"].curves["loss"].shape == (2,)
    assert (tmp_path / "net.safetensors").exists()
    assert namespace["metrics"]["loss"].shape == (5, 3, 4)
    assert namespace["loss"].shape == (300,)
    assert {*namespace["unstable"]} == {"Dense_0/kernel", "Dense_1/kernel"}
    error = dynamics.matching_error(namespace["path"].delta, namespace["theory"].delta)
    assert error < 1e-4
    assert (jnp.diff(namespace["peaks"].value, axis=0) >= 0).all()
    at_edges = namespace["f_adv"](namespace["x"] + 0.1)[namespace["margin"] < 0]
    np.testing.assert_array_equal(at_edges, namespace["targets"])
    assert (namespace["gap"] < 1e-2 * namespace["loss"]).all()


def test_every_file_that_the_readme_names_exists():
    root = README.parent
    text = README.read_text()
    for name in re.findall(r"--config=(\S+?\.py)", text):
        assert (root / name).exists(), name
    for name in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert name.startswith("https://") or (root / name).exists(), name


def test_the_commands_of_the_readme_name_experiments_and_targets():
    text = README.read_text()
    for name in re.findall(r"advjax (?:run|list) (\w+/\w+)", text):
        assert command.find(name)
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", text):
        assert f"\n{target}:" in makefile, target


def test_links_into_the_table_of_results_have_their_headings():
    table = (README.parent / "experiments" / "README.md").read_text()
    titles = re.findall(r"^## (.*)$", table, re.MULTILINE)
    anchors = {title.lower().replace(" ", "-") for title in titles}
    links = re.findall(r"experiments/README\.md#([\w-]+)", README.read_text())
    assert len(links) == 4
    assert {*links} <= anchors


def test_the_index_leads_to_every_result():
    experiments = README.parent / "experiments"
    table = (experiments / "README.md").read_text()
    reports = sorted((experiments / "results").glob("*/results.json"))
    assert len(reports) > 70
    for path in reports:
        commit = json.loads(path.read_text())["environment"]["commit"]
        assert re.fullmatch(r"[0-9a-f]{12}", commit), "not a clean commit"
        assert f"results/{path.parent.name}/report.md" in table
    for name in re.findall(r"\]\(([^)]+)\)", table):
        assert (experiments / name).exists(), name
