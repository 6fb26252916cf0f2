"""A whole training run: epochs, tests after each, the best and the last network.

    objective = objectives.adversarial(model, losses.cross_entropy, attack)
    fitted = fit.run(key, model, objective, optax.adam(1e-3), Batch(x, y), 8 / 255,
                     num_epochs=20, batch_size=128,
                     validation=fit.Validation(Batch(x_val, y_val), attack))
    fitted.best.predict(x_test)
    fitted.curves["validation_robust_accuracy"]           # [num_epochs]

It puts ``train`` and ``evaluate`` together for one process and data in memory. Several
runs at once, over seeds and radii, are ``fit.runs``.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import arguments, attacks, evaluate, losses, norms, programs, train
from advjax.types import Array, Attack, Batch, Key, Loss, Model, Objective, single_key
from advjax.weights import Network

__all__ = ["Fit", "Validation", "run", "runs"]


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
    """Trains one network; ``settings`` are those of ``runs``."""
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
    *,
    num_epochs: int,
    batch_size: int,
    validation: Validation | None = None,
    prepare: train.Prepare | None = None,
    num_warm_up_epochs: int = 0,
    mode: str = "auto",
    watch: Watch | None = None,
) -> list[Fit]:
    """Trains networks at once, each by its own key and radius.

    Args:
        keys: ``[r]``, one for each run: of its parameters, order and attacks. Runs of
            one key differ by their radius alone.
        model: the architecture.
        objective: of that model, such as ``objectives.adversarial``.
        tx: optimiser; a schedule counts steps, ``len(x) // batch_size`` an epoch.
        data: ``x[n, ...]`` and ``y[n, ...]``, all of it in memory.
        eps: ``[r]`` radii.
        num_epochs: passes over the data, each in an order of its own.
        batch_size: examples in a step. What is left of a pass is not trained on.
        validation: the test after each epoch.
        prepare: an augmentation, ``(key, x[b, ...]) -> x``.
        num_warm_up_epochs: epochs in which the radius rises linearly from 0, without
            which training at a large one may not begin to learn. Validation is at the
            full radius.
        mode: as of ``train.dispatched``, but for "auto", which on CPU is "loop" for
            networks with convolutions alone.
        watch: called after each epoch, such as ``print``.

    Returns:
        One ``Fit`` for each run. A run whose loss is not a number goes on, and says so.

    Raises:
        ValueError: for arguments of wrong kinds, and lengths that do not fit.
    """
    num_epochs = arguments.count("num_epochs", num_epochs)
    data, radii = _data("data", data), jnp.asarray(eps, jnp.float32)
    arguments.equal_lengths(keys=keys, eps=radii)
    arguments.model(model)
    arguments.functions(objective=objective)
    _check_validation(validation, num_epochs)
    num_warm_up = arguments.count("num_warm_up_epochs", num_warm_up_epochs, least=0)
    step = train.make_step(objective, tx)
    step = train.preprocessed(step, prepare) if prepare else step
    if num_warm_up:
        step = _warmed_up(step, num_warm_up * (len(data.y) // batch_size))
    first = jnp.asarray(data.x[:1])
    states = [train.create(key, model, tx, first) for key in keys]
    one_epoch = train.dispatched(step, _mode(mode, model, states[0], first))
    tested = _tests(model, validation, keys, radii)
    state = _stacked(states)
    best = [_Best(np.inf, 0, None) for _ in states]
    curves: list[dict[str, np.ndarray]] = []
    for epoch in range(num_epochs):
        indices = [
            train.epoch_indices(train.shuffle_key(each, epoch), len(data.y), batch_size)
            for each in states
        ]
        state, metrics = one_epoch(state, data, jnp.stack(indices), radii)
        networks = _networks(model, state)
        found = {name: np.mean(values, axis=1) for name, values in metrics.items()}
        found |= tested(networks, epoch)
        curves.append(found)
        if validation and epoch + 1 >= validation.first_epoch:
            judged = found.get("validation_robust_loss", found["validation_loss"])
            for i, loss in enumerate(judged):
                if loss < best[i].loss:
                    best[i] = _Best(loss, epoch + 1, networks[i])
        if watch:
            watch(epoch + 1, found)
    return [
        _fit(networks[i], best[i], {k: _column(curves, k, i) for k in curves[0]})
        for i in range(len(states))
    ]


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
        msg = f"{name}.x is of {x.dtype}: give floating-point numbers, such as x / 255"
        raise ValueError(msg)
    return Batch(x, y)


def _mode(mode: str, model: Model, state: train.TrainState, x: Array) -> str:
    """How to dispatch, where that is not said."""
    if mode != "auto":
        return mode
    predict = partial(model.predict, state.params, state.batch_stats)
    return "loop" if programs.is_slow_in_loops(predict, x) else "scan"


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _networks(model: Model, state: train.TrainState) -> list[Network]:
    trees = state.params, state.batch_stats
    return [
        Network(model, *jax.tree.map(lambda leaf, i=i: leaf[i], trees))
        for i in range(len(state.step))
    ]


def _column(curves: list[dict[str, np.ndarray]], name: str, i: int) -> np.ndarray:
    return np.array([found[name][i] for found in curves])


class _Best(NamedTuple):
    loss: float
    epoch: int
    network: Network | None


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
    model: Model, validation: Validation | None, keys: Key, eps: Array
) -> Callable[[list[Network], int], dict[str, np.ndarray]]:
    """``(networks[r], epoch) -> {name: [r]}``, by one program for all networks."""
    if validation is None:
        return lambda _networks, _epoch: {}
    data = _data("validation.data", validation.data)
    attack = validation.attack or _NO_ATTACK
    arguments.functions(loss=validation.loss, attack=attack)

    @jax.jit
    def outcome(network, eps, key, x, y):
        predict = partial(model.predict, *network)
        return evaluate.outcome(key, predict, validation.loss, attack, x, y, eps)

    def of_one(network: Network, key: Key, eps: float, epoch: int) -> dict[str, float]:
        def one_batch(key, x, y):
            return outcome((network.params, network.batch_stats), eps, key, x, y)

        found = evaluate.in_batches(
            one_batch,
            jax.random.fold_in(key, epoch),
            jnp.asarray(data.x),
            jnp.asarray(data.y),
            batch_size=validation.batch_size,
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

    def tested(networks, epoch):
        rows = [
            of_one(network, key, radius, epoch)
            for network, key, radius in zip(networks, keys, eps, strict=True)
        ]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    return tested
