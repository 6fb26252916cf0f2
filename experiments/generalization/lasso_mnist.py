"""LASSO for a two-layer network on two digits of MNIST (Figures 4 and 14 to 16).

Adversarial training on small random training sets, with and without λ Σ|w|, by the
surrogate attack (ξ > 0) or the attack itself. A repetition draws a training set, a
start and the order of its batches, which all arms share, so that their differences are
paired. The repetitions of one n are one program, vmapped in chunks over all devices.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from advjax import (
    attacks,
    data,
    evaluate,
    losses,
    models,
    norms,
    objectives,
    penalties,
    replicates,
    train,
)
from advjax.norms import Norm
from advjax.train import TrainState
from advjax.types import Array, Attack, Batch, Key, Model
from experiments import checks, figures, intervals, progress
from experiments.intervals import Interval
from experiments.training import recipe
from experiments.workdir import Workdir


class Setting(NamedTuple):
    """One figure of the paper: the attack, and the surrogate's xi."""

    norm: str
    eps: float
    rel_path: float
    xi: float

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.norm}-eps{self.eps:g}-xi{self.xi:g}"


class Arm(NamedTuple):
    """One way of training."""

    name: str
    penalty: float
    proximal: bool


FIGURES = {
    ("l2", 3.0, 1e-4): "Figure 4",
    ("l2", 3.0, 0.0): "Figure 14",
    ("linf", 0.3, 1e-4): "Figure 15",
    ("linf", 0.3, 0.0): "Figure 16",
}
"""Of the paper, by norm, eps and xi."""


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.one_of(config, "dataset", recipe.DATASETS)
    checks.seed(config)
    checks.tuples(config, "norms", "eps", "rel_path", "xi", "n", "classes")
    for norm in config.norms:
        if norm not in ("l2", "linf"):
            msg = f"config.norms = {config.norms!r}: choose from l2, linf"
            raise checks.ConfigError(msg)
    for field in ("eps", "rel_path"):
        checks.numbers(config, field, above=0)
        if len(config[field]) != len(config.norms):
            raise checks.ConfigError(
                f"config.{field} = {config[field]!r}: give one for each of "
                f"config.norms = {config.norms!r}"
            )
    checks.numbers(config, "xi")
    names = [setting.name for setting in settings(config)]
    if len(set(names)) < len(names):
        msg = f"config.xi = {config.xi!r}: give every norm, eps and xi once"
        raise checks.ConfigError(msg)
    checks.numbers(config, "penalty", above=0)
    checks.numbers(config, "learning_rate", above=0)
    checks.integers(config, "classes", least=0)
    checks.tuples(config, "classes", least=2)
    checks.increasing(config, "n")
    checks.integers(config, "n", least=len(config.classes))
    checks.integers(config, "num_repetitions", least=2)
    counts = ("num_epochs", "batch_size", "num_steps", "test_num_steps", "hidden")
    checks.integers(config, *counts)
    whole = ("num_train", "num_test", "subset_seed", "chunk_size")
    checks.integers(config, *whole, least=0)
    checks.single(config, *counts, *whole, "penalty", "learning_rate")
    checks.single(config, "num_repetitions")


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Trains and tests everything, a stage for every figure and n."""
    parts = [recipe.read(config, split) for split in ("train", "test")]
    checks.integers(config, "n", most=parts[0].y.size)
    if np.unique(parts[0].y).size < len(config.classes):
        raise checks.ConfigError(
            f"config.num_train = {config.num_train!r}: not all of config.classes = "
            f"{config.classes!r} are among so few images"
        )
    keys = jax.random.split(jax.random.key(config.seed), config.num_repetitions)
    found, label = {}, f"{workdir.path.name}: training sets"
    cases = [(setting, n) for setting in settings(config) for n in config.n]
    for i in progress.steps(len(cases), label):
        setting, n = cases[i]
        found[setting, n] = workdir.stage(
            f"{setting.name}-n{n}", _tested, config, setting, n, parts, keys
        )
    for setting in settings(config):
        _figure(config, setting, found, workdir)
    return _report(config, parts[0].x[0].size, found, workdir)


def settings(config: ConfigDict) -> list[Setting]:
    """Every norm with every xi."""
    sizes = zip(config.norms, config.eps, config.rel_path, strict=True)
    return [Setting(*size, xi) for size in sizes for xi in config.xi]


def arms(config: ConfigDict) -> list[Arm]:
    """Without penalty, with it by subgradient, and with exact zeros."""
    chosen = [Arm("no penalty", 0.0, False), Arm("LASSO", config.penalty, False)]
    proximal = Arm("LASSO, proximal", config.penalty, True)
    return [*chosen, proximal] if config.proximal else chosen


def _tested(config, setting: Setting, n: int, parts, keys) -> dict[str, np.ndarray]:
    """All repetitions, ``[repetition, arm]``."""
    rows = training_sets(config, n, parts[0].y)
    one = partial(repetition, config, setting)
    call = replicates.sharded_vmap(one, chunk_size=config.chunk_size or None)
    found = call((keys, rows), *parts)
    bad = np.argwhere(~np.isfinite(found["loss"]))
    if bad.size:
        r, j = bad[0]
        raise checks.DivergedError(
            f"the loss of {setting.name}, n = {n}, repetition {r}, "
            f"{arms(config)[j].name} is {found['loss'][r, j]} in the last epoch"
        )
    return found


def training_sets(config: ConfigDict, n: int, y: np.ndarray) -> np.ndarray:
    """``[repetition, n]`` indices of random training sets with every class in them."""
    rows = []
    for r in range(config.num_repetitions):
        rng = np.random.default_rng((config.seed, n, r))
        drawn = rng.permutation(y.size)[:n]
        while len(np.unique(y[drawn])) < len(config.classes):
            drawn = rng.permutation(y.size)[:n]
        rows.append(drawn)
    return np.stack(rows)


def repetition(
    config: ConfigDict, setting: Setting, own: tuple[Key, Array], pool: Batch, test
) -> dict[str, Array]:
    """Trains and tests every arm on one training set, ``[arm]``.

    Args:
        config: the configuration.
        setting: the attack.
        own: key, and ``[n]`` indices of the training set.
        pool: all training images.
        test: all test images.
    """
    key, rows = own
    chosen = Batch(data.as_float(pool.x[rows]), pool.y[rows])
    test = Batch(data.as_float(test.x), test.y)
    key_train, key_test = jax.random.split(key)
    results = []
    for arm in arms(config):
        state, metrics = trained(config, setting, arm, key_train, chosen)
        model = _network(config)
        judge = partial(_judged, config, setting, model, state.params, key_test)
        results.append(
            {
                **metrics,
                **{f"train_{name}": v for name, v in judge(chosen).items()},
                **{f"test_{name}": v for name, v in judge(test).items()},
                "sparsity": penalties.sparsity(state.params),
            }
        )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


def trained(
    config: ConfigDict, setting: Setting, arm: Arm, key: Key, chosen: Batch
) -> tuple[TrainState, dict[str, Array]]:
    """The network after the last epoch, and means over the examples of that epoch."""
    model, n = _network(config), chosen.y.shape[0]
    batch_size = min(config.batch_size, n)
    tx = optax.adam(config.learning_rate)
    attack = _attack(setting, config.num_steps, attacks.in_ball(_norm(setting)))
    if setting.xi:
        attack = attacks.smooth(attack, _norm(setting), setting.xi)
    objective = objectives.adversarial(model, losses.cross_entropy, attack)
    if arm.proximal:
        tx = penalties.proximal(tx, arm.penalty)
    else:
        objective = objectives.with_penalty(
            objective, lambda w: arm.penalty * norms.l1.value(w)
        )
    steps = train.scanned(train.make_step(objective, tx))
    full, rest_size = divmod(n, batch_size)
    sizes = np.array([batch_size] * full + [rest_size] * (rest_size > 0))

    def epoch(state, i):
        key = train.shuffle_key(state, i)
        state, metrics = steps(
            state, chosen, train.epoch_indices(key, n, batch_size), setting.eps
        )
        if rest_size:
            rest = train.remainder_indices(key, n, batch_size)
            state, last = steps(state, chosen, rest, setting.eps)
            metrics = jax.tree.map(lambda *m: jnp.concatenate(m), metrics, last)
        return state, jax.tree.map(lambda m: jnp.average(m, weights=sizes), metrics)

    state = train.create(key, model, tx, chosen.x[:1])
    state, metrics = jax.lax.scan(epoch, state, jnp.arange(config.num_epochs))
    return state, jax.tree.map(lambda m: m[-1], metrics)


def _network(config: ConfigDict) -> Model:
    num_classes = len(config.classes)
    return models.make("mlp_1024", num_classes=num_classes, hidden=(config.hidden,))


def _norm(setting: Setting) -> Norm:
    return recipe.NORMS[setting.norm]


def _attack(setting: Setting, num_steps: int, start: attacks.Start | None) -> Attack:
    # Not recipe's: rolled, which compiles faster and costs matrix products nothing.
    return attacks.pgd(
        _norm(setting),
        num_steps=num_steps,
        rel_step_size=setting.rel_path / num_steps,
        start=start,
        bounds=(0.0, 1.0),
        unroll=1,
    )


def _judged(config, setting, model, params, key, batch) -> dict[str, Array]:
    """Accuracies by the attack itself from the clean input, whatever xi is."""

    def predict(x):
        return model.predict(params, {}, x)

    attack = _attack(setting, config.test_num_steps, None)
    found = evaluate.outcome(
        key, predict, losses.cross_entropy, attack, *batch, setting.eps
    )
    return {
        "accuracy": jnp.mean(found.correct),
        "robust_accuracy": jnp.mean(found.robust),
        "zero_grad": jnp.mean(found.zero_grad),
    }


def _gain(found: dict, j: int) -> Interval:
    """Adversarial test accuracy of arm j less that of no penalty, in points, paired."""
    values = 100 * found["test_robust_accuracy"]
    return intervals.student(values[:, j] - values[:, 0])


def _figure(config: ConfigDict, setting: Setting, found, workdir: Workdir) -> None:
    """Box plots as the paper's: standard accuracy above, adversarial below."""
    figure, axes = figures.panels(1, 2, sharex=True)
    chosen, width = arms(config), 0.8 / len(arms(config))
    names = {"test_accuracy": "standard", "test_robust_accuracy": "adversarial"}
    for axis, (name, title) in zip(axes, names.items(), strict=True):
        for j, color in enumerate(figures.colors(len(chosen))):
            values = [100 * found[setting, n][name][:, j] for n in config.n]
            where = np.arange(len(config.n)) + (j - (len(chosen) - 1) / 2) * width
            figures.boxes(axis, where, values, 0.8 * width, chosen[j].name, color)
        axis.set_ylabel(f"{title} test accuracy, %")
    axes[0].legend()
    axes[1].set_xticks(np.arange(len(config.n)), [str(n) for n in config.n])
    axes[1].set_xlabel("training examples n")
    figure.suptitle(_title(setting), fontsize=10)
    workdir.save_figure(figure, setting.name)


