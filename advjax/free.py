"""Free adversarial training: each gradient moves the weights and the inputs at once.

    step = free.make_step(model, losses.cross_entropy, tx, norms.linf, num_replays=8,
                          bounds=(0.0, 1.0))
    state = free.begin(train.create(key, model, tx, x[:1]), x[:batch_size])
    state, metrics = train.scanned(step)(state, data, indices[t, b], eps)

Every batch is replayed several times, and its perturbation is where that of the batch
after it begins, so that training costs what clean training costs with as many steps.

Shafahi et al., Adversarial training for free!, 2019.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from advjax import arguments, convolutions, criteria, norms
from advjax.arguments import Bounds
from advjax.norms import Norm
from advjax.train import Metrics, Step, TrainState
from advjax.types import Array, Loss, Model

__all__ = ["Carried", "begin", "make_step"]


class Carried(NamedTuple):
    """What a run carries from batch to batch, its ``TrainState.opt_state``.

    Attributes:
        opt_state: of the optimiser.
        delta: ``[b, ...]``, the perturbation of the last batch.
    """

    opt_state: optax.OptState
    delta: Array


def begin(state: TrainState, x: Array) -> TrainState:
    """A fresh run with a perturbation of zero, for batches like ``x[b, ...]``."""
    delta = jnp.zeros(jnp.shape(x), jnp.result_type(x, jnp.float32))
    return state._replace(opt_state=Carried(state.opt_state, delta))


def make_step(
    model: Model,
    loss: Loss,
    tx: optax.GradientTransformation,
    norm: Norm,
    *,
    num_replays: int,
    bounds: Bounds | None = None,
) -> Step:
    """A step that trains ``num_replays`` times on one batch.

    Each replay takes the gradients of the mean of ``loss`` at x + delta with respect to
    the parameters and to delta, then moves both: the parameters by ``tx``, delta by eps
    in the direction of steepest ascent and back into the ball. A batch smaller than
    those of ``begin`` uses and moves the first rows of delta.

    Args:
        model: the network, in training mode in each pass.
        loss: the loss.
        tx: the optimiser, without extra arguments.
        norm: of the ball.
        num_replays: m; 8 on CIFAR-10 in the paper.
        bounds: as of ``attacks.pgd``; x + delta is clipped to them.

    Returns:
        A step. It counts as one for ``TrainState.step``; a schedule of the optimiser
        counts its updates, ``num_replays`` a step. The metrics are means over the
        replays: ``objective`` and ``loss``, ``accuracy`` at the perturbed inputs if the
        labels are integers, and the shares ``zero_grad`` and ``undefined_grad``.

    Raises:
        ValueError: for wrong arguments; in the call, for a state without ``begin``.
    """
    arguments.model(model)
    arguments.functions(loss=loss)
    norms.check(norm)
    num_replays = arguments.count("num_replays", num_replays)
    low, high = arguments.bounds(bounds) or (-jnp.inf, jnp.inf)

    def step(state, batch, eps):
        if not isinstance(state.opt_state, Carried):
            msg = "the state carries no perturbation: start it by free.begin"
            raise ValueError(msg)
        arguments.equal_lengths(x=batch.x, y=batch.y)
        if not jnp.issubdtype(batch.x.dtype, jnp.floating):
            msg = f"x has dtype {batch.x.dtype}: give numbers, as of data.as_float"
            raise ValueError(msg)
        key = jax.random.fold_in(state.key, state.step)
        opt_state, whole = state.opt_state
        replay = _replay(model, loss, tx, norm, batch, eps, (low, high))
        start = (*state[1:3], opt_state, whole[: len(batch.x)])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_replays))
        end, metrics = jax.lax.scan(replay, start, keys)
        params, stats, opt_state, delta = end
        carried = Carried(opt_state, whole.at[: len(delta)].set(delta))
        state = TrainState(state.step + 1, params, stats, carried, state.key)
        return state, jax.tree.map(jnp.mean, metrics)

    return step


def _replay(
    model: Model,
    loss: Loss,
    tx: optax.GradientTransformation,
    norm: Norm,
    batch: Any,
    eps: Array | float,
    box: Bounds,
) -> Any:
    """The body of a scan, of ``(params, batch_stats, opt_state, delta)``."""
    x = jnp.asarray(batch.x)

    def replay(state, key):
        params, stats, opt_state, delta = state

        def value(params, delta):
            x_adv = jnp.clip(x + delta, *box)
            logits, new = model.apply(params, stats, x_adv, train=True, key=key)
            terms = loss(logits, batch.y)
            return jnp.mean(terms), (new, terms, logits)

        graded = jax.value_and_grad(value, (0, 1), has_aux=True)
        found = convolutions.rewritten(graded)(params, delta)
        (_, (stats, terms, logits)), (grads, g) = found
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        radius = jnp.broadcast_to(jnp.asarray(eps, delta.dtype), (len(x),))
        delta = jax.vmap(_ascend, (None, 0, 0, 0))(norm, delta, g, radius)
        metrics = _metrics(terms, logits, batch.y, g)
        return (params, stats, opt_state, delta), metrics

    return replay


def _ascend(norm: Norm, delta: Array, g: Array, eps: Array) -> Array:
    return norm.project(delta + eps * norm.steepest(g), eps)


def _metrics(terms: Array, logits: Array, y: Array, g: Array) -> Metrics:
    flat = g.reshape(len(g), -1)
    metrics = {
        "objective": jnp.mean(terms),
        "loss": jnp.mean(terms),
        "zero_grad": jnp.mean(jnp.all(flat == 0, axis=1), dtype=terms.dtype),
        "undefined_grad": jnp.mean(
            ~jnp.all(jnp.isfinite(flat), axis=1), dtype=terms.dtype
        ),
    }
    if criteria.has_accuracy(y):
        metrics["accuracy"] = jnp.mean(criteria.correct(logits, y), dtype=terms.dtype)
    return metrics
