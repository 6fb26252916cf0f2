"""Every field has a meaning, and its values are typed as the help shows them."""

import re
import subprocess
import sys

import pytest

from experiments import checks, command, fields, run, studies, usage
from experiments.study import Study

CONFIGS = {
    name: run.parse(["run", f"--config={file}"])[0]
    for name, file in command.experiments().items()
}
EVALUATION = f"--config={command.experiments()['training/evaluation']}"


def test_every_field_has_a_short_meaning():
    for name in studies.names():
        for field, declared in studies.find(name).all_fields().items():
            assert 0 < len(declared.meaning) < 80, (name, field)
            assert "\n" not in declared.meaning
            assert not declared.meaning.endswith("."), (name, field)


@pytest.mark.parametrize("name", studies.names())
def test_defaults_and_variants_pass_their_own_checks(name):
    study = studies.find(name)
    for group in study.variants:
        for word in group:
            try:
                config = study.config(word)
            except checks.ConfigError as error:
                assert "variant" in str(error) or " is for " in str(error)  # noqa: PT017
                continue
            for field, declared in study.fields.items():
                if field in study.needs:
                    continue  # that is to be given
                assert declared.wrong(config[field]) is None, (word, field)


@pytest.mark.parametrize("name", CONFIGS)
def test_help_has_a_line_for_each_field_with_its_default(name):
    config = CONFIGS[name]
    declared = studies.find(config.experiment).all_fields()
    lines = usage.table(config)
    assert len(lines) == len(config) - 1
    for line, (field, each) in zip(lines, declared.items(), strict=True):
        found, value, text = re.fullmatch(r"  (\w+) +(\S+)  +(\S.*)", line).groups()
        assert (found, text) == (field, each.meaning)
        assert value == usage.written(config[field])
    assert "\n".join(lines) in usage.page(command.experiments()[name])


@pytest.mark.parametrize("name", CONFIGS)
def test_what_help_shows_can_be_typed(name):
    config, file = CONFIGS[name], command.experiments()[name]
    typed = {
        field: text
        for field in {*config} - {"experiment"}
        if "…" not in (text := usage.written(config[field]))
    }
    given = [f"--config.{k}={'' if v == repr('') else v}" for k, v in typed.items()]
    again, _ = run.parse(["run", f"--config={file}", *given])
    assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8 / 255, "8/255"),
        (0.5 / 255, "0.5/255"),
        (1 / 30, "1/30"),
        (4 / 3, "4/3"),
        (2**0.5, "1.4142135623730951"),
        (1e-4, "0.0001"),
        (float("inf"), "inf"),
        ("", "''"),
        ("l2", "l2"),
        (None, "None"),
        (False, "False"),
        ((), "()"),
        ((8 / 255,), "(8/255,)"),
        (("mlp", "cnn"), '("mlp","cnn")'),
        (tuple(range(5)), "(0,1,2,3,4)"),
        (tuple(range(100)), "(0,1,2,3,4,5,6,7,8,9,…)"),
        ((("xi", 0.0, 33.637, 0.724),), '(("xi",0.0,33.637,…),)'),
    ],
)
def test_values_are_short_and_exact(value, text):
    assert usage.written(value) == text


DECLARED = {
    "radius": fields.number(0.1, "a"),
    "radii": fields.numbers((0.0, 1), "b"),
    "maybe": fields.number(None, "c"),
    "knots": fields.numbers((), "d", length=0),
    "count": fields.count(3, "e"),
    "counts": fields.counts((1, 2), "f"),
    "path": fields.text("", "g"),
    "paths": fields.words((), "h", length=0),
}


@pytest.fixture
def own(monkeypatch):
    """A configuration of a study with the fields above."""
    made = Study("training.own", DECLARED, report=None)
    monkeypatch.setattr(studies, "find", lambda name: made)
    return made.config()


@pytest.mark.parametrize(
    ("field", "typed", "taken"),
    [
        ("radius", "8/255", 8 / 255),
        ("radius", " -1 / 4 ", -0.25),
        ("radius", "1e-3/2", 5e-4),
        ("radius", "1/2/2", 0.25),
        ("maybe", "8/255", 8 / 255),
        ("radii", "8/255", 8 / 255),
        ("radii", "(0,2/255,.5)", (0, 2 / 255, 0.5)),
        ("radii", "2/255,4/255", (2 / 255, 4 / 255)),
        ("knots", "(1/4,1/2)", (0.25, 0.5)),
    ],
)
def test_fractions_are_numbers(field, typed, taken, own):
    text = usage.divided(own, field, typed)
    assert eval(text) == taken  # noqa: S307, its own numbers


@pytest.mark.parametrize(
    ("field", "typed"),
    [
        ("count", "4/2"),
        ("counts", "(4/2,1)"),
        ("path", "1/2"),
        ("paths", "1/2"),
        ("radius", "1/x"),
        ("radius", "(1/2"),
        ("radius", "f()/2"),
        ("radius", "1+1"),
        ("radii", "('1'/'2',)"),
        ("radius", "0.5"),
    ],
)
def test_nothing_else_is_changed(field, typed, own):
    assert usage.divided(own, field, typed) == typed