def _title(setting: Setting) -> str:
    figure = FIGURES.get((setting.norm, setting.eps, setting.xi))
    title = f"{setting.norm}, ε = {setting.eps:g}, ξ = {setting.xi:g}"
    return f"{figure}: {title}" if figure else title


def _report(config: ConfigDict, d: int, found, workdir: Workdir) -> dict[str, Any]:
    sections = []
    for setting in settings(config):
        rows = [row for n in config.n for row in _rows(config, n, found[setting, n])]
        sections.append(
            f"### {_title(setting)}\n\n![box plots]({setting.name}.png)\n\n"
            f"{figures.table(_HEADER, rows)}"
        )
    workdir.write_text(
        "report.md",
        f"## LASSO on {config.dataset}, classes {', '.join(map(str, config.classes))}"
        f"\n\nMLP {d}-{config.hidden}-{len(config.classes)}, Adam "
        f"{config.learning_rate:g}, {config.num_epochs} epochs in batches of "
        f"{config.batch_size}, PGD-{config.num_steps}; λ = {config.penalty:g} on "
        f"weights. Tested by PGD-{config.test_num_steps} from the clean input, without "
        f"surrogate. Mean ± sd over {config.num_repetitions} repetitions, in percent; "
        "gains over no penalty with Student's 95 % intervals, paired by repetition. "
        "Accuracies are of the last network; under the training attack, surrogate and "
        "random start included, means over its last epoch. Factor: what the surrogate "
        "leaves of the attack to first order, mean over that epoch; where it is small, "
        "an arm has hardly been attacked at the end. Zeros: share of weights that are "
        "exactly zero. Zero gradients: share of test images whose attack meets one.\n\n"
        + "\n".join(sections),
    )
    return {
        "summary": [_line(config, setting, found) for setting in settings(config)],
        "num_repetitions": config.num_repetitions,
        "arms": [arm.name for arm in arms(config)],
        "by_setting": [
            {**setting._asdict(), "n": n, **found[setting, n]}
            for setting in settings(config)
            for n in config.n
        ],
    }


