"""Which parameters a penalty takes, and LASSO with exact zeros.

    objective = objectives.with_penalty(objective, lambda w: 1e-3 * norms.l1.value(w))
    tx = penalties.proximal(optax.adam(1e-4), 1e-3)     # or instead: exact zeros
    penalties.sparsity(state.params)

``where`` is a function of the parameters to a tree with a boolean for each array. Under
``vmap`` it sees one network; of networks in a leading axis take ``vmap`` as well.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from advjax import norms
from advjax.types import Array, Params

Where = Callable[[Params], Any]
"""``params -> bools``, in the structure of ``params``: which arrays are penalised."""


def weights(params: Params) -> Any:
    """Arrays of two axes and more: kernels, not biases and not normalisation."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


def everything(params: Params) -> Any:
    """All arrays."""
    return jax.tree.map(lambda _: True, params)


def selected(params: Params, where: Where = weights) -> list[Array]:
    """The arrays that ``where`` chooses.

    Raises:
        ValueError: if it chooses none.
    """
    leaves, chosen = jax.tree.leaves(params), jax.tree.leaves(where(params))
    kept = [leaf for leaf, keep in zip(leaves, chosen, strict=True) if keep]
    if not kept:
        msg = "where chooses none of the parameters"
        raise ValueError(msg)
    return kept


def sparsity(params: Params, where: Where = weights) -> Array:
    """The share ``[]`` of entries that are exactly zero."""
    kept = selected(params, where)
    zeros = sum(jnp.sum(leaf == 0) for leaf in kept)
    return zeros / sum(leaf.size for leaf in kept)


def proximal(
    tx: optax.GradientTransformation, penalty: Array | float, where: Where = weights
) -> optax.GradientTransformation:
    """``tx`` for a loss plus penalty · ‖w‖₁ that leaves exact zeros.

    The gradient g of the loss alone becomes the subgradient of least size, and a weight
    that would change sign stops at zero:

        p = g + penalty · sgn(w)                    where w ≠ 0,
            soft_threshold(g, penalty)              where w = 0,
        w ← w + tx(p), or 0 where that is not on the side of sgn(w), or of -sgn(p)
            where w = 0.

    For gradient descent this is the proximal step soft_threshold(w - η g, η · penalty),
    except that a weight which crosses zero rests there for a step. Momentum and Adam
    have no single η: with soft_threshold after their steps they would minimise another
    penalty in every entry, while a point is at rest here if and only if zero is a
    subgradient of the loss plus the penalty, whatever ``tx`` is. With the noise of
    batches weights leave zero wherever |g| of a batch is above the penalty, so that a
    falling rate or larger batches make for more zeros.

    Args:
        tx: any optimiser. Where momentum carries a weight at zero against -sgn(p) it
            stays at zero until the momentum has turned.
        penalty: at least 0; may be traced.
        where: what is penalised; other parameters take the steps of ``tx``.

    Returns:
        An optimiser for the objective without penalty. Its update needs ``params``, and
        raises ValueError without.

    Andrew and Gao, Scalable training of L1-regularized log-linear models, 2007
    (OWL-QN, for a quasi-Newton method).
    """

    def update(grads, state, params=None):
        if params is None:
            msg = "params are missing: call update(grads, state, params)"
            raise ValueError(msg)
        chosen = where(params)
        subgradients = jax.tree.map(
            lambda keep, w, g: _subgradient(w, g, penalty) if keep else g,
            *(chosen, params, grads),
        )
        updates, state = tx.update(subgradients, state, params)
        updates = jax.tree.map(
            lambda keep, w, p, u: _stopped(w, p, u) if keep else u,
            *(chosen, params, subgradients, updates),
        )
        return updates, state

    return optax.GradientTransformation(tx.init, update)


def _subgradient(w: Array, g: Array, penalty: Array | float) -> Array:
    """The subgradient of least size of the loss plus the penalty."""
    at_zero = norms.soft_threshold(g, penalty)
    return jnp.where(w == 0, at_zero, g + penalty * jnp.sign(w))


def _stopped(w: Array, p: Array, u: Array) -> Array:
    """The update, cut at zero, and nan if it is. Adding -w to w is exactly zero."""
    side = jnp.where(w == 0, -jnp.sign(p), jnp.sign(w))
    return jnp.where((jnp.sign(w + u) == side) | jnp.isnan(u), u, -w)
