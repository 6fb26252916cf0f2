"""eps* of networks: the configurations of all published rows, and what is read off."""

import csv
import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from scipy import stats

from advjax import curves, models, train, transition
from advjax.models.layers import BatchNorm
from advjax.types import Batch
from experiments import checks, run
from experiments.training import parameters, recipe
from experiments.training.checkpoints import Checkpoints
from experiments.transition import (
    catastrophic,
    classifier_grid,
    comparison,
    connectivity,
    fine_tuning,
    overfitting,
    paths,
    published,
    readings,
)

pytestmark = pytest.mark.usefixtures("unoptimised")

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


# Data, network, width, objective, beta, optimiser, rate, batch and printed 255 eps*.
RESNET, WIDE = ("preactresnet18", 0), "wideresnet34"
SGD, PGD = ("sgd", 0.1, 128), ("adversarial", 6.0)
PROTOCOLS = {
    "cifar10": ("cifar10", *RESNET, *PGD, *SGD, 0.5),
    "cifar10_10k": ("cifar10", *RESNET, *PGD, *SGD, 3.3),
    "cifar10_256": ("cifar10", *RESNET, *PGD, "sgd", 0.1, 256, 0),
    "cifar10_l2": ("cifar10", *RESNET, *PGD, *SGD, 24.8),
    "cifar10_10k_l2": ("cifar10", *RESNET, *PGD, *SGD, 0),
    "cifar100": ("cifar100", *RESNET, *PGD, *SGD, 1.0),
    "cifar100_25k": ("cifar100", *RESNET, *PGD, *SGD, 4.0),
    "svhn": ("svhn_cropped", *RESNET, *PGD, "sgd", 0.01, 128, 4.9),
    "wrn34_1": ("cifar10", WIDE, 1, *PGD, *SGD, 1.1),
    "wrn34_10": ("cifar10", WIDE, 10, *PGD, *SGD, 1.1),
    "adam": ("cifar10", *RESNET, *PGD, "adam", 1e-3, 128, 0),
    "mart": ("cifar10", *RESNET, "mart", 5.0, *SGD, 0.8),
    "trades": ("cifar10", *RESNET, "trades", 1.0, *SGD, 0.7),
    "mnist_fc16": ("mnist", "cnn_fc", 16, *PGD, "sgd", 0.01, 128, 26.1),
    "mnist_fc128": ("mnist", "cnn_fc", 128, *PGD, "sgd", 0.01, 128, 48.0),
}


@pytest.mark.parametrize("row", PROTOCOLS)
def test_the_protocol_of_every_row(row):
    config = ROWS.get_config(f"{row},paper")
    *fields, printed = PROTOCOLS[row]
    names = ("dataset", "model", "width", "objective", "beta", "optimiser")
    for name, value in zip(
        (*names, "learning_rate", "batch_size"), fields, strict=True
    ):
        assert config[name] == value, name
    np.testing.assert_allclose(255 * config.printed_eps_star, printed)
    is_l2 = row.endswith("_l2")
    assert (config.norm, config.start) == (
        ("l2", "radius_uniform") if is_l2 else ("linf", "")
    )
    assert config.rel_step_size == (15 / 128 if is_l2 else 0.25)
    assert (config.num_steps, config.test_num_steps) == (10, 10)
    assert (config.weight_decay, config.momentum) == (5e-4, 0.9)
    assert config.schedule_knots == (0.5, 0.75)
    assert config.augment != (row == "svhn")
    assert config.keep_remainder
    printed_rows = {line["architecture"] for line in _table("3_eps_star")}
    assert len(printed_rows) == 7


