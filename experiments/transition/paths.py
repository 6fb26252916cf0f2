"""Paths between the networks of a grid: their ends, their training, their losses."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from ml_collections import ConfigDict

from advjax import curves, data, losses, objectives, penalties, train
from advjax.curves import Path
from advjax.types import Batch, Model, Params
from experiments import arrays, checks, interrupts, progress
from experiments.provenance import environment
from experiments.study import Config
from experiments.training import parameters, recipe
from experiments.training.checkpoints import Checkpoints
from experiments.training.parameters import Released
from experiments.transition.readings import ATTACKED, CLEAN, Grid
from experiments.workdir import Workdir

CURVES = {"bezier": curves.bezier, "polychain": curves.polychain}


class Pairs(NamedTuple):
    """What is joined, and how it is judged.

    Attributes:
        part: configuration of the curves' training.
        model: the architecture.
        curve: through ends and bend.
        eps: ``[p]``, the radius of each pair's right end.
        seeds: ``[p, 2]``, of the left and the right end.
        paths: ``[p]``, straight.
        batch_stats: of one network, for their shapes.
        train: all training data.
        eval: the part of them on which the curves are judged.
    """

    part: ConfigDict
    model: Model
    curve: curves.Curve
    eps: np.ndarray
    seeds: np.ndarray
    paths: Path
    batch_stats: Params
    train: Batch
    eval: Batch


def training(config: Config, grid: Grid) -> ConfigDict:
    """The grid's configuration, with the training of the curve for that of networks."""
    fields = ("seed", "objective", "num_epochs", "learning_rate", "schedule")
    fields += ("schedule_knots", "schedule_values")
    return recipe.changed(
        grid.config,
        **{field: config[field] for field in fields},
        weight_decay=0.0,  # on the point of the curve instead
        eps_warmup_epochs=0.0,
        xi=0.0,  # as the bend's own SGD takes them
        l1_proximal=False,
        eps=(0.0,),
        num_seeds=1,
    )


def read(config: Config, grid: Grid) -> Pairs:
    """Reads the networks of a grid and the data.

    Raises:
        DataError: if data cannot be read.
        FileError: for networks that cannot be read.
    """
    part = training(config, grid)
    ends = [
        parameters.read(grid.path / f"{p}-best.safetensors") for p in (CLEAN, ATTACKED)
    ]
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
        chosen = data.subset(train_part, config.num_eval, seed=0)
    return Pairs(
        part=part,
        model=recipe.network(part),
        curve=CURVES[config.curve],
        eps=eps,
        seeds=np.stack([left, right], axis=1),
        paths=curves.straight(a, b),
        batch_stats=jax.tree.map(lambda leaf: leaf[0], batch_stats),
        train=train_part,
        eval=chosen,
    )


def train_bends(config: Config, grid: Grid, workdir: Workdir, part: str) -> xr.Dataset:
    """Trains the bends of all paths, and releases them.

    A loop of its own, since the engine's networks are made by a model and tested after
    each epoch, and these are points between networks, without a test.

    Returns:
        Mean losses over ``epoch`` and ``pair``.

    Raises:
        DivergedError: if a loss is not finite.
        FileError: if a checkpoint cannot be read or written.
    """
    pairs = read(config, grid)
    steps_per_epoch = pairs.train.y.size // pairs.part.batch_size
    step, tx = _step(config, pairs, steps_per_epoch)
    run_epoch = train.dispatched(step, pairs.part.dispatch)
    states = jax.vmap(partial(_start, pairs, tx))(
        np.arange(len(pairs.eps)), jax.tree.map(jnp.asarray, pairs.paths)
    )
    history = np.full((config.num_epochs, len(pairs.eps)), np.nan)
    order = jax.jit(jax.vmap(partial(_order, pairs), (0, None)))
    folder = workdir.path / "checkpoints" / part
    workdir.begin()
    with Checkpoints(folder, workdir.identity) as stored:
        states, history = stored.restore((states, history))
        history = np.array(history)  # what is read may not be written to
        first = int(states.step[0]) // steps_per_epoch
        for epoch in progress.steps(config.num_epochs, part, first=first):
            with interrupts.deferred():
                indices = np.asarray(order(states, epoch))
                states, metrics = run_epoch(states, pairs.train, indices, pairs.eps)
                found = np.asarray(metrics["loss"])
                checks.finite(found.T, epoch * steps_per_epoch)
                history[epoch] = found.mean(axis=1)
                workdir.log(part=part, epoch=epoch, eps=pairs.eps, loss=history[epoch])
                stored.save(int(states.step[0]), (states, history))
    about = {
        "config": config.to_dict(),
        "eps": pairs.eps,
        "seed": pairs.seeds[:, 0],
        "epoch": np.full(len(pairs.eps), config.num_epochs - 1),
        "commit": environment()["commit"],
    }
    bends = Released(jax.device_get(states.params.bend), {}, about)
    parameters.write(workdir.path / f"{part}-last.safetensors", bends)
    return arrays.dataset({"loss": (("epoch", "pair"), history)})


def _step(config: Config, pairs: Pairs, steps_per_epoch: int):
    """A step of a bend, and its optimiser."""
    part = pairs.part
    rate = recipe.schedule(part, part.num_epochs * steps_per_epoch)
    tx = optax.sgd(rate, part.momentum)

    def penalty(w):
        return config.weight_decay / 2 * jnp.sum(w**2)

    objective = objectives.with_penalty(
        recipe.objective(part, pairs.model), penalty, where=penalties.everything
    )
    plain = train.make_step(curves.along(objective, pairs.curve), tx)
    return train.preprocessed(plain, recipe.prepare(part)), tx


def _start(pairs: Pairs, tx, i, path: Path) -> train.TrainState:
    key = jax.random.fold_in(jax.random.key(pairs.part.seed), i)
    return train.restart(key, path, pairs.batch_stats, tx)


def _order(pairs: Pairs, state: train.TrainState, epoch) -> jax.Array:
    sizes = pairs.train.y.size, pairs.part.batch_size
    return train.epoch_indices(train.shuffle_key(state, epoch), *sizes)


Loss = Callable[[Params, float], tuple[float, float]]
"""``(params, eps) -> (clean loss, loss of the curve's objective)`` of the eval part."""


def loss(config: Config | ConfigDict, pairs: Pairs) -> Loss:
    """Losses in evaluation mode, with batch statistics of the eval part."""
    model, attack = pairs.model, recipe.attack(pairs.part)
    attacked = config.objective == "adversarial"

    @jax.jit
    def statistics(params, x):
        return train.batch_statistics(model, params, pairs.batch_stats, x)

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

    batches = list(_batches(pairs.eval, config.eval_batch_size))
    n = sum(len(batch.y) for batch in batches)

    def evaluate(params, eps):
        found = pairs.batch_stats
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
