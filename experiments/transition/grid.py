"""Adversarial training at every radius and seed, as one vmapped program.

Reported losses follow the paper: the training loss is the running mean over an epoch,
and the selected epoch is the one of smallest adversarial test loss, for clean training
(``eps = 0``) too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import evaluate, losses, objectives, train
from advjax.train import TrainState
from advjax.types import Array, Attack, Batch, Key, Model, Params
from experiments import checks, devices, progress
from experiments.workdir import Workdir


class Task(NamedTuple):
    """What is learnt, and how it is tested."""

    train: Batch
    test: Batch
    model: Model
    test_attack: Attack
    batch_size: int

    @property
    def num_batches(self) -> int:
        """Batches in an epoch; the remainder waits for another shuffle."""
        return self.train.x.shape[0] // self.batch_size


class Best(NamedTuple):
    """The epoch of smallest adversarial test loss so far, and its parameters."""

    robust_loss: Array
    epoch: Array
    params: Params


def train_grid(
    task: Task,
    tx: optax.GradientTransformation,
    attack: Attack,
    states: TrainState,
    key_test: Key,
    *,
    radii: tuple[float, ...],
    num_epochs: int,
    workdir: Workdir,
    label: str,
) -> dict[str, Any]:
    """Trains ``states[r]`` at every radius, from the same start.

    Args:
        task: data, model and test.
        tx: optimiser.
        attack: attack used in training.
        states: fresh states of ``r`` seeds.
        key_test: ``[r]`` keys of the test attack.
        radii: the ``k`` values of eps.
        num_epochs: epochs.
        workdir: where each epoch is logged.
        label: name of the stage in log and progress.

    Returns:
        Curves ``[epoch, k, r]``; the selected epoch ``best_epoch[k, r]``; the models
        there, ``params[k, r]``.

    Raises:
        DivergedError: if a training loss is not finite.
    """
    k, eps = len(radii), jnp.asarray(radii)
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * k), states)
    nothing = jnp.full(states.step.shape, jnp.inf, jnp.float32)
    best = Best(nothing, jnp.zeros(nothing.shape, jnp.int32), states.params)
    states, best = devices.spread((states, best), *nothing.shape)
    run_epoch = _over_grid(partial(_epoch, task, tx, attack))
    curves = []
    for i in progress.steps(num_epochs, f"{workdir.path.name}: {label}"):
        (states, best), (row, step_losses) = run_epoch((states, best), key_test, eps)
        row = jax.device_get(row)
        means = {name: value.mean(axis=-1) for name, value in row.items()}
        workdir.log(stage=label, epoch=i, eps=radii, **means)
        checks.finite(
            np.moveaxis(step_losses, -1, 0),
            i * task.num_batches,
            lambda k, r: f"eps = {radii[k]:g}, seed {r}",
        )
        curves.append(row)
    stacked = jax.tree.map(lambda *rows: np.stack(rows), *curves)
    return {**stacked, "best_epoch": best.epoch, "params": best.params}


def train_loss(
    task: Task, params: Params, key_test: Key, radii: tuple[float, ...]
) -> Array:
    """The adversarial loss of ``params[k, r]`` over the whole training set, ``[k, r]``.

    The loss of the definition, of one model under the test attack, where the running
    mean over an epoch is the loss of many.
    """

    def loss(params, key, eps):
        return jnp.mean(_outcome(task, params, key, task.train, eps).robust_loss)

    return _over_grid(loss)(params, key_test, jnp.asarray(radii))


def _over_grid(run: Callable) -> Callable:
    """``run(carry, key, eps)`` over ``carry[k, r], key[r], eps[k]``."""
    return jax.jit(jax.vmap(jax.vmap(run, (0, 0, None)), (0, None, 0)))


def _epoch(task, tx, attack, carry, key_test, eps):
    """An epoch of one run, and the test at its end."""
    state, best = carry
    epoch = state.step // task.num_batches
    indices = train.epoch_indices(
        train.shuffle_key(state, epoch), task.train.x.shape[0], task.batch_size
    )
    objective = objectives.adversarial(task.model, losses.cross_entropy, attack)
    steps = train.scanned(train.make_step(objective, tx))
    state, metrics = steps(state, task.train, indices, eps)
    test = _outcome(task, state.params, key_test, task.test, eps)
    row = {
        "loss": jnp.mean(metrics["loss"]),
        "accuracy": jnp.mean(metrics["accuracy"]),
        "test_loss": jnp.mean(test.loss),
        "test_accuracy": jnp.mean(test.correct),
        "test_robust_loss": jnp.mean(test.robust_loss),
        "test_robust_accuracy": jnp.mean(test.robust),
        "test_zero_grad": jnp.sum(test.zero_grad & test.robust),
        "test_undefined": jnp.sum(test.undefined),
    }
    new = Best(row["test_robust_loss"], epoch, state.params)
    better = new.robust_loss < best.robust_loss
    best = jax.tree.map(partial(jnp.where, better), new, best)
    return (state, best), (row, metrics["loss"])


def _outcome(task, params, key, batch, eps) -> evaluate.Outcome:
    def predict(x):
        return task.model.predict(params, {}, x)

    loss = losses.cross_entropy
    return evaluate.outcome(key, predict, loss, task.test_attack, *batch, eps)
