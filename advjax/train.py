"""The state of a training run, one pure step, and two ways of dispatching steps.

    step = train.make_step(objective, tx)
    run = train.scanned(step)                    # or train.looped(step)
    state = train.create(key, model, tx, x[:1])
    state, metrics = run(state, data, indices[t, b], eps)

A state holds arrays only, so a batch of states is a bigger state: ``vmap`` the run over
seeds and radii, or let ``dispatched`` choose what suits the device. Randomness of step
``t`` is ``fold_in(state.key, t)``: a run resumed from a stored state is the same run.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax.types import Array, Aux, Batch, Key, Model, Objective, Params

Metrics = dict[str, Array]


class TrainState(NamedTuple):
    """A run between two steps.

    Attributes:
        step: ``[]``, number of steps done.
        params: parameters.
        batch_stats: statistics of normalisation layers, often empty.
        opt_state: state of the optimiser.
        key: ``[]``, from which all randomness of the run derives.
    """

    step: Array
    params: Params
    batch_stats: Params
    opt_state: optax.OptState
    key: Key


Step = Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]
"""``(state, batch, eps) -> (state, metrics)``."""

Run = Callable[[TrainState, Batch, Array, Array], tuple[TrainState, Metrics]]
"""``(state, data, indices[t, b], eps) -> (state, metrics[t])``.