@pytest.mark.parametrize("typed", ["8/0", "1/0.0", "1/(2/0)", f"1{400 * '0'}/3"])
def test_a_fraction_that_is_no_number_names_its_field(typed, own):
    with pytest.raises(checks.ConfigError, match=r"^config\.radius = '1?.*': .*divi"):
        usage.divided(own, "radius", typed)


def _parsed(*overrides, config=EVALUATION):
    return run.parse(["run", config, *overrides])[0]


def test_a_field_that_is_none_can_be_given():
    assert _parsed().eps is None
    assert _parsed("--config.eps=None").eps is None
    for typed, taken in (("0", 0.0), ("8/255", 8 / 255), ("2", 2.0)):
        eps = _parsed(f"--config.eps={typed}").eps
        assert (eps, type(eps)) == (taken, float)
    assert _parsed("--config.eps=0").to_dict()["eps"] == 0
    assert _parsed("--config.curve=(0,8/255)").curve == (0, 8 / 255)
    for typed in ("a", "(1,2)", "", "1/x"):
        with pytest.raises(checks.ConfigError) as raised:
            _parsed("--config.num_steps=2", f"--config.eps={typed}")
        assert str(raised.value) == (
            f"config.eps = {typed!r}: give a value of type float"
        )


def test_a_directory_may_look_like_a_fraction():
    file = command.experiments()["transition/comparison"]
    config = _parsed("--config.grids=1/2", config=f"--config={file}")
    assert config.grids == ("1/2",)


REFUSED = [
    (fields.count(1, "a", most=5), (0, 6, 1.5, True, "1", (1,), None)),
    (
        fields.counts((1,), "a", length=2, longest=3),
        ((), (1,), (1, 2, 3, 4), 1, (1, "2")),
    ),
    (fields.counts((1, 2), "a", increasing=True), ((2, 1), (1, 1))),
    (fields.number(1, "a", above=0, most=2), (0, 2.1, float("nan"), float("inf"), "1")),
    (fields.number(None, "a"), (-1, "1", (1.0,))),
    (fields.numbers((0,), "a", first=0), ((), (0.1,), (0, -1), (0, "a"), 0.0)),
    (fields.one_of("a", "b", ("a", "c")), ("b", "", None, 1)),
    (fields.words((), "a", ("b", "c"), length=1), ((), ("b", "b"), ("d",), "b")),
    (fields.switch("a", default=True), (1, "True", None)),
    (fields.seed(), (-1, 2**31, 0.5)),
]


@pytest.mark.parametrize(
    ("field", "value"), [(f, value) for f, values in REFUSED for value in values]
)
def test_a_wrong_value_is_refused_with_what_to_choose(field, value):
    reason = field.wrong(value)
    assert reason
    with pytest.raises(checks.ConfigError) as raised:
        field.check("name", value)
    assert str(raised.value) == f"config.name = {value!r}: {reason}"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (fields.count(1, "a", least=0, most=5), 0),
        (fields.counts((1,), "a", length=0), ()),
        (fields.number(1, "a", above=0), 1e-9),
        (fields.number(1, "a", most=2), 2),
        (fields.number(None, "a"), None),
        (fields.numbers((0,), "a", increasing=True, first=0), (0, 0.1)),
        (fields.words((), "a", length=0), ("x", "y")),
    ],
)
def test_the_ends_of_a_range_are_taken(field, value):
    assert field.wrong(value) is None


def test_other_defaults_are_of_known_fields():
    changed = fields.with_defaults(DECLARED, count=4)
    assert changed["count"].default == 4
    assert DECLARED["count"].default == 3
    with pytest.raises(KeyError):
        fields.with_defaults(DECLARED, conut=4)


def test_a_configuration_of_ones_own_has_help_too(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from experiments.training import recipe\n"
        "def get_config():\n"
        "    config = recipe.defaults()\n"
        "    config.eps = (0.5,)\n"
        "    return config\n"
    )
    text = usage.help_on([f"--config={file}"])
    assert re.search(r"^  eps +\(0\.5,\) +radii", text, re.MULTILINE)
    assert usage.help_on(["--workdir=w"]) == ""
    file.write_text("")
    for name, words in ((file, "has no get_config"), ("none.py", "none.py: No such")):
        with pytest.raises(checks.ConfigError, match=words):
            usage.help_on([f"--config={name}"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list"],
        ["list", "--help"],
        ["run", "--help"],
        ["report", "--help"],
    ],
    ids=" ".join,
)
def test_help_does_not_wait_for_jax(arguments):
    code = (
        "import sys; from experiments import command; "
        f"assert command.main({arguments!r}) == 0; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
