"""The command ``advjax`` finds experiments by name, and says what is wrong."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import command, run, studies
from experiments.training import evaluation

ROOT = Path(__file__).parents[1]


def test_the_list_has_every_configuration_with_figures_size_and_time(capsys):
    assert command.main(["list"]) == 0
    printed = capsys.readouterr().out
    presets = (ROOT / "experiments").glob("*/configs/*.py")
    files = {*presets, *studies.files().values()}
    assert set(command.experiments().values()) == files
    assert len(studies.files()) > 30
    for name, file in command.experiments().items():
        title, size, time = command.description(file)
        entry = f"  {name}\n      {title}\n      Size: {size}\n      Time: {time}\n"
        assert entry in printed
        assert re.search(r"second|minute|hour", time), name


def test_a_docstring_names_its_own_experiment_and_existing_files(capsys):
    for name, file in command.experiments().items():
        assert command.main(["list", name]) == 0
        text = capsys.readouterr().out
        commands = re.findall(r"^    advjax run ([\w/]+)", text, re.MULTILINE)
        if name == "training/classifier":  # that of its configurations
            assert {file.stem for file in file.parent.glob("configs/*.py")} == {
                command.partition("/")[2] for command in commands
            }
            continue
        assert set(commands) <= {name}, name
        assert commands or name == "training/evaluation"
        for other in re.findall(r"``(\w+\.py)", text):
            assert list(file.parent.rglob(other)), (name, other)


def test_a_folder_and_a_unique_last_part_are_enough(capsys):
    assert command.main(["list", "training"]) == 0
    printed = capsys.readouterr().out
    assert "training/mnist" in printed
    assert "transition/" not in printed
    assert command.main(["list", "transition/classifier_grid:digits_l2"]) == 0
    assert "eps* of networks on images" in capsys.readouterr().out
    assert command.find("p_values") == command.experiments()["transition/p_values"]


WRONG = {
    "no such command": (
        ["rum"],
        "command 'rum': did you mean run? choose from evaluate",
    ),
    "no such experiment": (
        ["run", "tansition/scaling"],
        "experiment 'tansition/scaling': did you mean transition/scaling? advjax list",
    ),
    "one of two": (
        ["run", "networks"],
        "which one, difficulty/networks or memorization/networks?",
    ),
    "two names": (["list", "transition", "difficulty"], "one name at a time, not tr"),
    "nothing to run": (["run"], "run what? advjax list shows the experiments"),
    "variant": (["run", "p_values:smokee"], "variant 'smokee' of config: did you mean"),
    "field": (["run", "p_values", "--config.sed=1"], "config.sed: no such field; did"),
    "file": (
        ["evaluate", "none.safetensors"],
        "none.safetensors holds no released parameters",
    ),
    "nothing to evaluate": (["evaluate"], "evaluate what? give a .safetensors file"),
    "option for a file": (["evaluate", "--config.eps=0"], "evaluate what? give a"),
    "fraction": (["run", "p_values", "--config.sigma=1/0"], "config.sigma = '1/0': "),
    "help on no experiment": (["run", "tansition", "-h"], "did you mean transition/"),
    "help on no variant": (["run", "p_values:smokee", "-h"], "variant 'smokee'"),
    "help on no command": (["rum", "--help"], "command 'rum': did you mean run?"),
    "directory": (["report", "nowhere"], "nowhere holds no results.json"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_one_line_and_status_2(name, capsys, monkeypatch):
    monkeypatch.setattr(run.devices, "prepare", lambda _: None)
    arguments, words = WRONG[name]
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("advjax: error: ")
    assert words in error
    assert error.count("\n") == 1


def test_evaluate_says_what_to_give_instead(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    for name in ("results.json", "best.npz"):
        (tmp_path / "run" / name).write_text('{"results": {}}')
        assert command.main(["evaluate", f"{tmp_path}/run/{name}"]) == 2
        error = capsys.readouterr().err
        assert f"{name} is no .safetensors file: give a .safetensors file" in error
        assert error.count("\n") == 1
    for name in ("clean", "attacked", "one", "two"):
        (tmp_path / "run" / f"{name}.safetensors").touch()
    wanted = ", ".join(
        f"{tmp_path}/run/{name}.safetensors" for name in ("attacked", "clean", "one")
    )
    assert command.main(["evaluate", f"{tmp_path}/run"]) == 2
    error = capsys.readouterr().err
    assert f"run has no best.safetensors: give {wanted}, …" in error
    assert command.main(["evaluate", f"{tmp_path}/run/best.npz"]) == 2
    assert f"best.npz is no .safetensors file: give {wanted}" in capsys.readouterr().err


def test_missing_extras_are_named_before_anything_runs(capsys, monkeypatch):
    find = command.util.find_spec
    monkeypatch.setattr(
        command.util, "find_spec", lambda name: None if name == "tqdm" else find(name)
    )
    assert command.main(["run", "published"]) == 2
    assert "tqdm not found: pip install tqdm" in capsys.readouterr().err


def test_without_arguments_there_is_help(capsys):
    assert command.main([]) == 2
    assert command.main(["--help"]) == 0
    first, again = capsys.readouterr().out.split("advjax COMMAND --help", 1)
    assert "advjax list" in first
    assert "advjax list" in again
    assert command.main(["--version"]) == 0
    assert re.fullmatch(r"advjax \d+\.\d+\.\d+\n", capsys.readouterr().out)


HELP = {
    "list": ["advjax list transition/scaling", "advjax run NAME --help"],
    "run": ["advjax run transition/scaling --help", "130 and 143"],
    "run --workdir=w": ["advjax run transition/scaling --help"],
    "run digits.py": ["\n  eps_warmup_epochs  "],
    "run p_values:smoke": [
        "Figures 2 right and 3",
        "\n  num_replicates   20   ",
        "clean runs, of a data set each\n",
        "--workdir=DIRECTORY",
        "Exit status: 0 done, 1 the loss",
    ],
    "evaluate": [
        "advjax evaluate runs/mnist/best.safetensors",
        "\n  eps                None  ",
        "--workdir=DIRECTORY",
    ],
    "report": ["advjax report runs", "--output=FILE.html"],
    "redraw": ["advjax redraw runs/mine", "--to=experiments/results"],
}


@pytest.mark.parametrize("command_line", HELP)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_of_the_command(command_line, flag, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.py").write_bytes(
        command.experiments()["transition/classifier_grid"].read_bytes()
    )
    assert command.main([*command_line.split(), flag]) == 0
    text = capsys.readouterr().out
    for words in HELP[command_line]:
        assert words in text


def test_modules_give_the_same_help_as_commands(capsys):
    config = f"--config={command.experiments()['transition/p_values']}:smoke"
    for module, argv, same in (
        (run, ["--help"], ["run", "--help"]),
        (run, [config, "-h"], ["run", "p_values:smoke", "-h"]),
        (evaluation, ["--help"], ["evaluate", "--help"]),
    ):
        assert module.main(argv) == 0
        text = capsys.readouterr().out
        assert command.main(same) == 0
        assert capsys.readouterr().out.strip() == text.strip()


def test_arguments_reach_what_they_are_for(monkeypatch):
    given = []
    for module in (run, evaluation):
        monkeypatch.setattr(module, "main", lambda argv, **_: given.append(argv) or 0)
    digits = command.experiments()["transition/classifier_grid"]
    own = "mine.py"
    for argv in (
        ["run", "transition/classifier_grid:digits_l2,demo", "--config.seed=1"],
        ["run", own],
        ["run", f"--config={own}"],
        ["evaluate", "best.safetensors"],
    ):
        assert command.main(argv) == 0
    assert given == [
        [f"--config={digits}:digits_l2,demo", "--config.seed=1"],
        [f"--config={own}"],
        [f"--config={own}"],
        ["best.safetensors"],
    ]


def test_the_installed_command_runs_from_any_directory(tmp_path):
    script = Path(sys.executable).with_name("advjax")
    done = subprocess.run(
        [script, "run", "transition/published", "--workdir=w"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "rows of Table 3 that follow" in done.stdout
    assert (tmp_path / "w" / "results.json").exists()
