"""Runs cannot be lost, forged or misread: faults, owners, signals, untrusted files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import save

from advjax import weights
from experiments import files, ownership, provenance, run, workdir
from experiments.files import FileError
from experiments.training import evaluation
from experiments.workdir import Workdir, complete

ROOT = Path(__file__).parents[1]
CONFIG = f"--config={ROOT}/experiments/training/configs/digits.py"
SMALL = [
    f"{CONFIG}:smoke",
    *("--config.num_seeds=1", "--config.eps=(0.1,)", "--config.keep_remainder=False"),
]


def test_faults_are_survived_or_refused():
    """A few of those that CONTRIBUTING has the command for."""
    done = subprocess.run(
        [sys.executable, "tests/faults.py", "6", "0", "simulation"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no defect" in done.stdout


# --- owners ---


def _config(**fields):
    return ConfigDict({"experiment": "test", **fields}).lock()


def test_a_directory_has_one_owner(tmp_path):
    with Workdir(tmp_path / "w", _config()) as first:
        first.log(loss=1.0)
        with pytest.raises(
            FileError, match=rf"in use by process {os.getpid()} on \S+ s"
        ):
            Workdir(tmp_path / "w", _config()).__enter__()
    with Workdir(tmp_path / "w", _config()) as second:
        second.log(loss=2.0)
    assert not (tmp_path / "w" / ownership.HOLDER).exists()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; "
        "from experiments import ownership; ownership.Owner(Path(sys.argv[2])); "
        "os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", code, str(ROOT), str(tmp_path / "w")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "w" / ownership.HOLDER).exists()
    with Workdir(tmp_path / "w", _config()) as workdir:
        workdir.write_text("report.md", "fine")
        workdir.finish(summary=[])
    assert complete(tmp_path / "w")["results"] == {"summary": []}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config.batch_size=100000"],
        ["--config.model=lenet5_classic"],
        ["--config.init_from=nowhere.safetensors"],
    ],
)
def test_a_refused_command_leaves_nothing(arguments, tmp_path, capsys):
    path = tmp_path / "deep" / "w"
    assert run.main([*SMALL, *arguments, f"--workdir={path}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_cloud_paths_are_refused_by_name(capsys):
    assert run.main([*SMALL, "--workdir=gs://bucket/run"]) == 2
    assert "workdir gs:/bucket/run is a cloud path" in capsys.readouterr().err
    assert not Path("gs:").exists()


def test_parameters_of_another_network_leave_nothing_either(finished, tmp_path, capsys):
    made = finished("digits", "training/configs/digits.py:smoke")
    start = f"--config.init_from={made}/best.safetensors"
    for other in (["--config.hidden=(5,)"], ["--config.num_seeds=5"]):
        arguments = [*SMALL, start, *other, f"--workdir={tmp_path}/w"]
        assert run.main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "report.md.part", "results.json", "config.json", "stages"]
)
def test_links_in_a_directory_lead_nowhere(name, tmp_path):
    mine = tmp_path / "thesis.tex"
    mine.write_text("mine")
    with Workdir(tmp_path / "w", _config()) as workdir:
        workdir.begin()
    file = tmp_path / "w" / name
    shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
    file.symlink_to(mine)
    with pytest.raises(FileError, match="is no regular file"):
        Workdir(tmp_path / "w", _config())
    assert mine.read_text() == "mine"


def test_a_pipe_in_a_directory_is_not_waited_for(tmp_path):
    (tmp_path / "w").mkdir()
    os.mkfifo(tmp_path / "w" / "results.json")
    with pytest.raises(FileError, match="is no regular file"):
        Workdir(tmp_path / "w", _config())


def test_a_directory_that_is_begun_between_two_looks_is_that_of_the_run(
    tmp_path, monkeypatch
):
    """The first of several processes writes while another one looks."""
    path, foreign = tmp_path / "w", workdir._is_foreign

    def late(there):
        monkeypatch.setattr(workdir, "_is_foreign", foreign)
        with Workdir(path, _config()) as begun:
            begun.begin()
        return foreign(there)

    monkeypatch.setattr(workdir, "_is_foreign", late)
    Workdir(path, _config())
    assert (path / "config.json").exists()


def test_a_file_of_ones_own_is_not_taken_for_a_lock(tmp_path):
    for name in (".lock", "owner.json"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(FileError, match="holds files of something else"):
            Workdir(tmp_path, _config())
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


# --- what is stored ---


def test_a_run_goes_on_with_the_same_settings_of_jax(tmp_path):
    with Workdir(tmp_path / "w", _config()) as workdir:
        workdir.log(loss=1.0)
    before = jax.config.jax_threefry_partitionable
    jax.config.update("jax_threefry_partitionable", not before)
    try:
        with (
            Workdir(tmp_path / "w", _config()) as workdir,
            pytest.raises(FileError, match="begun with jax_threefry_partitionable ="),
        ):
            workdir.log(loss=2.0)
    finally:
        jax.config.update("jax_threefry_partitionable", before)


def test_a_run_without_the_log_of_its_starts_does_not_go_on(tmp_path):
    with Workdir(tmp_path / "w", _config()) as workdir:
        workdir.stage("one", lambda: {"a": jnp.ones(3)})
    (tmp_path / "w" / "metrics.jsonl").unlink()
    with (
        Workdir(tmp_path / "w", _config()) as workdir,
        pytest.raises(FileError, match=r"metrics\.jsonl is missing, which says how"),
    ):
        workdir.begin()


def _finished(path):
    with Workdir(path, _config()) as workdir:
        workdir.write_text("report.md", "fine")
        workdir.finish(summary=[])


FORGED = {
    "no summary": lambda c: c["results"].pop("summary"),
    "odd summary": lambda c: c["results"].update(summary=[1]),
    "no commit": lambda c: c["environment"].pop("commit"),
    "no files": lambda c: c.update(files={}),
    "odd name": lambda c: c["files"].update({"a\0b": "c"}),
    "outside": lambda c: c["files"].update({"../../etc/passwd": "c"}),
    "another run": lambda c: c["config"].update(seed=5),
}


@pytest.mark.parametrize("name", FORGED)
def test_results_that_were_signed_again_are_looked_at(name, tmp_path):
    _finished(tmp_path / "w")
    path = tmp_path / "w" / "results.json"
    content = files.unsigned(json.loads(path.read_text()))
    FORGED[name](content)
    path.write_text(files.signed(content))
    with pytest.raises(FileError):
        complete(tmp_path / "w")


def test_a_complete_run_without_its_configuration_is_named(tmp_path):
    _finished(tmp_path / "w")
    (tmp_path / "w" / "config.json").unlink()
    with pytest.raises(FileError, match=r"config\.json is missing since the run was"):
        Workdir(tmp_path / "w", _config())


def test_a_complete_run_is_looked_at_file_by_file(tmp_path):
    with Workdir(tmp_path / "w", _config()) as workdir:
        workdir.stage("one", lambda: {"a": jnp.ones(3)})
        workdir.write_text("report.md", "fine")
        workdir.finish(summary=[])
    path = tmp_path / "w"
    assert Workdir(path, _config()).results()["results"] == {"summary": []}
    for name, change in (
        ("report.md", "changed"),
        ("metrics.jsonl", None),
        ("stages/one.npz", ""),
        ("results.json", "[]"),
        ("results.json", "[" * 100_000),
    ):
        file = path / name
        before = file.read_bytes()
        file.unlink()
        if change is not None:
            file.write_text(change)
        with pytest.raises(FileError, match=rf"{Path(name).name} (is|has) "):
            Workdir(path, _config()).results()
        file.write_bytes(before)
    content = json.loads((path / "results.json").read_text())
    content["results"]["summary"] = ["forged"]
    (path / "results.json").write_text(json.dumps(content))
    with pytest.raises(FileError, match=r"results.json is damaged: it has changed"):
        Workdir(path, _config()).results()


def test_every_environment_that_had_a_part_is_listed(tmp_path, monkeypatch):
    """Four commits and two numbers of devices."""
    real = provenance.environment()
    starts = [
        real | {"commit": commit, "device": device}
        for commit, device in zip("abcda", ("1 × cpu", "8 × cpu") * 3, strict=False)
    ]
    for start in starts:
        monkeypatch.setattr(provenance, "environment", lambda start=start: start)
        with Workdir(tmp_path / "w", _config()) as workdir:
            workdir.log(loss=1.0)
            if start is starts[-1]:
                workdir.write_text("report.md", "fine")
                workdir.finish(summary=[])
            else:
                with (tmp_path / "w" / "metrics.jsonl").open("a") as file:
                    file.write('{"loss": 0.')  # as a killed process leaves it
    found = complete(tmp_path / "w")["environments"]
    assert [each["commit"] for each in found] == ["a", "b", "c", "d"]
    assert {each["device"] for each in found} == {"1 × cpu", "8 × cpu"}
    log = tmp_path / "w" / "metrics.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"commit": "b"', b'"commit": "x"'))
    with pytest.raises(
        FileError, match=r"metrics.jsonl is damaged: line \d has changed"
    ):
        provenance.starts(log)


# --- signals and pipes ---


def _started(arguments, path):
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.run", *arguments, f"--workdir={path}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_signal_stops_after_a_step_and_the_run_goes_on(tmp_path):
    arguments = [*SMALL, "--config.num_epochs=400", "--config.num_test=20"]
    process = _started(arguments, tmp_path / "w")
    while not list(tmp_path.glob("w/checkpoints/*.sha256")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 143, error
    *_, line = error.strip().splitlines()
    assert line.startswith("advjax: stopped by SIGTERM after step ")
    assert "Traceback" not in error
    step = int(line.split("after step ")[1].split(":")[0])
    numbers = (2 * step, 2 * step + 1)  # before and after the test of an epoch
    assert any((tmp_path / f"w/checkpoints/{i}.sha256").exists() for i in numbers)


def test_ctrl_c_before_the_first_step_is_one_line(tmp_path):
    process = _started(SMALL, tmp_path / "w")
    while not (tmp_path / "w" / ownership.HOLDER).exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert error.count("advjax: stopped by SIGINT") == 1


def test_an_interrupted_process_ends_before_python_takes_it_down():
    """There a compilation that was interrupted crashed jaxlib, four of eight times."""
    code = (
        "import atexit, os, signal, sys; from experiments import run\n"
        "atexit.register(os.abort)\n"
        "stop = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.exit(run.exit_status(stop, own_process=True))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 130, process.stderr
    assert process.stderr.count("stopped by SIGINT") == 1


def test_a_closed_pipe_is_quiet():
    code = "import sys; from experiments.command import main; sys.exit(main(['list']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.stdout.close()
    with process.stderr as stderr:
        assert stderr.read() == b""
    assert process.wait() in (0, 141)


# --- released parameters ---


def _about(**changes):
    about = {
        "config": {"dataset": "digits", "model": "mlp", "hidden": [8]},
        "eps": [0.1],
        "seed": [0],
        "epoch": [3],
        "commit": "abc",
    }
    return {k: v for k, v in (about | changes).items() if v is not None}


def _arrays(**changes):
    shapes = {"Dense_0": (64, 8), "Dense_1": (8, 10)}
    arrays = {}
    for name, shape in shapes.items():
        arrays[f"params/{name}/kernel"] = np.full((1, *shape), 0.1, np.float32)
        arrays[f"params/{name}/bias"] = np.zeros((1, shape[1]), np.float32)
    arrays |= {name.replace("__", "/"): value for name, value in changes.items()}
    return {name: array for name, array in arrays.items() if array is not None}


def _bytes(about=None, arrays=None, **metadata):
    about = json.dumps(_about() if about is None else about)
    arrays = _arrays() if arrays is None else arrays
    signature = {"about": about, "sha256": weights.digest(about, arrays)}
    return save(arrays, {k: v for k, v in (signature | metadata).items() if v})


KERNEL = np.full((1, 8, 10), 0.1, np.float32)
HEADER = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
HOSTILE = {
    "nothing": b"",
    "text": b"hello",
    "a pickle": b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x08evilmod\x94.",
    "half": _bytes()[:500],
    "one byte less": _bytes()[:-1],
    "one byte more": _bytes() + b"x",
    "a header of 2^60 bytes": (2**60).to_bytes(8, "little") + b"{}",
    "a header that is a list": (2).to_bytes(8, "little") + b"[]",
    "a shape beyond the file": len(
        h := HEADER.replace(b"[1]", b"[99999999999]")
    ).to_bytes(8, "little")
    + h
    + b"0000",
    "no metadata": len(HEADER).to_bytes(8, "little") + HEADER + b"0000",
    "a flipped bit": _bytes()[:-3] + bytes([_bytes()[-3] ^ 1]) + _bytes()[-2:],
    "no digest": _bytes(sha256=""),
    "another digest": _bytes(sha256="0" * 64),
    "no about": _bytes(about="", arrays=_arrays()),
    "about a list": _bytes([1, 2]),
    "about a number": _bytes(7),
    "about nothing": _bytes({}),
    "no config": _bytes(_about(config=None)),
    "config a list": _bytes(_about(config=[1])),
    "no eps": _bytes(_about(eps=None)),
    "eps a number": _bytes(_about(eps=0.1)),
    "eps of words": _bytes(_about(eps=["a"])),
    "eps nan": _bytes(_about(eps=[float("nan")])),
    "eps below zero": _bytes(_about(eps=[-1.0])),
    "eps without end": _bytes(_about(eps=[float("inf")])),
    "eps of many digits": _bytes(_about(eps=[10**400])),
    "a seed of many digits": _bytes(_about(seed=[10**4000])),
    "an epoch below zero": _bytes(_about(epoch=[-5])),
    "a field with a dot": _bytes(_about(config={"dataset": "digits", "a.b": 1})),
    "a network of very many layers": _bytes(
        _about(config={"dataset": "digits", "hidden": [1] * 3000})
    ),
    "seeds of halves": _bytes(_about(seed=[0.5])),
    "an epoch that is true": _bytes(_about(epoch=[True])),
    "two radii for one network": _bytes(_about(eps=[0.1, 0.2])),
    "nan": _bytes(arrays=_arrays(params__Dense_1__kernel=KERNEL * np.nan)),
    "infinite": _bytes(arrays=_arrays(params__Dense_1__kernel=KERNEL * np.inf)),
    "integers": _bytes(arrays=_arrays(params__Dense_1__kernel=KERNEL.astype(np.int8))),
    "booleans": _bytes(arrays=_arrays(params__Dense_1__kernel=KERNEL > 0)),
    "double precision": _bytes(
        arrays=_arrays(params__Dense_1__kernel=KERNEL.astype(np.float64))
    ),
    "half precision": _bytes(
        arrays=_arrays(params__Dense_1__kernel=KERNEL.astype(np.float16))
    ),
    "one array of two networks": _bytes(
        arrays=_arrays(params__Dense_1__kernel=KERNEL.repeat(2, axis=0))
    ),
    "a scalar": _bytes(arrays=_arrays(params__Dense_1__kernel=np.array(0.1, "f4"))),
    "no arrays": _bytes(arrays={}),
    "a missing array": _bytes(arrays=_arrays(params__Dense_1__bias=None)),
    "another array": _bytes(arrays=_arrays(params__Dense_2__kernel=KERNEL)),
    "an array beside params": _bytes(arrays=_arrays(secret=KERNEL)),
    "an array within an array": _bytes(arrays=_arrays(params__Dense_1=KERNEL)),
    "another shape": _bytes(arrays=_arrays(params__Dense_1__kernel=KERNEL[:, :, :9])),
    "an unknown data set": _bytes(_about(config={"dataset": "../../etc/passwd"})),
    "an unknown network": _bytes(_about(config={"dataset": "digits", "model": "evil"})),
    "a data set that is a list": _bytes(_about(config={"dataset": ["digits"]})),
    "a width of words": _bytes(_about(config={"dataset": "digits", "width": "8"})),
    "escape sequences": _bytes(_about(config={"dataset": "\x1b[2Jdigits"})),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_parameters_are_one_line(name, tmp_path, capsys):
    file = tmp_path / "best.safetensors"
    file.write_bytes(HOSTILE[name])
    before = sorted(tmp_path.iterdir())
    arguments = [str(file), "--config.num_test=10", f"--workdir={tmp_path}/w"]
    assert evaluation.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("advjax: error: ")
    assert error.count("\n") == 1
    assert error[:-1].isprintable()
    assert sorted(tmp_path.iterdir()) == before


def test_no_file_chooses_what_is_read(tmp_path, monkeypatch):
    """A data directory in released parameters is not looked at."""
    file = tmp_path / "best.safetensors"
    about = _about()
    about["config"] |= {"data_dir": f"{tmp_path}/evil", "init_from": "/etc/passwd"}
    file.write_bytes(_bytes(about))
    seen = []
    load = evaluation.recipe.data.load

    def loading(*args, data_dir=None, **options):
        seen.append(data_dir)
        return load(*args, data_dir=data_dir, **options)

    monkeypatch.setattr(evaluation.recipe.data, "load", loading)
    options = ["num_test=10", "num_steps=1", "num_restarts=1", "batch_size=10"]
    arguments = [f"--config.{option}" for option in options]
    assert evaluation.main([str(tmp_path), *arguments, f"--workdir={tmp_path}/w"]) == 0
    assert seen == [None]
