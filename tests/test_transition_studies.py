"""eps* of networks: the configurations of all published rows, and what is read off."""

import csv
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from advjax import curves
from experiments import checks, run
from experiments.training import checkpoints, recipe
from experiments.transition import (
    catastrophic,
    classifier_grid,
    comparison,
    connectivity,
    overfitting,
    paths,
    published,
)

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "experiments" / "transition" / "configs"


def _module(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ROWS = _module("classifier_grid")


@pytest.mark.parametrize("row", ROWS.ROWS)
def test_every_row_is_valid_at_every_size(row):
    for size in ROWS.SIZES:
        if size == "cpu" and not row.startswith("mnist"):
            with pytest.raises(checks.ConfigError, match="MNIST only"):
                ROWS.get_config(f"{row},{size}")
            continue
        config = ROWS.get_config(f"{row},{size}")
        classifier_grid.validate(config)
        assert config.eps[0] == 0
    full = ROWS.get_config(row)
    assert full.num_epochs == 200 or full.dataset in ("mnist", "digits")


def _table(name):
    with (published.TABLES / f"phase_transition_table_{name}.csv").open() as file:
        return list(csv.DictReader(file))


def _printed():
    """(row of ROWS, radius in 1/255, n) of every printed loss."""
    by_batch = {"128": "", "256": "_256"}
    for line in _table("b2_cifar10_preactresnet18"):
        size = "_10k" if line["n"] == "10000" else by_batch[line["batch_size"]]
        norm = "_l2" if line["norm"] == "l2" else ""
        yield f"cifar10{size}{norm}", line["eps_255"], line["n"]
    for line in _table("1_cifar10_preactresnet18"):
        yield "cifar10", line["eps_255"], "50000"
    for line in _table("b3_cifar100_svhn_preactresnet18"):
        size = "_25k" if line["n"] == "25000" else ""
        name = line["dataset"].removesuffix("_cropped") + size
        yield name, line["eps_255"], line["n"]
    for line in _table("b4_cifar10_wideresnet34"):
        yield f"wrn34_{line['width']}", line["eps_255"], "50000"
    for line in _table("b5_cifar10_adam_mart_trades"):
        yield line["name"], line["eps_255"], "50000"


def test_every_printed_loss_has_its_radius_in_a_configuration():
    for row, radius, n in _printed():
        config = ROWS.get_config(row)
        assert np.isclose(config.eps, float(radius) / 255).any(), (row, radius)
        assert config.num_train == int(n)


def test_every_printed_eps_star_has_its_configuration():
    found = {}
    for row in ROWS.ROWS:
        config = ROWS.get_config(row)
        if config.printed_eps_star:
            key = (config.dataset, config.num_train, config.norm)
            found.setdefault(key, set()).add(round(255 * config.printed_eps_star, 3))
    for line in _table("3_eps_star"):
        key = (line["dataset"], int(line["n"]), line["norm"])
        assert float(line["eps_star_255"]) in found[key]
    radii = {float(line["eps_255"]) for line in _table("b6_cifar10_fgm_linf")}
    config = _module("catastrophic").get_config("cifar10")
    np.testing.assert_allclose(config.eps, np.sort([*radii]) / 255)
    tuned = _module("fine_tuning")
    for line in _table("b7_fine_tuning_losses"):
        if float(line["eps_255"]):
            name = {"10000": "cifar10_10k", "50000": "cifar10"}[line["n"]]
            name = "cifar10_l2" if line["norm"] == "l2" else name
            radius = float(line["eps_255"]) / 255
            assert np.isclose(tuned.get_config(name).eps, radius).any()


def test_sizes_and_rows_exclude_each_other():
    with pytest.raises(checks.ConfigError, match="cifar10 and adam of config"):
        ROWS.get_config("cifar10,adam")
    with pytest.raises(checks.ConfigError, match="paper and gpu"):
        ROWS.get_config("gpu,paper")


def _synthetic():
    """Curves [epoch, k, r] whose adversarial test loss is smallest before the drop."""
    config = ConfigDict({"eps": (0.0, 0.1, 0.3), "num_epochs": 4, "select_from": 0.5})
    test = np.array([[2.0, 0.5], [1.0, 1.0], [1.5, 0.9], [1.2, 0.8]])
    test = np.stack([test, test, test], axis=1)
    loss = np.arange(4.0)[:, None, None] + np.array([0, 0.1, 0.3])[:, None]
    loss = np.broadcast_to(loss, (4, 3, 2))
    threshold = np.arange(4.0)[:, None, None] + np.array([0.05, 0.2])
    return config, {
        "test_robust_loss": test,
        "test_loss": np.broadcast_to(threshold, (4, 3, 2)),
        "loss": loss,
        "robust_loss": loss + 0.02,
    }


def test_both_rules_read_their_epochs_and_cross_where_the_line_does():
    config, found = _synthetic()
    late, every = (
        classifier_grid.read_off(config, found, r) for r in classifier_grid.RULES
    )
    np.testing.assert_array_equal(late.epoch, [[3, 3]] * 3)
    np.testing.assert_array_equal(every.epoch, [[1, 0]] * 3)
    for reading in (late, every):
        np.testing.assert_allclose(reading.eps_star, [0.05, 0.2], rtol=1e-5)
        np.testing.assert_allclose(reading.eps_star_robust, [0.03, 0.18], rtol=1e-4)
        assert reading.status == ["CROSSES", "CROSSES"]


def test_gradients_are_counted_as_by_hand():
    config = ROWS.get_config("mnist_fc128,cpu")
    clean, attacked = (
        part(config)
        for part in (classifier_grid.clean_part, classifier_grid.attacked_part)
    )
    assert clean.objective == "standard"
    assert classifier_grid.num_gradients(clean, 8000, 2000) == 30 * 8000
    # 10 steps and an update; 10 steps and one of FGSM in the test.
    by_hand = 30 * (8000 * 11 + 2000 * 11)
    assert classifier_grid.num_gradients(attacked, 8000, 2000) == by_hand
    mart = ROWS.get_config("mart,smoke")
    assert classifier_grid.clean_part(mart).objective == "mart"


def test_the_smallest_unstable_radius_is_of_each_seed():
    collapsed = np.array([[False, False, True], [True, False, False]])
    found = catastrophic.unstable_radius((0.1, 0.2), collapsed)
    np.testing.assert_array_equal(found, [0.2, np.nan, 0.1])


def test_the_gap_ratio_starts_at_one():
    gap = np.array([[9.0, 9.0], [2.0, -1.0], [3.0, 5.0]])
    np.testing.assert_allclose(
        overfitting.gap_ratio(gap, 1), [[1, np.nan], [1.5, np.nan]]
    )


def test_welch_is_that_of_the_textbook():
    a, b = np.array([1.0, 2.0, 3.0, np.nan]), np.array([2.0, 2.5, 3.5, 4.0])
    value, low, high = comparison.welch(a, b, 0.95)
    s, t = 1 / 3, 5 / 6 / 4  # variances over numbers
    degrees = (s + t) ** 2 / (s**2 / 2 + t**2 / 3)
    half = stats.t.ppf(0.975, degrees) * (s + t) ** 0.5
    assert value == -1.0
    np.testing.assert_allclose([low, high], [value - half, value + half], rtol=1e-6)
    assert np.isnan(comparison.welch(a[:1], b, 0.95)[1:]).all()
    assert np.isnan(comparison.welch(a[3:], b, 0.95)).all()


def test_barrier_and_asymmetry_of_a_known_landscape():
    np.testing.assert_allclose(connectivity.barrier(np.array([1.0, 5.0, 2.0])), 3)
    ts = np.linspace(0, 1, 5)
    # log loss 3t: means of 3 · 7/8 and 3 · 1/8.
    rising = np.stack([np.exp(3 * ts), np.exp(-3 * ts)])
    np.testing.assert_allclose(connectivity.asymmetry(ts, rising), [2.25, -2.25])
    np.testing.assert_allclose(
        connectivity.asymmetry(ts, np.exp((ts - 0.5) ** 2)), 0, atol=1e-12
    )


GRID = f"--config={CONFIGS}/classifier_grid.py:digits,smoke"


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    path = tmp_path_factory.mktemp("grid") / "w"
    assert run.main([GRID, f"--workdir={path}"]) == 0
    return path


def _config(name, grid, variant="smoke"):
    config = _module(name).get_config(variant)
    config.grid = str(grid)
    return config


def test_released_networks_are_those_of_the_first_rule(grid):
    found = classifier_grid.read_directory(str(grid))
    epoch = found.reading().epoch
    assert (epoch >= 2).all()
    clean, attacked = (
        checkpoints.released(grid / name)
        for name in (classifier_grid.CLEAN, classifier_grid.ATTACKED)
    )
    epochs = [*clean.about["epoch"], *attacked.about["epoch"]]
    np.testing.assert_array_equal(epochs, epoch.ravel())
    assert set(attacked.about["config"]["eps"]) == set(found.config.eps[1:])
    curve = found.results["curves"]
    # The objective is cross-entropy at the attacked inputs, counted twice.
    np.testing.assert_allclose(curve["loss"], curve["robust_loss"], rtol=1e-5)
    assert np.array(curve["loss"]).shape == (4, 3, 2)


def test_ends_of_paths_are_the_networks_of_their_radius_and_seed(grid):
    config = _config("connectivity", grid)
    setup = paths.read(config)
    np.testing.assert_array_equal(setup.pairs, [[0, 1], [1, 0]] * 2)
    clean, attacked = (
        checkpoints.released(grid / name).params["Dense_0"]["kernel"]
        for name in (classifier_grid.CLEAN, classifier_grid.ATTACKED)
    )
    a, b = (end["Dense_0"]["kernel"] for end in (setup.paths.a, setup.paths.b))
    np.testing.assert_array_equal(a, np.concatenate([clean, clean]))
    rows = [clean[1], clean[0], attacked[1], attacked[0]]
    np.testing.assert_array_equal(b, rows)


def test_losses_along_paths_are_those_of_their_networks(grid):
    """Clean by cross-entropy in NumPy; attacked above clean at a radius."""
    config = _config("connectivity", grid, "smoke,adversarial")
    setup = paths.read(config)
    loss = paths.loss(config, setup)
    path = jax.tree.map(lambda leaf: leaf[3], setup.paths)
    x, y = setup.eval
    logits, _ = setup.model.apply(path.b, {}, x / np.float32(1), train=False)
    logits = np.asarray(logits, float)
    wanted = np.log(np.exp(logits - logits[np.arange(len(y)), y][:, None]).sum(axis=1))
    clean, attacked = loss(curves.line(path, 1.0), 0.1)
    np.testing.assert_allclose(clean, wanted.mean(), rtol=1e-5)
    assert attacked > clean
    np.testing.assert_allclose(loss(path.b, 0.0)[1], clean, rtol=1e-5)


def test_fine_tuning_starts_at_the_clean_networks(grid, tmp_path):
    """With a rate of zero they are released again."""
    arguments = [f"--config={CONFIGS}/fine_tuning.py:smoke", f"--config.grid={grid}"]
    still = "--config.schedule_values=(0., 0., 0., 0., 0.)"
    assert run.main([*arguments, still, f"--workdir={tmp_path}/w"]) == 0
    clean = checkpoints.released(grid / classifier_grid.CLEAN).params
    for name in ("pgd", "fgm"):
        found = checkpoints.released(tmp_path / f"w/{name}-best.npz")
        wanted = jax.tree.map(lambda leaf: np.concatenate([leaf] * 3), clean)
        jax.tree.map(np.testing.assert_array_equal, found.params, wanted)
    results = json.loads((tmp_path / "w/results.json").read_text())["results"]
    scratch, *tuned = results["estimates"]
    assert [one["name"] for one in tuned] == [
        "PGD, 1 radius",
        "PGD, 3 radii",
        "FGM, 1 radius",
        "FGM, 3 radii",
    ]
    assert scratch["gradients"] > max(one["gradients"] for one in tuned)


BAD = {
    "no grid": ("overfitting", ["--config.grid=nowhere"], "config.grid = 'nowhere'"),
    "grid not given": ("catastrophic", [], "no directory is given"),
    "radius not in the grid": (
        "connectivity",
        ["--config.grid=GRID", "--config.eps=(0., 0.5)"],
        "eps = 0.5 is not in the grid",
    ),
    "one network at both ends": (
        "connectivity",
        ["--config.grid=GRID", "--config.seed_shift=0"],
        "both ends are one network",
    ),
    "another grid": (
        "overfitting",
        ["--config.grid=GRID", "--config.grid_digest=0123"],
        "config.grid_digest = '0123': it is",
    ),
    "unknown curve": (
        "connectivity",
        ["--config.grid=GRID", "--config.curve=bezir"],
        "did you mean bezier?",
    ),
    "one grid to compare": ("comparison", ["--config.grids=('a',)"], "at least 2"),
    "a radius of zero": (
        "fine_tuning",
        ["--config.grid=GRID", "--config.eps=(0., 0.1)"],
        "above 0",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_input_is_one_clear_line(name, grid, tmp_path, capsys):
    study, arguments, words = BAD[name]
    arguments = [argument.replace("GRID", str(grid)) for argument in arguments]
    config = f"--config={CONFIGS}/{study}.py:smoke"
    assert run.main([config, *arguments, f"--workdir={tmp_path}/w"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_a_grid_with_another_objective_is_read_both_ways(tmp_path):
    arguments = ["--config.objective=mart", "--config.beta=5.", "--config.num_seeds=1"]
    assert run.main([GRID, *arguments, f"--workdir={tmp_path}/w"]) == 0
    found = classifier_grid.read_directory(str(tmp_path / "w"))
    curve = {name: np.array(v, float) for name, v in found.results["curves"].items()}
    # MART's objective has more terms than cross-entropy, at radius 0 as well.
    assert (curve["loss"] > curve["robust_loss"]).all()
    report = (tmp_path / "w" / "report.md").read_text()
    assert "ε* by cross-entropy" in report


def test_selection_waits_for_the_share_of_the_run():
    config = recipe.defaults()
    config.num_epochs = 200
    for share, first in ((0.0, 0), (0.5, 100), (0.505, 101), (1.0, 199)):
        config.select_from = share
        assert recipe.first_selectable(config) == first
