"""Selecting penalised parameters, and an l1 penalty with exact zeros.

    objective = objectives.with_penalty(objective, lambda w: 1e-3 * norms.l1.value(w))
    tx = penalties.proximal(optax.adam(1e-4), 1e-3)     # or instead: exact zeros
    penalties.sparsity(state.params)

``where`` is a function of the parameters to a tree with a boolean for each array. Under
``vmap`` it sees one network; if networks are stacked along a leading axis, ``vmap`` it.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import arguments, norms
from advjax.types import Array, Params

__all__ = ["Where", "everything", "proximal", "selected", "sparsity", "weights"]


class Where(Protocol):
    """Chooses the arrays that are penalised."""

    def __call__(self, params: Params, /) -> Any:
        """``params -> bools``, in the structure of ``params``."""


def weights(params: Params) -> Any:
    """Arrays of two axes and more: kernels, not biases and not normalisation."""
    return jax.tree.map(lambda leaf: np.ndim(leaf) > 1, params)


def everything(params: Params) -> Any:
    """All arrays."""
    return jax.tree.map(lambda _: True, params)


def selected(params: Params, *, where: Where = weights) -> list[Array]:
    """The arrays that ``where`` chooses.

    Raises:
        ValueError: if it chooses none, or returns a tree of another structure.
    """
    leaves, chosen = jax.tree.leaves(params), jax.tree.leaves(_chosen(params, where))
    kept = [leaf for leaf, keep in zip(leaves, chosen, strict=True) if keep]
    if not kept:
        msg = "where chooses none of the parameters"
        raise ValueError(msg)
    return kept


def sparsity(params: Params, *, where: Where = weights) -> Array:
    """The share ``[]`` of entries that are exactly zero."""
    kept = selected(params, where=where)
    zeros = jnp.stack([jnp.sum(leaf == 0) for leaf in kept])
    return jnp.sum(zeros) / sum(leaf.size for leaf in kept)


def proximal(
    tx: optax.GradientTransformation,
    penalty: Array | float,
    *,
    where: Where = weights,
) -> optax.GradientTransformationExtraArgs:
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
        penalty: ``[]``; may be traced. A negative one gives nan.
        where: ``params -> bools``, the penalised ones; other parameters take the steps
            of ``tx``.

    Returns:
        An optimiser for the objective without penalty. Its update needs ``params``, and
        raises ValueError without; further arguments, such as the ``value`` of
        ``optax.contrib.reduce_on_plateau``, go to ``tx``.

    Raises:
        ValueError: for more than one penalty.

    Andrew and Gao, Scalable training of L1-regularized log-linear models, 2007
    (OWL-QN, for a quasi-Newton method).
    """
    inner = optax.with_extra_args_support(tx)
    if np.ndim(penalty) != 0:
        msg = f"penalty has shape {np.shape(penalty)}: give one number, and vmap"
        raise ValueError(msg)
    strength = arguments.not_negative(penalty)

    def update(grads, state, params=None, **extra):
        if params is None:
            msg = "params are missing: call update(grads, state, params)"
            raise ValueError(msg)
        chosen = _chosen(params, where)
        subgradients = jax.tree.map(
            lambda keep, w, g: _subgradient(w, g, strength) if keep else g,
            *(chosen, params, grads),
        )
        updates, state = inner.update(subgradients, state, params, **extra)
        updates = jax.tree.map(
            lambda keep, w, p, u: _stopped(w, p, u) if keep else u,
            *(chosen, params, subgradients, updates),
        )
        return updates, state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _structure(tree: Any) -> Any:
    return jax.tree.structure(tree)


def _chosen(params: Params, where: Where) -> Any:
    chosen = where(params)
    found, wanted = (_structure(tree) for tree in (chosen, params))
    if found != wanted:
        msg = f"where returns {found} for {wanted}: give a boolean for each array"
        raise ValueError(msg)
    return chosen


def _subgradient(w: Array, g: Array, penalty: Array | float) -> Array:
    """The subgradient of least size of the loss plus the penalty."""
    at_zero = norms.soft_threshold(g, penalty)
    return jnp.where(w == 0, at_zero, g + penalty * jnp.sign(w))


def _stopped(w: Array, p: Array, u: Array) -> Array:
    """The update, cut at zero, and nan if it is. Adding -w to w is exactly zero."""
    side = jnp.where(w == 0, -jnp.sign(p), jnp.sign(w))
    return jnp.where((jnp.sign(w + u) == side) | jnp.isnan(u), u, -w)
