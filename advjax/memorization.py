"""The classifier that memorises: robust where it was trained, clean everywhere else.

    f_adv = memorization.classifier(predict, norms.linf, centres, targets, eps)

    f_adv(x) = Σ_i y_i 1{‖x - x_i‖ ≤ δ}  +  f_clean(x) 1{min_i ‖x - x_i‖ > δ}

with i over the training examples of small margin under f_clean (``margins``), and the
radius δ = ``eps``. If these are all of them, and examples of different classes are more
than 2δ apart (``separation``), no attack of radius δ on a training example succeeds.
Outside of the memorised balls f_clean decides, so clean test examples there are
classified as before, and attacks that stay there succeed as before.
``models.Memorizing`` is its ReLU network.

Also the learner of Section 4, a linear function and neurons that each memorise one
example, with a certificate of its robustness; and the number of parameters that the
three kinds of classifier need.

Why clean generalization and robust memorization both happen in adversarial training,
2023, whose symbols these are.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax import arguments, norms
from advjax.norms import Norm
from advjax.types import Array, Predict

__all__ = [
    "Mixed",
    "certified_margin",
    "classifier",
    "distances",
    "is_inside",
    "memorize",
    "mixed",
    "num_clean",
    "num_memorizing",
    "reach",
    "robust_log10",
    "separation",
]

# --- the classifier ---


def classifier(
    predict: Predict,
    norm: Norm,
    centres: Array,
    targets: Array,
    eps: Array | float,
) -> Predict:
    """f_adv on top of any clean classifier.

    Balls are closed, up to the rounding of x - x_i. Where several contain x their
    targets add up, as in the formula.

    Args:
        predict: f_clean, ``x[n, ...] -> logits[n, k]`` or ``[n]``.
        norm: norm of the balls.
        centres: ``[m, ...]``, the memorised examples.
        targets: the output at each centre, ``[m, k]`` or ``[m]`` as ``predict`` gives
            it: one-hot labels, or signs.
        eps: ``[]``, δ; a negative one gives nan.

    Returns:
        ``x -> like predict(x)``. Its cost beside ``predict`` is one distance to every
        centre; memory is a few times that of ``x``.

    Raises:
        ValueError: for another number of targets than of centres, and, in the call, for
            examples or outputs of another shape than those of centres and targets.
    """
    norms.check(norm)
    arguments.equal_lengths(centres=centres, targets=targets)
    targets = arguments.floating(targets)

    def predict_adv(x):
        inside = is_inside(norm, x, centres, eps).astype(targets.dtype)
        clean = predict(x)
        if clean.shape != (len(x), *targets.shape[1:]):
            msg = (
                f"predict gives {clean.shape} for {len(x)} examples, targets have "
                f"shape {targets.shape}: give a target like an output for each centre"
            )
            raise ValueError(msg)
        free = jnp.all(inside == 0, axis=1).astype(clean.dtype)
        memorised = jnp.tensordot(inside, targets, axes=1)
        output = memorised + free.reshape(-1, *[1] * (clean.ndim - 1)) * clean
        return arguments.nan_where(jnp.asarray(eps) < 0, output)

    return predict_adv


def is_inside(norm: Norm, x: Array, centres: Array, eps: Array | float) -> Array:
    """Whether ``x[n, ...]`` are in the balls about ``centres[m, ...]``, ``[n, m]``.

    Nothing is in a ball of negative radius.

    Raises:
        ValueError: for examples and centres of different shapes.
    """
    return distances(norm, x, centres) <= reach(norm, x, eps)[:, None]


def reach(norm: Norm, x: Array, eps: Array | float) -> Array:
    """The radius up to which ``x[n, ...]`` count as inside, ``[n]``.

    Above ``eps`` by the rounding of x - x_i and of the norm, so that a point which an
    attack placed on the surface is inside: u (4 ‖x‖ + √d eps) for d entries and the
    precision u. In single precision some 1e-5 of the radius. A negative ``eps`` gives
    nan.
    """
    norms.check(norm)
    x = arguments.floating(x)
    eps = arguments.not_negative(eps)
    size = jax.vmap(norm.value)(x)
    d = x[0].size
    return eps + jnp.finfo(x.dtype).eps * (4 * size + d**0.5 * eps)


def distances(norm: Norm, x: Array, centres: Array) -> Array:
    """‖x_i - c_j‖ of ``x[n, ...]`` and ``centres[m, ...]``, ``[n, m]``.

    Raises:
        ValueError: for examples and centres of different shapes.
    """
    x, centres = _alike(norm, x, centres)

    def to(centre):
        return jax.vmap(lambda one: norm.value(one - centre))(x)

    return jax.lax.map(to, centres).T


def separation(norm: Norm, x: Array, y: Array, centres: Array, labels: Array) -> Array:
    """The distance of examples to the nearest centre of another class, ``[n]``.

    Balls of radius δ about examples of different classes are disjoint if it is above
    2δ; inf where all centres have the example's class.

    Args:
        norm: norm of the distance.
        x: ``[n, ...]``.
        y: ``[n]``, their classes.
        centres: ``[m, ...]``.
        labels: ``[m]``, their classes.

    Raises:
        ValueError: for another number of classes than of examples or of centres, and
            for examples and centres of different shapes.
    """
    x, centres = _alike(norm, x, centres)
    y = _one_each("y", y, "x", x)
    labels = _one_each("labels", labels, "centres", centres)

    def nearer(least, centre):
        point, label = centre
        distance = jax.vmap(lambda one: norm.value(one - point))(x)
        return jnp.minimum(least, jnp.where(y == label, jnp.inf, distance)), None

    least = jnp.full(len(x), jnp.inf, x.dtype)
    return jax.lax.scan(nearer, least, (centres, labels))[0]


def _alike(norm: Norm, x: Array, centres: Array) -> tuple[Array, Array]:
    """Both in one floating-point dtype."""
    norms.check(norm)
    x, centres = arguments.floating(x), arguments.floating(centres)
    if x.ndim == 0 or x.shape[1:] != centres.shape[1:] or x.ndim != centres.ndim:
        msg = (
            f"shapes x {x.shape}, centres {centres.shape}: give x[n, ...] and "
            "centres[m, ...] of examples of one shape"
        )
        raise ValueError(msg)
    dtype = jnp.result_type(x, centres)
    return x.astype(dtype), centres.astype(dtype)


def _one_each(name: str, values: Any, of: str, rows: Array) -> Array:
    values = jnp.asarray(values)
    if values.shape != rows.shape[:1]:
        msg = f"shapes {name} {values.shape}, {of} {rows.shape}: give one for each"
        raise ValueError(msg)
    return values


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
    """The learner's output at ``x[n, d]``, ``[n]``.

    Raises:
        ValueError: for arrays of other shapes than those of ``Mixed``.
    """
    params, x = _checked_mixed(params, x)
    return x @ params.w0 + jax.nn.relu(x @ params.w.T - params.b) @ params.a


def memorize(w0: Array, x: Array, y: Array, b: Array | float) -> Mixed:
    """The second stage of training: a neuron for each of ``x[m, d]``, signs ``y[m]``.

    w_0 is normalised, w_i is the part of x_i orthogonal to it, a_i = y_i. For noise of
    variance 1, d/2 is a threshold between ‖w_i‖² ≈ d and w_iᵀw_j = O(√d).

    Raises:
        ValueError: for another number of signs than of examples, and for arrays of
            other shapes.
    """
    w0, x = arguments.floating(w0), arguments.floating(x)
    y = _one_each("y", y, "x", x)
    _checked_mixed(Mixed(w0, x, y, b), x)
    w0 = w0 / norms.l2.value(w0)
    return Mixed(w0, x - jnp.outer(x @ w0, w0), y, b)


def certified_margin(
    params: Mixed, norm: Norm, x: Array, y: Array, eps: Array | float
) -> Array:
    """A lower bound of min over ‖ξ‖ ≤ eps of y f(x + ξ), ``[n]``.

    Every term is bounded by itself, which for ``x[n, d]`` and signs ``y[n]`` gives

        y w_0ᵀx - eps ‖w_0‖_* + Σ_i min(a_i y σ(w_iᵀx - b ± eps ‖w_i‖_*)).

    Where it is positive no attack can succeed. It is exact without neurons. A negative
    ``eps`` gives nan.

    Raises:
        ValueError: for another number of signs than of examples, and for arrays of
            other shapes than those of ``Mixed``.
    """
    norms.check(norm)
    params, x = _checked_mixed(params, x)
    y = _one_each("y", y, "x", x)
    eps = arguments.not_negative(eps)
    linear = y * (x @ params.w0) - eps * norm.dual(params.w0)
    input_, reach = x @ params.w.T - params.b, eps * jax.vmap(norm.dual)(params.w)
    sign = y[:, None] * params.a[None]
    ends = [sign * jax.nn.relu(input_ + side * reach[None]) for side in (-1, 1)]
    return linear + jnp.sum(jnp.minimum(*ends), axis=1)


def _checked_mixed(params: Mixed, x: Array) -> tuple[Mixed, Array]:
    params, x = Mixed(*(jnp.asarray(leaf) for leaf in params)), jnp.asarray(x)
    w0, w, a, b = (jnp.shape(leaf) for leaf in params)
    if w != (*a, *w0) or len(w) != 2 or len(a) != 1 or b or x.shape[1:] != w0:
        found = f"w0 {w0}, w {w}, a {a}, b {b}, x {x.shape}"
        msg = f"shapes {found}: give w0[d], w[m, d], a[m], b[] and x[n, d]"
        raise ValueError(msg)
    return params, x


# --- parameters ---


def num_clean(widths: Sequence[int]) -> int:
    """Parameters of a fully connected network of these widths, input and output too."""
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


def num_memorizing(
    *,
    num_inputs: int,
    num_centres: int,
    num_outputs: int,
    num_levels: int | None,
    clean: int,
) -> int:
    """Parameters of ``models.Memorizing``: every weight that is not zero, and biases.

    m(10d + 4) + k(16s + 11) + 5s - 1 + clean for d inputs, m centres with one target
    other than zero each, k outputs, and s levels of Yarotsky's multiplication; with
    exact gates, ``num_levels=None``, m(10d + 4) + 8k + 1 + clean. Weights that a
    network layer by layer would need to hand values on do not count, as in Yarotsky
    2017, and ``clean`` is taken as it is given: parameters of a convolutional network
    are shared, and its pooling has none. At most 14 m d + 27 k s + 5 s + clean, the
    Õ(μ N d + poly(d)) of Theorem 3.3, with s = log(B/ε)/log 4 for its log².
    """
    d, m, k = num_inputs, num_centres, num_outputs
    # For a centre: 2d units with a bias for |x_j - c_j|; d - 1 matches of two units for
    # the maximum, with 4 and 2 weights; two units of 2 weights and a bias for the
    # indicator; from each a weight to the gate, and one to an output.
    of_centre = 4 * d + 6 * (d - 1) + 6 + 2 + 2
    gate = 1
    if num_levels is None:
        # Two units of 2 weights and a bias, and two weights of an output.
        return m * of_centre + gate + k * (6 + 2) + clean
    s = num_levels
    # For an output: |z + g| and |z| of 4 and 2 weights, a chain of teeth for each, and
    # the weights from there and from the gate's own chain.
    of_output = 6 + 2 * 5 * s + (2 * (2 + 2 * s) + (1 + 2 * s))
    return m * of_centre + gate + (5 * s - 2) + k * of_output + clean


def robust_log10(num_inputs: int, eps: float, *, depth: int) -> float:
    """log10 of a lower bound of the parameters of robust classifiers, as Theorem 3.5.

    A grid of n = (⌊1/(2 eps)⌋ + 1)^(d-1) points 2 eps apart lies on the hyperplane
    x_d = 1/2 of the cube [0, 1]^d, and data are these points, each moved off the
    hyperplane by at most r < eps to the side of its label. x_d classifies them. A
    classifier that is robust to linf attacks of radius r, without any error, has the
    label's sign at the grid point itself, which is within r. There are 2^n labellings;
    networks of L layers, W weights and at most W units have at most (W + d)^(2W)
    wirings of 2^L (2e n L W)^(LW) sign patterns each (Warren's bound layer by layer, as
    in Bartlett et al. 2019). So if for every labelling there is such a network,

        n ≤ L + L W log2(2e n L W) + 2W log2(W + d),

    and, where W ≤ n, W ≥ (n - L) / (L log2(2e L n²) + 2 log2(2n)). The theorem's bound
    holds for a small error too, with constants that it does not name.

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
    bits = depth * (math.log2(2 * math.e * depth) + 2 * log2_n) + 2 * (log2_n + 1)
    # Where n is beyond the range of floats, n - L is n.
    log2_rest = math.log2(max(2**log2_n - depth, 1)) if log2_n < 500 else log2_n
    return max(0.0, min(log2_n, log2_rest - math.log2(bits))) * math.log10(2)
