"""The state of a training run, one pure step, and two ways of dispatching steps.

    step = train.make_step(objective, tx)
    run = train.scanned(step)                    # or train.looped(step)
    state = train.create(key, model, tx, x[:1])
    state, metrics = run(state, data, indices[t, b], eps)

A state holds arrays only, so a batch of states is a bigger state: ``vmap`` the run over
seeds and radii, or let ``dispatched`` choose what suits the device. Randomness of step
``t`` is ``fold_in(state.key, t)``: a run resumed from a stored state is the same run.
"""

import inspect
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import arguments, convolutions, criteria
from advjax.types import (
    Array,
    Aux,
    Batch,
    Key,
    Model,
    Objective,
    Params,
    single_key,
)

__all__ = [
    "Measure",
    "Metrics",
    "Prepare",
    "Run",
    "Step",
    "TrainState",
    "batch_statistics",
    "create",
    "dispatch_mode",
    "dispatched",
    "epoch_indices",
    "epochs",
    "looped",
    "make_step",
    "preprocessed",
    "remainder_indices",
    "restart",
    "scanned",
    "shuffle_key",
]

Metrics = dict[str, Array]
"""Numbers of one step, ``[]`` each, by name."""


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


class Step(Protocol):
    """One step of training."""

    def __call__(
        self, state: TrainState, batch: Batch, eps: Array | float, /
    ) -> tuple[TrainState, Metrics]:
        """``(state, batch, eps) -> (state, metrics)``; pure."""


class Run(Protocol):
    """Several steps of training."""

    def __call__(
        self, state: TrainState, data: Batch, indices: Array, eps: Array | float, /
    ) -> tuple[TrainState, Metrics]:
        """``(state, data, indices[t, b], eps) -> (state, metrics[t])``.

        Step ``i`` trains on the examples ``indices[i]`` of ``data``. The state passed
        in is left as it is.

        Raises:
            ValueError: for ``x`` and ``y`` of different lengths, and for indices that
                are known and no examples. A traced index that is none gives nan.
        """


class Measure(Protocol):
    """Further metrics of a step."""

    def __call__(self, aux: Aux, batch: Batch, /) -> Metrics:
        """``(aux, batch) -> metrics``, from what the objective reports."""


class Prepare(Protocol):
    """A change of a batch's inputs, such as an augmentation."""

    def __call__(self, key: Key, x: Array, /) -> Array:
        """``(key, x[b, ...]) -> x[b, ...]``."""


def create(
    key: Key, model: Model, tx: optax.GradientTransformation, x: Array
) -> TrainState:
    """A fresh run; ``x`` is a batch of inputs, used only for its shape.

    Its keys are of jax's threefry generator, whatever that of ``key`` is, so that a run
    under ``vmap`` is the one that it is alone.

    Raises:
        ValueError: for what is no model or no single key.
    """
    arguments.model(model)
    key_init, key_run = jax.random.split(single_key(key))
    params, batch_stats = model.init(key_init, x)
    return restart(key_run, params, batch_stats, tx)


def restart(
    key: Key, params: Params, batch_stats: Params, tx: optax.GradientTransformation
) -> TrainState:
    """A run that starts from trained parameters, such as fine-tuning.

    Raises:
        ValueError: for what is no single key.
    """
    key = single_key(key)
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, params, batch_stats, tx.init(params), key)


