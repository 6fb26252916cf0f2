"""What the simulated figures must show, with fewer replicates than the configs have."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import run

pytestmark = pytest.mark.usefixtures("unoptimised")

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture
def results(tmp_path):
    """Runs a configuration with overrides and returns its results."""

    def finished(config, **fields):
        name, _, variant = config.partition(":")
        paper, name = name.split("/")
        path = f"{EXPERIMENTS}/{paper}/configs/{name}.py:{variant}"
        overrides = [f"--config.{field}={value}" for field, value in fields.items()]
        workdir = tmp_path / f"{name}-{variant}"
        assert run.main([f"--config={path}", *overrides, f"--workdir={workdir}"]) == 0
        return json.loads((workdir / "results.json").read_text())["results"]

    return finished


def test_the_surrogate_calms_training_under_a_strong_attack(results):
    found = results("generalization/fluctuation", num_replicates=20)
    assert found["ratio"]["smallest"] > 5
    assert np.allclose(found["test_loss"]["mean"], 11.05, atol=0.1)


def test_adversarial_training_interpolates_in_high_dimension(results):
    found = results("generalization/interpolation", num_replicates=20)
    half = found["training loss, step 50"]
    assert (np.array(half["mean"]) + 3 * np.array(half["sd"]) < 0.01).all()
    test = found["test loss"]["mean"]
    np.testing.assert_allclose(test, [10.76, 10.79, 11.02], rtol=0.02)
    np.testing.assert_allclose(
        test, found["test loss of the interpolator"]["mean"], rtol=1e-3
    )


def test_the_plain_attack_moves_the_gradient_more_than_the_surrogate(results):
    gaps = [
        results(f"generalization/interpolation:{variant}", num_replicates=4)
        for variant in ("", "exact")
    ]
    surrogate, plain = (gap["largest gradient gap"]["mean"] for gap in gaps)
    assert surrogate[0] == plain[0] == 0
    assert surrogate[1] < surrogate[2] < plain[2] / 2


def test_low_dimension_reaches_the_optimal_risk(results):
    found = results("generalization/low_dimension", num_replicates=20)
    np.testing.assert_allclose(found["test"]["mean"][-1], 5.385, rtol=0.02)
    np.testing.assert_allclose(found["standard"]["mean"][-1], 1.344, rtol=0.03)
    c = found["c"]
    assert (np.diff(c["closed_form"]) >= 0).all()
    # Far from the kink at the threshold 1.195 the minimisers at n = 1000 are close.
    np.testing.assert_allclose(c["mean"][:6], c["closed_form"][:6], atol=0.012)


def test_the_linear_network_ends_near_the_optimal_risk(results):
    fields = {"num_replicates": 4, "num_observations": 4, "steps_between": 500}
    found = results("generalization/two_layer", **fields)
    risk, least = np.array(found["linear"]["test"]["mean"]), found["optimal_risk"]
    assert (least < risk).all()
    assert (risk < 1.1 * np.array(least)).all()


def test_two_layer_networks_interpolate_in_high_dimension(results):
    # The last of the 100 steps is what is looked at.
    fields = {"num_replicates": 4, "num_observations": 2, "steps_between": 50}
    found = results("generalization/two_layer:high", **fields)
    for name in ("linear", "sigmoid", "relu"):
        assert (np.array(found[name]["train_share"]["largest"]) < 0.1).all()
        assert (np.array(found[name]["test"]["mean"]) > 1).all()


def test_block_covariance_keeps_the_zeros_and_full_covariance_does_not(results):
    found = results("generalization/sparsity", num_replicates=4, num_measured=2)
    assert found["block"]["largest_inactive"] < 1e-6
    assert found["full"]["largest_inactive"] > 0.1
    for name, size in (("block", 0), ("full", found["full"]["largest_inactive"])):
        mean = found[name]["measured_inactive"]["mean"]
        assert abs(mean - size) < 0.02


def test_lasso_is_consistent_and_beats_no_penalty(results):
    fields = {"num_replicates": 8, "n": "(100,500)"}
    found = results("generalization/lasso", **fields)["by_n"]
    for row in found:
        assert row["gain"]["mean"] > row["gain"]["interval_95"]
        assert row["largest_relative_gap"] < 0.02
    small, large = (row["excess"]["mean"][1] for row in found)
    assert large < small / 2


def test_the_linf_surrogate_loses_its_length_as_d_grows(results):
    fields = {"num_replicates": 2, "d": "(10,100)", "n": 300, "num_steps": 30}
    found = results("generalization/linf_sensitivity", **fields)
    linf, l2 = (np.array(found[name]["left"]["mean"])[:, -1] for name in ("linf", "l2"))
    assert linf[1] < linf[0] - 0.1
    assert abs(l2[1] - l2[0]) < 0.02


def test_corrected_moments_hold_and_the_printed_ones_do_not(results):
    found = results("transition/moments", num_replicates=1000, chunk_size=250)
    for row in found["designs"]:
        for name in ("variance", "gap"):
            assert abs(row[name]["z_corrected"]) < 4, row
    off = [row["gap"]["z_printed"] for row in found["designs"] if row["n"] > row["d"]]
    assert min(off) > 4


def test_the_two_criteria_scale_differently_where_d_is_small(results):
    small = {"small_n": "(100,500,500)", "small_d": "(5,5,20)"}
    # Other regimes are not looked at here.
    moderate = {"moderate_n": "(20,10)", "moderate_d": "(10,15)"}
    large = {"large_n": "(5,5)", "large_d": "(50,100)"}
    found = results(
        "transition/scaling",
        num_replicates=60,
        num_points=9,
        num_resamples=200,
        **small,
        **moderate,
        **large,
    )["exponents"]
    low, _ = found["loss reaches 1, d ≪ n"]["interval_95"]
    _, high = found["trajectory reaches 1, d ≪ n"]["interval_95"]
    assert high < 0.6 < low


def test_wide_networks_approach_the_linear_model(results):
    fields = {"num_replicates": 3, "num_hidden": "(30,300)"}
    found = results("transition/wide_limit", **fields)
    assert (np.array(found["exponent"]["mean"]) < -0.7).all()


DIVERGING = {
    "generalization/interpolation:smoke": {"step_size": 1.0},
    "generalization/low_dimension:smoke": {"step_size": 10.0},
    "generalization/two_layer:smoke": {"step_size_linear": 1e4},
    "transition/wide_limit:smoke": {"linear_step_size": 1e9},
}


@pytest.mark.parametrize("config", DIVERGING)
def test_a_step_size_that_diverges_is_one_clear_line(config, tmp_path, capsys):
    name, _, variant = config.partition(":")
    paper, name = name.split("/")
    path = f"--config={EXPERIMENTS}/{paper}/configs/{name}.py:{variant}"
    fields = [f"--config.{field}={value}" for field, value in DIVERGING[config].items()]
    assert run.main([path, *fields, f"--workdir={tmp_path}/w"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("advjax: stopped: the loss of ")
    assert error.count("\n") == 1


WRONG = {
    "transition/moments": (["--config.d=(3,6)"], "d = 6 is within [n - 1, n + 1]"),
    "transition/scaling": (
        ["--config.moderate_d=(20,15)"],
        "config.moderate_d: d = 20 is within [n - 1, n + 1], n = 20",
    ),
    "generalization/sparsity": (["--config.rho=1.0"], "config.rho = 1.0"),
    "generalization/lasso": (["--config.n=(40,20)"], "give increasing numbers"),
    "generalization/interpolation": (["--config.num_active=101"], "at most 100"),
    "generalization/two_layer": (["--config.step_size_relu=0.0"], "step_size_relu"),
}


@pytest.mark.parametrize("config", WRONG)
def test_wrong_designs_are_one_clear_line_and_write_nothing(config, tmp_path, capsys):
    fields, words = WRONG[config]
    path = f"--config={EXPERIMENTS}/{config.replace('/', '/configs/')}.py:smoke"
    assert run.main([path, *fields, f"--workdir={tmp_path}/w"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "w").exists()
