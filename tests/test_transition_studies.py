"""eps* of networks: the configurations of all published rows, and what is read off."""

import json
import shutil
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from ml_collections import ConfigDict
from scipy import stats

from advjax import critical, curves, models, train, transition
from advjax.models.layers import BatchNorm
from advjax.types import Batch
from experiments import arrays, checks, intervals, printed, run, studies
from experiments.training import parameters, recipe
from experiments.training.checkpoints import Checkpoints
from experiments.training.parts import first_selectable
from experiments.transition import (
    catastrophic,
    classifier_grid,
    comparison,
    connectivity,
    fine_tuning,
    methods,
    overfitting,
    paths,
    readings,
)

STUDIES = Path(__file__).parents[1] / "experiments" / "transition"
SIZES = ("paper", "gpu", "cpu", "smoke")


def _config(row):
    return classifier_grid.get_config(row)


@pytest.mark.parametrize("row", classifier_grid.ROWS)
def test_every_row_is_valid_at_every_size(row):
    for size in SIZES:
        if size == "cpu" and not row.startswith("mnist"):
            with pytest.raises(checks.ConfigError, match="MNIST only"):
                _config(f"{row},{size}")
            continue
        config, _ = classifier_grid.STUDY.resolved(_config(f"{row},{size}"))
        assert config.eps[0] == 0
    full = _config(row)
    assert full.num_epochs == 200 or full.dataset in ("mnist", "digits")


def _table(name):
    return printed.rows(f"phase_transition_table_{name}")


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
        config = _config(row)
        assert np.isclose(config.eps, float(radius) / 255).any(), (row, radius)
        assert config.num_train == int(n)


def test_every_printed_eps_star_is_that_of_a_row():
    ours = [
        (str(config.num_train), config.norm, found)
        for row in classifier_grid.ROWS
        if (found := classifier_grid.published_eps_star(row))
        for config in [_config(row)]
    ]
    lines = _table("3_eps_star")
    wanted = [(line["n"], line["norm"], line["eps_star_255"]) for line in lines]
    assert sorted(ours) == sorted(wanted)
    assert classifier_grid.published_eps_star("mnist_fc16") == "26.1"


def test_the_radii_of_fine_tuning_and_of_single_step_training_are_the_printed_ones():
    radii = {float(line["eps_255"]) for line in _table("b6_cifar10_fgm_linf")}
    config = catastrophic.get_config("cifar10")
    np.testing.assert_allclose(config.eps, np.sort([*radii]) / 255)
    for line in _table("b7_fine_tuning_losses"):
        if float(line["eps_255"]):
            name = {"10000": "cifar10_10k", "50000": "cifar10"}[line["n"]]
            name = "cifar10_l2" if line["norm"] == "l2" else name
            radius = float(line["eps_255"]) / 255
            config = fine_tuning.get_config(name)
            assert np.isclose(config.eps, radius).any()
            assert config.norm == line["norm"]


def test_sizes_and_rows_exclude_each_other():
    with pytest.raises(checks.ConfigError, match="cifar10 and adam of config"):
        _config("cifar10,adam")
    with pytest.raises(checks.ConfigError, match="paper and gpu"):
        _config("gpu,paper")


def _synthetic():
    """Curves whose adversarial test loss is smallest before the drop at epoch 2."""
    test = np.array([[2.0, 0.5], [1.0, 1.0], [1.5, 0.9], [1.2, 0.8]])
    test = np.stack([test, test, test], axis=1)
    loss = np.arange(4.0)[:, None, None] + np.array([0, 0.1, 0.3])[:, None]
    loss = np.broadcast_to(loss, (4, 3, 2))
    threshold = np.arange(4.0)[:, None, None] + np.array([0.05, 0.2])
    found = {
        "test_robust_loss": test,
        "test_loss": np.broadcast_to(threshold, (4, 3, 2)),
        "loss": loss,
        "robust_loss": loss + 0.02,
    }
    return arrays.dataset(
        {name: (("epoch", "eps", "seed"), each) for name, each in found.items()},
        {"epoch": np.arange(4), "eps": (0.0, 0.1, 0.3), "seed": (0, 1)},
    )


def test_both_rules_read_their_epochs_and_cross_where_the_line_does():
    found = _synthetic()
    late, every = (readings.read_off(found, rule, 2) for rule in readings.RULES)
    np.testing.assert_array_equal(late["selected_epoch"], [[3, 3]] * 3)
    np.testing.assert_array_equal(every["selected_epoch"], [[1, 0]] * 3)
    for reading in (late, every):
        np.testing.assert_allclose(reading["eps_star"], [0.05, 0.2], rtol=1e-5)
        np.testing.assert_allclose(reading["eps_star_robust"], [0.03, 0.18], rtol=1e-4)
        assert (reading["status"] == "CROSSES").all()


