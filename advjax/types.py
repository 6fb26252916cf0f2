"""The contracts that the modules share, on one page.

Everything in a factory is static structure; everything in a call is traced data.
The radius ``eps`` is swept, scheduled, mapped over replicates and given per example,
so it is always an argument of the call and a new value never compiles anything.

Arguments come in one order everywhere: parameters, key, functions, the norm, data,
numbers; then keywords. ``Model``, ``norms.Norm`` and ``lazy.Activation`` are static
leaves: they pass through ``jit``, ``vmap`` and ``grad`` as ordinary arguments.

Axis letters in docstrings: ``n`` examples, ``d`` inputs, ``k`` classes, ``r``
replicates, ``t`` time. ``...`` is the shape of one example.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "Apply",
    "Array",
    "Attack",
    "AttackInfo",
    "Aux",
    "Batch",
    "Init",
    "Key",
    "Loss",
    "LossFn",
    "Model",
    "Objective",
    "Params",
    "Predict",
    "example_keys",
    "single_key",
]

Array = jax.Array
Key = jax.Array
"""A PRNG key from ``jax.random.key``."""

Params = Any
"""A pytree of arrays."""


class Predict(Protocol):
    """A network in evaluation mode, with its parameters closed over."""

    def __call__(self, x: Array, /) -> Array:
        """``x[n, ...] -> output[n, ...]``, such as ``logits[n, k]``."""


class Loss(Protocol):
    """A loss of outputs, as in ``losses``: unreduced, higher is worse."""

    def __call__(self, output: Array, y: Any, /) -> Array:
        """``(output[n, ...], y[n, ...]) -> loss[n]``."""


class LossFn(Protocol):
    """Any loss of inputs, with parameters closed over, for an attack to raise.

    A plain function is judged by its loss alone. A ``criteria.Goal`` also knows which
    points fool the model, and attacks keep those first.
    """

    def __call__(self, x: Array, y: Any, /) -> Array:
        """``(x[n, ...], y[n, ...]) -> loss[n]``: per example, higher is worse."""


class AttackInfo(NamedTuple):
    """The report of an attack beside the perturbed examples, all ``[n]``.

    Fields that an attack of your own leaves at None count as unknown.

    Attributes:
        loss: the loss at the returned ``x_adv``.
        zero_grad: True where some step met a gradient of exactly zero while the example
            was not yet fooled. A vanishing gradient makes an attack fail silently and
            a model look robust, so it is counted wherever a robust number is reported.
        undefined_grad: True where some step met a gradient with an entry that is not
            finite. Such an entry counts as zero if it is nan and as very large if it is
            infinite, so the attack goes on, perhaps weakly.
        outside: True where the input itself is not within ``bounds``; None without
            bounds.
        fooled: True where ``x_adv`` fools the model; None for a plain ``LossFn``.
        factor: for surrogate attacks, the gradient-weighted mean of the shrinkage
            factor; None for others.
    """

    loss: Array
    zero_grad: Array
    undefined_grad: Array | None = None
    outside: Array | None = None
    fooled: Array | None = None
    factor: Array | None = None


class Attack(Protocol):
    """Raises the loss within a ball around each example."""

    def __call__(
        self, key: Key, loss_fn: LossFn, x: Array, y: Any, eps: Array | float, /
    ) -> tuple[Array, AttackInfo]:
        """Perturbs a batch.

        Args:
            key: one key, from which example ``i`` uses ``fold_in(key, i)``; or ``[n]``
                keys, one per example, when the batch is a slice of a data set.
            loss_fn: the loss to raise, or a ``criteria.Goal``. The attack climbs its
                sum over the batch, so that one example's gradient does not depend on
                the batch size.
            x: ``[n, ...]`` floating-point inputs.
            y: whatever ``loss_fn`` takes as its second argument, ``[n, ...]``.
            eps: radius in input units: a scalar; ``[n]``, one per example; or with as
                many axes as ``x``, one per feature, ``[1, ...]`` or ``[n, ...]``, where
                0 holds a feature fixed, so that ``eps * mask`` attacks a part of the
                input. Per feature, the ball is ``‖delta / eps‖ ≤ 1``. At 0 the result
                is ``x``; a negative radius gives nan.

        Returns:
            ``x_adv[n, ...]`` in the dtype of ``x``, in the ball after rounding, and an
            ``AttackInfo``.
        """


class Batch(NamedTuple):
    """Inputs ``x[n, ...]`` and targets ``y[n, ...]``, of jax or NumPy."""

    x: Array | np.ndarray
    y: Array | np.ndarray


class Init(Protocol):
    """Makes the parameters of a network."""

    def __call__(self, key: Key, x: Array, /) -> tuple[Params, Params]:
        """``(key, x[n, ...]) -> (params, batch_stats)``; of ``x`` the shape counts."""


class Apply(Protocol):
    """Computes a network's output."""

    def __call__(
        self,
        params: Params,
        batch_stats: Params,
        x: Array,
        /,
        *,
        train: bool,
        key: Key | None = None,
    ) -> tuple[Array, Params]:
        """``(params, batch_stats, x[n, ...]) -> (output[n, ...], batch_stats)``.

        Args:
            params: parameters.
            batch_stats: statistics; an empty dict for networks that keep none.
            x: inputs.
            train: whether layers such as dropout and batch normalisation are in
                training mode; otherwise ``batch_stats`` are returned as they are.
            key: for dropout in training mode; None draws nothing, which a network with
                dropout refuses.
        """


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Model:
    """A network as two pure functions; normalisation of the input is inside.

    Attributes:
        init: see ``Init``.
        apply: see ``Apply``.
    """

    init: Init
    apply: Apply

    def predict(self, params: Params, batch_stats: Params, x: Array) -> Array:
        """The output ``[n, ...]`` in evaluation mode.

        ``functools.partial(model.predict, params, batch_stats)`` is a ``Predict``.
        """
        return self.apply(params, batch_stats, x, train=False)[0]


