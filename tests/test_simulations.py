"""What the simulated figures must show, with fewer replicates than the configs have."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import arrays, intervals, run

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture
def results(tmp_path):
    """Runs a study with overrides and returns its values."""

    def finished(config, **fields):
        name, _, variant = config.partition(":")
        paper, name = name.split("/")
        path = f"{EXPERIMENTS}/{paper}/{name}.py:{variant}"
        overrides = [f"--config.{field}={value}" for field, value in fields.items()]
        workdir = tmp_path / f"{name}-{variant}"
        assert run.main([f"--config={path}", *overrides, f"--workdir={workdir}"]) == 0
        content = json.loads((workdir / "results.json").read_text())
        return arrays.restored(content["results"])

    return finished


def mean(values, name, **place):
    """Means over replicates."""
    return values[name].sel(moment="mean", **place).values


def test_the_surrogate_calms_training_under_a_strong_attack(results):
    found = results("generalization/fluctuation", num_replicates=20)
    assert found["smallest_ratio"] > 5
    np.testing.assert_allclose(mean(found, "test_loss"), 11.05, atol=0.1)


def test_adversarial_training_interpolates_in_high_dimension(results):
    found = results("generalization/interpolation", num_replicates=20)
    half = found["train_half"]
    assert (half.sel(moment="mean") + 3 * half.sel(moment="sd") < 0.01).all()
    test = mean(found, "test_last")
    np.testing.assert_allclose(test, [10.76, 10.79, 11.02], rtol=0.02)
    ratio = mean(found, "test_over_interpolator")
    np.testing.assert_allclose(ratio, 1, rtol=1e-3)
    np.testing.assert_allclose(ratio, test / mean(found, "interpolator"), rtol=1e-4)


def test_the_plain_attack_moves_the_gradient_more_than_the_surrogate(results):
    surrogate, plain = (
        mean(
            results(f"generalization/interpolation:{variant}", num_replicates=4),
            "largest_gap",
        )
        for variant in ("", "exact")
    )
    assert surrogate[0] == plain[0] == 0
    assert surrogate[1] < surrogate[2] < plain[2] / 2


def test_low_dimension_reaches_the_optimal_risk(results):
    found = results("generalization/low_dimension", num_replicates=20)
    at = {"eps": 0.5}
    np.testing.assert_allclose(mean(found, "test_last", **at), 5.385, rtol=0.02)
    np.testing.assert_allclose(mean(found, "standard_last", **at), 1.344, rtol=0.03)
    exact = found["exact_c"].values
    assert (np.diff(exact) >= 0).all()
    # Far from the kink at the threshold 1.195 the minimisers at n = 1000 are close.
    np.testing.assert_allclose(mean(found, "measured_c")[:6], exact[:6], atol=0.012)


@pytest.mark.slow
def test_the_linear_network_ends_near_the_optimal_risk(results):
    fields = {"num_replicates": 4, "num_observations": 4, "steps_between": 500}
    found = results("generalization/two_layer", **fields)
    risk = mean(found, "test_last", network="linear")
    least = found["optimal_risk"].values
    assert (least < risk).all()
    assert (risk < 1.1 * least).all()


@pytest.mark.slow
def test_two_layer_networks_interpolate_in_high_dimension(results):
    # The last of the 100 steps is what is looked at.
    fields = {"num_replicates": 4, "num_observations": 2, "steps_between": 50}
    found = results("generalization/two_layer:high", **fields)
    assert found.sizes["network"] == 3
    assert (found["largest_share"] < 0.1).all()
    assert (mean(found, "test_last") > 1).all()


@pytest.mark.slow
def test_block_covariance_keeps_the_zeros_and_full_covariance_does_not(results):
    found = results("generalization/sparsity", num_replicates=4, num_measured=2)
    largest = found["largest_inactive"]
    assert largest.sel(design="block") < 1e-6
    assert largest.sel(design="full") > 0.1
    for name, size in (("block", 0), ("full", float(largest.sel(design="full")))):
        assert abs(mean(found, "measured_inactive", design=name) - size) < 0.02


@pytest.mark.slow
def test_lasso_is_consistent_and_beats_no_penalty(results):
    fields = {"num_replicates": 8, "n": "(100,500)"}
    found = results("generalization/lasso", **fields)
    assert all(intervals.over(gain, 8).low > 0 for gain in found["gain"])
    assert (found["largest_gap"] < 0.02).all()
    small, large = mean(found, "excess", penalty="LASSO")
    assert large < small / 2


@pytest.mark.slow
def test_the_linf_surrogate_loses_its_length_as_d_grows(results):
    fields = {"num_replicates": 2, "d": "(10,100)", "n": 300, "num_steps": 30}
    found = results("generalization/linf_sensitivity", **fields)
    linf, l2 = (mean(found, "left", norm=name, xi=0.1) for name in ("linf", "l2"))
    assert linf[1] < linf[0] - 0.1
    assert abs(l2[1] - l2[0]) < 0.02


@pytest.mark.slow
def test_corrected_moments_hold_and_the_printed_ones_do_not(results):
    found = results("transition/moments", num_replicates=1000, chunk_size=250)
    assert (abs(found["z"].sel(by="corrected")) < 4).all()
    off = found["z"].sel(by="printed", quantity="gap")
    assert off[found["n"] > found["d"]].min() > 4


@pytest.mark.slow
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
    )["exponent_95"].sel(level="1", fitted="d ≪ n")
    low, _ = found.sel(ratio="loss").values
    _, high = found.sel(ratio="trajectory").values
    assert high < 0.6 < low


@pytest.mark.slow
def test_wide_networks_approach_the_linear_model(results):
    fields = {"num_replicates": 3, "num_hidden": "(30,300)"}
    found = results("transition/wide_limit", **fields)
    assert (mean(found, "exponent") < -0.7).all()


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
    path = f"--config={EXPERIMENTS}/{paper}/{name}.py:{variant}"
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
    path = f"--config={EXPERIMENTS}/{config}.py:smoke"
    assert run.main([path, *fields, f"--workdir={tmp_path}/w"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "w").exists()
