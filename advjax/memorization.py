"""The classifier that memorises: robust where it was trained, clean everywhere else.

    f_adv = memorization.classifier(predict, centers, targets, radius, norms.linf)

    f_adv(x) = Σ_i y_i 1{‖x - x_i‖ ≤ δ}  +  f_clean(x) 1{min_i ‖x - x_i‖ > δ}

with i over the training examples of small margin under f_clean (``margins``). No attack
of radius δ on a training example succeeds, f_clean decides on every clean test example
that is not within δ of a memorised one, and attacks on test examples succeed as they do
on f_clean. ``models.memorizing`` is the ReLU network of it.

Also the learner of Section 4, a linear function and neurons that each memorise one
example, with a certificate of its robustness; and the number of parameters that the
three kinds of classifier need.

Why clean generalization and robust memorization both happen in adversarial training,
2023, whose symbols these are.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax import norms
from advjax.norms import Norm
from advjax.types import Array

# --- the classifier ---


def classifier(
    predict: Callable[[Array], Array],
    centers: Array,
    targets: Array,
    radius: float,
    norm: Norm,
) -> Callable[[Array], Array]:
    """f_adv on top of any clean classifier.

    Balls are closed, up to the rounding of x - x_i. Where several contain x their
    targets add up, as in the formula.

    Args:
        predict: f_clean, ``x[n, ...] -> logits[n, k]`` or ``[n]``.
        centers: ``[m, ...]``, the memorised examples.
        targets: what is answered there, ``[m, k]`` or ``[m]`` as ``predict`` answers:
            one-hot labels, or signs.
        radius: δ.
        norm: of the balls.

    Returns:
        ``x -> like predict(x)``. Its cost beside ``predict`` is one distance to every
        center; memory is a few times that of ``x``.
    """

    def predict_adv(x):
        inside = is_inside(x, centers, radius, norm).astype(targets.dtype)
        clean = predict(x)
        free = jnp.all(inside == 0, axis=1).astype(clean.dtype)
        memorised = jnp.tensordot(inside, targets, axes=1)
        return memorised + free.reshape(-1, *[1] * (clean.ndim - 1)) * clean

    return predict_adv


def is_inside(x: Array, centers: Array, radius: Array | float, norm: Norm) -> Array:
    """Whether ``x[n, ...]`` are in the balls about ``centers[m, ...]``, ``[n, m]``.

    A point that an attack placed on the surface is inside, though x - x_i rounds.
    """
    rounding = 4 * jnp.finfo(x.dtype).eps * (radius + jnp.max(jnp.abs(x)))
    return distances(x, centers, norm) <= radius + rounding


def distances(x: Array, centers: Array, norm: Norm) -> Array:
    """‖x_i - c_j‖, ``[n, m]``, of ``x[n, ...]`` and ``centers[m, ...]``."""

    def to(center):
        return jax.vmap(lambda one: norm.value(one - center))(x)

    return jax.lax.map(to, centers).T


def separation(x: Array, y: Array, centers: Array, labels: Array, norm: Norm) -> Array:
    """The distance of examples to the nearest center of another class, ``[n]``.

    Balls of radius δ about examples of different classes are disjoint if it is above
    2δ; inf where all centers have the example's class.
    """

    def nearer(least, center):
        point, label = center
        distance = jax.vmap(lambda one: norm.value(one - point))(x)
        return jnp.minimum(least, jnp.where(y == label, jnp.inf, distance)), None

    least = jnp.full(len(x), jnp.inf, x.dtype)
    return jax.lax.scan(nearer, least, (centers, labels))[0]


# --- the learner of Section 4 ---


class Mixed(NamedTuple):
    """f(x) = w_0ᵀx + Σ_i a_i σ(w_iᵀx - b), a linear function and m neurons.

    Attributes:
        w0: ``[d]``.
        w: ``[m, d]``.
        a: ``[m]``.
        b: ``[]``, the threshold of all neurons.
    """

    w0: Array
    w: Array
    a: Array
    b: Array | float


def mixed(params: Mixed, x: Array) -> Array:
    """The learner's output at ``x[n, d]``, ``[n]``."""
    return x @ params.w0 + jax.nn.relu(x @ params.w.T - params.b) @ params.a


def memorize(w0: Array, x: Array, y: Array, b: Array | float) -> Mixed:
    """The second stage of training: a neuron for each of ``x[m, d]``, signs ``y[m]``.

    w_0 is normalised, w_i is the part of x_i orthogonal to it, a_i = y_i. For noise of
    variance 1, d/2 is a threshold between ‖w_i‖² ≈ d and w_iᵀw_j = O(√d).
    """
    w0 = w0 / norms.l2.value(w0)
    return Mixed(w0, x - jnp.outer(x @ w0, w0), y, b)