Step ``i`` trains on the examples ``indices[i]`` of ``data``.
"""


def create(
    key: Key, model: Model, tx: optax.GradientTransformation, x: Array
) -> TrainState:
    """A fresh run; ``x`` is a batch of inputs, of which only the shape counts."""
    key_init, key_run = jax.random.split(key)
    params, batch_stats = model.init(key_init, x)
    return restart(key_run, params, batch_stats, tx)


def restart(
    key: Key, params: Params, batch_stats: Params, tx: optax.GradientTransformation
) -> TrainState:
    """A run that starts from trained parameters, such as fine-tuning."""
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, params, batch_stats, tx.init(params), key)


def make_step(
    objective: Objective,
    tx: optax.GradientTransformation,
    measure: Callable[[Aux, Batch], Metrics] | None = None,
) -> Step:
    """One step of ``tx`` down the gradient of ``objective``.

    ``eps`` is an argument of the step, so that one compiled step serves every radius.
    A schedule is ``lambda s, batch, eps: step(s, batch, eps * schedule(s.step))``.

    The metrics, all before the update, are ``objective`` (penalties included), ``loss``
    (without), ``zero_grad`` (share of examples whose attack met a zero gradient), if
    the labels are integers ``accuracy`` at the attacked inputs, of a surrogate attack
    ``factor`` (mean of what it multiplied the perturbations by), and what ``measure``
    makes of the objective's ``Aux``.
    """

    def step(state, batch, eps):
        key = jax.random.fold_in(state.key, state.step)
        (value, aux), grads = jax.value_and_grad(objective, has_aux=True)(
            state.params, state.batch_stats, key, batch, eps
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "objective": value,
            "loss": jnp.mean(aux.losses),
            "zero_grad": jnp.mean(aux.zero_grad),
        }
        if jnp.issubdtype(batch.y.dtype, jnp.integer):
            metrics["accuracy"] = jnp.mean(jnp.argmax(aux.logits, axis=-1) == batch.y)
        if aux.factor is not None:
            metrics["factor"] = jnp.mean(aux.factor)
        if measure:
            metrics |= measure(aux, batch)
        state = TrainState(
            state.step + 1, params, aux.batch_stats, opt_state, state.key
        )
        return state, metrics

    return step


def batch_statistics(
    model: Model, params: Params, batch_stats: Params, x: Array
) -> Params:
    """The statistics of one batch, where training mixes them with running averages.

    For parameters that were not reached by training, such as a point between two
    networks, the running averages of neither end fit. The mean of this over the batches
    of a data set does, as in Izmailov et al. 2018 and Garipov et al. 2018.

    Args:
        model: whose statistics are exponential averages, of any weight.
        params: parameters.
        batch_stats: of the right shapes; their values do not count.
        x: ``[n, ...]`` inputs.

    Returns:
        Like ``batch_stats``; an empty tree if the model has none.
    """

    def updated(value):
        old = jax.tree.map(lambda leaf: jnp.full_like(leaf, value), batch_stats)
        return model.apply(params, old, x, train=True)[1]

    # new(old) = (1 - m) old + m batch, with the model's own weight m.
    large = 2.0**20
    return jax.tree.map(
        lambda at_zero, at_large: at_zero / (1 - (at_large - at_zero) / large),
        updated(0.0),
        updated(large),
    )


def prepared(step: Step, prepare: Callable[[Key, Array], Array]) -> Step:
    """``step`` on ``prepare(key, x)``, such as an augmentation, instead of ``x``."""

    def prepared_step(state, batch, eps):
        key = jax.random.fold_in(_stream(state, _PREPARE), state.step)
        return step(state, batch._replace(x=prepare(key, batch.x)), eps)

    return prepared_step


def scanned(step: Step) -> Run:
    """All steps in one ``lax.scan``: pure, to be jitted and vmapped by the caller.

    The form for GPU and TPU, and for networks of matrix products anywhere. On CPU the
    gradient of a convolution is up to a hundred times slower inside a loop: use
    ``looped`` there.
    """

    def run(state, data, indices, eps):
        data = jax.tree.map(jnp.asarray, data)

        def body(state, i):
            return step(state, jax.tree.map(lambda leaf: leaf[i], data), eps)

        return jax.lax.scan(body, state, indices)

    return run


def looped(step: Step) -> Run:
    """A Python loop over one compiled step, whose input state is donated.

    Not to be jitted or vmapped; give it a step that is vmapped already. The state
    passed in is consumed.

    Raises:
        ValueError: for indices of no step.
    """

    def gather_and_step(state, data, i, eps):
        return step(state, jax.tree.map(lambda leaf: leaf[i], data), eps)

    compiled = jax.jit(gather_and_step, donate_argnums=0)

    def run(state, data, indices, eps):
        if not len(indices):
            msg = "indices have no steps"
            raise ValueError(msg)
        # Once, or NumPy arrays would travel to the device at every step.
        data, metrics = jax.tree.map(jnp.asarray, data), []
        for i in np.asarray(indices):
            state, metric = compiled(state, data, i, eps)
            metrics.append(metric)
        # On the host: stacking many scalars on the device compiles for seconds.
        metrics = jax.device_get(metrics)
        return state, jax.tree.map(lambda *leaves: np.stack(leaves), *metrics)

    return run


def dispatched(step: Step, mode: str = "auto") -> Run:
    """Several runs of ``step``, dispatched as suits the device.

    Args:
        step: one step of one run.
        mode: "scan", all runs and steps in one compiled program, the form for GPU and
            TPU and for networks of matrix products; "loop", run after run and step
            after step, the form for convolutions on CPU, whose gradients are slow
            inside a loop and slower under vmap over parameters; "auto", "loop" on CPU.

    Returns:
        ``(states[r], data, indices[r, t, b], eps[r]) -> (states[r], metrics[r, t])``,
        not to be jitted; the states passed in are consumed by "scan".

    Raises:
        ValueError: for an unknown mode.
    """
    if mode not in ("auto", "loop", "scan"):
        msg = f"mode = {mode!r}: choose 'auto', 'loop' or 'scan'"
        raise ValueError(msg)
    if mode == "auto":
        mode = "loop" if jax.default_backend() == "cpu" else "scan"
    if mode == "scan":
        over_runs = jax.vmap(scanned(step), (0, None, 0, 0))
        return jax.jit(over_runs, donate_argnums=0)
    one_run = looped(step)

    def run(states, data, indices, eps):
        results = []
        for i in range(len(eps)):
            state = jax.tree.map(lambda leaf, i=i: leaf[i], states)
            results.append(one_run(state, data, indices[i], eps[i]))
        states, metrics = zip(*results, strict=True)
        return _stacked(jnp, states), _stacked(np, metrics)

    return run


def _stacked(module, trees):
    return jax.tree.map(lambda *leaves: module.stack(leaves), *trees)


def epoch_indices(key: Key, num_examples: int, batch_size: int) -> Array:
    """A shuffled pass over a data set as ``[t, b]`` indices, without the remainder.

    Raises:
        ValueError: if ``batch_size`` is not between 1 and ``num_examples``.
    """
    if not 1 <= batch_size <= num_examples:
        msg = f"batch_size = {batch_size}: choose 1 to {num_examples}"
        raise ValueError(msg)
    t = num_examples // batch_size
    order = jax.random.permutation(key, num_examples)
    return order[: t * batch_size].reshape(t, batch_size)


def epochs(
    state: TrainState, num_epochs: int, num_examples: int, batch_size: int
) -> Array:
    """The passes of a run's first epochs one after the other, ``[num_epochs * t, b]``.

    Each is ``epoch_indices`` of its ``shuffle_key``, so that these are the indices of a
    run that shuffles epoch by epoch.

    Raises:
        ValueError: as ``epoch_indices``.
    """

    def indices(epoch):
        return epoch_indices(shuffle_key(state, epoch), num_examples, batch_size)

    return jnp.concatenate(jax.vmap(indices)(jnp.arange(num_epochs)))


def remainder_indices(key: Key, num_examples: int, batch_size: int) -> Array:
    """What ``epoch_indices`` leaves of the same pass: ``[1, b]``, or ``[0, 0]``.

    ``batch_size`` is at least 1.
    """
    b = num_examples % batch_size
    order = jax.random.permutation(key, num_examples)
    return order[num_examples - b :].reshape(min(b, 1), b)


def shuffle_key(state: TrainState, epoch: Array | int) -> Key:
    """The key of an epoch's order, apart from those of the steps."""
    return jax.random.fold_in(_stream(state, _SHUFFLE), epoch)


# Steps fold their number, from zero on, into the key of the run; the largest numbers
# are free for other streams.
_SHUFFLE = jnp.iinfo(jnp.int32).max
_PREPARE = _SHUFFLE - 1


def _stream(state: TrainState, name: int) -> Key:
    return jax.random.fold_in(state.key, name)