class Aux(NamedTuple):
    """The report of an objective beside its value.

    Attributes:
        batch_stats: the statistics after the training forward passes.
        losses: ``[n]``, the terms whose mean is the objective, penalties excluded.
        logits: ``[n, k]``, the outputs at the attacked inputs, in training mode.
        attack: what the attack reports; None where nothing was attacked.
    """

    batch_stats: Params
    losses: Array
    logits: Array
    attack: AttackInfo | None = None


class Objective(Protocol):
    """A function of the parameters that training minimises."""

    def __call__(
        self,
        params: Params,
        batch_stats: Params,
        key: Key,
        batch: Batch,
        eps: Array | float,
        /,
    ) -> tuple[Array, Aux]:
        """The value ``[]``, and what else is of interest.

        The gradient is taken with respect to the first argument, with ``has_aux=True``.
        """


def example_keys(key: Key, n: int) -> Key:
    """The ``[n]`` keys that stand for one key in a batch: ``fold_in(key, i)``.

    Slices of the result attack slices of a data set exactly as the whole would be,
    whatever the batch size. ``[n]`` keys are taken as they are. Keys of the old
    ``jax.random.PRNGKey`` kind are accepted. The result is always of jax's threefry
    generator: what ``vmap`` draws from keys of others, such as rbg on TPU, depends on
    the batch.

    Raises:
        ValueError: for what is no key, or for another number of keys than ``n``.
    """
    key = _threefry(_typed(key))
    if key.ndim > 1:
        msg = f"keys have shape {key.shape}: give one key, or one per example, [n]"
        raise ValueError(msg)
    if key.ndim == 1:
        if len(key) != n:
            msg = f"{len(key)} keys for {n} examples: give one key, or one per example"
            raise ValueError(msg)
        return key
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))


def _typed(key: Any) -> Key:
    dtype = getattr(key, "dtype", None)
    try:
        if dtype == jnp.uint32:
            key = jax.random.wrap_key_data(key)
        is_key = dtype is not None and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    except TypeError:  # of another number of words
        is_key = False
    if not is_key:
        msg = f"key = {key!r} is no PRNG key: give jax.random.key(0)"
        raise ValueError(msg)
    return key


def single_key(key: Key) -> Key:
    """One key, of jax's threefry generator as those of ``example_keys``.

    Raises:
        ValueError: for what is no key, and for several.
    """
    key = _threefry(_typed(key))
    if key.ndim:
        msg = f"keys have shape {key.shape}: give one key, and vmap"
        raise ValueError(msg)
    return key


def _threefry(key: Key) -> Key:
    """The same key, or for another generator one made of all of its data."""
    if str(jax.random.key_impl(key)) == _THREEFRY:
        return key
    data = jax.random.key_data(key)
    threefry = jax.random.wrap_key_data(data[..., :2], impl=_THREEFRY)
    fold = jax.random.fold_in if key.ndim == 0 else jax.vmap(jax.random.fold_in)
    for i in range(2, data.shape[-1]):
        threefry = fold(threefry, data[..., i])
    return threefry


_THREEFRY = "threefry2x32"
