"""Data and networks of one's own through the command line."""

import json

import folders
import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments import arrays, command, run

NETWORKS = """
import equinox as eqx
import flax.linen as nn
import jax
from flax import nnx

from advjax import models


class Linen(nn.Module):
    num_classes: int
    width: int = 4

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Dense(self.width)(x.reshape(len(x), -1)))
        return nn.Dense(self.num_classes)(nn.Dropout(0.1, deterministic=not train)(x))


class Fixed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x.reshape(len(x), -1))


class Dict(nn.Module):
    @nn.compact
    def __call__(self, x):
        return {"logits": nn.Dense(3)(x.reshape(len(x), -1))}


class Nnx(nnx.Module):
    def __init__(self, num_classes, rngs):
        self.dense = nnx.Linear(64, num_classes, rngs=rngs)

    def __call__(self, x):
        return self.dense(x.reshape(len(x), -1))


class Equinox(eqx.Module):
    dense: eqx.nn.Linear

    def __init__(self, num_classes, *, key):
        self.dense = eqx.nn.Linear(64, num_classes, key=key)

    def __call__(self, x):
        return self.dense(x.reshape(-1))


class WithIndex(eqx.Module):
    dense: eqx.nn.Linear
    idx: jax.Array

    def __init__(self, num_classes, *, key):
        self.dense = eqx.nn.Linear(64, num_classes, key=key)
        self.idx = jax.numpy.arange(64)

    def __call__(self, x):
        return self.dense(x.reshape(-1)[self.idx])


class Typo(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dens(3)(x)


def plain(num_classes):
    init = lambda key, x: 0.1 * jax.random.normal(key, (64, num_classes))
    return models.from_function(init, lambda w, x: x.reshape(len(x), -1) @ w)


def no_model(num_classes):
    return plain


number = 3
"""
SMALL = [
    "--config.num_seeds=1",
    *("--config.augment=False", "--config.num_epochs=4", "--config.batch_size=10"),
    *("--config.test_batch_size=10", "--config.num_steps=2", "--config.eps=(0.1,)"),
    *("--config.test_num_steps=2", "--config.learning_rate=0.02"),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A directory with digits 0 to 2 in a file, and with networks."""
    path = tmp_path_factory.mktemp("own")
    x, y = load_digits(n_class=3, return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    split = {"x_train": x[:40], "y_train": y[:40], "x_test": x[40:60]}
    np.savez(path / "mine.npz", **split, y_test=y[40:60])
    (path / "nets.py").write_text(NETWORKS)
    return path


@pytest.fixture(autouse=True)
def here(written, monkeypatch):
    # The backend of other tests has its devices already.
    monkeypatch.setattr(run.devices, "prepare", lambda _: None)
    monkeypatch.chdir(written)
    return written


def _run(*words):
    assert command.main(["run", "training/digits", *SMALL, *words]) == 0


def _values(path):
    return arrays.restored(json.loads((path / "results.json").read_text())["results"])


def _refused(capsys, *words):
    capsys.readouterr()
    assert command.main([*words]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_own_data_are_trained_on_evaluated_and_reported(tmp_path):
    mine = "--config.dataset=mine.npz"
    _run(mine, f"--workdir={tmp_path}/train")
    values = _values(tmp_path / "train")
    assert (values.attrs["num_train"], values.attrs["num_test"]) == (40, 20)
    config = json.loads((tmp_path / "train/results.json").read_text())["config"]
    assert len(config["dataset_digest"]) == 12
    small = ["--config.num_steps=2", "--config.num_restarts=1"]
    evaluated = [*small, f"--workdir={tmp_path}/evaluated"]
    assert command.main(["evaluate", f"{tmp_path}/train", *evaluated]) == 0
    assert _values(tmp_path / "evaluated").attrs["dataset"] == "mine.npz"
    grid = ["transition/classifier_grid:digits,smoke", mine, "--config.num_train=0"]
    grid += ["--config.num_test=0", f"--workdir={tmp_path}/grid"]
    assert command.main(["run", *grid]) == 0
    started = ["transition/fine_tuning:digits,smoke", f"--config.grid={tmp_path}/grid"]
    started += [mine, f"--workdir={tmp_path}/tuned"]
    assert command.main(["run", *started]) == 0
    assert command.main(["report", str(tmp_path)]) == 0
    assert "mine.npz" in (tmp_path / "report.html").read_text()


def test_other_data_under_the_same_name_are_refused(
    here, tmp_path, capsys, monkeypatch
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    content = dict(np.load(here / "mine.npz"))
    np.savez(elsewhere / "mine.npz", **content)
    monkeypatch.chdir(elsewhere)
    words = ["run", "training/digits", *SMALL, "--config.dataset=mine.npz"]
    words += [f"--workdir={tmp_path}/run"]
    assert command.main(words) == 0
    content["y_test"] = content["y_test"][::-1]
    np.savez("mine.npz", **content)
    assert "config.dataset_digest is" in _refused(capsys, *words)
    evaluate = ["evaluate", f"{tmp_path}/run", f"--workdir={tmp_path}/evaluated"]
    assert "config.dataset_digest = " in _refused(capsys, *evaluate)
    monkeypatch.chdir(tmp_path)
    assert "there is no such file" in _refused(capsys, *evaluate)
    where = [f"--config.data_dir={here}", "--config.num_steps=2"]
    assert command.main([*evaluate, *where, "--config.num_restarts=1"]) == 0


def test_any_prepared_images_are_trained_on(tmp_path, capsys):
    splits = {"train": folders.random("garments", 40, 0)}
    splits["test"] = folders.random("garments", 20, 1)
    folder = folders.prepare(tmp_path, "garments", splits)
    data_dir = [f"--config.data_dir={tmp_path}", "--config.dataset=garments"]
    _run(*data_dir, f"--workdir={tmp_path}/run")
    assert _values(tmp_path / "run").attrs["num_train"] == 40
    words = ["run", "training/digits", *SMALL, *data_dir, f"--workdir={tmp_path}/run"]
    # A folder within is none of the data's.
    (folder / "notes").mkdir()
    assert command.main(words) == 0
    shard = next(folder.glob("garments-test*"))
    shard.write_bytes(shard.read_bytes()[::-1])
    assert "config.dataset_digest is" in _refused(capsys, *words)


@pytest.mark.parametrize("name", ["Linen", "Fixed", "Nnx", "Equinox", "plain"])
def test_own_networks_are_trained_and_evaluated(name, tmp_path, capsys):
    chosen = f"--config.model=nets:{name}"
    _run("--config.dataset=mine.npz", chosen, f"--workdir={tmp_path}/run")
    trained = _values(tmp_path / "run").squeeze()
    assert trained["loss"][-1] < trained["loss"][0] < 3
    small = ["--config.num_steps=2", "--config.num_restarts=1"]
    evaluate = ["evaluate", f"{tmp_path}/run", *small, f"--workdir={tmp_path}/out"]
    # No file chooses which code runs.
    assert f"give {chosen}" in _refused(capsys, *evaluate)
    assert command.main([*evaluate, chosen]) == 0
    best = trained["test_accuracy"][int(trained["best_epoch"])]
    found = _values(tmp_path / "out").squeeze()
    assert float(found["clean"][0]) == pytest.approx(float(best))


def test_options_of_other_networks_are_refused(capsys):
    words = ["run", "training/digits", *SMALL, "--config.dataset=mine.npz"]
    for option in ("width=7", "hidden=(3,)", "activation=relu_softplus"):
        own = ["--config.model=nets:Linen", f"--config.{option}"]
        message = _refused(capsys, *words, *own)
        assert "an own network has its own; give '--config." in message
    bfloat = ["--config.model=nets:Linen", "--config.dtype=bfloat16"]
    assert "own networks compute as they" in _refused(capsys, *words, *bfloat)
    grid = [
        "run",
        "transition/classifier_grid:digits,smoke",
        "--config.dataset=mine.npz",
    ]
    grid += ["--config.model=nets:Linen", "--config.num_train=0"]
    assert "'--config.hidden=()'" in _refused(capsys, *grid)


def test_other_code_under_the_same_name_is_refused(tmp_path, monkeypatch, capsys):
    """Its shapes are the same, and the function is not."""
    monkeypatch.chdir(tmp_path)
    code = NETWORKS.replace("class Linen", "class Edited")
    (tmp_path / "edited.py").write_text(code)
    chosen = ["--config.model=edited:Edited", f"--workdir={tmp_path}/run"]
    words = ["run", "training/digits", *SMALL, "--config.num_train=40", *chosen]
    assert command.main(words) == 0
    (tmp_path / "edited.py").write_text(code.replace("nn.relu", "nn.tanh"))
    assert "config.model_digest is" in _refused(capsys, *words)
    evaluate = ["evaluate", f"{tmp_path}/run", "--config.model=edited:Edited"]
    message = _refused(capsys, *evaluate, f"--workdir={tmp_path}/evaluated")
    assert "config.model_digest = " in message


def test_what_files_do_not_hold_is_refused_before_training(capsys):
    words = ["run", "training/digits", *SMALL, "--config.model=nets:WithIndex"]
    message = _refused(capsys, *words, "--workdir=nothing")
    assert "idx is of int32: released files hold float32 alone" in message
    typo = ["run", "training/digits", *SMALL, "--config.model=nets:Typo"]
    assert "AttributeError: " in _refused(capsys, *typo, "--workdir=nothing")


WRONG = {
    "nets:Fixd": "no Fixd in nets: did you mean Fixed?",
    "nets:number": "no number in nets: choose from",
    "nowhere:Net": "and the environment have no module nowhere",
    "nets:": "give package.module:Name",
    "../nets:Net": "give package.module:Name",
    "nets:Dict": "Dict",
    "nets:no_model": "it returned a function: give a function that returns a",
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_networks_are_one_line(name, capsys):
    words = ["run", "training/digits", *SMALL, "--config.dataset=mine.npz"]
    message = _refused(capsys, *words, f"--config.model={name}", "--workdir=nothing")
    assert f"config.model = {name!r}" in message
    assert WRONG[name] in message


def test_too_few_outputs_are_one_line(capsys):
    words = ["run", "training/digits", *SMALL, "--config.model=nets:Fixed"]
    message = _refused(capsys, *words, "--workdir=nothing")
    assert "has shape (7, 3), and labels go up to 9: give [7, 10]" in message


def test_modules_that_fail_are_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    monkeypatch.chdir(tmp_path)
    words = ["run", "training/digits", *SMALL, "--config.model=broken:Net"]
    message = _refused(capsys, *words)
    assert "ModuleNotFoundError: No module named 'nothing_of_this_name'" in message
