"""The studies of robust memorization."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from ml_collections import ConfigDict

from advjax import losses
from experiments import arrays, findings, intervals, run
from experiments.finished import Finished, Networks
from experiments.memorization import (
    generalization_gap,
    learning_process,
    networks,
    representation,
    robust_memorization,
    separable,
)
from experiments.training import parameters

FOLDER = Path(networks.__file__).parent


def _values(study, path, **fields):
    """What a study finds at smoke size, and its report."""
    config = study.get_config("smoke")
    config.update({name: str(value) for name, value in fields.items()})
    content = run.run(config, path)
    return arrays.restored(content["results"]), content["results"]


@pytest.fixture(scope="module")
def family(memorizers):
    found = Finished.read("networks", str(memorizers), "memorization.networks")
    return Networks.of(found, ConfigDict())


def test_networks_are_kept_at_the_epochs_asked_for(memorizers, family):
    assert family.config.kept_epochs == (1, 2)
    for part in networks.TRAININGS:
        last, second = family.networks(part), family.networks(part, "epoch-2")
        jax.tree.map(np.testing.assert_array_equal, last, second)
        first = jax.tree.leaves(family.networks(part, "epoch-1")[0])
        pairs = zip(first, jax.tree.leaves(last[0]), strict=True)
        assert any((a != b).any() for a, b in pairs)
        about = parameters.read(memorizers / f"{part}-epoch-1.safetensors").about
        assert about["epoch"] == [0, 0]
    assert len(family.images("train").y) == 60
    assert len(family.images("test", 5).y) == 5


def test_the_table_has_the_accuracies_of_the_last_networks(family):
    model, test = family.model(), family.images("test")
    cells = family.values["clean_accuracy"].sel(training="standard", split="test")
    for network, cell in zip(family.networks("standard"), cells, strict=True):
        logits = model.predict(*network, test.x)
        expected = 100 * np.mean(np.argmax(logits, axis=1) == test.y)
        np.testing.assert_allclose(cell, expected, atol=1e-9)
    assert (family.values["robust_accuracy"] <= family.values["clean_accuracy"]).all()


def test_the_seeds_of_a_gap_are_paired_and_only_memorisers_are_judged():
    """Networks of 100 % on attacked training images, and of 80 %."""
    config = networks.get_config("cifar10,cpu")
    axes = ("training", "split", "seed")
    robust = np.array([[[100, 100, 100], [50, 47, 44]], [[1, 2, 3], [0, 1, 2]]], float)
    clean = np.array([[[100, 100, 99], [90, 90, 89]], [[99, 99, 99], [9, 8, 9]]], float)
    coords = {"training": [*networks.TRAININGS], "split": [*networks.SPLITS]}
    values = arrays.dataset(
        {"robust_accuracy": (axes, robust), "clean_accuracy": (axes, clean)},
        coords,
        num_train=5000,
    )
    gap, excess = networks.gap_findings(config, values)
    expected = intervals.student(np.array([50.0, 53, 56]))
    assert gap.interval == f"[{expected.low:+.1f}, {expected.high:+.1f}]"
    assert gap.printed == "+54.2 points"
    expected = intervals.student(np.array([40.0, 43, 46]))
    assert excess.interval == f"[{expected.low:+.1f}, {expected.high:+.1f}]"
    assert {gap.verdict, excess.verdict} == {findings.AGREES}
    poorly = values.assign(robust_accuracy=values["robust_accuracy"] - 20)
    found = networks.gap_findings(config, poorly)
    assert {each.verdict for each in found} == {findings.UNDECIDED}


def test_profiles_start_at_the_gradient_of_the_image_and_do_not_fall(
    memorizers, family, tmp_path
):
    found, _ = _values(robust_memorization, tmp_path / "w", networks=memorizers)
    gradient, rise = found["gradient"], found["rise"]
    assert (gradient.diff("radius") >= 0).all()
    assert (rise.diff("radius") > 0).all()
    np.testing.assert_array_equal(rise.sel(radius=0), 0)
    model, images = family.model(), family.images("train", 10)
    for part in networks.TRAININGS:
        for i, network in enumerate(family.networks(part)):
            slopes = jax.grad(
                lambda x, network=network: jnp.sum(
                    losses.cross_entropy(model.predict(*network, x), images.y)
                )
            )(images.x)
            expected = np.abs(slopes).sum(axis=(1, 2, 3)).mean()
            own = gradient.sel(training=part, seed=i, radius=0)
            np.testing.assert_allclose(own, expected, rtol=1e-4)
    # Beyond the cube of images there is more to find.
    config = robust_memorization.get_config("smoke")
    config.networks, config.bounded = str(memorizers), False
    beyond = arrays.restored(run.run(config, tmp_path / "beyond")["results"])
    assert (beyond["rise"].sel(radius=[1, 2]) >= rise.sel(radius=[1, 2])).all()


def test_ratios_of_gradients_are_geometric_means_over_seeds():
    gradient = np.array([[[1.0, 2, 8], [1, 4, 16]], [[1.0, 2, 4], [1, 2, 2]]])
    found = robust_memorization.ratios(
        xr.DataArray(
            gradient,
            {"training": [*networks.TRAININGS], "radius": [0.0, 1.0, 2.0]},
            ("training", "seed", "radius"),
        )
    )
    growth, over = found["growth"], found["growth_over_clean"].sel(bound="mean")
    mean = growth.sel(training="adversarial", bound="mean")
    np.testing.assert_allclose(mean, [8**0.5, 4])
    np.testing.assert_allclose(over, (2 * 4) ** 0.5)  # 4 / 2 and 4 / 1
    without = robust_memorization.ratios(
        xr.DataArray(
            gradient[..., :2],
            {"training": [*networks.TRAININGS], "radius": [0.0, 1.0]},
            ("training", "seed", "radius"),
        )
    )
    assert "growth_over_clean" not in without


def test_curves_are_judged_by_what_the_paper_says_of_the_data_set():
    axes = ("split", "radius", "bound")
    change = [[[0.5, 0.4, 0.6]], [[2.0, 1.5, 2.5]]]
    values = arrays.dataset(
        {"change": (axes, change), "num_images": (("split",), [5, 5])},
        {
            "split": [*networks.SPLITS],
            "radius": [1.0],
            "bound": ["mean", "low", "high"],
            "epoch": [1, 9],
            "seed": [0],
        },
        dataset="cifar10",
        memorised=99.0,
    )
    train, test = (learning_process.finding(values, s) for s in networks.SPLITS)
    assert (train.verdict, test.verdict) == (findings.AGREES, findings.AGREES)
    mnist = values.assign_attrs(dataset="mnist")
    assert learning_process.finding(mnist, "test").verdict == findings.CONTRADICTED
    few = mnist.assign_attrs(memorised=50.0)
    assert learning_process.finding(few, "test").verdict == findings.UNDECIDED


def test_the_gap_is_that_of_the_learning_process(learning, tmp_path):
    found, _ = _values(generalization_gap, tmp_path / "w", learning=learning)
    run_of = Finished.read("learning", str(learning), "memorization.learning_process")
    train, test = (run_of.values.sel(split=split) for split in networks.SPLITS)
    at = {"radius": 1}
    flatness = found["global_flatness"]
    np.testing.assert_allclose(flatness, test["gradient"].sel(at))
    gap = test["loss"].sel(at) - train["loss"].sel(at)
    np.testing.assert_allclose(found["loss_gap"], gap, atol=1e-9)
    assert (test["error"].sel(at) >= test["error"].sel(radius=0)).all()
    np.testing.assert_allclose(found["factor"], 60 ** (-1 / 66))
    np.testing.assert_allclose(found["bound"], 60 ** (-1 / 66) * flatness)
    # To first order an attack raises the loss by δ ‖∇ₓL‖₁; the box takes some of it.
    ratio = found["rise_over_first_order"]
    assert ((ratio > 0.3) & (ratio < 1.5)).all()


def test_theorems_4_1_and_4_2_hold_on_separable_data(tmp_path):
    found, results = _values(separable, tmp_path / "w")
    assert found["cosine"].isel(step=-1).min() > 0.98
    assert found["step"].values[-1] == 100
    assert found["robust_train_most"].max() == 0
    assert found["clean_test_small"].max() == 0
    assert found["robust_test_small_least"].min() == 1
    assert found["robust_test_large_most"].max() == 0
    verdicts = [finding["verdict"] for finding in results["findings"]]
    assert verdicts == ["undecided", "agrees", "no claim", "agrees"]


@pytest.mark.parametrize(
    ("most", "least", "verdict"),
    [
        ([0.0, 0.0], [0.0, 0.0], findings.AGREES),
        ([0.1, 0.0], [0.0, 0.0], findings.UNDECIDED),
        ([0.1, 0.0], [0.1, 0.0], findings.CONTRADICTED),
        ([np.nan, 0.0], [0.0, 0.0], findings.UNDECIDED),
    ],
)
def test_bounds_of_the_robust_training_error_decide(most, least, verdict):
    bounds = {"robust_train_most": most, "robust_train_least": least}
    values = arrays.dataset(
        {name: (("replicate",), [0.0, 0.0]) for name in separable.ERRORS}
        | {name: (("replicate",), each) for name, each in bounds.items()}
        | {"cosine": (("replicate", "step"), [[0.8, 0.9], [0.7, 0.9]])},
        {"step": [1, 2]},
    )
    report = separable.STUDY.report(separable.get_config("smoke"), values)
    assert report.findings[1].verdict == verdict
    # As large an error on small margins is no larger one; bounds do not disprove it.
    assert report.findings[3].verdict == findings.UNDECIDED


@pytest.mark.slow
def test_f_adv_keeps_its_promises_on_images(memorizers, tmp_path):
    found, results = _values(representation, tmp_path / "w", networks=memorizers)
    assert found["robust_train_error"].max() == 0
    assert found["own_train_error"].max() == 0
    assert found["small_share"].min() > 0
    assert (found["clean_test_error"] == found["clean_test_error_of_clean"]).all()
    assert found["robust_test_error"].min() > 0
    assert found["separation"].min() > 0.2
    difference = found["difference"]
    assert difference.sel(side="off").max() < 1e-3
    assert (difference.sel(side="on").max("seed") > 0.1).all()
    assert found["num_points"].sel(side="on").min() > 0
    assert found["relu_robust_train_error"].max() == 0
    assert (found["relu_clean_test_error"] == found["clean_test_error"]).all()
    assert found["relu_robust_test_error"].min() > 0
    products = found["parameters"].sel(multiplication="products")
    assert (products <= found["parameter_bound"]).all()
    conditions = [each for each in results["findings"] if each["claim"][:2] == "R:"]
    assert [each["printed"] for each in conditions] == [
        "above 2δ = 0.200",
        "above 2.5δ = 0.250",
    ]
    assert {each["verdict"] for each in conditions} == {"agrees"}
    # Balls that meet contradict it.
    config = representation.get_config("smoke")
    near = found.assign(separation=found["separation"] * 0 + 0.19)
    report = representation.STUDY.report(config, near)
    assert report.findings[0].verdict == findings.CONTRADICTED
    # What attacks find is a lower bound: none is no proof, and many are one against.
    verdicts = {}
    for error in (0.0, 5.0):
        same = xr.full_like(found["robust_train_error"], error)
        report = representation.STUDY.report(
            config, found.assign(robust_train_error=same)
        )
        verdicts[error] = report.findings[1].verdict
    assert verdicts == {0.0: findings.UNDECIDED, 5.0: findings.CONTRADICTED}


@pytest.mark.parametrize(
    ("config", "argument", "message"),
    [
        ("networks", "kept_epochs=(1,3)", "kept_epochs"),
        ("networks", "eps=(0.1,0.2)", "give 1 at most"),
        ("networks", "num_measured=61", "num_measured"),
        ("robust_memorization", "networks=nowhere", "memorization/networks"),
        ("robust_memorization", "radii=(0.0,0.5)", "have 1 among them"),
        ("learning_process", "num_images=61", "num_images = 61"),
        ("representation", "shell=1.0", "above 1"),
        ("generalization_gap", "learning=nowhere", "memorization/learning_process"),
        ("separable", "small_share=1.5", "at most 1"),
    ],
)
def test_wrong_input_is_one_line(
    config, argument, message, memorizers, tmp_path, capsys
):
    arguments = [f"--config={FOLDER}/{config}.py:smoke"]
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