def _over_eps(radii, losses, threshold):
    losses = xr.DataArray(np.array(losses), {"eps": radii}, ("eps", "seed"))
    return losses, xr.DataArray(np.array(threshold), dims="seed")


def test_a_cubic_removes_the_bias_of_the_chord():
    """On a parabola: the chord crosses too early, the cubic within 3 % of the truth."""
    radii = np.array([0.0, 0.1, 0.2, 0.3])
    points = _over_eps(radii, np.stack([radii**2, radii**2], axis=1), [0.0225, 0.5])
    chord, status = readings.crossings(*points)
    assert [*status.values] == ["CROSSES", "NEVER_CROSSES"]
    np.testing.assert_allclose(chord[0], 0.1 + 0.0125 / 0.3, rtol=1e-5)
    cubic = readings.cubic_crossings(*points)
    np.testing.assert_allclose(cubic, [0.15, np.nan], rtol=0.03)
    assert chord[0] < cubic[0]


def test_gradients_are_counted_as_by_hand():
    config = _config("digits,smoke")
    parts = readings.trainings(config)
    # 4 epochs of 32 training and 16 test images. Clean: no attack, but one step of PGD
    # and FGSM in the test, within a ball of radius 0.
    assert parts[readings.CLEAN].num_gradients == 4 * (32 + 2 * 16)
    # 2 steps and an update; 2 steps and one of FGSM in the test.
    assert parts[readings.ATTACKED].num_gradients == 4 * (32 * 3 + 16 * 3)
    # MART's objective at radius 0 is not cross-entropy.
    for objective, clean in (("adversarial", "standard"), ("mart", "mart")):
        config.objective = objective
        part = readings.trainings(config)[readings.CLEAN]
        assert part.about["config"]["objective"] == clean


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
    config = _config("digits,smoke")
    config.objective, config.num_steps = objective, 3
    model = models.from_function(lambda key, x: jnp.ones((4, 3)), watched)
    step = train.make_step(recipe.objective(config, model), optax.sgd(0.1))
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(8, 4)), jnp.float32)
    state = train.restart(jax.random.key(0), jnp.ones((4, 3)), {}, optax.sgd(0.1))
    state, _ = step(state, Batch(x, jnp.zeros(8, int)), 0.1)
    jax.effects_barrier()
    assert 8 * recipe.num_update_gradients(config) == sum(seen)


def test_the_thresholds_of_collapse_are_of_each_seed():
    collapsed = [[False, False, True], [True, False, False]]
    collapsed = xr.DataArray(collapsed, {"eps": [0.1, 0.2]}, ("eps", "seed"))
    found = catastrophic.unstable_radius(collapsed)
    np.testing.assert_array_equal(found, [0.2, np.nan, 0.1])
    accuracy = xr.full_like(collapsed, 0.9, float)
    stable = catastrophic.stable_radius(accuracy, found)
    np.testing.assert_array_equal(stable, [0.1, 0.2, 0.0])
    # A radius at which nothing was learned is no stable one.
    accuracy[1, 1] = 0.2
    stable = catastrophic.stable_radius(accuracy, found)
    np.testing.assert_array_equal(stable, [0.1, 0.1, 0.0])


def test_crossings_of_a_sample_agree_and_never_contradict():
    config = methods.get_config("smoke")
    status = xr.DataArray(["CROSSES", "NEVER"], dims="seed")
    values = xr.Dataset({"status": status, "eps_star": ("seed", [0.1, np.nan])})
    for training, number, verdict in (
        ("MART", 1, "agrees"),
        ("MART", 2, "undecided"),
        ("Adam", 1, "no claim"),
    ):
        part = values.isel(seed=slice(number)).assign_coords(training=training)
        found = methods._crossing(config, part)
        assert found.verdict == verdict
        assert (found.printed == "") == (training == "Adam")


def test_the_gap_ratio_starts_at_one():
    gap = xr.DataArray([[9.0, 9.0], [2.0, -1.0], [3.0, 5.0]], dims=("epoch", "seed"))
    np.testing.assert_allclose(
        overfitting.gap_ratio(gap, 1), [[1, np.nan], [1.5, np.nan]]
    )