def make_step(
    objective: Objective,
    tx: optax.GradientTransformation,
    measure: Measure | None = None,
) -> Step:
    """One step of ``tx`` down the gradient of ``objective``.

    ``eps`` is an argument of the step, so that one compiled step serves every radius.
    A schedule is ``lambda s, batch, eps: step(s, batch, eps * schedule(s.step))``.

    The metrics, all before the update, are ``objective`` (penalties included), ``loss``
    (without), ``zero_grad`` and ``undefined_grad`` (shares of examples whose attack met
    a gradient of zero, or one that is not finite; 0 without attack), if the labels are
    integers ``accuracy`` at the attacked inputs (``criteria.correct``), if the attack
    has bounds ``outside`` (share of inputs not within them), for surrogate attacks
    ``factor``, and those of ``measure``.

    Optimisers may take extra arguments, such as ``optax.contrib.reduce_on_plateau`` or
    a line search: ``value``, ``grad`` and ``value_fn`` of the objective on this batch.
    """
    if not hasattr(tx, "update"):
        msg = f"tx = {tx!r}: give an optimiser, such as optax.adam(1e-3)"
        raise ValueError(msg)

    def step(state, batch, eps):
        batch = _batch(batch)
        key = jax.random.fold_in(state.key, state.step)

        def value_and_aux(params):
            return objective(params, state.batch_stats, key, batch, eps)

        graded = jax.value_and_grad(value_and_aux, has_aux=True)
        (value, aux), grads = convolutions.rewritten(graded)(state.params)
        updates, opt_state = tx.update(
            grads,
            state.opt_state,
            state.params,
            **_extra_arguments(
                tx,
                value=value,
                grad=grads,
                value_fn=lambda params: value_and_aux(params)[0],
            ),
        )
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "objective": value,
            "loss": jnp.mean(aux.losses),
            **_of_attack(aux, value.dtype),
        }
        if criteria.has_accuracy(batch.y):
            metrics["accuracy"] = _accuracy(aux.logits, batch.y)
        if measure:
            metrics |= measure(aux, batch)
        state = TrainState(
            state.step + 1, params, aux.batch_stats, opt_state, state.key
        )
        return state, metrics

    return step


def _accuracy(output: Array, y: Array) -> Array:
    """The share of correct outputs; nan where a label is none, as losses may hide."""
    right, y = criteria.correct(output, y), jnp.asarray(y)
    is_labelled = jnp.all(criteria.labelled(output, y))
    return arguments.nan_where(~is_labelled, jnp.mean(right))


def _extra_arguments(tx: Any, **values: Any) -> dict[str, Any]:
    """The values that an optimiser takes beside gradients, state and parameters."""
    parameters = inspect.signature(tx.update).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return values
    names = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    return {name: value for name, value in values.items() if name in names}


def _of_attack(aux: Aux, dtype: Any) -> Metrics:
    always = dict.fromkeys(("zero_grad", "undefined_grad"), jnp.zeros((), dtype))
    if aux.attack is None:
        return always
    flags = ("zero_grad", "undefined_grad", "outside", "factor")
    found = {name: getattr(aux.attack, name) for name in flags}
    return always | {
        name: jnp.mean(values) for name, values in found.items() if values is not None
    }


def _batch(batch: Any) -> Batch:
    if not isinstance(batch, Batch):
        msg = f"the batch is a {type(batch).__name__}: give types.Batch(x, y)"
        raise ValueError(msg)
    arguments.equal_lengths(x=batch.x, y=batch.y)
    # Lists would be trees of their entries.
    return Batch(*(_array(each) for each in batch))


def _array(values: Any) -> Array | np.ndarray:
    return values if hasattr(values, "dtype") else np.asarray(values)


