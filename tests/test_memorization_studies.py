"""The studies of robust memorization."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from advjax import losses
from experiments import intervals, run
from experiments.memorization import networks, representation
from experiments.training import finished, parameters, recipe

pytestmark = pytest.mark.usefixtures("unoptimised")

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "experiments/memorization/configs"


def _results(arguments, path):
    assert run.main([*arguments, f"--workdir={path}"]) == 0
    return json.loads((path / "results.json").read_text())["results"]


def _family(path):
    return networks.Networks(
        *finished.read("networks", str(path), "memorization.networks", "")
    )


def test_networks_are_kept_at_the_epochs_asked_for(memorizers):
    family = _family(memorizers)
    assert family.config.kept_epochs == (1, 2)
    for training in networks.TRAININGS:
        last, second = family.of(training), family.of(training, 2)
        jax.tree.map(np.testing.assert_array_equal, last, second)
        first = jax.tree.leaves(family.of(training, 1)[0])
        pairs = zip(first, jax.tree.leaves(last[0]), strict=True)
        assert any((a != b).any() for a, b in pairs)
        about = parameters.read(memorizers / f"{training}-epoch-1.safetensors").about
        assert about["epoch"] == [0, 0]
    assert len(family.images("train").y) == 60
    assert len(family.images("test", 5).y) == 5


def test_the_table_has_the_accuracies_of_the_last_networks(memorizers):
    family = _family(memorizers)
    cells = family.results["accuracies"]["standard"]
    assert set(cells) == set(networks.CELLS)
    model = recipe.network(family.config)
    test = family.images("test")
    for network, cell in zip(family.of("standard"), cells["clean test"], strict=True):
        logits = model.predict(*network, test.x)
        expected = 100 * np.mean(np.argmax(logits, axis=1) == test.y)
        np.testing.assert_allclose(cell, expected, atol=1e-9)
    for split in ("train", "test"):
        robust, clean = (
            np.array(cells[f"{kind} {split}"]) for kind in ("robust", "clean")
        )
        assert (robust <= clean).all()


def test_profiles_start_at_the_gradient_of_the_image_and_do_not_fall(
    memorizers, tmp_path
):
    arguments = [f"--config={CONFIGS}/robust_memorization.py:smoke"]
    arguments += [f"--config.networks={memorizers}"]
    found = _results(arguments, tmp_path / "w")
    family = _family(memorizers)
    model, images = recipe.network(family.config), family.images("train", 10)
    for training, curves in found["curves"].items():
        gradient, rise = (np.array(curves[kind]) for kind in ("gradient", "rise"))
        assert (np.diff(gradient, axis=1) >= 0).all()
        assert (np.diff(rise, axis=1) > 0).all()
        np.testing.assert_array_equal(rise[:, 0], 0)
        for i, network in enumerate(family.of(training)):
            slopes = jax.grad(
                lambda x, network=network: jnp.sum(
                    losses.cross_entropy(model.predict(*network, x), images.y)
                )
            )(images.x)
            expected = np.abs(slopes).sum(axis=(1, 2, 3)).mean()
            np.testing.assert_allclose(gradient[i, 0], expected, rtol=1e-4)
    # Beyond the cube of images there is more to find.
    beyond = _results([*arguments, "--config.bounded=False"], tmp_path / "beyond")
    for training, curves in found["curves"].items():
        more = np.array(beyond["curves"][training]["rise"])
        assert (more[:, 1:] >= np.array(curves["rise"])[:, 1:]).all()


def test_the_gap_is_that_of_the_learning_process(learning, tmp_path):
    arguments = [f"--config={CONFIGS}/generalization_gap.py"]
    arguments += [f"--config.learning={learning}"]
    numbers = _results(arguments, tmp_path / "w")["numbers"]
    results = json.loads((learning / "results.json").read_text())["results"]
    curves = jax.tree.map(
        np.array, results["curves"], is_leaf=lambda v: type(v) is list
    )
    train, test = curves["train"], curves["test"]
    at = 1  # of the radii 0, 1, 2
    np.testing.assert_allclose(numbers["global flatness"], test["gradient"][..., at])
    gap = test["loss"][..., at] - train["loss"][..., at]
    np.testing.assert_allclose(numbers["gap in loss"], gap, atol=1e-9)
    assert (test["error"][..., at] >= test["error"][..., 0]).all()
    np.testing.assert_allclose(numbers["factor"], 60 ** (-1 / 66))
    # To first order an attack raises the loss by δ ‖∇ₓL‖₁; the box takes some of it.
    ratio = np.array(numbers["rise over first order"])
    assert ((ratio > 0.3) & (ratio < 1.5)).all()


def test_theorems_4_1_and_4_2_hold_on_separable_data(tmp_path):
    arguments = [f"--config={CONFIGS}/separable.py:smoke"]
    found = _results(arguments, tmp_path / "w")
    assert min(found["cosine"]) > 0.98
    errors = found["errors"]
    assert max(errors["robust training error, certified at most"]) == 0
    assert max(errors["clean test error, small margin"]) == 0
    assert min(errors["robust test error, small margin, at least"]) == 1
    assert max(errors["robust test error, large margin, at most"]) == 0


def test_f_adv_keeps_its_promises_on_images(memorizers, tmp_path):
    arguments = [f"--config={CONFIGS}/representation.py:smoke"]
    arguments += [f"--config.networks={memorizers}"]
    results = _results(arguments, tmp_path / "w")
    found, percent = results["found"], results["found"]["percent"]
    assert max(percent["robust training error, f_adv"]) == 0
    assert max(percent["robust training error, points memorised for"]) == 0
    assert min(percent["small margins, μ"]) > 0
    assert percent["clean test error, f_adv"] == percent["clean test error, f_clean"]
    assert min(percent["robust test error, f_adv"]) > 0
    assert min(found["separation"]) > 0.2
    for name in ("products", "gates"):
        assert max(found[name]["error off shells"]) < 1e-3
        assert max(found[name]["error on shells"]) > 0.1
        assert min(found[name]["points on shells"]) > 0
    relu = found["relu"]
    assert max(relu["robust training error"]) == 0
    assert relu["clean test error"] == percent["clean test error, f_clean"]
    assert min(relu["robust test error"]) > 0
    pairs = zip(found["products"]["parameters"], results["bounds"], strict=True)
    assert all(count <= bound for count, bound in pairs)
    assert "above 2δ = 0.200 (f_adv) and above 2.5δ" in results["summary"][1]
    assert "NOT above 2δ" in representation._condition(
        ConfigDict({"shell": 1.5}), 0.1, 0.19
    )


@pytest.mark.parametrize(
    ("config", "argument", "message"),
    [
        ("networks", "kept_epochs=(1,3)", "kept_epochs"),
        ("networks", "eps=(0.1,0.2)", "give one radius"),
        ("networks", "num_measured=61", "num_measured"),
        ("robust_memorization", "networks=nowhere", "trained networks, see"),
        ("robust_memorization", "radii=(0.0,0.5)", "have 1 among them"),
        ("learning_process", "num_images=61", "num_images = 61"),
        ("representation", "shell=1.0", "above 1"),
        ("generalization_gap", "learning=nowhere", "learning_process.py"),
        ("separable", "small_share=1.5", "at most 1"),
    ],
)
def test_wrong_input_is_one_line(
    config, argument, message, memorizers, tmp_path, capsys
):
    arguments = [f"--config={CONFIGS}/{config}.py:smoke"]
    if config in ("robust_memorization", "learning_process", "representation"):
        arguments += [f"--config.networks={memorizers}"]
    arguments += [f"--config.{argument}", f"--workdir={tmp_path}/w"]
    assert run.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_ratios_of_what_is_not_positive_are_nan():
    found = intervals.geometric(np.array([2.0, 8.0]), np.array([1.0, 1.0]))
    np.testing.assert_allclose(found.mean, 4)
    assert found.low < 2 < 8 < found.high
    assert np.isnan(intervals.geometric(np.array([1.0, 0.0]), np.ones(2)).mean)
    quotient = intervals.quotient(np.array([1.0, 1.0]), np.array([2.0, 0.0]))
    np.testing.assert_array_equal(quotient, [0.5, np.nan])
