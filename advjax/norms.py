"""The l1, l2 and linf norms and their balls, for one example of any shape.

    from advjax.norms import l1, l2, linf
    delta = jax.vmap(linf.project)(delta, eps)     # delta[n, ...], eps[n]

A norm is its value, its dual, its direction of steepest ascent, the projection onto
its ball and a uniform draw from it. Arrays are scaled before they are squared, so that
neither 1e-30 nor 1e30 under- or overflows, and derivatives at zero are zero, not nan.
Sums over many entries overflow in float16; attacks call these functions in float32.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from advjax import arguments
from advjax.types import Array, Key

__all__ = [
    "Norm",
    "check",
    "check_surrogate",
    "l1",
    "l2",
    "linf",
    "soft_threshold",
    "surrogate_factor",
]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, repr=False)
class Norm:
    """A norm ‖·‖ on one example; ‖·‖_* is its dual.

    A static leaf: an ordinary argument of functions that are jitted or mapped.

    Attributes:
        name: such as "linf".
        value: ``delta -> []``, ‖delta‖.
        dual: ``g -> []``, ‖g‖_* = max over ‖v‖ ≤ 1 of <g, v>.
        steepest: ``g -> v``, a maximiser of <g, v> over ‖v‖ ≤ 1; 0 at ``g = 0``.
        project: ``(delta, eps) -> delta``, the nearest point (in l2) of the ball of
            radius ``eps``; the identity inside the ball.
        sample: ``(key, like) -> delta``, uniform in the unit ball, in the shape and
            dtype of ``like``.
    """

    name: str
    value: Callable[[Array], Array]
    dual: Callable[[Array], Array]
    steepest: Callable[[Array], Array]
    project: Callable[[Array, Array], Array]
    sample: Callable[[Key, Array], Array]

    def __repr__(self) -> str:
        return f"norms.{self.name}"


def _max_abs(v: Array) -> Array:
    return jnp.max(jnp.abs(v))


def _sum_abs(v: Array) -> Array:
    return jnp.sum(jnp.abs(v))


def _normalised(v: Array) -> tuple[Array, Array]:
    """Factors ``v = scale * u`` with max|u| = 1, or u = 0."""
    scale = jax.lax.stop_gradient(_max_abs(v))
    return scale, v / jnp.where(scale == 0, 1, scale)


def _euclidean(v: Array) -> Array:
    scale, u = _normalised(v)
    square = jnp.sum(u * u)
    return jnp.where(square == 0, 0, scale * jnp.sqrt(_nonzero(square)))


def _nonzero(square: Array) -> Array:
    return jnp.where(square == 0, 1, square)


def _linf_project(delta: Array, eps: Array) -> Array:
    return jnp.clip(delta, -eps, eps)


def _linf_sample(key: Key, like: Array) -> Array:
    return jax.random.uniform(key, like.shape, like.dtype, minval=-1, maxval=1)


def _l2_steepest(g: Array) -> Array:
    _, u = _normalised(g)
    return u / jnp.sqrt(_nonzero(jnp.sum(u * u)))


def _l2_project(delta: Array, eps: Array) -> Array:
    # In units of eps a square that underflows is inside anyway. One that overflows, of
    # a point beyond 1e19 radii, gives 0.
    w = delta / _nonzero(eps)
    square = jnp.where(eps == 0, jnp.inf, jnp.sum(w * w))
    return jnp.where(square <= 1, delta, delta / jnp.sqrt(jnp.maximum(square, 1)))


def _l2_sample(key: Key, like: Array) -> Array:
    # Barthe et al. 2005: g / sqrt(|g|² + e) is uniform in the ball for g ~ N(0, I/2)
    # and e ~ Exp(1), with no root of high order to lose digits in.
    key_g, key_e = jax.random.split(key)
    g = jax.random.normal(key_g, like.shape, like.dtype) * jnp.sqrt(0.5)
    e = jax.random.exponential(key_e, dtype=like.dtype)
    return g / jnp.sqrt(jnp.sum(g * g) + e).astype(like.dtype)


def _l1_steepest(g: Array) -> Array:
    # A vertex, the first among ties: a convex loss is largest at vertices, and sharing
    # the step among tied coordinates would leave them.
    flat = jnp.ravel(g)
    i = jnp.argmax(jnp.abs(flat))
    return jnp.zeros_like(flat).at[i].set(jnp.sign(flat[i])).reshape(g.shape)


def _l1_project(delta: Array, eps: Array) -> Array:
    # Duchi et al. 2008: soft-thresholding at the level tau where the l1 norm is eps.
    magnitude = jnp.abs(delta)
    descending = -jnp.sort(-jnp.ravel(magnitude))
    counts = jnp.arange(1, delta.size + 1, dtype=delta.dtype)
    levels = (jnp.cumsum(descending) - eps) / counts
    num_active = jnp.sum(descending > levels)
    tau = jnp.where(num_active == 0, descending[0], levels[num_active - 1])
    tau = jnp.where(jnp.isnan(eps), eps, tau)
    return jnp.where(jnp.sum(magnitude) <= eps, delta, soft_threshold(delta, tau))


def _l1_sample(key: Key, like: Array) -> Array:
    # Barthe et al. 2005 for l1: signed exponentials over their sum plus one more.
    key_g, key_e = jax.random.split(key)
    g = jax.random.laplace(key_g, like.shape, like.dtype)
    e = jax.random.exponential(key_e, dtype=like.dtype)
    return g / (jnp.sum(jnp.abs(g)) + e)


def soft_threshold(v: Array, threshold: Array | float) -> Array:
    """sgn(v) max(|v| - threshold, 0), the proximal operator of threshold · ‖v‖₁.

    Entries within ``threshold`` of zero become exactly zero.
    """
    return jnp.sign(v) * jnp.maximum(jnp.abs(v) - threshold, 0)


def surrogate_factor(norm: Norm, g: Array, xi: Array | float) -> Array:
    """The factor by which the surrogate attack A_{eps,xi} shrinks a perturbation.

    With the gradient g of one example's clean loss, ‖g‖ / √(‖g‖² + xi²) for l2, in
    every entry, and |g_i| / (|g_i| + xi) for linf; in the shape of ``g``. 0/0 counts as
    1, so that ``xi = 0`` shrinks nothing; a negative ``xi`` gives nan.

    Raises:
        ValueError: for a norm without a surrogate.

    Xing et al., On the generalization properties of adversarial training, 2021.
    """
    check_surrogate(norm)
    xi = arguments.not_negative(xi).astype(g.dtype)
    if norm is linf:
        part, whole = jnp.abs(g), jnp.abs(g) + xi
    else:
        part = jnp.full_like(g, _euclidean(g))
        whole = jnp.full_like(g, _euclidean(jnp.stack([_euclidean(g), xi])))
    return jnp.where(whole == 0, 1, part / jnp.where(whole == 0, 1, whole))


def check(norm: Norm) -> None:
    """Raises ValueError unless ``norm`` is a ``Norm``, not its name."""
    if not isinstance(norm, Norm):
        msg = f"norm = {norm!r}: choose norms.l1, norms.l2 or norms.linf"
        raise ValueError(msg)


def check_surrogate(norm: Norm) -> None:
    """Raises ValueError unless the surrogate attack is defined for the norm."""
    check(norm)
    if norm not in (l2, linf):
        msg = "the surrogate attack is defined for norms.l2 and norms.linf only"
        raise ValueError(msg)


linf = Norm("linf", _max_abs, _sum_abs, jnp.sign, _linf_project, _linf_sample)
"""max |delta_i|; its dual is l1."""
l2 = Norm("l2", _euclidean, _euclidean, _l2_steepest, _l2_project, _l2_sample)
"""√Σ delta_i², its own dual."""
l1 = Norm("l1", _sum_abs, _max_abs, _l1_steepest, _l1_project, _l1_sample)
"""Σ |delta_i|; its dual is linf."""