def certified_margin(
    params: Mixed, x: Array, y: Array, eps: Array | float, norm: Norm
) -> Array:
    """A lower bound of min over ‖ξ‖ ≤ eps of y f(x + ξ), ``[n]``.

    Every term is bounded by itself, which for ``x[n, d]`` and signs ``y[n]`` gives

        y w_0ᵀx - eps ‖w_0‖_* + Σ_i min(a_i y σ(w_iᵀx - b ± eps ‖w_i‖_*)).

    Where it is positive no attack can succeed. It is exact without neurons.
    """
    linear = y * (x @ params.w0) - eps * norm.dual(params.w0)
    input_, reach = x @ params.w.T - params.b, eps * jax.vmap(norm.dual)(params.w)
    sign = y[:, None] * params.a[None]
    ends = [sign * jax.nn.relu(input_ + side * reach[None]) for side in (-1, 1)]
    return linear + jnp.sum(jnp.minimum(*ends), axis=1)


# --- parameters ---


def num_clean(widths: Sequence[int]) -> int:
    """Parameters of a fully connected network of these widths, input and output too."""
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


def num_memorizing(
    num_inputs: int,
    num_centers: int,
    num_outputs: int,
    num_levels: int | None,
    clean: int,
) -> int:
    """Parameters of ``models.memorizing``, each non-zero weight and each bias once.

    m(10d + 4) + k(16s + 12) + 5s - 1 + clean for d inputs, m centers and k outputs with
    one target other than zero each, and s levels of Yarotsky's multiplication; with
    exact gates, ``num_levels=None``, m(10d + 4) + 9k + 1 + clean. Weights that a
    network layer by layer would need to hand values on do not count, as in Yarotsky
    2017.
    So it is at most 14 m d + O(k log(B/ε)) + clean, the Õ(μ N d + poly(d)) of Theorem
    3.3, with log(B/ε) for its log².
    """
    d, m, k = num_inputs, num_centers, num_outputs
    # Of a center: 2d units with a bias for |x_j - c_j|; d - 1 matches of two units for
    # the maximum, with 4 and 2 weights; two units of 2 weights and a bias for the
    # indicator; from each a weight to the gate, and one to an output.
    of_center = 4 * d + 6 * (d - 1) + 6 + 2 + 2
    gate = 1
    if num_levels is None:
        # Two units of 2 weights and a bias, two weights and the bias of an output.
        return m * of_center + gate + k * (6 + 2 + 1) + clean
    s = num_levels
    # Of an output: its bias, |z + g| and |z| of 4 and 2 weights, a chain of teeth for
    # each, and the weights from there and from the gate's own chain.
    of_output = 1 + 6 + 2 * 5 * s + (2 * (2 + 2 * s) + (1 + 2 * s))
    return m * of_center + gate + (5 * s - 2) + k * of_output + clean


def robust_log10(num_inputs: int, eps: float, depth: int) -> float:
    """log10 of a lower bound of the parameters of a robust classifier, Theorem 3.5.

    For a distribution that has every labelling of a grid of points 2 eps apart on the
    hyperplane x_d = 1/2 of the cube [0, 1]^d, each point off it by its label: n =
    (⌊1/(2 eps)⌋ + 1)^(d-1) points which one linear function classifies, and which
    networks of W parameters that are robust for every labelling would have to shatter.
    By Warren's bound layer by layer a ReLU network of L layers and at most W units has
    at most 2^L (2e n L W)^(LW) sign patterns on n points (Bartlett et al. 2019), so

        n ≤ L + L W log2(2e n L W),  and  W ≥ min(n, (n - L) / (L log2(2e L n²))).

    Args:
        num_inputs: d, at least 2.
        eps: half the distance of the points, at most 1/2.
        depth: L, which is held fixed.

    Raises:
        ValueError: for other values.
    """
    if num_inputs < 2 or not 0 < eps <= 0.5 or depth < 1:
        msg = f"d = {num_inputs}, eps = {eps}, depth = {depth}"
        raise ValueError(f"{msg}: choose d ≥ 2, 0 < eps ≤ 1/2, depth ≥ 1")
    log2_n = (num_inputs - 1) * math.log2(math.floor(1 / (2 * eps)) + 1)
    log2_patterns = math.log2(2 * math.e * depth) + 2 * log2_n
    # n - L of an n beyond the range of floats is n.
    log2_rest = math.log2(max(2**log2_n - depth, 1)) if log2_n < 500 else log2_n
    log2_bound = log2_rest - math.log2(depth * log2_patterns)
    return max(0.0, min(log2_n, log2_bound)) * math.log10(2)
