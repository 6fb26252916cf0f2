"""The studies of perturbations, influence and oscillation."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import intervals, run
from experiments.difficulty import growth, influential, printed

pytestmark = pytest.mark.usefixtures("unoptimised")

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "experiments/difficulty/configs"


def _results(arguments, path):
    assert run.main([*arguments, f"--workdir={path}"]) == 0
    return json.loads((path / "results.json").read_text())["results"]


def test_tables_1_and_2_are_those_that_were_printed():
    kappa, kappa_prime = printed.errors("kappa"), printed.errors("kappa_prime")
    assert len(kappa) == len(kappa_prime) == 10
    assert kappa["mlp3"] == 1.5e-5
    assert kappa_prime["rescnn10"] == 1.9e-4
    assert printed.shown(None) == "–"


def test_kappa_falls_with_steps_and_rises_with_strength(families, tmp_path):
    arguments = [f"--config={CONFIGS}/closed_form.py:smoke"]
    arguments += [f"--config.networks={families['clean']}"]
    arguments += ["--config.num_steps=(10,20,1000)", "--config.horizons=(0.001,0.01)"]
    found = _results(arguments, tmp_path / "w")
    for kappa in map(np.array, found["kappa"].values()):
        assert kappa[0, -1] < 1e-3
        np.testing.assert_allclose(kappa[0, 0] / kappa[0, 1], 2, rtol=0.1)
        assert (kappa[1] > kappa[0]).all()
    # Where the image is black the gates of a CNN without biases are on their kink, and
    # open with the first step, however small: no such limit there.
    assert found["mismatch"]["mlp3"]["l2"][0] < 1e-4
    on_kinks = found["mismatch"]["cnn3"]["l2"][0]
    assert on_kinks > 1e-3
    arguments += ["--config.models=('cnn3',)", "--config.noise=0.05"]
    moved = _results(arguments, tmp_path / "noise")
    assert moved["mismatch"]["cnn3"]["l2"][0] < 0.1 * on_kinks


def test_theorems_3_to_5_hold_on_trained_networks(families, tmp_path):
    arguments = [f"--config={CONFIGS}/weight_effects.py:smoke"]
    arguments += [f"--config.networks={families['adversarial']}"]
    arguments += ["--config.num_steps=1000", "--config.horizons=(0.0001,)"]
    found = _results(arguments, tmp_path / "w")
    for errors in found["errors"].values():
        assert max(errors[f"theorem {i}"][0][0] for i in (3, 4, 5)) < 1e-4


def test_growth_is_aligned_by_the_progress_of_each_image():
    class Config:
        least_steps, num_positions = 4, 5

    steps = np.arange(30)[:, None, None]
    success = np.array([[10, 20, 3, 100, 0]])
    found = {
        "right": steps < success,
        "delta": np.exp(0.7 * steps / np.maximum(success, 1)),
        "grad": 2.0 * steps / np.maximum(success, 1),
    }
    aligned = growth._aligned(Config, found)
    assert aligned["numbers"] == {
        "correct": 4,
        "reached": 2,
        "too early": 1,
        "never": 1,
    }
    shares = aligned["shares"]
    expected = np.exp(0.7 * shares) * np.ones((2, 5))
    np.testing.assert_allclose(aligned["delta"], expected, rtol=1e-3)
    np.testing.assert_allclose(aligned["grad"][:, -1], 2.0)


def test_fits_tell_the_models_of_growth_apart():
    shares = np.linspace(0.05, 1, 20)
    curves = {
        "exponential": 0.3 * np.exp(2.5 * shares),
        "linear": 0.3 + 2.5 * shares,
        "theory": 0.3 * np.expm1(2.5 * shares),
    }
    for name, curve in curves.items():
        fit = growth._fits(shares, np.stack([curve, 2 * curve]))
        assert max(fit["r2"], key=fit["r2"].get) == name
        np.testing.assert_allclose(fit["r2"][name], 1.0, atol=1e-6)
        assert sorted(fit["r2"].values())[1] < 0.9999
        if name == "exponential":
            np.testing.assert_allclose(fit["slopes"].mean, 2.5)
    assert growth._fits(shares, np.zeros((0, 20)))["slopes"] is None


def test_cosines_are_with_the_mean_of_all():
    vectors = np.random.default_rng(0).standard_normal((6, 4))
    found = influential._cosines("w", lambda: iter(vectors), 6)
    for i, vector in enumerate(vectors):
        for name, mean in (
            ("w", vectors.mean(axis=0)),
            ("w_others", np.delete(vectors, i, axis=0).mean(axis=0)),
        ):
            cosine = vector @ mean / np.linalg.norm(vector) / np.linalg.norm(mean)
            np.testing.assert_allclose(found[name][i], cosine)
    # Among random directions length makes the one rise, and not the other.
    rng = np.random.default_rng(1)
    lengths = np.exp(rng.standard_normal(300))
    vectors = lengths[:, None] * rng.standard_normal((300, 200)) / 200**0.5
    found = influential._cosines("w", lambda: iter(vectors), 300)
    assert intervals.spearman(lengths, found["w"]).low > 0.1
    none = intervals.spearman(lengths, found["w_others"])
    assert none.low < 0 < none.high


def test_intervals_of_ratios_and_rank_correlations_cover():
    rng, inside = np.random.default_rng(0), np.zeros(3)
    for _ in range(400):
        b = rng.gamma(5.0, size=60)
        a = 0.5 * b + rng.standard_normal(60) * 0.3
        found = intervals.ratio(a, b)
        inside[0] += found.low < 0.5 < found.high
        x = rng.standard_normal((2, 60))
        for k, rho in ((1, 0.6), (2, 0.95)):
            # Of normal variables it is 6/π asin(ρ/2).
            exact = 6 / np.pi * np.arcsin(rho / 2)
            found = intervals.spearman(x[0], rho * x[0] + (1 - rho**2) ** 0.5 * x[1])
            inside[k] += found.low < exact < found.high
    assert (abs(inside / 400 - 0.95) < 0.035).all()
    assert intervals.spearman(np.arange(9.0), np.arange(9.0) ** 3).low > 0.9
    assert np.isnan(intervals.ratio([1.0], [2.0]).low)


def test_wrong_networks_are_named(families, tmp_path, capsys):
    def message(*arguments):
        assert run.main([f"--workdir={tmp_path}/w", *arguments]) == 2
        return capsys.readouterr().err

    closed_form = f"--config={CONFIGS}/closed_form.py:smoke"
    assert "no directory is given" in message(closed_form)
    assert "give the work directory of" in message(
        closed_form, f"--config.networks={tmp_path}"
    )
    clean = f"--config.networks={families['clean']}"
    line = message(closed_form, clean, "--config.models=('vgg11',)")
    assert "no 'vgg11' in" in line
    assert "mlp3" in line
    line = message(closed_form, clean, "--config.networks_digest=0")
    assert "config.networks_digest = '0'" in line
    line = message(closed_form, clean, "--config.num_images=100000")
    assert "size = 100000" in line
    binary = f"--config.networks={families['adversarial']}"
    assert "give those of clean,table" in message(closed_form, binary)
    for study in ("weight_effects", "influential"):
        line = message(f"--config={CONFIGS}/{study}.py:smoke", clean)
        assert "give those of a binary task" in line
    trained = f"--config={CONFIGS}/networks.py:smoke"
    assert "one is repeated" in message(trained, "--config.models=('mlp3','mlp3')")
    assert "give one radius" in message(trained, "--config.eps=(0.1,0.2)")
    fields = ("--config.positive_classes=(11,)", "--config.model=mlp3")
    line = message(trained, *fields, f"--workdir={tmp_path}/other")
    assert "choose distinct ones of 0, 1" in line
    assert not (tmp_path / "w" / "results.json").exists()


@pytest.mark.parametrize("variant", ["clean,table", "adversarial,deep", "clean,deep"])
def test_configurations_of_networks_are_those_of_the_paper(variant):
    config, _ = run.parse(["run", f"--config={CONFIGS}/networks.py:{variant},paper"])
    expected = {
        "clean,table": set(printed.errors("kappa")),
        "adversarial,deep": {"alexnet", "vgg11", "resnet50"},
        "clean,deep": {"alexnet", "vgg11", "resnet18"},
    }[variant]
    assert {*config.models} == expected
    assert (config.num_train, config.num_epochs) == (0, 20)
    assert bool(config.positive_classes) == variant.startswith("adversarial")