def test_every_printed_eps_star_has_its_configuration():
    named = {
        ("cifar10", "preactresnet18", "50000", "linf"): "cifar10",
        ("cifar10", "preactresnet18", "10000", "linf"): "cifar10_10k",
        ("cifar10", "wideresnet34_1", "50000", "linf"): "wrn34_1",
        ("cifar10", "wideresnet34_10", "50000", "linf"): "wrn34_10",
        ("cifar100", "preactresnet18", "25000", "linf"): "cifar100_25k",
        ("cifar100", "preactresnet18", "50000", "linf"): "cifar100",
        ("mnist", "cnn_fc128", "50000", "linf"): "mnist_fc128",
        ("mnist", "cnn_fc16", "50000", "linf"): "mnist_fc16",
        ("svhn_cropped", "preactresnet18", "50000", "linf"): "svhn",
        ("cifar10", "preactresnet18_trades", "50000", "linf"): "trades",
        ("cifar10", "preactresnet18_mart", "50000", "linf"): "mart",
        ("cifar10", "preactresnet18", "50000", "l2"): "cifar10_l2",
    }
    lines = _table("3_eps_star")
    assert len(lines) == len(named)
    for line in lines:
        key = tuple(line[name] for name in ("dataset", "architecture", "n", "norm"))
        config = ROWS.get_config(named[key])
        np.testing.assert_allclose(
            255 * config.printed_eps_star, float(line["eps_star_255"])
        )
        assert (config.num_train, config.norm) == (int(line["n"]), line["norm"])


def test_the_radii_of_fine_tuning_and_of_single_step_training_are_the_printed_ones():
    radii = {float(line["eps_255"]) for line in _table("b6_cifar10_fgm_linf")}
    config = _module("catastrophic").get_config("cifar10")
    np.testing.assert_allclose(config.eps, np.sort([*radii]) / 255)
    tuned = _module("fine_tuning")
    for line in _table("b7_fine_tuning_losses"):
        if float(line["eps_255"]):
            name = {"10000": "cifar10_10k", "50000": "cifar10"}[line["n"]]
            name = "cifar10_l2" if line["norm"] == "l2" else name
            radius = float(line["eps_255"]) / 255
            config = tuned.get_config(name)
            assert np.isclose(config.eps, radius).any()
            assert config.norm == line["norm"]


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
    late, every = (readings.read_off(config, found, r) for r in readings.RULES)
    np.testing.assert_array_equal(late.epoch, [[3, 3]] * 3)
    np.testing.assert_array_equal(every.epoch, [[1, 0]] * 3)
    for reading in (late, every):
        np.testing.assert_allclose(reading.eps_star, [0.05, 0.2], rtol=1e-5)
        np.testing.assert_allclose(reading.eps_star_robust, [0.03, 0.18], rtol=1e-4)
        assert reading.status == ["CROSSES", "CROSSES"]


def test_a_cubic_removes_the_bias_of_the_chord():
    """On a parabola: the chord crosses too early, the cubic within 3 % of the truth."""
    radii = np.array([0.0, 0.1, 0.2, 0.3])
    losses = np.stack([radii**2, radii**2], axis=1)
    threshold = np.array([0.0225, 0.5])
    chord, status = readings.crossings(radii, losses, threshold)
    assert status == ["CROSSES", "NEVER_CROSSES"]
    np.testing.assert_allclose(chord[0], 0.1 + 0.0125 / 0.3, rtol=1e-5)
    cubic = readings.cubic_crossings(radii, losses, threshold)
    np.testing.assert_allclose(cubic, [0.15, np.nan], rtol=0.03)
    assert chord[0] < cubic[0]


def test_gradients_are_counted_as_by_hand():
    config = ROWS.get_config("mnist_fc128,cpu")
    clean, attacked = (
        part(config) for part in (readings.clean_part, readings.attacked_part)
    )
    assert clean.objective == "standard"
    # No attack, but one step of PGD and FGSM in the test, within a ball of radius 0.
    assert readings.num_gradients(clean, 8000, 2000) == 30 * (8000 + 2 * 2000)
    # 10 steps and an update; 10 steps and one of FGSM in the test.
    by_hand = 30 * (8000 * 11 + 2000 * 11)
    assert readings.num_gradients(attacked, 8000, 2000) == by_hand
    mart = ROWS.get_config("mart,smoke")
    assert readings.clean_part(mart).objective == "mart"