def _line(config: ConfigDict, setting: Setting, found) -> str:
    """The gains over no penalty in one line."""
    by_n = [found[setting, n] for n in config.n]
    gains = [f"{_gain(one, 1):+.1f}" for one in by_n]
    line = (
        f"LASSO on {config.dataset}, {setting.norm}, eps = {setting.eps:g}, xi = "
        f"{setting.xi:g}: gain in adversarial accuracy at n = "
        f"{' / '.join(map(str, config.n))} is {' / '.join(gains)} points"
    )
    if setting.xi:
        left = ["{:.2f} to {:.2f}".format(*_range(by_n, "factor", j)) for j in (0, 1)]
        line += (
            f"; the surrogate leaves {left[1]} of the attack, without penalty {left[0]}"
        )
    if config.proximal:
        exact = " / ".join(f"{_gain(one, 2).mean:+.1f}" for one in by_n)
        low, high = _range(by_n, "sparsity", 2)
        line += (
            f"; with {100 * low:.1f} to {100 * high:.1f} % of the weights zero {exact}"
        )
    return line


def _range(by_n: list[dict], name: str, j: int) -> tuple[float, float]:
    """The smallest and the largest mean of arm j."""
    means = [one[name][:, j].mean() for one in by_n]
    return min(means), max(means)


_HEADER = ["n", "", "test", "adv. test", "gain, adv. test", "training"]
_HEADER += ["adv. training", "training attack", "factor", "zeros", "zero gradients"]


def _rows(config: ConfigDict, n: int, found: dict) -> list[list[str]]:
    rows = []
    for j, arm in enumerate(arms(config)):
        percent = [
            figures.plus_minus(100 * found[name][:, j], 1)
            for name in (
                *("test_accuracy", "test_robust_accuracy"),
                *("train_accuracy", "train_robust_accuracy", "accuracy"),
            )
        ]
        gain = f"{_gain(found, j):+.1f}" if j else ""
        factor = f"{found['factor'][:, j].mean():.3f}" if "factor" in found else "1"
        rows.append(
            [
                f"{n}" if j == 0 else "",
                *(arm.name, *percent[:2], gain, *percent[2:], factor),
                f"{100 * found['sparsity'][:, j].mean():.1f}",
                f"{100 * found['test_zero_grad'][:, j].mean():.1f}",
            ]
        )
    return rows
