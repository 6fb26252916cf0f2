"""The memorising classifier as an explicit ReLU network.

``memorization.classifier`` has indicators, which no ReLU network has: here they fall
from 1 to 0 between two distances. Elsewhere the two agree, up to the error of
Yarotsky's multiplication, or exactly with a gate of two units.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from advjax.models.layers import channels
from advjax.types import Array

__all__ = [
    "Memorizing",
    "gate",
    "levels",
    "linf_distance",
    "params",
    "product",
    "square",
]


class Memorizing(nn.Module):
    """f_adv of a clean network, of maxima, soft indicators and products of ReLUs.

    Parameters are the ``clean`` network's, ``centres[m, d]`` and ``targets[m, k]``; all
    other weights are constants. ``memorization.num_memorizing`` counts them all.

    Attributes:
        clean: linen module ``x[n, ...] -> logits[n, k]``.
        num_centres: m.
        num_outputs: k.
        inner: distance up to which an indicator is 1, δ.
        outer: distance from which it is 0, at most R - δ.
        bound: B ≥ |logits| of the clean network wherever it is used; larger ones pass a
            closed gate.
        num_levels: s of the multiplication; None for an exact gate. See ``levels``.
    """

    clean: nn.Module
    num_centres: int
    num_outputs: int
    inner: float
    outer: float
    bound: float
    num_levels: int | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """The logits, ``[n, k]``.

        Raises:
            ValueError: unless 0 ≤ inner < outer, bound > 0 and num_levels ≥ 1.
        """
        if not (0 <= self.inner < self.outer and self.bound > 0):
            values = (self.inner, self.outer, self.bound)
            msg = f"inner, outer, bound = {values}: choose 0 ≤ inner < outer, bound > 0"
            raise ValueError(msg)
        if self.num_levels is not None and self.num_levels < 1:
            msg = f"num_levels = {self.num_levels}: choose at least 1, or None"
            raise ValueError(msg)
        flat = x.reshape(len(x), -1)
        zeros = nn.initializers.zeros
        centres = self.param("centres", zeros, (self.num_centres, flat.shape[1]))
        targets = self.param("targets", zeros, (self.num_centres, self.num_outputs))
        distance = jax.lax.map(lambda centre: linf_distance(flat, centre), centres).T
        # Falling from outer to inner, so that all but a few are exactly zero: the
        # rounding of thousands would add up.
        inner, outer = (
            end / (self.outer - self.inner) for end in (self.inner, self.outer)
        )
        scaled = distance / (self.outer - self.inner)
        indicators = nn.relu(outer - scaled) - nn.relu(inner - scaled)
        free = nn.relu(1 - jnp.sum(indicators, axis=1, keepdims=True))
        logits = self.clean(x, train=train)
        free = jnp.broadcast_to(free, logits.shape)
        if self.num_levels is None:
            gated = gate(logits, free, self.bound)
        else:
            gated = self.bound * product(logits / self.bound, free, self.num_levels)
        return indicators @ targets + gated


def params(clean: Any, centres: Array, targets: Array) -> dict[str, Any]:
    """Parameters of ``Memorizing`` from those of the clean network.

    ``centres[m, ...]`` and ``targets[m, k]`` are as of ``memorization.classifier``.
    """
    return {
        "clean": clean,
        "centres": centres.reshape(len(centres), -1),
        "targets": targets,
    }


def levels(bound: float, error: float) -> int:
    """The least s for which B z̃g is within ``error`` of B z g: B 4^-s ≤ error.

    Raises:
        ValueError: unless both are positive.
    """
    if not (bound > 0 and error > 0):
        msg = f"bound = {bound}, error = {error}: choose positive numbers"
        raise ValueError(msg)
    return max(1, math.ceil(math.log(bound / error, 4)))


def linf_distance(x: Array, centre: Array) -> Array:
    """‖x - c‖_∞, ``[n]``, of ``x[n, d]``: a tournament of max(a, b) = σ(a - b) + σ(b).

    ``σ(b) = b`` since all entries are |x_j - c_j| = σ(x_j - c_j) + σ(c_j - x_j).
    """
    centre = channels(centre, x)
    values = nn.relu(x - centre) + nn.relu(centre - x)
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        a, b, bye = values[:, :half], values[:, half : 2 * half], values[:, 2 * half :]
        values = jnp.concatenate([nn.relu(a - b) + nn.relu(b), bye], axis=1)
    return values[:, 0]


def gate(z: Array, g: Array, bound: float) -> Array:
    """``z`` where g = 1 and 0 where g = 0, exactly: σ(z - B(1 - g)) - σ(-z - B(1 - g)).

    For |z| ≤ B. Two units, where a product that is exact at no other g than these is
    all that is needed.
    """
    closed = bound * (1 - g)
    return nn.relu(z - closed) - nn.relu(-z - closed)


def product(z: Array, g: Array, num_levels: int) -> Array:
    """Z g within 4^-s, for |z| ≤ 1 and 0 ≤ g ≤ 1; exactly 0 where either is 0.

    z g = 2 [((z + g)/2)² - (z/2)² - (g/2)²] with ``square`` of the absolute values.
    Yarotsky, Error bounds for approximations with deep ReLU networks, 2017.
    """
    both, alone = (nn.relu(v / 2) + nn.relu(-v / 2) for v in (z + g, z))
    squares = [square(v, num_levels) for v in (both, alone, g / 2)]
    return 2 * (squares[0] - squares[1] - squares[2])


def square(t: Array, num_levels: int) -> Array:
    """t² on [0, 1] to within 4^-(s+1), from above: t - Σ_j T^(j)(t)/4^j.

    T(t) = 2σ(t) - 4σ(t - 1/2) is a tooth, T^(j) its j-th iterate.
    """
    tooth, total = t, t
    for j in range(1, num_levels + 1):
        tooth = 2 * nn.relu(tooth) - 4 * nn.relu(tooth - 0.5)
        total = total - tooth / 4**j
    return total