@pytest.mark.parametrize("objective", ["adversarial", "trades"])
def test_gradients_are_counted_as_the_network_sees_them(objective):
    """Backward passes, counted inside a linear network by its gradient."""
    seen = []

    @jax.custom_vjp
    def watched(w, x):
        return x @ w

    def backward(saved, g):
        jax.debug.callback(lambda n: seen.append(int(n)), g.shape[0])
        w, x = saved
        return x.T @ g, g @ w.T

    watched.defvjp(lambda w, x: (x @ w, (w, x)), backward)
    config = ROWS.get_config("digits,smoke").copy_and_resolve_references()
    config.unlock()
    config.objective, config.num_steps = objective, 3
    model = models.from_function(lambda key, x: jnp.ones((4, 3)), watched)
    step = train.make_step(recipe.objective(config, model), optax.sgd(0.1))
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(8, 4)), jnp.float32)
    state = train.restart(jax.random.key(0), jnp.ones((4, 3)), {}, optax.sgd(0.1))
    state, _ = step(state, Batch(x, jnp.zeros(8, int)), 0.1)
    jax.effects_barrier()
    config.num_epochs = 1
    counted = readings.num_gradients(config, 8, 0)
    assert counted == sum(seen)


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
    a, b = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.5, 3.5, 4.0])
    value, low, high = comparison.welch(a, b, 0.95)
    s, t = 1 / 3, 5 / 6 / 4  # variances over numbers
    degrees = (s + t) ** 2 / (s**2 / 2 + t**2 / 3)
    half = stats.t.ppf(0.975, degrees) * (s + t) ** 0.5
    assert value == -1.0
    np.testing.assert_allclose([low, high], [value - half, value + half], rtol=1e-6)
    assert comparison.welch(a[:1], b, 0.95)[0] == -2.0
    assert np.isnan(comparison.welch(a[:1], b, 0.95)[1:]).all()
    # A seed without a crossing lies beyond the grid, and is not left out.
    assert np.isnan(comparison.welch(np.append(a, np.nan), b, 0.95)).all()


def test_grids_are_named_by_what_differs():
    settings = ["a, n = 8, linf", "a, n = 2, linf", "a, n = 2, batches of 4, linf"]
    grids = [SimpleNamespace(setting=setting) for setting in settings]
    names = ["n = 8", "n = 2", "n = 2, batches of 4"]
    assert comparison.names(grids) == names
    assert comparison.names(grids[:1] * 2) == [settings[0]] * 2


def test_barrier_and_asymmetry_of_a_known_landscape():
    np.testing.assert_allclose(connectivity.barrier(np.array([1.0, 5.0, 2.0])), 3)
    # log loss 3t at 0, 1/4, 3/4 and 1, the middle left out.
    ts = np.linspace(0, 1, 5)
    rising = np.stack([np.exp(3 * ts), np.exp(-3 * ts)])
    np.testing.assert_allclose(connectivity.asymmetry(rising), [2.25, -2.25])
    # The axis of a plane, whose middle is not 1/2 in floating point.
    axis = np.linspace(-0.2, 1.2, 21)
    symmetric = np.exp(-((axis - 0.5) ** 2)) + axis[:, None] ** 2
    np.testing.assert_allclose(connectivity.asymmetry(symmetric), 0, atol=1e-12)
    shares = connectivity.low_loss_shares(np.array([[1.0, 9, 9, 2], [1, 1, 5, 9]]), 3)
    np.testing.assert_allclose(shares, [0.75, 0.25])