def test_welch_is_that_of_the_textbook():
    a, b = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.5, 3.5, 4.0])
    value, low, high = intervals.welch(a, b)
    s, t = 1 / 3, 5 / 6 / 4  # variances over numbers
    degrees = (s + t) ** 2 / (s**2 / 2 + t**2 / 3)
    half = stats.t.ppf(0.975, degrees) * (s + t) ** 0.5
    assert value == -1.0
    np.testing.assert_allclose([low, high], [value - half, value + half], rtol=1e-6)
    assert intervals.welch(a[:1], b)[0] == -2.0
    assert np.isnan(intervals.welch(a[:1], b)[1:]).all()
    # A seed without a crossing lies beyond the grid, and is not left out.
    assert np.isnan(intervals.welch(np.append(a, np.nan), b)).all()


def test_grids_are_named_by_what_differs():
    settings = ["a, n = 8, linf", "a, n = 2, linf", "a, n = 2, batches of 4, linf"]
    names = ["n = 8", "n = 2", "n = 2, batches of 4"]
    assert comparison.names(settings) == names
    assert comparison.names(settings[:1] * 2) == ["grid 1", "grid 2"]


def test_grids_of_other_radii_and_seeds_are_compared_with_the_first():
    def reading(radii, stars):
        losses = np.zeros((len(radii), len(stars)))
        stars = ("seed", stars)
        names = ("threshold", *comparison.WAYS.values())
        return xr.Dataset(
            {**dict.fromkeys(names, stars), "selected_loss": (("eps", "seed"), losses)},
            {"eps": radii, "seed": np.arange(losses.shape[1])},
        )

    first, second = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6])
    both = [reading([0.0, 0.1], first), reading([0.0, 0.2], second)]
    values = comparison.compared(both, 0.9, name=["A", "B"])
    np.testing.assert_array_equal(values["num_seeds"], [3, 2])
    np.testing.assert_array_equal(values["eps"], [0.0, 0.1, 0.2])
    found = values["difference"].sel(way="chord")
    np.testing.assert_allclose(found[1], intervals.welch(second, first, 0.9))


def test_barrier_and_asymmetry_of_a_known_landscape():
    losses = xr.DataArray([1.0, 5.0, 2.0], dims="t")
    np.testing.assert_allclose(connectivity.barrier(losses), 3)
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
    assert fine_tuning.choices(3) == [[0, 2], [0, 1, 2, 3]]
    assert fine_tuning.choices(1) == [[0, 1]]
    points = np.array([clean, *tuned])
    for chosen in fine_tuning.choices(3):
        eps = np.array([0.0, *radii])[chosen]
        slope, start = np.polyfit(eps, points[chosen], 1)
        at = _over_eps(eps, points[chosen][:, None], [1.5])
        found, _ = readings.crossings(*at, transition.extrapolate)
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
    fields = dict.fromkeys(paths.Pairs._fields)
    fields |= {"model": model, "batch_stats": batch_stats, "eval": Batch(x, y)}
    fields["part"] = recipe.defaults()
    found = paths.loss(config, paths.Pairs(**fields))(params, 0.0)[0]
    first, rest = x[:6].astype(float), x[6:].astype(float)
    mean = 0.6 * first.mean(axis=0) + 0.4 * rest.mean(axis=0)
    var = 0.6 * first.var(axis=0, ddof=1) + 0.4 * rest.var(axis=0, ddof=1)
    dense = jax.tree.map(np.asarray, params["Dense_0"])
    logits = (x - mean) / np.sqrt(var + 1e-5) @ dense["kernel"] + dense["bias"]
    logits = np.asarray(logits, float)
    wanted = np.log(np.exp(logits - logits[np.arange(10), y][:, None]).sum(axis=1))
    np.testing.assert_allclose(found, wanted.mean(), rtol=1e-5)


GRID = f"--config={STUDIES}/classifier_grid.py:digits,smoke"


def _grid(path):
    return readings.GRID.read("grid", ConfigDict({"grid": str(path)}))[0]


def _pairs(grid, variant="smoke"):
    """The configuration of curves between the networks of a grid, and the pairs."""
    config = connectivity.get_config(variant)
    config.grid = str(grid)
    config, inputs = connectivity.STUDY.resolved(config)
    return config, paths.read(config, inputs["grid"])


@pytest.mark.slow
def test_released_networks_are_those_of_the_first_rule(grid):
    found = _grid(grid)
    epoch = found.reading["selected_epoch"]
    assert (epoch >= 2).all()
    clean, attacked = (
        parameters.read(grid / f"{part}-best.safetensors")
        for part in (readings.CLEAN, readings.ATTACKED)
    )
    epochs = [*clean.about["epoch"], *attacked.about["epoch"]]
    np.testing.assert_array_equal(epochs, epoch.values.ravel())
    assert set(attacked.about["config"]["eps"]) == set(found.config.eps[1:])
    curve = found.values
    # The objective is cross-entropy at the attacked inputs, counted twice.
    np.testing.assert_allclose(curve["loss"], curve["robust_loss"], rtol=1e-5)
    assert dict(curve["loss"].sizes) == {"epoch": 4, "eps": 3, "seed": 2}


