"""Declarations: arrays, findings, inputs and the runner, on a study of three lines."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from ml_collections import ConfigDict

from experiments import (
    arrays,
    checks,
    files,
    findings,
    finished,
    inputs,
    ownership,
    printed,
    redraw,
    run,
    studies,
    workdir,
    writing,
)
from experiments.fields import count, machine, numbers, seed
from experiments.intervals import Interval
from experiments.study import Study

# --- arrays ---

DATA = arrays.dataset(
    {
        "loss": (("eps", "seed"), np.float32([[0.1, np.nan], [1e-30, 3]])),
        "status": (("seed",), ["CROSSES", "NEVER"]),
        "is_left": (("seed",), [True, False]),
        "number": ((), 7),
        "curve": (("seed", "radius", "end"), np.zeros((2, 0, 3))),
    },
    {"eps": [0.0, 0.1], "radius": np.zeros(0)},
    setting="mnist",
    num_train=60,
    eps=0.3,
)


def _same(a, b):
    assert a.attrs == b.attrs
    assert {*a.variables} == {*b.variables}
    for name in a.variables:
        assert a[name].dims == b[name].dims
        np.testing.assert_array_equal(a[name], b[name])


def test_arrays_survive_a_stage(tmp_path):
    with workdir.Workdir(tmp_path, ConfigDict()) as directory:
        for _ in range(2):
            stored = directory.stage("one", lambda: arrays.packed(DATA))
            _same(arrays.unpacked(stored), DATA)


def test_arrays_survive_json():
    again = arrays.restored(json.loads(files.dumps(arrays.plain(DATA))))
    assert again["loss"].dtype == float  # with the shortest digits of a float32
    _same(again.assign(loss=again["loss"].astype(np.float32)), DATA)
    assert again["curve"].shape == (2, 0, 3)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"values": {}, "coords": {}},
        {"values": {"a": {"axes": ["x"]}}, "coords": {}, "attrs": {}},
        {"values": [], "coords": {}, "attrs": {}},
        {
            "values": {"a": {"axes": ["x"], "shape": [2], "values": [1]}},
            "coords": {},
            "attrs": {},
        },
        {
            "values": {"a": {"axes": ["x", "y"], "shape": [1], "values": [1]}},
            "coords": {},
            "attrs": {},
        },
    ],
)
def test_what_is_no_dataset_is_a_value_error(content):
    with pytest.raises(ValueError):  # noqa: PT011, xarray has its own words
        arrays.restored(content)


def test_parts_are_stacked_under_their_names():
    one = arrays.dataset({"a": (("x",), [1.0, 2])}, {"x": [0, 1]})
    two = arrays.dataset({"a": (("x",), [3.0])}, {"x": [1]})
    with pytest.raises(ValueError, match="cannot align"):
        arrays.stacked({"n10": one, "n20": two}, "design")
    found = arrays.stacked({"n10": one, "n20": two}, "design", is_ragged=True)
    assert found["a"].sel(design="n20", x=1) == 3
    assert np.isnan(found["a"].sel(design="n20", x=0))


# --- findings ---

INSIDE, ABOVE, ACROSS, NONE = (
    Interval(1.0, 0.9, 1.1),
    Interval(2.0, 1.5, 2.5),
    Interval(1.2, 0.8, 1.6),
    Interval(1.0, np.nan, np.nan),
)


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (findings.above(ABOVE, 1), "agrees"),
        (findings.above(INSIDE, 2), "contradicted"),
        (findings.above(ACROSS, 1), "undecided"),
        (findings.above(NONE, 0), "undecided"),
        (findings.below(INSIDE, 2), "agrees"),
        (findings.below(ABOVE, 1), "contradicted"),
        (findings.below(ACROSS, 1), "undecided"),
        (findings.below(NONE, 2), "undecided"),
        (findings.equal(INSIDE, 1, within=0.2), "agrees"),
        (findings.equal(INSIDE, 1, within=0.05), "undecided"),
        (findings.equal(ABOVE, 1, within=0.2), "differs"),
        (findings.equal(INSIDE, 2, within=0.5), "differs"),
        (findings.equal(ACROSS, 1, within=0.2), "undecided"),
        (findings.equal(NONE, 1, within=9), "undecided"),
        (findings.follows(is_so=True), "agrees"),
        (findings.follows(is_so=False), "contradicted"),
    ],
)
def test_a_verdict_needs_an_interval_that_excludes_the_alternative(verdict, expected):
    assert verdict == expected


@pytest.mark.parametrize(
    ("ours", "shown"),
    [
        (0.12345, ("0.123", "")),
        (ABOVE, ("2", "[1.5, 2.5]")),
        (NONE, ("1", "")),
        (np.array([1.0, 3.0]), ("2", "± 1.41 (sd)")),
        (np.array([1.0, np.nan, 3.0]), ("2", "± 1.41 (sd, 2 of 3)")),
        (np.array([5.0]), ("5", "")),
        (np.array([np.nan]), ("none", "")),
        (xr.DataArray([1.0, 1.0]), ("1", "± 0 (sd)")),
        ("7 of 10", ("7 of 10", "")),
    ],
)
def test_numbers_of_a_finding_are_written_with_their_spread(ours, shown):
    found = findings.finding("a claim", ours, size="2 seeds")
    assert (found.ours, found.interval) == shown
    assert found.verdict == "no claim"


def test_a_finding_has_its_unit_and_refuses_long_cells_and_odd_verdicts():
    found = findings.finding("a", ABOVE, size="b", printed=3.0, form=".1f", unit=" %")
    assert found[:4] == ("a", "3.0 %", "2.0 %", "[1.5, 2.5]")
    with pytest.raises(ValueError, match="claim of a finding has 121 characters"):
        findings.finding("a" * 121, 1, size="b")
    with pytest.raises(ValueError, match="choose from agrees"):
        findings.finding("a", 1, size="b", verdict="proven")
    assert findings.from_json(found._asdict()) == found
    for content in ([], {"claim": "a"}, found._asdict() | {"ours": 1}):
        with pytest.raises(ValueError, match="no finding"):
            findings.from_json(content)


def test_a_report_is_markdown_with_cautions_first():
    found = findings.finding("it is 1", ABOVE, size="b", printed="1", verdict="differs")
    report = writing.Report(
        "T", "Is it?", [found], tables=[writing.Table("Numbers", ["a"], [["1"]])],
        notes="n = 1", cautions=["gradients vanish"],
    )  # fmt: skip
    text = writing.markdown(report)
    assert text.startswith(
        "## T\n\nIs it?\n\n**Caution:** gradients vanish\n\n| claim |"
    )
    assert "| it is 1 | 1 | 2 | [1.5, 2.5] | b | differs |" in text
    assert "### Numbers\n\n| a |\n| --- |\n| 1 |" in text
    assert text.endswith("### Size and method\n\nn = 1\n")
    summary = writing.results(report)["summary"]
    assert summary == [
        "it is 1: 2 [1.5, 2.5]; printed 1 (differs)",
        "CAUTION: gradients vanish",
    ]


def test_printed_numbers_are_found_by_their_columns():
    table = "phase_transition_table_3_eps_star"
    assert printed.row(table, architecture="cnn_fc16")["eps_star_255"] == "26.1"
    assert printed.row(table, architecture="none") == {}
    assert len(printed.rows(table, dataset="cifar10", norm="linf")) > 2
    with pytest.raises(ValueError, match="rows with"):
        printed.row(table, dataset="cifar10")


# --- the runner ---


def _measured(setup, n):
    square = jnp.arange(n) ** 2 + setup.config.seed
    return arrays.dataset({"square": (("i",), square)}, {"i": np.arange(n)})


def _values(setup, found):
    del setup
    return arrays.stacked(found, "case", is_ragged=True)


def _report(config, values):
    total = float(values["square"].sum())
    found = findings.finding("the sum", total, size=f"{len(config.n)} cases")
    return writing.Report("Squares", "What is their sum?", [found])


def _check(config, found):
    if config.seed == 3 and found["before"] is not None:
        raise checks.ConfigError("config.seed = 3: not after another run")


FIRST = Study(
    "training.first",
    {
        "seed": seed(),
        "n": numbers((2, 3), "sizes", above=0),
        "where": machine(count(1, "where")),
    },
    _report,
    variants=({"full": {}, "one": {"n": (2.0,)}}, {"plain": {}, "odd": {"seed": 1}}),
    cases=lambda setup: {f"n{n:g}": (int(n),) for n in setup.config.n},
    measure=_measured,
    values=_values,
)
SECOND = Study(
    "training.second",
    {"seed": seed(), "n": numbers((2,), "sizes")},
    _report,
    needs={"before": finished.Need("training.first", lambda found, _: found.values)},
    check=_check,
    cases=lambda setup: {"all": (setup.inputs["before"].sizes["i"],)},
    measure=_measured,
    values=_values,
)


@pytest.fixture(autouse=True)
def found(monkeypatch):
    known = {study.name: study for study in (FIRST, SECOND)}
    monkeypatch.setattr(studies, "find", lambda name: known[name])


def test_variants_are_one_of_each_group():
    assert FIRST.config("").n == (2.0, 3.0)
    config = FIRST.config("odd,one")
    assert (config.n, config.seed, config.experiment) == ((2.0,), 1, "training.first")
    for word, said in (("on", "did you mean one"), ("full,one", "exclude each other")):
        with pytest.raises(checks.ConfigError, match=said):
            FIRST.config(word)


def test_a_study_runs_resumes_and_is_drawn_anew(tmp_path, capsys):
    config = FIRST.config()
    content = run.run(config, tmp_path / "w")
    assert content["results"]["summary"] == ["the sum: 6 (no claim)"]
    assert config.n == (2.0, 3.0)  # nothing is changed by a run
    assert {*content["stages"]} == {"n2", "n3"}
    config.where = 5
    assert run.run(config, tmp_path / "w") == content
    assert "is complete" in capsys.readouterr().out
    config.seed = 1
    with pytest.raises(files.FileError, match=r"config\.seed is 0 there and 1 here"):
        run.run(config, tmp_path / "w")
    before = (tmp_path / "w" / "report.md").read_text()
    redraw.redraw(tmp_path / "w")
    assert (tmp_path / "w" / "report.md").read_text() == before
    assert workdir.complete(tmp_path / "w")["results"] == content["results"]
    redraw.redraw(tmp_path / "w", tmp_path / "public" / "w")
    names = {file.name for file in (tmp_path / "public" / "w").iterdir()}
    assert names == {"report.md", "results.json", ".advjax-lock"}
    workdir.complete(tmp_path / "public" / "w")
    (tmp_path / "public" / "w" / "report.md").write_text("forged")
    with pytest.raises(files.FileError, match="has changed"):
        workdir.complete(tmp_path / "public" / "w")


def test_a_report_is_drawn_over_results_of_its_study_alone(tmp_path):
    run.run(FIRST.config(), tmp_path / "first")
    config = SECOND.config()
    config.before = str(tmp_path / "first")
    run.run(config, tmp_path / "second")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    for place, words in (("mine", "something else"), ("second", "training.second")):
        before = {
            f: f.read_bytes() for f in (tmp_path / place).iterdir() if f.is_file()
        }
        with pytest.raises(files.FileError, match=f"holds (files|results) of {words}"):
            redraw.redraw(tmp_path / "first", tmp_path / place)
        assert before == {f: f.read_bytes() for f in before}
    owner = ownership.Owner(tmp_path / "first")
    with pytest.raises(files.FileError, match="is in use by process"):
        redraw.redraw(tmp_path / "first")
    owner.release()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("seed", -1, r"config\.seed = -1: choose numbers at least 0"),
        ("n", (), r"config\.n = \(\): give a tuple"),
        ("n", (0.0,), r"config\.n = \(0\.0,\): choose numbers above 0"),
    ],
)
def test_wrong_fields_write_nothing(field, value, words, tmp_path):
    config = FIRST.config()
    config[field] = value
    with pytest.raises(checks.ConfigError, match=words):
        run.run(config, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_what_a_study_needs_has_a_digest(tmp_path):
    config = SECOND.config()
    for given, words in (("", "no directory is given"), ("w", "no results.json")):
        config.before = given
        with pytest.raises(checks.ConfigError, match=words):
            run.run(config, tmp_path / "x")
    config.before = str(tmp_path / "gs:" / "bucket")
    with pytest.raises(checks.ConfigError, match="cloud path"):
        run.run(config, tmp_path / "x")
    config.before = str(tmp_path / "first")
    run.run(FIRST.config(), tmp_path / "first")
    content = run.run(config, tmp_path / "second")
    assert len(content["config"]["before_digest"]) == 12
    assert config.before_digest == ""
    config.before_digest = "f" * 12
    with pytest.raises(checks.ConfigError, match=r"before_digest = 'f+': it is '"):
        run.run(config, tmp_path / "x")
    config.before_digest = ""
    run.run(FIRST.config("odd"), tmp_path / "other")
    config.before = str(tmp_path / "other")  # another run is another study
    with pytest.raises(files.FileError, match=r"config\.before_digest is"):
        run.run(config, tmp_path / "second")
    config.before = str(tmp_path / "second")
    with pytest.raises(checks.ConfigError, match=r"it is a run of training\.second"):
        run.run(config, tmp_path / "x")
    less = dataclasses.replace(
        SECOND, needs={"before": finished.Need("training.first", holds=("cube", "n"))}
    )
    config.before = str(tmp_path / "first")
    with pytest.raises(checks.ConfigError, match="has no cube, n among its values"):
        less.resolved(config)
    config.seed = 3
    with pytest.raises(checks.ConfigError, match="not after another run"):
        run.run(config, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_an_input_that_is_not_given_may_be_optional():
    optional = inputs.ReleasedFile("a file", is_optional=True)
    config = ConfigDict({"start": "", "start_digest": ""})
    assert inputs.taken("start", optional, config) is None
    with pytest.raises(checks.ConfigError, match=r"config\.start is missing"):
        inputs.taken("start", inputs.ReleasedFile("a file"), config)
