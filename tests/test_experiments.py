"""Every configuration runs at ``:smoke``; wrong input is one line and exit status 2."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from advjax import data
from experiments import (
    arrays,
    checks,
    command,
    demo,
    figures,
    findings,
    provenance,
    run,
    writing,
)
from experiments.files import FileError
from experiments.transition import published
from experiments.workdir import Workdir

ROOT = Path(__file__).parents[1]
CONFIGS = command.experiments()
GRID = f"--config={ROOT}/experiments/transition/classifier_grid.py"


def _content(path):
    """Every file below ``path``, to see that nothing was touched."""
    return {p: p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


# Loops that run long enough for optimisations to pay.
LONG = ("attack_difference", "closed_form", "growth", "lasso_mnist")


@pytest.fixture
def optimised_if_long(request):
    """Compiles the programs of ``LONG`` as users do."""
    if request.node.callspec.params["name"].partition("/")[2] in LONG:
        request.getfixturevalue("optimised")


# One of each kind, and those that others start from; ``make test-all`` runs all.
KINDS = (
    *("training/digits", "training/evaluation", "transition/classifier_grid"),
    *("transition/connectivity", "transition/comparison", "transition/scaling"),
    *("generalization/wide_resnet", "difficulty/networks", "difficulty/oscillation"),
    *("memorization/networks", "memorization/learning_process"),
)
ALL = [
    name if name in KINDS else pytest.param(name, marks=pytest.mark.slow)
    for name in sorted(CONFIGS)
    if name != "training/classifier"  # as training/digits
]


@pytest.mark.usefixtures("optimised_if_long")
@pytest.mark.parametrize("name", ALL)
def test_every_study_runs_at_smoke_size_and_once_only(name, tmp_path, capsys, request):
    arguments = [f"--config={CONFIGS[name]}:smoke", f"--workdir={tmp_path}/w"]
    arguments += _needed(name, request)
    assert run.main(arguments) == 0
    first = _content(tmp_path / "w")
    names = {file.name for file in first}
    assert {"config.json", "metrics.jsonl", "report.md", "results.json"} <= names
    results = json.loads((tmp_path / "w" / "results.json").read_text())
    assert {"config", "environment", "results", "stages"} <= set(results)
    values = arrays.restored(results["results"])
    assert values.sizes
    assert results["results"]["findings"]
    for finding in map(findings.from_json, results["results"]["findings"]):
        assert finding.verdict in findings.VERDICTS
    for stage in results["stages"].values():
        assert stage["commit"]
        assert stage["seconds"] > 0
    assert results["environment"]["versions"]["jax"]
    assert results["environment"]["generator"] == jax.config.jax_default_prng_impl
    for line in (tmp_path / "w" / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
    report = (tmp_path / "w" / "report.md").read_text()
    for figure in (tmp_path / "w").glob("*.png"):
        assert f"({figure.name})" in report
    printed = capsys.readouterr().out
    assert all(line in printed for line in results["results"]["summary"])

    assert run.main(arguments) == 0
    assert "is complete" in capsys.readouterr().out
    again = _content(tmp_path / "w")
    assert {p: again[p] for p in first if p.name != "metrics.jsonl"} == {
        p: first[p] for p in first if p.name != "metrics.jsonl"
    }


# What studies need, by the names of fixtures.
NEEDED = {
    "transition/catastrophic": ("grid", "grid"),
    "transition/connectivity": ("grid", "grid"),
    "transition/fine_tuning": ("grid", "grid"),
    "transition/overfitting": ("grid", "grid"),
    "difficulty/closed_form": ("networks", "clean"),
    "difficulty/growth": ("networks", "clean"),
    "difficulty/influential": ("networks", "adversarial"),
    "difficulty/weight_effects": ("networks", "adversarial"),
    "memorization/learning_process": ("networks", "memorizers"),
    "memorization/representation": ("networks", "memorizers"),
    "memorization/robust_memorization": ("networks", "memorizers"),
    "memorization/generalization_gap": ("learning", "learning"),
}


def _needed(name, request):
    """Arguments for what a study starts from; skips without its data."""
    stem = name.partition("/")[2]
    if stem in ("mnist", "cifar10"):
        try:
            data.load(stem, split="test")
        except data.DataError as error:
            pytest.skip(str(error))
    if name == "training/evaluation":
        made = request.getfixturevalue("finished")
        trained = made("digits", "training/configs/digits.py:smoke")
        return [f"--config.checkpoint={trained}/best.safetensors"]
    if name == "transition/comparison":
        grid = request.getfixturevalue("grid")
        return [f"--config.grids=('{grid}', '{grid}')"]
    if name not in NEEDED:
        return []
    field, fixture = NEEDED[name]
    if fixture in ("clean", "adversarial"):
        path = request.getfixturevalue("families")[fixture]
    else:
        path = request.getfixturevalue(fixture)
    return [f"--config.{field}={path}"]


def test_an_interrupted_run_resumes_and_gives_the_same_result(tmp_path, monkeypatch):
    arguments = [f"--config={CONFIGS['transition/scaling']}:smoke"]
    assert run.main([*arguments, f"--workdir={tmp_path}/whole"]) == 0

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(arrays, "stacked", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.main([*arguments, f"--workdir={tmp_path}/parts"])
    assert not (tmp_path / "parts" / "results.json").exists()
    first, last = sorted((tmp_path / "parts" / "stages").glob("*.npz"))[::5]
    last.unlink()
    before = first.stat().st_mtime_ns
    assert run.main([*arguments, f"--workdir={tmp_path}/parts"]) == 0
    assert first.stat().st_mtime_ns == before
    whole, parts = (
        json.loads((tmp_path / name / "results.json").read_text())["results"]
        for name in ("whole", "parts")
    )
    assert whole == parts


BAD = {
    "misspelt field": (
        ["--config.epz=(0.,1.)"],
        ["config.epz", "did you mean eps?", "num_seeds"],
    ),
    "mistyped number": (
        ["--config.num_epochs=many"],
        ["config.num_epochs = 'many'", "of type int, as in 4"],
    ),
    "mistyped tuple": (
        ["--config.eps=(0.1"],
        ["config.eps = ('(0.1',)", "give a tuple of at least 2 values"],
    ),
    "fractional count": (["--config.num_epochs=1.5"], ["config.num_epochs = '1.5'"]),
    "words for numbers": (
        ["--config.eps=('a','b')"],
        ["config.eps = ('a', 'b')", "'a' is not a finite number"],
    ),
    "unknown norm": (
        ["--config.norm=l3"],
        ["config.norm = 'l3'", "choose from l1, l2, linf"],
    ),
    "negative radius": (
        ["--config.eps=(-0.1,0.1)"],
        ["config.eps = (-0.1, 0.1)", "choose numbers at least 0"],
    ),
    "empty grid": (
        ["--config.eps=()"],
        ["config.eps = ()", "give a tuple of at least 2 values"],
    ),
    "grid without clean training": (
        ["--config.eps=(0.1,0.2)"],
        ["config.eps = (0.1, 0.2)", "begin with 0"],
    ),
    "grid that falls": (
        ["--config.eps=(0.,0.2,0.1)"],
        ["give increasing numbers"],
    ),
    "unknown data set": (
        ["--config.dataset=digit"],
        ["config.dataset = 'digit'", "did you mean digits?"],
    ),
    "batch larger than the data": (
        ["--config.batch_size=5000"],
        ["config.batch_size = 5000", "at most 32"],
    ),
    "no epochs": (["--config.num_epochs=0"], ["config.num_epochs = 0", "at least 1"]),
    "another study": (
        ["--config.experiment=transition.p_values"],
        ["config.experiment: no such field"],
    ),
    "infinite radius": (
        ["--config.eps=(0.,1e400)"],
        ["config.eps = (0.0, inf)", "inf is not a finite number"],
    ),
    "huge seed": (["--config.seed=99999999999"], ["at most 2.14748e+09"]),
    "knots that fall": (
        ["--config.schedule_knots=(.5,.1)"],
        ["config.schedule_knots", "increasing"],
    ),
    "fields apart": (
        ["--config.schedule_knots=(.2,.5)"],
        ["config.select_from = 0.5", "config.schedule_knots[0] = 0.2"],
    ),
    "value apart": (["--config.seed", "3"], ["write it as --config.seed=VALUE"]),
    "stray argument": (["digits"], ["unknown argument 'digits'"]),
    "unknown flag": (["--wokdir=x"], ["wokdir", "workdir"]),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_input_is_one_clear_line_and_writes_nothing(name, tmp_path, capsys):
    arguments, wanted = BAD[name]
    path = tmp_path / "w"
    assert run.main([f"{GRID}:digits,smoke", *arguments, f"--workdir={path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("advjax: error: ")
    assert error.count("\n") == 1
    for words in wanted:
        assert words in error
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--config=FILE.py is missing"),
        (["--config=nowhere.py"], "nowhere.py"),
        ([f"{GRID}:smokey"], "variant 'smokey' of config: did you mean smoke?"),
    ],
)
def test_a_wrong_config_file_is_one_clear_line(arguments, words, capsys):
    assert run.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_configuration_without_a_study_is_one_clear_line(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "def get_config():\n    return __import__('ml_collections').ConfigDict()"
    )
    for more in ([], ["--help"]):
        assert run.main([f"--config={file}", *more]) == 2
        error = capsys.readouterr().err
        assert "config.experiment = '': choose from difficulty.closed_form" in error
        assert error.count("\n") == 1


def test_the_command_line_exits_with_the_status(tmp_path):
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    command = [sys.executable, "-m", "experiments.run", f"{GRID}:digits,smoke"]
    done = subprocess.run(
        [*command, "--config.norm=l3", f"--workdir={tmp_path}/w"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("advjax: error: config.norm = 'l3': ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "w").exists()


def _config(**fields):
    return ConfigDict({"experiment": "test", **fields}).lock()


def test_a_workdir_of_another_run_is_left_alone(tmp_path, capsys):
    arguments = [f"{GRID}:digits,smoke", f"--workdir={tmp_path}/w"]
    with Workdir(tmp_path / "w", run.parse(["run", *arguments])[0]) as opened:
        opened.begin()
    before = _content(tmp_path)
    assert run.main([*arguments, "--config.seed=1"]) == 2
    error = capsys.readouterr().err
    assert "holds another run: config.seed is 0 there and 1 here" in error
    assert _content(tmp_path) == before

    config_path = tmp_path / "w" / "config.json"
    config_path.write_text("{")
    with pytest.raises(FileError, match=r"config\.json is damaged"):
        Workdir(tmp_path / "w", _config())
    assert config_path.read_text() == "{"

    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("mine")
    for path in (tmp_path / "foreign", tmp_path / "foreign" / "thesis.tex"):
        with pytest.raises(FileError, match="holds files of something else"):
            Workdir(path, _config())
    assert (tmp_path / "foreign" / "thesis.tex").read_text() == "mine"


def test_a_loss_that_becomes_nan_stops_the_run_with_its_step(tmp_path, capsys):
    arguments = [f"{GRID}:digits,smoke", f"--workdir={tmp_path}"]
    assert run.main([*arguments, "--config.learning_rate=1e30"]) == 1
    error = capsys.readouterr().err
    assert re.search(r"the loss of eps = \S+, seed \d is (nan|inf) at step \d+", error)
    assert (tmp_path / "metrics.jsonl").exists()
    assert not (tmp_path / "results.json").exists()


def test_the_divergence_check_names_step_and_run():
    losses = np.ones((3, 2))
    checks.finite(losses, 10)
    losses[1, 1] = np.nan
    with pytest.raises(checks.DivergedError, match="loss of run 1 is nan at step 11"):
        checks.finite(losses, 10)


def test_the_commit_is_not_that_of_a_repository_around_the_package(
    tmp_path, monkeypatch
):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(tmp_path)]
    for arguments in (["init", "-q"], ["commit", "-qm", "mine", "--allow-empty"]):
        subprocess.run([*git, *arguments], check=True)
    installed = tmp_path / "env" / "experiments"
    installed.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(installed / "provenance.py"))
    stated = {"vcs_info": {"commit_id": "0123456789abcdef"}}
    for text, commit in ((None, "unknown"), (json.dumps(stated), "0123456789ab")):
        found = SimpleNamespace(read_text=lambda _, text=text: text)
        monkeypatch.setattr(provenance.metadata, "distribution", lambda _, f=found: f)
        assert provenance._commit() == commit


def test_log_lines_survive_a_torn_one_and_hold_only_json(tmp_path):
    workdir = Workdir(tmp_path / "w", _config())
    path = tmp_path / "w" / "metrics.jsonl"
    workdir.log(loss=1.0)
    path.write_bytes(path.read_bytes() + b'{"loss": 0.')
    workdir.log(loss=np.float32(0.5), bad=jnp.nan, curve=jnp.arange(2), n=np.int64(3))
    last = path.read_text().splitlines()[-1]
    assert json.loads(last) == {"loss": 0.5, "bad": None, "curve": [0, 1], "n": 3}
    workdir.log(single=np.float32([0.1, 1e-30, np.inf]), double=1 / 3)
    last = path.read_text().splitlines()[-1]
    assert last == '{"single": [0.1, 1e-30, null], "double": 0.3333333333333333}'


def test_stages_are_computed_once_and_hold_no_pickle(tmp_path):
    workdir = Workdir(tmp_path / "w", _config())
    calls = []

    def compute(value):
        calls.append(value)
        return {"a": jnp.full(2, value), "params": {"w": {"b": jnp.ones((1, 2))}}}

    for _ in range(2):
        stored = workdir.stage("one", compute, 3.0)
        np.testing.assert_array_equal(stored["a"], 3)
        assert stored["params"]["w"]["b"].shape == (1, 2)
    assert calls == [3.0]

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workdir.stage("two", interrupted)
    assert not (tmp_path / "w" / "stages" / "two.npz").exists()
    with pytest.raises(ValueError, match="not arrays of numbers"):
        workdir.stage("three", lambda: {"a": np.array([object()])})


def test_p_values_fall_at_the_scale_of_the_theory(tmp_path):
    """Medians above 0.3 at log(eps/√(d/n)) = -2 and below 0.01 at +2."""
    config = f"--config={CONFIGS['transition/p_values']}"
    smaller = ["--config.num_adversarial=200", "--config.num_points=7"]
    assert run.main([config, *smaller, f"--workdir={tmp_path}/w"]) == 0
    results = json.loads((tmp_path / "w" / "results.json").read_text())["results"]
    values = arrays.restored(results)
    assert [*values["d"].values] == [2, 5, 10]
    at = values["median_p_value_at"]
    assert (at.sel(level=-2) > 0.3).all()
    assert (at.sel(level=2) < 0.01).all()
    for d in values["d"].values:
        # By loss crossing ε* ≈ σ d / (n c0 ‖θ0‖), which is not √(d/n).
        predicted = d / (100 * (2 / np.pi) ** 0.5)
        row = values.sel(d=d)
        assert abs(row["eps_star"] - predicted) < 3 * row["eps_star_se"] + 0.01


def test_the_demonstration_joins_the_reports(tmp_path, monkeypatch, capsys):
    few = ("digits-linf", "digits-linf-tuned", "linear-paths")
    smoke = {
        name: (re.sub(r",demo|,high|$", "", file), *rest)
        for name, (file, *rest) in demo.STUDIES.items()
        if name in few
    }
    smoke = {
        name: (f"{file},smoke" if ":" in file else f"{file}:smoke", *rest)
        for name, (file, *rest) in smoke.items()
    }
    monkeypatch.setattr(demo, "STUDIES", smoke)
    demo.main(tmp_path)
    printed = capsys.readouterr().out
    report = (tmp_path / "report.md").read_text()
    figures_shown = re.findall(r"!\[.*?\]\((.*?)\)", report)
    assert len(figures_shown) == 4
    for name in figures_shown:
        assert (tmp_path / name).exists()
        assert f"{tmp_path}/{name}" in printed
    assert str(tmp_path / "report.md") in printed
    assert "ε* of mlp on digits, linf: " in printed
    assert "error of ε* by PGD, 3 radii: " in printed
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.md").write_text("mine")
    with pytest.raises(FileError, match="holds files of something else"):
        demo.main(tmp_path / "mine")


def test_published_tables_are_rederived():
    table_4 = published.table_4()
    assert len(table_4) == 12
    for row in table_4:
        digits_printed = len(row["printed"].partition(".")[2])
        assert f"{row['derived']:.{digits_printed}f}" == row["printed"], row
    table_3 = published.table_3()
    unusual = {"cnn_fc128": "NO_LOSS_TABLE", "cnn_fc16": "NO_LOSS_TABLE"}
    unusual["preactresnet18_mart"] = "BELOW_FIRST_POINT"
    for row in table_3:
        assert row["status"] == unusual.get(row["architecture"], "CROSSES")
    found = [row for row in table_3 if row["status"] == "CROSSES"]
    cut = {round(row["derived"], 3) for row in found if not row["agrees"]}
    assert cut == {0.551, 0.768}  # printed as 0.5 and 0.7


def test_a_table_is_markdown():
    assert (
        writing.table(["a", "b"], [["1", "2"]])
        == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    )
    assert figures.plus_minus([1.0, 2.0], 2) == "1.50 ± 0.71"
    assert figures.plus_minus([1.0, 2.0, np.nan], 2) == "1.50 ± 0.71 (2 of 3)"
    assert figures.plus_minus([np.nan]) == "none"
