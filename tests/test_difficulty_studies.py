"""The studies of perturbations, influence and oscillation."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from advjax import data
from experiments import arrays, batches, intervals, run
from experiments.difficulty import (
    closed_form,
    growth,
    influential,
    networks,
    oscillation,
    reports,
)
from experiments.training import recipe

STUDIES = Path(__file__).parents[1] / "experiments/difficulty"


def _values(arguments, path):
    assert run.main([*arguments, f"--workdir={path}"]) == 0
    return arrays.restored(json.loads((path / "results.json").read_text())["results"])


def test_tables_1_and_2_are_those_that_were_printed():
    kappa, kappa_prime = map(reports.printed_errors, ("kappa", "kappa_prime"))
    assert len(kappa) == len(kappa_prime) == 10
    assert kappa["mlp3"] == 1.5e-5
    assert kappa_prime["rescnn10"] == 1.9e-4
    assert reports.shown(None) == "–"
    assert reports.printed_span("kappa", ["mlp3", "mine"]) == "1.5e-05"
    assert reports.printed_span("kappa", ["mine"]) == ""


def test_spans_show_what_is_missing():
    assert reports.span(xr.DataArray([1.0, 3.0, 2.0]), ".0f") == "1 to 3"
    assert reports.span(xr.DataArray([1.0, 1.0]), ".0f") == "1"
    assert reports.span(xr.DataArray([1.0, np.nan]), ".0f") == "nan"


def test_parts_of_a_batch_are_joined():
    def function(x, y):
        assert len(x) == len(y) <= 2
        return {"sum": x + y, "twice": np.stack([x, 2 * x])}

    x, y = np.arange(5.0), np.ones(5)
    np.testing.assert_array_equal(
        batches.in_batches(lambda *each: function(*each)["sum"], 2, x, y), x + 1
    )
    found = batches.in_batches(lambda *each: function(*each)["twice"], 2, x, y, axis=1)
    np.testing.assert_array_equal(found, [x, 2 * x])


@pytest.mark.slow
def test_kappa_falls_with_steps_and_rises_with_strength(families, tmp_path):
    arguments = [f"--config={STUDIES}/closed_form.py:smoke"]
    arguments += [f"--config.networks={families['clean']}"]
    arguments += ["--config.num_steps=(10,20,1000)", "--config.horizons=(0.001,0.01)"]
    found = _values(arguments, tmp_path / "w")
    kappa = found["kappa"]
    assert (kappa.sel(strength=0.001, num_steps=1000) < 1e-3).all()
    np.testing.assert_allclose(closed_form.halving(kappa), 2, rtol=0.1)
    assert (kappa.sel(strength=0.01) > kappa.sel(strength=0.001)).all()
    # Where the image is black the gates of a CNN without biases are on their kink, and
    # open with the first step, however small: no such limit there.
    angles = found["mismatch"].sel(attack="l2", strength=0.001)
    assert angles.sel(network="mlp3") < 1e-4
    on_kinks = float(angles.sel(network="cnn3"))
    assert on_kinks > 1e-3
    arguments += ["--config.models=('cnn3',)", "--config.noise=0.05"]
    moved = _values(arguments, tmp_path / "noise")["mismatch"]
    assert moved.sel(attack="l2", strength=0.001, network="cnn3") < 0.1 * on_kinks


def test_orders_in_steps_and_strength_are_read_off():
    strength, steps = np.array([0.1, 0.3, 1.0]), np.array([10, 30])
    kappa = xr.DataArray(
        5 * strength[:, None] ** 1.7 / steps**2.0,
        {"strength": strength, "num_steps": steps},
    )
    np.testing.assert_allclose(closed_form.halving(kappa), 4.0)
    np.testing.assert_allclose(closed_form.order(kappa), 1.7)
    assert np.isnan(closed_form.order(kappa[:1]))


@pytest.mark.slow
def test_theorems_3_to_5_hold_on_trained_networks(families, tmp_path):
    arguments = [f"--config={STUDIES}/weight_effects.py:smoke"]
    arguments += [f"--config.networks={families['adversarial']}"]
    arguments += ["--config.num_steps=1000", "--config.horizons=(0.0001,)"]
    errors = _values(arguments, tmp_path / "w")["relative_error"].sel(bound="mean")
    assert list(errors["theorem"]) == [f"theorem {i}" for i in (3, 4, 5)]
    assert (errors < 1e-4).all()


def test_growth_is_aligned_by_the_progress_of_each_image():
    class Config:
        least_steps, num_positions = 4, 5

    steps = np.arange(30)[:, None, None]
    success = np.array([[10, 20, 3, 100, 0]])
    axes = ("step", "seed", "image")
    found = arrays.dataset(
        {
            "right": (axes, steps < success),
            "delta": (axes, np.exp(0.7 * steps / np.maximum(success, 1))),
            "grad": (axes, 2.0 * steps / np.maximum(success, 1)),
        }
    )
    aligned = growth.aligned(Config, found)
    numbers = [aligned[f"num_{kind}"] for kind in ("correct", "reached", "early")]
    assert [*map(int, numbers), int(aligned["num_never"])] == [4, 2, 1, 1]
    assert aligned["median_steps"] == 15
    expected = np.exp(0.7 * aligned["share"].values) * np.ones((2, 5))
    np.testing.assert_allclose(aligned["delta"], expected, rtol=1e-3)
    np.testing.assert_allclose(aligned["grad"][:, -1], 2.0)


def test_fits_tell_the_models_of_growth_apart():
    shares = np.linspace(0.05, 1, 20)
    curves = {
        "exponential": 0.3 * np.exp(2.5 * shares),
        "linear": 0.3 + 2.5 * shares,
        "theory": 0.3 * np.expm1(2.5 * shares),
    }
    axes = {"dims": ("image", "share"), "coords": {"share": shares}}
    for name, curve in curves.items():
        fit = growth.fitted(xr.DataArray(np.stack([curve, 2 * curve]), **axes))
        assert fit["r2"].idxmax() == name
        np.testing.assert_allclose(fit["r2"].sel(model=name), 1.0, atol=1e-6)
        assert np.sort(fit["r2"])[1] < 0.9999
        np.testing.assert_allclose(fit["curve"].sel(line="middle"), 2**0.5 * curve)
        if name == "exponential":
            np.testing.assert_allclose(fit["slope"].sel(bound="mean"), 2.5)
    none = growth.fitted(xr.DataArray(np.zeros((0, 20)), **axes))
    assert np.isnan(none.to_array()).all()


def test_cosines_are_with_the_mean_of_all():
    vectors = np.random.default_rng(0).standard_normal((6, 4))
    found = influential.cosines("w", lambda: iter(vectors))
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
    found = influential.cosines("w", lambda: iter(vectors))
    assert intervals.spearman(lengths, found["w"]).low > 0.1
    none = intervals.spearman(lengths, found["w_others"])
    assert none.low < 0 < none.high


def test_cosines_are_grouped_by_the_strength_of_images():
    class Config:
        num_groups = 2

    running = xr.DataArray([[3.0, 1.0, 2.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
    running = running.rename(dim_0="seed", dim_1="image")
    running = running.assign_coords(seed=[0, 1])
    means, errors = influential.groups(Config, running, 10 * running)
    np.testing.assert_allclose(means, [15.0, 35.0])
    np.testing.assert_allclose(errors, np.std([10, 10, 20, 20], ddof=1) / 2)


def test_ratios_of_instability_are_geometric_and_show_dead_layers():
    rng = np.random.default_rng(0)
    values = np.exp(rng.standard_normal((2, 2, 3, 4)))
    values[1, 1, 0, 2] = 0.0
    axes = ("kind", "layer", "epoch", "seed")
    instability = xr.DataArray(values, dims=axes, coords={"kind": ["ori", "adv"]})
    found = oscillation.ratios(oscillation.mean_over(instability, "epoch"))
    logs = np.log(values[1, 0] / values[0, 0]).mean(axis=0)
    expected = np.exp(intervals.student(logs))
    np.testing.assert_allclose(found.isel(layer=0), expected)
    assert np.isnan(found.isel(layer=1)).all()


def test_layers_that_a_network_lacks_are_nan():
    class Made:
        class config:  # noqa: N801
            models = ("deep", "flat")

    axes = ("eps", "epoch", "seed")
    layers = {"deep": ("Conv_0", "Dense_0"), "flat": ("Dense_0",)}
    Made.trained = {
        f"{model}-{training}": arrays.dataset(
            {name: (axes, np.full((1, 2, 3), 0.5)) for name in oscillation.ACCURACIES}
            | {
                f"{kind}/{layer}": (axes, np.full((1, 2, 3), 1.0 + i))
                for i, layer in enumerate(layers[model])
                for kind in oscillation.KINDS
            }
        )
        for model in layers
        for training in oscillation.TRAININGS
    }
    found = oscillation._values(Made, {})
    assert [*found["layer"].values] == ["Conv_0", "Dense_0"]
    flat = found["instability"].sel(network="flat")
    assert np.isnan(flat.sel(layer="Conv_0")).all()
    np.testing.assert_array_equal(flat.sel(layer="Dense_0"), 1.0)
    assert (found["accuracy_percent"] == 50).all()


def test_a_watch_measures_every_layer_of_both_kinds(key):
    part = next(iter(oscillation.parts(oscillation.get_config("smoke")).values()))
    images = data.subset(recipe.read(part, "test"), 2, seed=0)
    watch = oscillation.watch(part, images, layer_step=0.01)
    layers = [f"Dense_{i}/kernel" for i in (0, 1)]
    assert {*watch.names} == {f"{kind}/{n}" for kind in ("adv", "ori") for n in layers}
    shape = (1, *images.x.shape[1:])
    network = recipe.network(part).init(key, np.zeros(shape, np.float32))
    found = watch.measure(network, key, np.float32(0))
    assert {*found} == {*watch.names}
    for layer in layers:  # within a ball of radius 0
        np.testing.assert_allclose(found[f"adv/{layer}"], found[f"ori/{layer}"])
        assert found[f"ori/{layer}"] > 0


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

    study = f"--config={STUDIES}/closed_form.py:smoke"
    assert "no directory is given" in message(study)
    line = message(study, f"--config.networks={tmp_path}")
    assert "give the work directory of" in line
    clean = f"--config.networks={families['clean']}"
    line = message(study, clean, "--config.models=('vgg11',)")
    assert "no 'vgg11' in" in line
    assert "mlp3" in line
    line = message(study, clean, "--config.networks_digest=0")
    assert "config.networks_digest = '0'" in line
    line = message(study, clean, "--config.num_images=100000")
    assert "size = 100000" in line
    binary = f"--config.networks={families['adversarial']}"
    assert "as of clean,table" in message(study, binary)
    for name in ("weight_effects", "influential"):
        line = message(f"--config={STUDIES}/{name}.py:smoke", clean)
        assert "give those of a binary task" in line
    trained = f"--config={STUDIES}/networks.py:smoke"
    assert "one is repeated" in message(trained, "--config.models=('mlp3','mlp3')")
    assert "config.eps = (0.1, 0.2)" in message(trained, "--config.eps=(0.1,0.2)")
    fields = ("--config.positive_classes=(11,)",)
    line = message(trained, *fields, f"--workdir={tmp_path}/other")
    assert "choose distinct ones of 0, 1" in line
    assert not (tmp_path / "w" / "results.json").exists()


@pytest.mark.parametrize("variant", ["clean,table", "adversarial,deep", "clean,deep"])
def test_configurations_of_networks_are_those_of_the_paper(variant):
    config = networks.get_config(f"{variant},paper")
    expected = {
        "clean,table": set(reports.printed_errors("kappa")),
        "adversarial,deep": {"alexnet", "vgg11", "resnet50"},
        "clean,deep": {"alexnet", "vgg11", "resnet18"},
    }[variant]
    assert {*config.models} == expected
    assert (config.num_train, config.num_epochs) == (0, 20)
    assert bool(config.positive_classes) == variant.startswith("adversarial")
