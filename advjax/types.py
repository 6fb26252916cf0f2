"""The contracts that the modules share, on one page.

Everything in a factory is static structure; everything in a call is traced data.
The radius ``eps`` is swept, scheduled, mapped over replicates and given per example,
so it is always an argument of the call and a new value never compiles anything.

Axis letters in docstrings: ``n`` examples, ``d`` inputs, ``k`` classes, ``r``
replicates, ``t`` time. ``...`` is the shape of one example.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

Array = jax.Array
Key = jax.Array
"""A PRNG key from ``jax.random.key``."""

Params = Any
"""A pytree of arrays."""

LossFn = Callable[[Array, Any], Array]
"""``(x[n, ...], y[n, ...]) -> loss[n]``: per example, unreduced, higher is worse.

Parameters are closed over. Any function of this shape can be attacked.
"""


class AttackInfo(NamedTuple):
    """What an attack reports beside the perturbed examples.

    Attributes:
        loss: ``[n]``, the loss at the returned ``x_adv``.
        zero_grad: ``[n]`` booleans, True where some step met a gradient of exactly
            zero. A vanishing gradient makes an attack fail silently and a model look
            robust, so it is counted wherever a robust number is reported.
        factor: ``[n]``, of a surrogate attack the mean of what it multiplied the
            perturbation by, over the entries of an example in proportion to the size of
            the clean gradient there; None of other attacks.
    """

    loss: Array
    zero_grad: Array
    factor: Array | None = None


class Attack(Protocol):
    """Raises the loss within a ball around each example."""

    def __call__(
        self, key: Key, loss_fn: LossFn, x: Array, y: Any, eps: Array | float
    ) -> tuple[Array, AttackInfo]:
        """Perturbs a batch.

        Args:
            key: one key, from which example ``i`` uses ``fold_in(key, i)``; or ``[n]``
                keys, one per example, when the batch is a slice of a data set.
            loss_fn: the loss to raise; the attack climbs its sum over the batch, so
                that one example's gradient does not depend on the batch size.
            x: ``[n, ...]`` floating-point inputs.
            y: whatever ``loss_fn`` takes as its second argument, ``[n, ...]``.
            eps: radius in input units, a scalar or ``[n]``. At 0 the result is ``x``;
                a negative radius gives nan.

        Returns:
            ``x_adv[n, ...]`` in the dtype of ``x``, and an ``AttackInfo``.
        """


class Batch(NamedTuple):
    """Inputs ``x[n, ...]`` and targets ``y[n, ...]``."""

    x: Array
    y: Array


class Model(NamedTuple):
    """A network as two pure functions; normalisation of the input is inside.

    Attributes:
        init: ``(key, x) -> (params, batch_stats)``.
        apply: ``(params, batch_stats, x, *, train) -> (logits[n, k], batch_stats)``.
            ``batch_stats`` is an empty dict for networks that keep no statistics.
    """

    init: Callable[..., tuple[Params, Params]]
    apply: Callable[..., tuple[Array, Params]]


class Aux(NamedTuple):
    """What an objective reports beside its value.

    Attributes:
        batch_stats: the statistics after the training forward passes.
        losses: ``[n]``, the terms whose mean is the objective, penalties excluded.
        logits: ``[n, k]``, the outputs at the attacked inputs, in training mode.
        zero_grad: ``[n]``, the attack's flag; False where nothing was attacked.
        factor: ``[n]``, the surrogate's, or None.
    """

    batch_stats: Params
    losses: Array
    logits: Array
    zero_grad: Array
    factor: Array | None = None


Objective = Callable[[Params, Params, Key, Batch, Array | float], tuple[Array, Aux]]
"""``(params, batch_stats, key, batch, eps) -> (value[], Aux)``, to be minimised.

The gradient is taken with respect to the first argument, with ``has_aux=True``.
"""


def example_keys(key: Key, n: int) -> Key:
    """The ``[n]`` keys that stand for one key in a batch: ``fold_in(key, i)``.

    Slices of the result attack slices of a data set exactly as the whole would be,
    whatever the batch size. ``[n]`` keys are returned as they are. Keys of the old
    ``jax.random.PRNGKey`` kind are accepted.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.ndim == 1:
        return key
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))