def test_a_network_is_extended_by_the_middle_radius_and_by_all():
    """Losses 0.1 + 2 eps + curvature: the line through 0 and 0.2, and least squares."""
    radii, clean, tuned = (0.1, 0.2, 0.4), 0.1, np.array([0.3, 0.52, 0.9])
    config = ConfigDict({"eps": radii})
    assert fine_tuning.choices(config) == [[0, 2], [0, 1, 2, 3]]
    assert fine_tuning.choices(ConfigDict({"eps": (0.1,)})) == [[0, 1]]
    points = np.array([clean, *tuned])
    for chosen in fine_tuning.choices(config):
        eps = np.array([0.0, *radii])[chosen]
        slope, start = np.polyfit(eps, points[chosen], 1)
        found, _ = readings.crossings(
            eps, points[chosen][:, None], [1.5], transition.extrapolate
        )
        np.testing.assert_allclose(found, (1.5 - start) / slope, rtol=1e-5)


def test_collapse_is_worse_than_guessing_in_spite_of_training():
    robust = np.array([[0.9, 0.05], [0.05, 0.3]])
    training = np.array([[0.9, 0.95], [0.2, 0.9]])
    found = catastrophic.collapsed(robust, training, num_classes=10)
    np.testing.assert_array_equal(found, [[False, True], [False, False]])


