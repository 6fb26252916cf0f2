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
        """For files and tables."""
        return f"{self.norm}-xi{self.xi:g}"


class Arm(NamedTuple):
    """One way of training."""

    name: str
    penalty: float
    proximal: bool


FIGURES = {
    ("l2", True): "Figure 4",
    ("l2", False): "Figure 14",
    ("linf", True): "Figure 15",
    ("linf", False): "Figure 16",
}
"""By norm, and whether xi is above 0."""


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
    checks.numbers(config, "penalty", above=0)
    checks.numbers(config, "learning_rate", above=0)
    checks.integers(config, "classes", least=0)
    checks.tuples(config, "classes", least=2)
    checks.increasing(config, "n")
    checks.integers(config, "n", least=len(config.classes))
    checks.integers(config, "num_repetitions", least=2)
    counts = ("num_epochs", "batch_size", "num_steps", "test_num_steps", "hidden")
    checks.integers(config, *counts)
    checks.integers(config, "num_test", "chunk_size", least=0)
    checks.single(config, *counts, "penalty", "learning_rate", "num_repetitions")
    checks.one_of(config, "decay", (True, False))


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Trains and tests everything, a stage for every figure and n."""
    parts = [_part(config, split) for split in ("train", "test")]
    checks.integers(config, "n", most=parts[0].y.size)
    keys = jax.random.split(jax.random.key(config.seed), config.num_repetitions)
    found, label = {}, f"{workdir.path.name}: training sets"
    cases = [(setting, n) for setting in settings(config) for n in config.n]
    for i in progress.steps(len(cases), label):
        setting, n = cases[i]
        found[setting, n] = workdir.stage(
            f"{setting.name}-n{n}", _tested, config, setting, n, parts, keys
        )
        losses_of = found[setting, n]["loss"]
        names = [arm.name for arm in arms(config)]
        checks.finite(
            losses_of[None],
            config.num_epochs,
            lambda r, j, n=n, names=names: f"n = {n}, repetition {r}, {names[j]}",
        )
    for setting in settings(config):
        _figure(config, setting, found, workdir)
    return _report(config, found, workdir)


def settings(config: ConfigDict) -> list[Setting]:
    """Every norm with every xi."""
    sizes = zip(config.norms, config.eps, config.rel_path, strict=True)
    return [Setting(*size, xi) for size in sizes for xi in config.xi]


def arms(config: ConfigDict) -> list[Arm]:
    """Without penalty, with it by subgradient, and with exact zeros."""
    chosen = [Arm("no penalty", 0.0, False), Arm("LASSO", config.penalty, False)]
    proximal = Arm("LASSO, proximal", config.penalty, True)
    return [*chosen, proximal] if config.proximal else chosen


def _part(config: ConfigDict, split: str) -> Batch:
    part = data.of_classes(
        data.load(config.dataset, split=split, data_dir=config.data_dir or None),
        config.classes,
    )
    size = config.num_test if split == "test" else 0
    size = min(size, part.y.size)
    return data.subset(part, size, seed=config.seed) if size else part


def _tested(config, setting: Setting, n: int, parts, keys) -> dict[str, np.ndarray]:
    """All repetitions, ``[repetition, arm]``."""
    rows = training_sets(config, n, parts[0].y)
    one = partial(repetition, config, setting)
    call = replicates.mapped(one, chunk_size=config.chunk_size or None)
    return call((keys, rows), *parts)


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
    """The network after the last epoch, and the means of that epoch's metrics."""
    model, n = _network(config), chosen.y.shape[0]
    batch_size = min(config.batch_size, n)
    num_steps = config.num_epochs * -(-n // batch_size)
    tx = optax.adam(
        optax.linear_schedule(config.learning_rate, 0.0, num_steps)
        if config.decay
        else config.learning_rate
    )
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

    def epoch(state, i):
        key = train.shuffle_key(state, i)
        state, metrics = steps(
            state, chosen, train.epoch_indices(key, n, batch_size), setting.eps
        )
        if n % batch_size:
            rest = train.remainder_indices(key, n, batch_size)
            state, last = steps(state, chosen, rest, setting.eps)
            metrics = jax.tree.map(lambda *m: jnp.concatenate(m), metrics, last)
        return state, jax.tree.map(jnp.mean, metrics)

    state = train.create(key, model, tx, chosen.x[:1])
    state, metrics = jax.lax.scan(epoch, state, jnp.arange(config.num_epochs))
    return state, jax.tree.map(lambda m: m[-1], metrics)


def _network(config: ConfigDict) -> Model:
    num_classes = len(config.classes)
    return models.make("mlp_1024", num_classes=num_classes, hidden=(config.hidden,))


def _norm(setting: Setting) -> Norm:
    return recipe.NORMS[setting.norm]


def _attack(setting: Setting, num_steps: int, start: attacks.Start | None) -> Attack:
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
        return model.apply(params, {}, x, train=False)[0]

    attack = _attack(setting, config.test_num_steps, None)
    found = evaluate.outcome(
        key, predict, losses.cross_entropy, attack, *batch, setting.eps
    )
    return {
        "accuracy": jnp.mean(found.correct),
        "robust_accuracy": jnp.mean(found.robust),
        "zero_grad": jnp.mean(found.zero_grad),
    }


def _gain(found: dict, j: int, name: str) -> Interval:
    """Of arm j over no penalty, in percent, paired by repetition."""
    values = 100 * found[name]
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
    figure = FIGURES[setting.norm, setting.xi > 0]
    return f"{figure}: {setting.norm}, ε = {setting.eps:g}, ξ = {setting.xi:g}"


def _report(config: ConfigDict, found, workdir: Workdir) -> dict[str, Any]:
    chosen, sections, lines = arms(config), [], []
    for setting in settings(config):
        rows = [row for n in config.n for row in _rows(config, n, found[setting, n])]
        sections.append(
            f"### {_title(setting)}\n\n![box plots]({setting.name}.png)\n\n"
            f"{figures.table(_HEADER, rows)}"
        )
        for j, arm in list(enumerate(chosen))[1:]:
            gains = [
                f"{_gain(found[setting, n], j, 'test_robust_accuracy'):+.1f}"
                for n in config.n
            ]
            lines.append(
                f"{arm.name}, {setting.norm}, eps = {setting.eps:g}, xi = "
                f"{setting.xi:g}: gain in adversarial accuracy at n = "
                f"{' / '.join(map(str, config.n))} is {' / '.join(gains)} points"
            )
    workdir.write_text(
        "report.md",
        f"## LASSO on MNIST, digits {' and '.join(map(str, config.classes))}\n\n"
        f"MLP 784-{config.hidden}-{len(config.classes)}, Adam {config.learning_rate:g}"
        f"{', falling linearly to 0' if config.decay else ''}, "
        f"{config.num_epochs} epochs in batches of {config.batch_size}, PGD-"
        f"{config.num_steps}; λ = {config.penalty:g} on weights. Tested by PGD-"
        f"{config.test_num_steps} from the clean input, without surrogate. Mean ± sd "
        f"over {config.num_repetitions} repetitions, in percent; gains over no penalty "
        "with Student's 95 % intervals, paired by repetition. Factor: what the "
        "surrogate leaves of the attack, mean over entries and the last epoch. Zeros: "
        "share of weights that are exactly zero. Training accuracies are of the last "
        "network, by the attack of training those of its last epoch. Zero gradients: "
        "share of test images whose attack meets one.\n\n" + "\n".join(sections),
    )
    return {
        "summary": lines,
        "num_repetitions": config.num_repetitions,
        "arms": [arm.name for arm in chosen],
        "by_setting": [
            {**setting._asdict(), "n": n, **found[setting, n]}
            for setting in settings(config)
            for n in config.n
        ],
    }


_HEADER = ["n", "", "test accuracy", "adversarial", "gain", "training accuracy"]
_HEADER += ["adversarial", "by the attack of training", "factor", "zeros"]
_HEADER += ["zero gradients"]


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
        gain = f"{_gain(found, j, 'test_robust_accuracy'):+.1f}" if j else ""
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
