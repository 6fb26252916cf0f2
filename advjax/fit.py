"""A whole training run: epochs, tests after each, the best and the last network.

    objective = objectives.adversarial(model, losses.cross_entropy, attack)
    fitted = fit.run(key, model, objective, optax.adam(1e-3), Batch(x, y), 8 / 255,
                     num_epochs=20, batch_size=128,
                     validation=fit.Validation(Batch(x_val, y_val), attack))
    fitted.best.predict(x_test)
    fitted.curves["validation_robust_accuracy"]           # [num_epochs]

It puts ``train`` and ``evaluate`` together for one process and data in memory. Several
runs at once, over seeds and radii, are ``fit.runs``; ``fit.trainer`` compiles once for
many of them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import arguments, attacks, evaluate, losses, norms, programs, train
from advjax.types import Array, Attack, Batch, Key, Loss, Model, Objective, single_key
from advjax.weights import Network

__all__ = ["Fit", "Trainer", "Validation", "run", "runs", "trainer"]


@dataclasses.dataclass(frozen=True)
class Validation:
    """The test after each epoch, which chooses the best network.

    Attributes:
        data: examples that training does not see.
        attack: run at the radius of training; None for clean training.
        loss: ``(output, y) -> loss[n]``. The best network has the smallest mean of it,
            at the attacked inputs if there is an attack.
        batch_size: examples at once, which change nothing in the result.
        first_epoch: the first epoch that may be the best, from 1.
    """

    data: Batch
    attack: Attack | None = None
    loss: Loss = losses.cross_entropy
    batch_size: int = 256
    first_epoch: int = 1


class Fit(NamedTuple):
    """What a training run leaves.

    Attributes:
        last: the network after the last epoch.
        best: that of the smallest validation loss, and of equal ones the first; None
            without validation, and where no loss was a number.
        best_epoch: when that was, from 1; 0 for None.
        curves: ``[num_epochs]`` by name: means over the steps of an epoch of what
            ``train.make_step`` measures, and of the validation ``validation_loss``,
            ``validation_accuracy``, ``validation_robust_loss`` and
            ``validation_robust_accuracy``, those there are.
        caveats: a line for each reason to distrust the numbers.
    """

    last: Network
    best: Network | None
    best_epoch: int
    curves: dict[str, np.ndarray]
    caveats: tuple[str, ...]


Watch = Callable[[int, dict[str, np.ndarray]], None]
"""``(epoch, {name: value[r]})``, called after each epoch, from 1."""


def run(
    key: Key,
    model: Model,
    objective: Objective,
    tx: optax.GradientTransformation,
    data: Batch,
    eps: Array | float,
    **settings: Any,
) -> Fit:
    """Trains one network; ``settings`` are those of ``trainer``.

    ``num_epochs`` and ``batch_size`` are needed; ``validation`` chooses the best one.
    """
    if np.ndim(eps):
        msg = f"eps has shape {np.shape(eps)}: give one radius, or fit.runs with [r]"
        raise ValueError(msg)
    keys, radii = jnp.expand_dims(single_key(key), 0), jnp.asarray(eps)[None]
    (fitted,) = runs(keys, model, objective, tx, data, radii, **settings)
    return fitted


def runs(
    keys: Key,
    model: Model,
    objective: Objective,
    tx: optax.GradientTransformation,
    data: Batch,
    eps: Array | np.ndarray | Sequence[float],
    **settings: Any,
) -> list[Fit]:
    """Trains networks at once; ``settings`` are those of ``trainer``, as of ``run``."""
    return trainer(model, objective, tx, data, **settings)(keys, eps)


class Trainer(Protocol):
    """Trains networks at once, each by its own key and radius."""

    def __call__(
        self, keys: Key, eps: Array | np.ndarray | Sequence[float], /
    ) -> list[Fit]:
        """One ``Fit`` for each run.

        Args:
            keys: ``[r]``, one for each run: of its parameters, order and attacks. Runs
                of one key differ by their radius alone.
            eps: ``[r]`` radii.

        Raises:
            ValueError: for keys and radii of different lengths.
        """


def trainer(
    model: Model,
    objective: Objective,
    tx: optax.GradientTransformation,
    data: Batch,
    *,
    num_epochs: int,
    batch_size: int,
    validation: Validation | None = None,
    prepare: train.Prepare | None = None,
    num_warm_up_epochs: int = 0,
    start: Network | None = None,
    mode: str = "auto",
    watch: Watch | None = None,
) -> Trainer:
    """What trains networks; its programs are compiled once for all its calls.

    Args:
        model: the architecture.
        objective: of that model, such as ``objectives.adversarial``.
        tx: optimiser; a schedule counts steps, ``len(x) // batch_size`` an epoch.
        data: ``x[n, ...]`` and ``y[n, ...]``, all of it in memory.
        num_epochs: passes over the data, each in an order of its own.
        batch_size: examples in a step. What is left of a pass is not trained on.
        validation: the test after each epoch.
        prepare: an augmentation, ``(key, x[b, ...]) -> x``.
        num_warm_up_epochs: epochs in which the radius rises linearly from 0, without
            which training at a large one may not begin to learn. Validation is at the
            full radius.
        start: a trained network of that model, which all runs go on from; None for new
            ones.
        mode: as of ``train.dispatched``, but for "auto", which on CPU is "loop" for
            networks with convolutions alone.
        watch: called after each epoch, from 1, with the numbers of the runs, such as
            ``lambda epoch, found: print(epoch, found["loss"])``.

    Returns:
        ``(keys[r], eps[r]) -> fits[r]``. A run whose loss is not a number goes on, and
        says so.

    Raises:
        ValueError: for arguments of wrong kinds, and lengths that do not fit.
    """
    num_epochs = arguments.count("num_epochs", num_epochs)
    data = _data("data", data)
    arguments.model(model)
    given = {"prepare": prepare, "watch": watch}
    given = {name: each for name, each in given.items() if each is not None}
    arguments.functions(objective=objective, **given)
    _check_validation(validation, num_epochs)
    num_warm_up = arguments.count("num_warm_up_epochs", num_warm_up_epochs, least=0)
    step = train.make_step(objective, tx)
    step = train.preprocessed(step, prepare) if prepare else step
    if num_warm_up:
        step = _warmed_up(step, num_warm_up * (len(data.y) // batch_size))
    first = jnp.asarray(data.x[:1])
    one_epoch = train.dispatched(step, _mode(mode, model, first))
    tested = _tests(model, validation)
    create = _creation(model, tx, first, start)
    _check_outputs(model, data, validation)
    n = len(data.y)

    def network(trees, i):
        return Network(model, *_row(trees, i))

    def trained(keys, eps):
        radii = _radii(keys, eps)
        states = [create(key) for key in keys]
        state, best = _stacked(states), [_Best(np.inf, 0, None) for _ in states]
        curves: list[dict[str, np.ndarray]] = []
        for epoch in range(num_epochs):
            orders = [train.shuffle_key(each, epoch) for each in states]
            indices = [train.epoch_indices(key, n, batch_size) for key in orders]
            state, metrics = one_epoch(state, data, jnp.stack(indices), radii)
            trees = state.params, state.batch_stats
            found = {name: np.mean(values, axis=1) for name, values in metrics.items()}
            found |= tested(trees, keys, radii, epoch)
            curves.append(found)
            if validation and epoch + 1 >= validation.first_epoch:
                best = _better(best, found, epoch + 1, partial(network, trees))
            if watch:
                watch(epoch + 1, found)
        return [
            _fit(network(trees, i), best[i], _columns(curves, i))
            for i in range(len(radii))
        ]

    return trained


def _radii(keys: Key, eps: Array | np.ndarray | Sequence[float]) -> Array:
    """``eps[r]``, one for each key."""
    radii = jnp.asarray(eps, jnp.float32)
    if not arguments.equal_lengths(keys=keys, eps=radii):
        msg = "keys and eps are empty: give one of each for every run"
        raise ValueError(msg)
    if not bool(jnp.all(jnp.isfinite(radii) & (radii >= 0))):
        msg = f"eps = {eps}: give finite radii of at least 0"
        raise ValueError(msg)
    return radii


def _creation(
    model: Model, tx: optax.GradientTransformation, x: Array, start: Network | None
) -> Callable[[Key], train.TrainState]:
    """``key -> state``, of a new network or of one that goes on.

    Raises:
        ValueError: for a network of another architecture.
    """
    if start is None:
        return jax.jit(lambda key: train.create(key, model, tx, x))
    if not isinstance(start, Network):
        msg = f"start is a {type(start).__name__}: give weights.Network"
        raise ValueError(msg)
    trees = start.params, start.batch_stats
    like = jax.eval_shape(model.init, jax.random.key(0), x)
    try:
        fits = jax.tree.map(lambda a, b: jnp.shape(a) == b.shape, trees, tuple(like))
    except (ValueError, TypeError):
        fits = False
    if not jax.tree.all(fits):
        msg = "start is a network of another architecture than model"
        raise ValueError(msg)
    # As arguments, since large constants are slow to compile.
    restarted = jax.jit(lambda w, stats, key: train.restart(key, w, stats, tx))
    return partial(restarted, start.params, start.batch_stats)


def _check_outputs(model: Model, data: Batch, validation: Validation | None) -> None:
    """Raises ValueError for examples and labels that do not go together."""
    parts = {"data": data}
    if validation is not None:
        parts["validation.data"] = _data("validation.data", validation.data)
    wanted = np.shape(data.x)[1:]
    for name, part in parts.items():
        shape = np.shape(part.x)[1:]
        if shape != wanted:
            msg = f"{name}.x has examples of shape {shape}, data.x {wanted}"
            raise ValueError(msg)
    x = jax.ShapeDtypeStruct((1, *wanted), data.x.dtype)
    key = jax.random.key(0)
    output = jax.eval_shape(lambda x: model.predict(*model.init(key, x), x), x)
    for name, part in parts.items():
        y = np.asarray(part.y)
        is_class = np.issubdtype(y.dtype, np.integer) and output.ndim == 2
        if is_class and not 0 <= y.min() <= y.max() < output.shape[1]:
            labels = f"{name}.y has labels from {y.min()} to {y.max()}"
            outputs = f"the model {output.shape[1]} outputs: number classes from 0"
            msg = f"{labels}, and {outputs}"
            raise ValueError(msg)


def _warmed_up(step: train.Step, num_steps: int) -> train.Step:
    """A step whose radius rises linearly over the first ones."""

    def warmed_up(state, batch, eps):
        share = jnp.minimum(state.step / num_steps, 1.0).astype(jnp.float32)
        return step(state, batch, eps * share)

    return warmed_up


def _check_validation(validation: Validation | None, num_epochs: int) -> None:
    if validation is None:
        return
    if not isinstance(validation, Validation):
        msg = f"validation is a {type(validation).__name__}: give fit.Validation"
        raise ValueError(msg)
    if arguments.count("first_epoch", validation.first_epoch) > num_epochs:
        msg = f"first_epoch = {validation.first_epoch}: there are {num_epochs} epochs"
        raise ValueError(msg)


def _data(name: str, data: Any) -> Batch:
    if not isinstance(data, tuple) or len(data) != 2:
        msg = f"{name} is a {type(data).__name__}: give types.Batch(x, y)"
        raise ValueError(msg)
    x, y = (each if hasattr(each, "dtype") else np.asarray(each) for each in data)
    arguments.equal_lengths(**{f"{name}.x": x, f"{name}.y": y})
    if not jnp.issubdtype(x.dtype, jnp.floating):
        msg = f"{name}.x is of {x.dtype}: give numbers, such as data.as_float(x)"
        raise ValueError(msg)
    return Batch(x, y)


def _mode(mode: str, model: Model, x: Array) -> str:
    """How to dispatch, where that is not said."""
    if mode != "auto":
        return mode

    def fresh(x):
        return model.predict(*model.init(jax.random.key(0), x), x)

    is_on_cpu = jax.default_backend() == "cpu"
    return "loop" if is_on_cpu and programs.has_convolutions(fresh, x) else "scan"


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def _row(trees: Any, i: Array | int) -> Any:
    """One of the trees that are stacked."""
    return jax.tree.map(lambda leaf: leaf[i], trees)


def _columns(curves: list[dict[str, np.ndarray]], i: int) -> dict[str, np.ndarray]:
    """The curves of one run."""
    return {name: np.array([found[name][i] for found in curves]) for name in curves[0]}


class _Best(NamedTuple):
    loss: float
    epoch: int
    network: Network | None


def _better(
    best: list[_Best],
    found: dict[str, np.ndarray],
    epoch: int,
    network: Callable[[int], Network],
) -> list[_Best]:
    """The better ones of the best networks before and those of an epoch."""
    judged = found.get("validation_robust_loss", found["validation_loss"])
    return [
        _Best(loss, epoch, network(i)) if loss < best[i].loss else best[i]
        for i, loss in enumerate(judged)
    ]


def _fit(last: Network, best: _Best, curves: dict[str, np.ndarray]) -> Fit:
    lines = [
        f"{name} was not a number in {number} of {len(curve)} epochs"
        for name, curve in curves.items()
        if name.endswith("loss") and (number := int((~np.isfinite(curve)).sum()))
    ]
    lines += [
        f"{name} up to {curve.max():.2g} of the examples of an epoch"
        for name, curve in curves.items()
        if name in ("zero_grad", "undefined_grad", "outside") and curve.max() > 0
    ]
    return Fit(last, best.network, best.epoch, curves, tuple(lines))


_NO_ATTACK = attacks.pgd(norms.linf, num_steps=0, rel_step_size=0.0)


def _tests(
    model: Model, validation: Validation | None
) -> Callable[[Any, Key, Array, int], dict[str, np.ndarray]]:
    """``(trees[r], keys[r], eps[r], epoch) -> {name: [r]}``, by one program."""
    if validation is None:
        return lambda *_: {}
    data = _data("validation.data", validation.data)
    attack = validation.attack or _NO_ATTACK
    arguments.functions(loss=validation.loss, attack=attack)

    x, y = map(jnp.asarray, data)

    @jax.jit
    def outcome(trees, i, eps, key, x, y):
        predict = partial(model.predict, *_row(trees, i))
        return evaluate.outcome(key, predict, validation.loss, attack, x, y, eps[i])

    def of_one(trees: Any, i: int, eps: Array, key: Key) -> dict[str, float]:
        found = evaluate.in_batches(
            partial(outcome, trees, i, eps), key, x, y, batch_size=validation.batch_size
        )
        values = {"loss": found.loss, "accuracy": found.correct}
        if validation.attack is not None:
            values |= {
                "robust_loss": found.robust_loss,
                "robust_accuracy": found.robust,
            }
        return {
            f"validation_{name}": float(np.mean(value))
            for name, value in values.items()
            if value is not None
        }

    def tested(trees, keys, eps, epoch):
        rows = [
            of_one(trees, i, eps, jax.random.fold_in(key, epoch))
            for i, key in enumerate(keys)
        ]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    return tested