def test_batch_statistics_of_a_point_are_those_of_all_examples():
    """A network with batch normalisation, in batches of unequal size, against NumPy."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Dense(3)(BatchNorm()(x, train=train))

    model = models.from_linen(Net())
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, size=(10, 4)).astype(np.float32)
    y = rng.integers(0, 3, 10)
    params, batch_stats = model.init(jax.random.key(0), jnp.asarray(x))
    config = ConfigDict({"objective": "standard", "eval_batch_size": 6, "seed": 0})
    fields = dict.fromkeys(paths.Setup._fields)
    fields |= {"model": model, "batch_stats": batch_stats, "eval": Batch(x, y)}
    fields["part"] = recipe.defaults()
    found = paths.loss(config, paths.Setup(**fields))(params, 0.0)[0]
    first, rest = x[:6].astype(float), x[6:].astype(float)
    mean = 0.6 * first.mean(axis=0) + 0.4 * rest.mean(axis=0)
    var = 0.6 * first.var(axis=0, ddof=1) + 0.4 * rest.var(axis=0, ddof=1)
    dense = jax.tree.map(np.asarray, params["Dense_0"])
    logits = (x - mean) / np.sqrt(var + 1e-5) @ dense["kernel"] + dense["bias"]
    logits = np.asarray(logits, float)
    wanted = np.log(np.exp(logits - logits[np.arange(10), y][:, None]).sum(axis=1))
    np.testing.assert_allclose(found, wanted.mean(), rtol=1e-5)


GRID = f"--config={CONFIGS}/classifier_grid.py:digits,smoke"


def _config(name, grid, variant="smoke"):
    config = _module(name).get_config(variant)
    config.grid = str(grid)
    return config


def test_released_networks_are_those_of_the_first_rule(grid):
    found = readings.read_directory(str(grid))
    epoch = found.reading().epoch
    assert (epoch >= 2).all()
    clean, attacked = (
        parameters.read(grid / name) for name in (readings.CLEAN, readings.ATTACKED)
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
        parameters.read(grid / name).params["Dense_0"]["kernel"]
        for name in (readings.CLEAN, readings.ATTACKED)
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
    logits = setup.model.predict(path.b, {}, x / np.float32(1))
    logits = np.asarray(logits, float)
    wanted = np.log(np.exp(logits - logits[np.arange(len(y)), y][:, None]).sum(axis=1))
    clean, attacked = loss(curves.line(path, 1.0), 0.1)
    np.testing.assert_allclose(clean, wanted.mean(), rtol=1e-5)
    assert attacked > clean
    np.testing.assert_allclose(loss(path.b, 0.0)[1], clean, rtol=1e-5)


def test_fine_tuning_starts_at_the_clean_networks(grid, tmp_path):
    """With a rate of zero they are released again."""
    arguments = [f"--config={CONFIGS}/fine_tuning.py:smoke", f"--config.grid={grid}"]
    arguments += ["--config.schedule=linear", "--config.schedule_knots=(0., 1.)"]
    arguments += ["--config.schedule_values=(0., 0.)"]
    assert run.main([*arguments, f"--workdir={tmp_path}/w"]) == 0
    clean = parameters.read(grid / readings.CLEAN).params
    for name in ("pgd", "fgm"):
        found = parameters.read(tmp_path / f"w/{name}-best.safetensors")
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
    "radii of another norm": (
        "fine_tuning",
        ["--config.grid=GRID", "--config.norm=l2"],
        "has 'linf'; choose the variant for it",
    ),
    "no room between the seeds": (
        "connectivity",
        ["--config.grid=GRID", "--config.seed_shift=2"],
        "choose numbers at least 0 and at most 1",
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


def test_selection_waits_for_the_share_of_the_run():
    config = recipe.defaults()
    config.num_epochs = 200
    for share, first in ((0.0, 0), (0.5, 100), (0.505, 101), (1.0, 199)):
        config.select_from = share
        assert recipe.first_selectable(config) == first


def test_an_interrupted_grid_goes_on_where_it_was(grid, tmp_path, monkeypatch):
    """Stopped when clean training is done and attacked training is half done."""
    saved = Checkpoints.save

    def interrupting(self, step, tree):
        saved(self, step, tree)
        if self.path.name == "attacked" and step == 4:
            raise KeyboardInterrupt

    arguments = [GRID, f"--workdir={tmp_path}/w"]
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", interrupting)
        with pytest.raises(KeyboardInterrupt):
            run.main(arguments)
    assert run.main(arguments) == 0
    whole, parts = (
        json.loads((path / "results.json").read_text())["results"]
        for path in (grid, tmp_path / "w")
    )
    for results in (whole, parts):
        del results["images_per_second"], results["curves"]["images_per_second"]
    assert whole == parts


def test_a_grid_of_one_seed_by_mart_under_l2(tmp_path, capsys):
    fields = ["--config.num_seeds=1", "--config.norm=l2", "--config.eps=(0., 0.5)"]
    fields += ["--config.objective=mart", "--config.beta=5."]
    assert run.main([GRID, *fields, f"--workdir={tmp_path}/w"]) == 0
    found = readings.read_directory(str(tmp_path / "w"))
    curve = {name: np.array(v, float) for name, v in found.results["curves"].items()}
    # MART's objective has more terms than cross-entropy, at radius 0 as well.
    assert (curve["loss"] > curve["robust_loss"]).all()
    assert "ε* by cross-entropy" in (tmp_path / "w" / "report.md").read_text()

    config = f"--config={CONFIGS}/overfitting.py"
    arguments = [f"--config.grid={tmp_path}/w", f"--workdir={tmp_path}/v"]
    assert run.main([config, *arguments]) == 0
    config = f"--config={CONFIGS}/connectivity.py:smoke"
    fields = ["--config.norm=l2", "--config.eps=(0.5,)"]
    arguments = [f"--config.grid={tmp_path}/w", f"--workdir={tmp_path}/u"]
    capsys.readouterr()
    assert run.main([config, *fields, *arguments]) == 2
    assert "has one seed" in capsys.readouterr().err
    assert run.main([config, *fields, "--config.seed_shift=0", *arguments]) == 0


def test_a_study_follows_its_grid_to_another_place(grid, tmp_path):
    """And does not meet the results of another grid at the same place."""
    place = tmp_path / "grid"
    shutil.copytree(grid, place)
    config = f"--config={CONFIGS}/overfitting.py"
    arguments = [config, f"--config.grid={grid}", f"--workdir={tmp_path}/w"]
    assert run.main(arguments) == 0
    arguments[1] = f"--config.grid={place}"
    assert run.main(arguments) == 0
    stored = (place / "results.json").read_text()
    (place / "results.json").write_text(stored.replace("adversarial", "adversarial "))
    assert run.main(arguments) == 2
