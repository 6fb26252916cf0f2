"""Paths between the networks of a grid: their ends, their training, their losses."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from advjax import curves, data, losses, objectives, penalties, train
from advjax.curves import Path
from advjax.types import Batch, Model, Params
from experiments import checks, interrupts, progress
from experiments.training import parameters, recipe
from experiments.training.checkpoints import Checkpoints
from experiments.transition.readings import ATTACKED, CLEAN, Grid, read_grid
from experiments.workdir import Workdir

CURVES = {"bezier": curves.bezier, "polychain": curves.polychain}


class Setup(NamedTuple):
    """What is joined, and how it is judged.

    Attributes:
        grid: where the ends come from.
        part: configuration of the curves' training.
        model: the architecture.
        curve: through ends and bend.
        eps: ``[p]``, the radius of each pair's right end.
        pairs: ``[p, 2]`` seeds of the left and the right end.
        paths: ``[p]``, straight.
        batch_stats: of one network, for their shapes.
        train: all training data.
        eval: the part of them on which the curves are judged.
    """

    grid: Grid
    part: ConfigDict
    model: Model
    curve: curves.Curve
    eps: np.ndarray
    pairs: np.ndarray
    paths: Path
    batch_stats: Params
    train: Batch
    eval: Batch


def training(config: ConfigDict, grid: Grid) -> ConfigDict:
    """The grid's configuration, with the training of the curve for that of networks."""
    part = ConfigDict(grid.config.to_dict())
    fields = ("seed", "objective", "num_epochs", "learning_rate", "schedule")
    for field in (*fields, "schedule_knots", "schedule_values"):
        part[field] = config[field]
    part.weight_decay = 0.0  # on the point of the curve instead
    part.eps_warmup_epochs = 0.0
    part.xi, part.l1_proximal = 0.0, False  # as the bend's own SGD takes them
    part.eps = (0.0,)
    part.num_seeds = 1
    return part


def read(config: ConfigDict) -> Setup:
    """Reads the grid, its networks and the data."""
    grid = read_grid(config)
    part = training(config, grid)
    model = recipe.network(part)
    ends = [parameters.read(grid.path / name) for name in (CLEAN, ATTACKED)]
    trees = [(end.params, end.batch_stats) for end in ends]
    r = grid.config.num_seeds
    eps, left = (
        a.ravel() for a in np.meshgrid(config.eps, np.arange(r), indexing="ij")
    )
    right = (left + config.seed_shift) % r
    # Rows of the clean networks, followed by those of every other radius and seed.
    params, batch_stats = jax.tree.map(lambda *leaves: np.concatenate(leaves), *trees)
    rows = np.array([grid.row(radius) for radius in eps]) * r + right
    a, b = (jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in (left, rows))
    train_part = recipe.read(part, "train")
    chosen = train_part
    if config.num_eval:
        checks.integers(config, "num_eval", most=train_part.y.size)
        chosen = data.subset(train_part, config.num_eval, seed=0)
    return Setup(
        *(grid, part, model, CURVES[config.curve], eps),
        np.stack([left, right], axis=1),
        curves.straight(a, b),
        jax.tree.map(lambda leaf: leaf[0], batch_stats),
        *(train_part, chosen),
    )


def trained(config: ConfigDict, setup: Setup, workdir: Workdir) -> Path:
    """The paths ``[p]`` after training their bends."""
    part, n = setup.part, setup.train.y.size
    steps_per_epoch = n // part.batch_size
    rate = recipe.learning_rate(part, steps_per_epoch)
    tx = optax.sgd(rate, part.momentum)

    def penalty(w):
        return config.weight_decay / 2 * jnp.sum(w**2)

    objective = objectives.with_penalty(
        recipe.objective(part, setup.model), penalty, where=penalties.everything
    )
    plain = train.make_step(curves.along(objective, setup.curve), tx)
    step = train.preprocessed(plain, recipe.prepare(part))
    run_epoch = train.dispatched(step, part.dispatch)
    states = jax.vmap(partial(_start, part, setup.batch_stats, tx))(
        np.arange(len(setup.eps)), jax.tree.map(jnp.asarray, setup.paths)
    )
    order = jax.jit(jax.vmap(partial(_order, n, part.batch_size), (0, None)))
    workdir.begin()
    with Checkpoints(workdir.path / "checkpoints") as stored:
        states = stored.restore(states)
        first = int(states.step[0]) // steps_per_epoch
        for epoch in progress.steps(part.num_epochs, "curves", first=first):
            with interrupts.deferred():
                indices = np.asarray(order(states, epoch))
                states, metrics = run_epoch(states, setup.train, indices, setup.eps)
                loss = np.asarray(metrics["loss"])
                checks.finite(loss.T, epoch * steps_per_epoch)
                workdir.log(epoch=epoch, eps=setup.eps, loss=loss.mean(axis=1))
                stored.save(int(states.step[0]), states)
    return jax.device_get(states.params)


def _start(part, batch_stats, tx, i, path) -> train.TrainState:
    key = jax.random.fold_in(jax.random.key(part.seed), i)
    return train.restart(key, path, batch_stats, tx)


def _order(n: int, batch_size: int, state: train.TrainState, epoch) -> jax.Array:
    return train.epoch_indices(train.shuffle_key(state, epoch), n, batch_size)


Loss = Callable[[Params, float], tuple[float, float]]
"""``(params, eps) -> (clean loss, loss of the curve's objective)`` of the eval part."""


def loss(config: ConfigDict, setup: Setup) -> Loss:
    """Losses in evaluation mode, with batch statistics of the eval part."""
    model, attack = setup.model, recipe.attack(setup.part)
    attacked = config.objective == "adversarial"

    @jax.jit
    def statistics(params, x):
        return train.batch_statistics(model, params, setup.batch_stats, x)

    @jax.jit
    def batch_losses(params, batch_stats, key, x, y, eps):
        def terms(x, y):
            logits = model.predict(params, batch_stats, x)
            return losses.cross_entropy(logits, y)

        clean = jnp.sum(terms(x, y))
        if not attacked:
            return clean, clean
        x_adv, _ = attack(key, terms, x, y, eps)
        return clean, jnp.sum(terms(x_adv, y))

    batches = list(_batches(setup.eval, config.eval_batch_size))
    n = sum(len(batch.y) for batch in batches)

    def evaluate(params, eps):
        found = setup.batch_stats
        if found:
            parts = [statistics(params, batch.x) for batch in batches]
            shares = [len(batch.y) / n for batch in batches]
            found = _mean(parts, shares)
        key = jax.random.key(config.seed)
        sums = [
            batch_losses(params, found, jax.random.fold_in(key, i), *batch, eps)
            for i, batch in enumerate(batches)
        ]
        return tuple(float(total) / n for total in np.sum(sums, axis=0))

    return evaluate


def _mean(trees: list[Params], shares: list[float]) -> Params:
    def mean(*leaves):
        return sum(s * leaf for s, leaf in zip(shares, leaves, strict=True))

    return jax.tree.map(mean, *trees)


def _batches(part: Batch, size: int) -> Iterator[Batch]:
    for i in range(0, part.y.size, size):
        rows = slice(i, i + size)
        yield Batch(jnp.asarray(data.as_float(part.x[rows])), jnp.asarray(part.y[rows]))
