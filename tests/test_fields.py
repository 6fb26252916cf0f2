"""Every field has a meaning, and its values are typed as the help shows them."""

import re
import subprocess
import sys

import pytest
from ml_collections import ConfigDict, config_dict

from experiments import checks, command, fields, run

CONFIGS = {
    name: run.parse(["run", f"--config={file}"])[0]
    for name, file in command.experiments().items()
}
EVALUATION = f"--config={command.experiments()['training/evaluation']}"


def test_every_field_has_a_meaning_and_no_meaning_is_left_over():
    used = set()
    for name, config in CONFIGS.items():
        study = config.experiment.replace(".", "/")
        for field in {*config} - {"experiment"}:
            assert fields.meaning(config, field), (name, field)
            special = f"{study}.{field}"
            used.add(special if special in fields.MEANINGS else field)
    assert used == {*fields.MEANINGS}
    for key, text in fields.MEANINGS.items():
        assert len(text) < 70, key
        assert "\n" not in text
        assert not text.endswith("."), key


@pytest.mark.parametrize("name", CONFIGS)
def test_help_has_a_line_for_each_field_with_its_default(name):
    config = CONFIGS[name]
    lines = fields.table(config)
    assert len(lines) == len(config) - 1
    for line in lines:
        field, value, text = re.fullmatch(r"  (\w+) +(\S+)  +(\S.*)", line).groups()
        assert value == fields.written(config[field])
        assert text == fields.meaning(config, field)
    assert "\n".join(lines) in fields.page(command.experiments()[name])


@pytest.mark.parametrize("name", CONFIGS)
def test_what_help_shows_can_be_typed(name):
    config, file = CONFIGS[name], command.experiments()[name]
    typed = {
        field: text
        for field in {*config} - {"experiment"}
        if "…" not in (text := fields.written(config[field]))
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
    assert fields.written(value) == text


def _config():
    return ConfigDict(
        {
            "radius": 0.1,
            "radii": (0.0, 1),
            "maybe": config_dict.placeholder(float),
            "schedule_knots": (),
            "count": 3,
            "counts": (1, 2),
            "path": "",
            "paths": (),
        }
    )


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
        ("schedule_knots", "(1/4,1/2)", (0.25, 0.5)),
    ],
)
def test_fractions_are_numbers(field, typed, taken):
    text = fields.divided(_config(), field, typed)
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
def test_nothing_else_is_changed(field, typed):
    assert fields.divided(_config(), field, typed) == typed


@pytest.mark.parametrize("typed", ["8/0", "1/0.0", "1/(2/0)", f"1{400 * '0'}/3"])
def test_a_fraction_that_is_no_number_names_its_field(typed):
    with pytest.raises(checks.ConfigError, match=r"^config\.radius = '1?.*': .*divi"):
        fields.divided(_config(), "radius", typed)


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


def test_a_configuration_of_ones_own_has_help_too(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'eps': 0.5, 'mine': (1, 2)})\n"
    )
    text = fields.help_on([f"--config={file}"])
    assert re.search(r"^  eps +0\.5 +radii", text, re.MULTILINE)
    assert re.search(r"^  mine +\(1,2\)$", text, re.MULTILINE)
    assert fields.help_on(["--workdir=w"]) == ""
    file.write_text("")
    for name, words in ((file, "has no get_config"), ("none.py", "none.py: No such")):
        with pytest.raises(checks.ConfigError, match=words):
            fields.help_on([f"--config={name}"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list"],
        ["list", "--help"],
        ["run", "--help"],
        ["run", "transition/digits:l2", "--help"],
        ["evaluate", "--help"],
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