def batch_statistics(
    model: Model,
    params: Params,
    batch_stats: Params,
    x: Array,
    *,
    key: Key | None = None,
) -> Params:
    """The statistics of one batch, which training mixes with running averages.

    For parameters that were not reached by training, such as a point between two
    networks, the running averages of neither end fit. The mean of this over the batches
    of a data set does, as in Izmailov et al. 2018 and Garipov et al. 2018.

    Args:
        model: whose statistics are exponential averages, of any weight.
        params: parameters.
        batch_stats: those that training moves are used only for their shapes; frozen
            statistics, constants, counters and keys are taken as they are.
        x: ``[n, ...]`` inputs.
        key: for networks with dropout, whose masks have a share in the statistics of
            the layers above.

    Returns:
        Like ``batch_stats``; an empty tree if the model has none.
    """
    dtypes = jax.tree.map(jnp.result_type, batch_stats)
    # In half precision the difference of two passes would be rounding.
    batch_stats = jax.tree.map(_widened, batch_stats)

    def passed(old):
        return model.apply(params, old, x, train=True, key=key)[1]

    moves = jax.tree.map(_moves, passed(batch_stats), batch_stats)

    def updated(value):
        def filled(moves, leaf):
            return jnp.where(moves, jnp.full_like(leaf, value), leaf)

        return passed(_where_float(filled, moves, batch_stats))

    # new(old) = (1 - m) old + m batch, with the model's own weight m.
    large = 2.0**20

    def solved(moves, leaf, at_zero, at_large):
        weight = 1 - (at_large - at_zero) / large
        return jnp.where(moves, at_zero / jnp.where(moves, weight, 1), leaf)

    found = _where_float(solved, moves, batch_stats, updated(0.0), updated(large))
    return jax.tree.map(_narrowed, found, dtypes)


def _widened(leaf: Any) -> Any:
    return arguments.single(leaf) if _is_float(leaf) else leaf


def _narrowed(leaf: Any, dtype: Any) -> Any:
    return leaf.astype(dtype) if _is_float(leaf) else leaf


def _moves(new: Array, old: Array) -> Array:
    """Whether training moves an array; frozen statistics and constants stay."""
    return jnp.any(new != old)


def _where_float(
    function: Any, moves: Params, batch_stats: Params, *rest: Params
) -> Params:
    """``function`` of all arrays of numbers; counters and keys are left as they are."""

    def of_leaf(moves, leaf, *rest):
        return function(moves, leaf, *rest) if _is_float(leaf) else leaf

    return jax.tree.map(of_leaf, moves, batch_stats, *rest)


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def preprocessed(step: Step, prepare: Prepare) -> Step:
    """``step`` on ``prepare(key, x)``, such as an augmentation, instead of ``x``."""

    def preprocessed_step(state, batch, eps):
        key = jax.random.fold_in(_stream(state, _PREPARE), state.step)
        batch = _batch(batch)
        return step(state, batch._replace(x=prepare(key, batch.x)), eps)

    return preprocessed_step


def scanned(step: Step) -> Run:
    """All steps in one ``lax.scan``: pure, to be jitted and vmapped by the caller.

    The form for GPU and TPU, and for networks of matrix products anywhere. On CPU the
    gradient of a convolution is up to a hundred times slower inside a loop: use
    ``looped`` there.
    """

    def run(state, data, indices, eps):
        data, indices = _checked(data, indices)
        data = jax.tree.map(jnp.asarray, data)

        def body(state, i):
            return step(state, _rows(data, i), eps)

        return jax.lax.scan(body, state, indices)

    return run


def _rows(data: Batch, i: Array) -> Batch:
    """The examples ``i[b]``; nan, or no class, where there is none."""
    # A negative index would count from the end.
    i = jnp.where(jnp.asarray(i) < 0, len(data.y), i)
    return jax.tree.map(lambda leaf: leaf.at[i].get(mode="fill"), data)


def _checked(data: Batch, indices: Any) -> tuple[Batch, Any]:
    """Both as arrays, after a check that the indices are those of examples."""
    data = _batch(data)
    indices, n = _array(indices), len(data.y)
    if indices.dtype.kind not in "iu":
        msg = f"indices have dtype {indices.dtype}: give integers"
        raise ValueError(msg)
    if arguments.is_known(indices) and indices.size:
        low, high = np.asarray(indices).min(), np.asarray(indices).max()
        if low < 0 or high >= n:
            msg = f"indices go from {low} to {high}: there are {n} examples, from 0"
            raise ValueError(msg)
    return data, indices