def test_ends_of_paths_are_the_networks_of_their_radius_and_seed(grid):
    _, pairs = _pairs(grid)
    np.testing.assert_array_equal(pairs.seeds, [[0, 1], [1, 0]] * 2)
    clean, attacked = (
        parameters.read(grid / f"{part}-best.safetensors").params["Dense_0"]["kernel"]
        for part in (readings.CLEAN, readings.ATTACKED)
    )
    a, b = (end["Dense_0"]["kernel"] for end in (pairs.paths.a, pairs.paths.b))
    np.testing.assert_array_equal(a, np.concatenate([clean, clean]))
    # Of the second attacked radius of the grid.
    rows = [clean[1], clean[0], attacked[3], attacked[2]]
    np.testing.assert_array_equal(b, rows)


def test_losses_along_paths_are_those_of_their_networks(grid):
    """Clean by cross-entropy in NumPy; attacked above clean at a radius."""
    config, pairs = _pairs(grid, "smoke,adversarial")
    loss = paths.loss(config, pairs)
    path = jax.tree.map(lambda leaf: leaf[3], pairs.paths)
    x, y = pairs.eval
    logits = pairs.model.predict(path.b, {}, x / np.float32(1))
    logits = np.asarray(logits, float)
    wanted = np.log(np.exp(logits - logits[np.arange(len(y)), y][:, None]).sum(axis=1))
    clean, attacked = loss(curves.line(path, 1.0), 0.1)
    np.testing.assert_allclose(clean, wanted.mean(), rtol=1e-5)
    assert attacked > clean
    np.testing.assert_allclose(loss(path.b, 0.0)[1], clean, rtol=1e-5)


