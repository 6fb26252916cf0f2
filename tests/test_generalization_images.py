"""The surrogate attack and LASSO in networks on images: configurations and studies."""

import csv
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from advjax import attacks, data, evaluate, losses, norms, penalties
from advjax.types import Batch
from experiments import checks, intervals, run
from experiments.generalization import lasso_mnist, wide_resnet
from experiments.training import recipe
from experiments.transition import published

CONFIGS = Path(__file__).parents[1] / "experiments" / "generalization" / "configs"


def _module(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WIDE, LASSO, DIFFERENCE = map(
    _module, ("wide_resnet", "lasso_mnist", "attack_difference")
)


def _table(name):
    path = published.TABLES / f"generalization_{name}.csv"
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("row", WIDE.ROWS)
def test_every_row_is_valid_at_every_size(row):
    for size in WIDE.SIZES:
        if size == "cpu" and row.startswith("lasso"):
            with pytest.raises(checks.ConfigError, match="surrogate only"):
                WIDE.get_config(f"{row},{size}")
            continue
        wide_resnet.validate(WIDE.get_config(f"{row},{size}"))


def test_the_protocols_of_the_surrogate():
    for row, epochs, knots, clean in (
        ("surrogate", 100, (0.75, 0.9), 0),
        ("surrogate_200", 200, (0.5, 0.75), 0),
        ("surrogate_clean", 100, (0.75, 0.9), 50),
    ):
        config = WIDE.get_config(row)
        assert (config.dataset, config.model, config.width) == (
            *("cifar10", "wideresnet34", 1),
        )
        assert (config.norm, config.eps) == ("l2", (3.0,))
        assert (config.num_steps, config.rel_step_size) == (5, 0.4)
        assert (config.test_num_steps, config.test_rel_step_size) == (20, 0.1)
        assert config.activation == "relu_softplus"
        assert (config.num_epochs, config.schedule_knots) == (epochs, knots)
        assert (config.clean_epochs, config.learning_rate) == (clean, 0.1)
        assert (config.compared, config.compared_values) == ("xi", (0.0, 1e-3))
        xi = recipe.surrogate(wide_resnet.arm(config, 1e-3), 100)
        last = 100 * epochs - 1
        drops = [round(knot * 100 * epochs) for knot in knots]
        steps = (0, drops[0] - 2, drops[0], drops[1], last)
        found = [xi(jnp.array(step)) for step in steps]
        np.testing.assert_allclose(found, [1e-3, 1e-3, 1e-4, 1e-5, 1e-5], rtol=1e-5)


def test_printed_accuracies_are_those_of_the_tables():
    for line in _table("surrogate_cifar10_wideresnet34_1"):
        row = "surrogate_clean" if "clean" in line["setting"] else "surrogate"
        config = WIDE.get_config(row)
        i = config.compared_values.index(float(line["xi"]))
        names = ["std_acc", "std_acc_sd", "adv_acc", "adv_acc_sd"]
        printed = [float(line[name]) for name in names]
        if printed[0] < printed[2]:  # printed in the other order
            printed = printed[2:] + printed[:2]
        assert list(config.printed[i]) == printed
    for line in _table("tables_1_2_lasso_cifar10_wideresnet34_10"):
        config = WIDE.get_config(f"lasso_{line['norm']}")
        eps = {"0.5": 0.5, "8/255": 8 / 255}[line["eps"]]
        assert config.eps == (eps,)
        assert (config.model, config.width) == ("wideresnet34", 10)
        i = config.compared_values.index(float(line["l1"]))
        names = ["std_acc", "std_acc_sd", "adv_acc", "adv_acc_sd"]
        assert list(config.printed[i]) == [float(line[name]) for name in names]


def test_clean_epochs_end_where_the_compared_runs_begin(tmp_path):
    config = WIDE.get_config("surrogate_clean,smoke").copy_and_resolve_references()
    with config.unlocked():
        config.learning_rate, config.num_seeds = 1e-9, 2
    results = _run(config, tmp_path)
    with np.load(tmp_path / "clean-last.npz") as start:
        for value in ("0", "0.001"):
            with np.load(tmp_path / f"xi-{value}-last.npz") as end:
                for name in set(start) - {"about"}:
                    np.testing.assert_allclose(start[name], end[name], atol=1e-6)
    assert results["compared_values"] == [0.0, 0.001]
    both = [curves["factor"] for curves in results["curves"] if "factor" in curves]
    assert len(both) == 1
    gain = results["gains"]["test_robust_accuracy"][0]
    last = np.array(results["last"]["test_robust_accuracy"])
    assert gain[0] == pytest.approx(np.mean(last[1] - last[0]))


def _run(config, path):
    return run.run(config.lock(), path)["results"]


def test_training_sets_are_random_and_hold_both_digits():
    config = LASSO.get_config().copy_and_resolve_references().unlock()
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
    """The smoke configuration, its data, and what two repetitions give."""
    config = LASSO.get_config("smoke")
    parts = [
        jax.tree.map(jnp.asarray, lasso_mnist._part(config, split))
        for split in ("train", "test")
    ]
    keys = jax.random.split(jax.random.key(0), 2)
    (setting, _) = lasso_mnist.settings(config)
    rows = lasso_mnist.training_sets(config, 12, np.asarray(parts[0].y))
    found = lasso_mnist._tested(config, setting, 12, parts, keys)
    return config, setting, parts, keys, rows, found


def test_repetitions_at_once_are_repetitions_one_by_one(small):
    config, setting, parts, keys, rows, found = small
    for r in range(2):
        alone = jax.jit(
            lambda key, rows: lasso_mnist.repetition(
                config, setting, (key, rows), *parts
            )
        )(keys[r], rows[r])
        for name, value in alone.items():
            np.testing.assert_allclose(
                found[name][r], value, rtol=1e-4, atol=1e-6, err_msg=name
            )


def test_arms_share_everything_but_the_penalty(small):
    config, setting, parts, keys, rows, found = small
    chosen = Batch(data.as_float(parts[0].x[rows[0]]), parts[0].y[rows[0]])
    none, lasso, _ = lasso_mnist.arms(config)
    a, b = (
        lasso_mnist.trained(config, setting, arm, keys[0], chosen)[0].params
        for arm in (none, lasso._replace(penalty=0.0))
    )
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert found["sparsity"][:, 2].min() > 0
    np.testing.assert_array_equal(found["sparsity"][:, :2], 0)


def test_a_repetition_is_tested_by_the_attack_without_surrogate(small):
    config, setting, parts, keys, rows, found = small
    chosen = Batch(data.as_float(parts[0].x[rows[0]]), parts[0].y[rows[0]])
    key_train, key_test = jax.random.split(keys[0])
    arm = lasso_mnist.arms(config)[0]
    state, _ = lasso_mnist.trained(config, setting, arm, key_train, chosen)
    model = lasso_mnist._network(config)
    attack = attacks.pgd(
        norms.l2,
        num_steps=config.test_num_steps,
        rel_step_size=2 / config.test_num_steps,
        bounds=(0.0, 1.0),
    )
    x, y = data.as_float(parts[1].x), parts[1].y
    outcome = evaluate.outcome(
        key_test,
        lambda x: model.apply(state.params, {}, x, train=False)[0],
        losses.cross_entropy,
        *(attack, x, y, setting.eps),
    )
    robust = outcome.robust.mean()
    np.testing.assert_allclose(found["test_robust_accuracy"][0, 0], robust, atol=2e-3)
    assert penalties.sparsity(state.params) == 0


def test_the_difference_of_attacks_is_followed(tmp_path):
    config = DIFFERENCE.get_config("smoke")
    results = _run(config, tmp_path)
    few, _ = results["by_steps"]
    found = np.array(few["attack_difference"])  # [epoch, radius, seed]
    assert found.shape == (2, 2, 2)
    assert ((found > 0) & (found <= 2 * np.array([[0.5], [3.0]]))).all()
    growth = found[-1, 1] - found[0, 1]
    t = stats.ttest_1samp(growth, 0).confidence_interval(0.95)
    np.testing.assert_allclose(few["growth"][1], [growth.mean(), *t], rtol=1e-4)
    contrast = (found[-1, 1] / 3 - found[-1, 0] / 0.5).mean()
    np.testing.assert_allclose(few["relative_contrast"][0], contrast, rtol=1e-4)


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
        "give one for each of config.norms",
    ),
    "fewer images than classes": (
        ("lasso_mnist:smoke", "--config.n=(1,)"),
        "config.n = (1,)",
    ),
    "another field to compare": (
        ("wide_resnet:smoke", "--config.compared=eps"),
        "config.compared = 'eps'",
    ),
    "several radii": (
        ("wide_resnet:smoke", "--config.eps=(0.5,1.0)"),
        "give one radius",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_input_is_one_clear_line(name, tmp_path, capsys):
    (config, *arguments), words = BAD[name]
    file, _, variant = config.partition(":")
    path = f"--config={CONFIGS / file}.py:{variant}"
    assert run.main([path, *arguments, f"--workdir={tmp_path}/w"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("advjax: error: ")
    assert error.count("\n") == 1
    assert words in error


def test_intervals_are_students():
    values = np.random.default_rng(0).normal(size=7)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    found = intervals.student(values, 0.9)
    np.testing.assert_allclose(found, [values.mean(), *expected])
    assert f"{intervals.Interval(1.0, -0.25, 2.0):+.1f}" == "+1.0 [-0.2, +2.0]"
    assert np.isnan(intervals.student(np.ones(1)).low)


def test_results_are_json(small):
    json.dumps({name: value.tolist() for name, value in small[-1].items()})
