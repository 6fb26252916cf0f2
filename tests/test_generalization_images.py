"""The surrogate attack and LASSO in networks on images: configurations and studies."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from scipy import stats

from advjax import attacks, data, evaluate, losses, norms
from advjax.types import Batch
from experiments import arrays, checks, intervals, run
from experiments.generalization import attack_difference, lasso_mnist, wide_resnet
from experiments.training import parameters, recipe

FOLDER = Path(wide_resnet.__file__).parent
SIZES = ("paper", "gpu", "cpu", "smoke")


@pytest.mark.parametrize("row", wide_resnet.ROWS)
def test_every_row_is_valid_at_every_size(row):
    for size in SIZES:
        if size == "cpu" and row.startswith("lasso"):
            with pytest.raises(checks.ConfigError, match="surrogate only"):
                wide_resnet.get_config(f"{row},{size}")
            continue
        config = wide_resnet.get_config(f"{row},{size}")
        resolved, _ = wide_resnet.STUDY.resolved(config)
        assert resolved.row == row


def test_xi_falls_with_the_rate():
    for row in ("surrogate", "surrogate_200", "surrogate_clean"):
        config = wide_resnet.get_config(row)
        part = wide_resnet.arm(config, 1e-3)
        num_steps = 100 * config.num_epochs
        rate = recipe.schedule(part, num_steps)
        drops = [round(knot * num_steps) for knot in config.schedule_knots]
        steps = (0, drops[0] - 2, drops[0], drops[1], num_steps - 1)
        found = [recipe.xi(part, rate(jnp.array(step))) for step in steps]
        np.testing.assert_allclose(found, [1e-3, 1e-3, 1e-4, 1e-5, 1e-5], rtol=1e-5)


@pytest.mark.parametrize(
    ("row", "compared", "value", "clean", "adversarial"),
    [
        ("surrogate", "xi", 0.0, (33.637, 0.724), (17.806, 0.241)),
        # Printed in the other order.
        ("surrogate_clean", "xi", 1e-3, (29.762, 2.767), (10.313, 0.532)),
        ("lasso_l2", "l1_penalty", 1e-5, (86.568, 0.214), (63.072, 0.292)),
        ("lasso_linf", "l1_penalty", 0.0, (82.870, 0.131), (50.338, 0.315)),
    ],
)
def test_printed_accuracies_are_those_of_the_tables(
    row, compared, value, clean, adversarial
):
    found = wide_resnet.published(row, compared, value)
    assert found == {"test_accuracy": clean, "test_robust_accuracy": adversarial}


def test_what_is_not_printed_has_no_numbers():
    for row in ("", "surrogate_200"):
        assert wide_resnet.published(row, "xi", 0.0) == {}
    assert wide_resnet.published("surrogate", "xi", 1e-3) == {}
    assert wide_resnet.published("surrogate", "l1_penalty", 0.0) == {}


@pytest.mark.slow
def test_clean_epochs_end_where_the_compared_runs_begin(tmp_path):
    config = wide_resnet.get_config("surrogate_clean,smoke")
    config.compared_values = (0.0, 0.01)
    config.num_epochs, config.clean_epochs = 1, 3
    # The clean epochs are at the first rate, and the others take almost no step.
    config.schedule, config.schedule_knots = "linear", (0.0, 1.0)
    config.schedule_values = (1e-9, 1e-9)
    results = _run(config, tmp_path)
    start = parameters.read(str(tmp_path / "clean-last.safetensors"))
    other = jax.tree.leaves(start.params)[0]
    assert np.abs(other[0] - other[1]).max() > 1e-2  # of two seeds
    for value in ("0", "0.01"):
        end = parameters.read(str(tmp_path / f"xi-{value}-last.safetensors"))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
            *(start.params, end.params),
        )
    log = (tmp_path / "metrics.jsonl").read_text().splitlines()
    parts = {part: [] for part in ("clean", "xi-0", "xi-0.01")}
    for row in map(json.loads, log):
        if "part" in row:
            parts[row["part"]].append(row)
    assert ["factor" in rows[-1] for rows in parts.values()] == [False, False, True]
    clean = parts["clean"]
    assert clean[-1]["loss"][0] < clean[0]["loss"][0] - 0.1  # it has moved
    factor = arrays.restored(results)["factor"]
    assert (factor.sel(value=0.0) == 1).all()
    report = (tmp_path / "report.md").read_text()
    assert "| 33.35 % ± 1.26 |" in report
    assert "| 17.29 % ± 0.24 |" in report
    assert "ξ = 0.01" in report


def test_gains_over_the_first_value_are_paired():
    last = np.array([[10.0, 20.0, 31.0], [12.0, 23.0, 33.0]])
    found = wide_resnet.gains(xr.DataArray(last, dims=("value", "seed")))
    expected = stats.ttest_rel(last[1], last[0]).confidence_interval(0.95)
    np.testing.assert_allclose(found[1], [7 / 3, *expected])
    np.testing.assert_array_equal(found[0], 0)


def _run(config, path):
    return run.run(config.lock(), path)["results"]


def test_training_sets_are_random_and_hold_both_digits():
    config = lasso_mnist.get_config().copy_and_resolve_references().unlock()
    config.num_repetitions = 40
    y = np.repeat([0, 1], [95, 5])
    rows = lasso_mnist.training_sets(config, 10, y)
    assert rows.shape == (40, 10)
    for row in rows:
        assert np.unique(row).size == 10
        assert set(y[row]) == {0, 1}
    assert len({tuple(row) for row in rows}) == 40
    np.testing.assert_array_equal(rows, lasso_mnist.training_sets(config, 10, y))


@pytest.fixture(scope="module")
def small():
    """A case in which the surrogate matters, its data, and what it gives.

    Twelve examples in batches of eight: the last batch is smaller.
    """
    config = lasso_mnist.get_config("smoke").copy_and_resolve_references().unlock()
    config.num_epochs, config.xi = 30, (0.3,)
    config.norms, config.eps, config.rel_path = ("l2",), (1.0,), (2.0,)
    lasso_mnist.STUDY.resolved(config)
    parts = [
        jax.tree.map(jnp.asarray, recipe.read(config, split))
        for split in ("train", "test")
    ]
    keys = jax.random.split(jax.random.key(0), 2)
    (setting,) = lasso_mnist.settings(config)
    rows = lasso_mnist.training_sets(config, 12, np.asarray(parts[0].y))
    found = lasso_mnist.tested(config, setting, 12, parts, keys)
    return config, setting, parts, keys, rows, found


@pytest.mark.slow
def test_repetitions_at_once_are_repetitions_one_by_one(small):
    config, setting, parts, keys, rows, found = small
    alone = jax.jit(
        lambda key, rows: lasso_mnist.repetition(config, setting, (key, rows), *parts)
    )
    for r in range(2):
        for name, value in alone(keys[r], rows[r]).items():
            np.testing.assert_allclose(
                found[name][r], value, rtol=1e-4, atol=1e-6, err_msg=name
            )
    assert found["sparsity"][:, 2].min() > 0
    np.testing.assert_array_equal(found["sparsity"][:, :2], 0)


@pytest.mark.slow
def test_arms_share_data_start_order_and_attacks(small, monkeypatch):
    config, setting, parts, keys, rows, found = small
    arm = lasso_mnist.arms(config)[1]
    monkeypatch.setattr(lasso_mnist, "arms", lambda _: [arm, arm])
    own = (keys[0], rows[0])
    twice = lasso_mnist.repetition(config, setting, own, *parts)
    for name, value in twice.items():
        np.testing.assert_allclose(value[0], value[1], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(twice["loss"][0], found["loss"][0, 1], rtol=1e-4)


def test_metrics_are_means_over_examples(small):
    """Of a network that hardly moves, over batches of eight and of four."""
    config, setting, parts, keys, rows, _ = small
    still = config.copy_and_resolve_references()
    still.learning_rate, still.num_epochs = 1e-9, 1
    chosen = Batch(data.as_float(parts[0].x[rows[0]]), parts[0].y[rows[0]])
    setting = setting._replace(eps=0.0)
    arm = lasso_mnist.arms(config)[0]
    state, metrics = lasso_mnist.trained(still, setting, arm, keys[0], chosen)
    logits = lasso_mnist.network(config).predict(state.params, {}, chosen.x)
    loss = losses.cross_entropy(logits, chosen.y).mean()
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)


def test_a_repetition_is_tested_by_the_attack_without_surrogate(small):
    config, setting, parts, keys, rows, found = small
    chosen = Batch(data.as_float(parts[0].x[rows[0]]), parts[0].y[rows[0]])
    key_train, key_test = jax.random.split(keys[0])
    arm = lasso_mnist.arms(config)[0]
    state, _ = lasso_mnist.trained(config, setting, arm, key_train, chosen)
    model = lasso_mnist.network(config)
    attack = attacks.pgd(
        norms.l2,
        num_steps=config.test_num_steps,
        rel_step_size=2 / config.test_num_steps,
        bounds=(0.0, 1.0),
    )

    def robust(attack):
        outcome = evaluate.outcome(
            key_test,
            lambda x: model.predict(state.params, {}, x),
            losses.cross_entropy,
            *(attack, data.as_float(parts[1].x), parts[1].y, setting.eps),
        )
        return outcome.robust.mean(), outcome.correct.mean()

    plain, clean = robust(attack)
    shrunk, _ = robust(attacks.smooth(attack, norms.l2, setting.xi))
    assert plain < shrunk - 0.02
    assert plain < clean
    np.testing.assert_allclose(found["test_robust_accuracy"][0, 0], plain, atol=5e-3)
    np.testing.assert_allclose(found["test_accuracy"][0, 0], clean, atol=5e-3)


def test_gains_are_paired():
    accuracy = xr.DataArray(
        [[0.5, 0.7], [0.6, 0.65]],
        {"arm": [lasso_mnist.NO_PENALTY, lasso_mnist.LASSO]},
        ("repetition", "arm"),
    )
    gain = lasso_mnist.gain(accuracy, lasso_mnist.LASSO)
    expected = stats.ttest_rel([70, 65], [50, 60]).confidence_interval(0.95)
    np.testing.assert_allclose(gain, [12.5, *expected])


def test_the_difference_of_attacks_is_followed(tmp_path):
    found = arrays.restored(_run(attack_difference.get_config("smoke"), tmp_path))
    few = found.isel(num_steps=0)
    difference = few["difference"].transpose("epoch", "eps", "seed")
    assert difference.shape == (2, 2, 2)
    assert ((difference > 0) & (difference <= 2 * difference["eps"])).all()
    values = difference.values
    growth = values[-1, 1] - values[0, 1]
    t = stats.ttest_1samp(growth, 0).confidence_interval(0.95)
    expected = [growth.mean(), *t]
    np.testing.assert_allclose(few["growth"].sel(eps=3.0), expected, rtol=1e-4)
    contrast = (values[-1, 1] / 3 - values[-1, 0] / 0.5).mean()
    relative = few["relative_contrast"].sel(bound="mean")
    np.testing.assert_allclose(relative, contrast, rtol=1e-4)


BAD = {
    "no random start": (
        ("attack_difference:smoke", "--config.start=none"),
        "config.start = 'none': there are no random starts",
    ),
    "one radius to compare": (
        ("attack_difference:smoke", "--config.eps=(0.5,)"),
        "config.eps = (0.5,): give a tuple of at least 2",
    ),
    "more images than there are": (
        ("attack_difference:smoke", "--config.num_watched=1000"),
        "config.num_watched = 1000",
    ),
    "a norm without surrogate": (
        ("lasso_mnist:smoke", "--config.norms=('l1','l2')"),
        "choose from l2, linf",
    ),
    "a radius too few": (
        ("lasso_mnist:smoke", "--config.eps=(0.3,)"),
        "config.norms, eps, rel_path: differ in length",
    ),
    "fewer images than classes": (
        ("lasso_mnist:smoke", "--config.n=(1,)"),
        "config.n = (1,)",
    ),
    "another field to compare": (
        ("wide_resnet:smoke", "--config.compared=eps"),
        "config.compared = 'eps'",
    ),
    "the same setting twice": (
        ("lasso_mnist:smoke", "--config.xi=(0.1,0.1)"),
        "config.xi = (0.1, 0.1): one is repeated",
    ),
    "a class missing in the pool": (
        ("lasso_mnist:smoke", "--config.num_train=2", "--config.n=(2,)"),
        "not all of config.classes",
    ),
    "a class twice": (
        ("lasso_mnist:smoke", "--config.classes=(0,0)"),
        "train part of digits: classes = (0, 0)",
    ),
    "steps twice": (
        ("attack_difference:smoke", "--config.watched_steps=(2,2)"),
        "config.watched_steps = (2, 2): give increasing numbers",
    ),
    "no epochs": (
        ("wide_resnet:smoke", "--config.num_epochs=0"),
        "config.num_epochs = 0",
    ),
    "several radii": (
        ("wide_resnet:smoke", "--config.eps=(0.5,1.0)"),
        "config.eps = (0.5, 1.0): give 1 at most",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_input_is_one_clear_line(name, tmp_path, capsys):
    (config, *arguments), words = BAD[name]
    file, _, variant = config.partition(":")
    path = f"--config={FOLDER / file}.py:{variant}"
    assert run.main([path, *arguments, f"--workdir={tmp_path}/w"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("advjax: error: ")
    assert error.count("\n") == 1
    assert words in error


def test_intervals_are_students():
    values = np.random.default_rng(0).normal(size=7)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = intervals.student(values)
    np.testing.assert_allclose(found, [values.mean(), *expected])
    assert f"{intervals.Interval(1.0, -0.25, 2.0):+.1f}" == "+1.0 [-0.2, +2.0]"
    assert f"{intervals.student(np.ones(1)):.0f}" == "1 [n/a]"