@pytest.mark.slow
def test_interrupted_bends_go_on_where_they_were(grid, tmp_path, monkeypatch):
    """Stopped after the first of two epochs; bends and losses are the same bits."""
    saved = Checkpoints.save

    def interrupting(self, step, tree):
        saved(self, step, tree)
        if step == 2:
            raise KeyboardInterrupt

    config = f"--config={STUDIES}/connectivity.py:smoke"
    run_in = partial(_run, config, f"--config.grid={grid}", "--config.grid_size=2")
    whole = run_in(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", interrupting)
        with pytest.raises(KeyboardInterrupt):
            run_in(tmp_path / "parts")
    assert run_in(tmp_path / "parts").identical(whole)
    one, two = (
        parameters.read(tmp_path / each / "bends-last.safetensors").params
        for each in ("whole", "parts")
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)


def _run(*arguments):
    """The values of a run, of arguments and its directory."""
    *arguments, path = arguments
    assert run.main([*arguments, f"--workdir={path}"]) == 0
    return _values(path)


def _values(path):
    return arrays.restored(json.loads((path / "results.json").read_text())["results"])


def test_fine_tuning_starts_at_the_clean_networks(grid, tmp_path):
    """With a rate of zero they are released again."""
    arguments = [f"--config={STUDIES}/fine_tuning.py:smoke", f"--config.grid={grid}"]
    arguments += ["--config.schedule=linear", "--config.schedule_knots=(0., 1.)"]
    arguments += ["--config.schedule_values=(0., 0.)"]
    estimates = _run(*arguments, tmp_path / "w")
    clean = parameters.read(grid / f"{readings.CLEAN}-best.safetensors").params
    for name in ("pgd", "fgm"):
        found = parameters.read(tmp_path / f"w/{name}-best.safetensors")
        wanted = jax.tree.map(lambda leaf: np.concatenate([leaf] * 3), clean)
        jax.tree.map(np.testing.assert_array_equal, found.params, wanted)
    assert [*estimates["estimate"].values] == [
        fine_tuning.SCRATCH,
        "PGD, 1 radius",
        "PGD, 3 radii",
        "FGM, 1 radius",
        "FGM, 3 radii",
    ]
    gradients = estimates["gradients"]
    assert (gradients[0] > gradients[1:]).all()


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
    "more seeds than keys": (
        "sequential",
        ["--config.grid=GRID", "--config.num_first=9"],
        "config.num_first = 9: choose at most num_keys, 5",
    ),
    "no width of the grid": (
        "sequential",
        ["--config.grid=GRID", "--config.width=0."],
        "not all seeds of the grid cross",
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
    config = f"--config={STUDIES}/{study}.py:smoke"
    assert run.main([config, *arguments, f"--workdir={tmp_path}/w"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_a_sequential_search_goes_on_after_its_last_round(grid, tmp_path, monkeypatch):
    """Rounds before an interruption are read, and the end is the same."""
    arguments = [f"--config={STUDIES}/sequential.py:smoke", f"--config.grid={grid}"]
    trained, rounds = critical.by_fit, []

    def counted(*parts, **settings):
        rounds.append(1)
        return trained(*parts, **settings)

    monkeypatch.setattr(critical, "by_fit", counted)
    whole = _run(*arguments, tmp_path / "whole")
    number = len(rounds)
    assert number > 2
    best = whole.sel(rule="best", design="sequential")
    assert int(np.isfinite(best["eps"]).sum()) == int(best["num_networks"])

    def interrupted(*parts, **settings):
        if len(rounds) == number + 2:
            raise KeyboardInterrupt
        return counted(*parts, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(critical, "by_fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _run(*arguments, tmp_path / "parts")
    parts = _run(*arguments, tmp_path / "parts")
    assert len(rounds) == 2 * number
    xr.testing.assert_identical(whole, parts)


def test_selection_waits_for_the_share_of_the_run():
    for share, first in ((0.0, 0), (0.5, 100), (0.505, 101), (1.0, 199)):
        assert first_selectable(share, 200) == first


def test_an_interrupted_grid_goes_on_where_it_was(tmp_path, monkeypatch):
    """Stopped when clean training is done, at the first checkpoint of attacked."""
    saved = Checkpoints.save

    def interrupting(self, step, tree):
        saved(self, step, tree)
        if self.path.name == "attacked":
            raise KeyboardInterrupt

    # Not the grid of all tests, which may have been compiled in another way.
    whole = _run(GRID, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", interrupting)
        with pytest.raises(KeyboardInterrupt):
            _run(GRID, tmp_path / "parts")
    parts = _run(GRID, tmp_path / "parts")
    speed = "images_per_second"
    assert parts.drop_vars(speed).identical(whole.drop_vars(speed))


@pytest.mark.slow
def test_a_grid_of_one_seed_by_mart_under_l2(tmp_path, capsys):
    fields = ["--config.num_seeds=1", "--config.norm=l2", "--config.eps=(0., 0.5)"]
    fields += ["--config.objective=mart", "--config.beta=5."]
    curve = _run(GRID, *fields, tmp_path / "w")
    # MART's objective has more terms than cross-entropy, at radius 0 as well.
    assert (curve["loss"] > curve["robust_loss"]).all()
    assert "ε* by cross-entropy" in (tmp_path / "w" / "report.md").read_text()

    given = f"--config.grid={tmp_path}/w"
    _run(f"--config={STUDIES}/overfitting.py", given, tmp_path / "v")
    config = f"--config={STUDIES}/connectivity.py:smoke"
    fields = [config, "--config.norm=l2", "--config.eps=(0.5,)", given]
    capsys.readouterr()
    assert run.main([*fields, f"--workdir={tmp_path}/u"]) == 2
    assert "has one seed" in capsys.readouterr().err
    _run(*fields, "--config.seed_shift=0", tmp_path / "u")


def test_a_study_follows_its_grid_to_another_place(grid, tmp_path):
    """And does not meet the results of another grid at the same place."""
    place = tmp_path / "grid"
    shutil.copytree(grid, place)
    config = f"--config={STUDIES}/overfitting.py"
    arguments = [config, f"--config.grid={grid}", f"--workdir={tmp_path}/w"]
    assert run.main(arguments) == 0
    arguments[1] = f"--config.grid={place}"
    assert run.main(arguments) == 0
    stored = (place / "results.json").read_text()
    (place / "results.json").write_text(stored.replace("adversarial", "adversarial "))
    assert run.main(arguments) == 2


@pytest.mark.parametrize("name", ["moments", "linear_paths", "wide_limit", "published"])
def test_a_report_is_made_from_values_alone(name, tmp_path):
    """As those of finished runs, which are drawn anew."""
    path = tmp_path / "w"
    values = _run(f"--config={STUDIES}/{name}.py:smoke", path)
    study = studies.find(f"transition.{name}")
    config, _ = study.resolved(study.config("smoke"))
    report = study.report(config, values)
    assert 1 <= len(report.findings) <= 8
    for drawn in report.figures:
        assert (path / f"{drawn.name}.png").exists()