def looped(step: Step) -> Run:
    """A Python loop over one compiled step.

    Not to be jitted or vmapped; give it a step that is vmapped already. The state
    passed in is copied once, and the copies are donated from step to step.

    Raises:
        ValueError: in the call, if ``indices`` is empty.
    """

    def gather_and_step(state, data, i, eps):
        return step(state, _rows(data, i), eps)

    compiled = jax.jit(gather_and_step, donate_argnums=0)

    def run(state, data, indices, eps):
        if not len(indices):
            msg = "indices have no steps"
            raise ValueError(msg)
        data, indices = _checked(data, indices)
        state = jax.tree.map(jnp.copy, state)
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
            after step, the form for convolutions on CPU, which are slower under vmap
            over parameters; "auto", "loop" on CPU.

    Returns:
        ``(states[r], data, indices[r, t, b], eps[r]) -> (states[r], metrics[r, t])``,
        not to be jitted.

    Raises:
        ValueError: for an unknown mode.
    """
    if dispatch_mode(mode) == "scan":
        compiled = jax.jit(jax.vmap(scanned(step), (0, None, 0, 0)))

        def at_once(states, data, indices, eps):
            _check_runs(states, indices, eps)
            data, indices = _checked(data, indices)
            return compiled(states, data, indices, _array(eps))

        return at_once
    one_run = looped(step)

    def run(states, data, indices, eps):
        _check_runs(states, indices, eps)
        indices, results = _array(indices), []
        for i in range(len(eps)):
            state = jax.tree.map(lambda leaf, i=i: leaf[i], states)
            results.append(one_run(state, data, indices[i], eps[i]))
        states, metrics = zip(*results, strict=True)
        return _stacked(jnp, states), _stacked(np, metrics)

    return run


def dispatch_mode(mode: str) -> str:
    """Whether a mode of ``dispatched`` is "loop" or "scan" on the present device.

    Raises:
        ValueError: for an unknown mode.
    """
    if mode not in ("auto", "loop", "scan"):
        msg = f"mode = {mode!r}: choose 'auto', 'loop' or 'scan'"
        raise ValueError(msg)
    on_device = "loop" if jax.default_backend() == "cpu" else "scan"
    return on_device if mode == "auto" else mode


def _check_runs(states: TrainState, indices: Array, eps: Array) -> None:
    leaves = enumerate(jax.tree.leaves(states))
    arguments.equal_lengths(
        indices=indices, eps=eps, **{f"states[{i}]": leaf for i, leaf in leaves}
    )


def _stacked(module: Any, trees: Any) -> Any:
    return jax.tree.map(lambda *leaves: module.stack(leaves), *trees)


def epoch_indices(key: Key, num_examples: int, batch_size: int) -> Array:
    """A shuffled pass over a data set as ``[t, b]`` indices, without the remainder.

    Raises:
        ValueError: if ``batch_size`` is not between 1 and ``num_examples``, and for
            what is no single key.
    """
    batch_size = arguments.count("batch_size", batch_size)
    num_examples = arguments.count("num_examples", num_examples)
    if batch_size > num_examples:
        msg = f"batch_size = {batch_size}: choose 1 to {num_examples}"
        raise ValueError(msg)
    t = num_examples // batch_size
    order = jax.random.permutation(single_key(key), num_examples)
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

    num_epochs = arguments.count("num_epochs", num_epochs)
    # One by one: what vmap draws from keys of rbg depends on their number.
    return jnp.concatenate(jax.lax.map(indices, jnp.arange(num_epochs)))


def remainder_indices(key: Key, num_examples: int, batch_size: int) -> Array:
    """The rest of the pass of ``epoch_indices``: ``[1, b]``, or ``[0, 0]``.

    Raises:
        ValueError: unless ``batch_size`` is at least 1, and for what is no single key.
    """
    b = num_examples % arguments.count("batch_size", batch_size)
    # The pass has drawn this permutation already, on purpose.
    key = jax.random.clone(single_key(key))
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
