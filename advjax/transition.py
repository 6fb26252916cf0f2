"""The critical radius eps*, up to which adversarial training behaves like clean.

    eps* = sup{eps : training loss of adversarial training at eps ≤ threshold},

with the clean test loss of the clean model as the threshold. This module is arithmetic
on loss curves that were measured elsewhere, in lists or arrays; ``vmap`` it over seeds.

Xing et al., Phase transition from clean training to adversarial training, 2022.
"""

import enum
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike

from advjax import arguments
from advjax.types import Array

__all__ = ["Crossing", "Status", "crossing", "extrapolate"]


class Status(enum.IntEnum):
    """Whether a curve crosses its threshold, and if not, why."""

    CROSSES = 0
    BELOW_FIRST_POINT = 1
    """The loss exceeds the threshold everywhere: eps* is below the first radius."""
    NEVER_CROSSES = 2
    """The loss is below the threshold to the end."""
    NOT_A_NUMBER = 3
    """A loss, a radius or the threshold is not finite, or the radii are all equal."""
    NOT_RISING = 4
    """The fitted line does not rise, so that no radius is where it reaches anything."""


class Crossing(NamedTuple):
    """``eps_star[]``, nan unless ``status[]`` is ``Status.CROSSES``."""

    eps_star: Array
    status: Array


def crossing(eps: ArrayLike, losses: ArrayLike, threshold: ArrayLike) -> Crossing:
    """The radius where the piecewise-linear loss curve last rises past a threshold.

    The last point at or below ``threshold`` and the next one are joined by a line, so a
    curve that is not monotone gives the supremum of the definition.

    Args:
        eps: ``[k]`` radii, in any order.
        losses: ``[k]`` adversarial training losses.
        threshold: ``[]``, the clean test loss of the clean model.

    Returns:
        The crossing; nan and a status where there is none.

    Raises:
        ValueError: unless ``eps`` and ``losses`` are two vectors of one length, and
            ``threshold`` a number.

    Example:
        >>> from advjax import transition
        >>> found = transition.crossing([0.0, 0.5, 1.0], [0.1, 0.2, 0.4], 0.3)
        >>> float(found.eps_star), transition.Status(int(found.status)).name
        (0.75, 'CROSSES')
    """
    eps, losses, threshold = _checked(eps, losses, threshold, least=1)
    order = jnp.argsort(eps)
    eps, losses = eps[order], losses[order]
    low = losses <= threshold
    last = losses.size - 1 - jnp.argmax(low[::-1])
    after = jnp.minimum(last + 1, losses.size - 1)
    rise = losses[after] - losses[last]
    fraction = (threshold - losses[last]) / jnp.where(rise == 0, 1, rise)
    eps_star = eps[last] + fraction * (eps[after] - eps[last])
    status = jnp.select(
        [_not_finite(eps, losses, threshold), ~jnp.any(low), low[-1]],
        [Status.NOT_A_NUMBER, Status.BELOW_FIRST_POINT, Status.NEVER_CROSSES],
        Status.CROSSES,
    )
    return _crossing(eps_star, status)


def extrapolate(eps: ArrayLike, losses: ArrayLike, threshold: ArrayLike) -> Crossing:
    """The radius where the least-squares line through the points reaches a threshold.

    Algorithm A.1 of the paper, which extends the line beyond the fine-tuned radii. Two
    points give the line through them, one point at 0 and one fine-tuned radius the
    paper's ε̂(·, 1); 0 and three radii its ε̂(·, 3).

    Args:
        eps: ``[k]`` radii, at least two different ones.
        losses: ``[k]`` adversarial training losses.
        threshold: ``[]``.

    Returns:
        The crossing; nan and a status where the line lies above the threshold at the
        smallest radius already, or does not rise.

    Raises:
        ValueError: unless ``eps`` and ``losses`` are two vectors of one length, and
            ``threshold`` a number.
    """
    eps, losses, threshold = _checked(eps, losses, threshold, least=2)
    centre, level = jnp.mean(eps), jnp.mean(losses)
    slope = jnp.sum((eps - centre) * (losses - level)) / jnp.sum((eps - centre) ** 2)
    eps_star = centre + (threshold - level) / jnp.where(slope == 0, 1, slope)
    status = jnp.select(
        [_not_finite(eps, losses, threshold, slope), slope <= 0, eps_star < eps.min()],
        [Status.NOT_A_NUMBER, Status.NOT_RISING, Status.BELOW_FIRST_POINT],
        Status.CROSSES,
    )
    return _crossing(eps_star, status)


def _checked(*values: ArrayLike, least: int) -> tuple[Array, Array, Array]:
    """``eps[k]``, ``losses[k]`` and ``threshold[]`` in floating point."""
    arrays = (jnp.asarray(value) for value in values)
    eps, losses, threshold = (
        array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)
        for array in arrays
    )
    if eps.ndim != 1 or eps.shape != losses.shape or eps.size < least:
        msg = (
            f"eps has shape {eps.shape} and losses {losses.shape}; give one loss for "
            f"each of at least {least} radii, and vmap over curves"
        )
        raise ValueError(msg)
    if threshold.ndim != 0:
        msg = f"threshold has shape {threshold.shape}; give one number, and vmap"
        raise ValueError(msg)
    return eps, losses, threshold


def _not_finite(*values: Array) -> Array:
    return ~jnp.all(jnp.stack([jnp.all(jnp.isfinite(v)) for v in values]))


def _crossing(eps_star: Array, status: Array) -> Crossing:
    return Crossing(arguments.nan_where(status != Status.CROSSES, eps_star), status)
