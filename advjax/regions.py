"""Where an attack may go: a ball about each input, cut by the box of valid inputs.

    region, outside = regions.region(x, eps, bounds)
    x_adv = region.place(u, x.dtype)

    x_adv = x + weights · u,      ‖u‖ ≤ radius,      low ≤ x_adv ≤ high

Attacks move ``u``, whose ball has one radius, and ``weights`` bring a radius of its own
to every feature: 0 holds it fixed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax import arguments
from advjax.arguments import Bounds
from advjax.types import Array

__all__ = ["Placed", "Region", "inwards", "promoted", "radii", "region"]


class Region(NamedTuple):
    """Balls and a box for a batch; ``vmap`` over it for one example.

    Attributes:
        x: ``[n, ...]``, in float32 at least.
        radius: ``[n]``.
        weights: ``[n, ...]`` or ``[n, 1, ...]``, at most 1: of features that have a
            radius of their own.
        low: ``[n, ...]``, or None without bounds; never above ``x``.
        high: ``[n, ...]``, or None without bounds; never below ``x``.
    """

    x: Array
    radius: Array
    weights: Array
    low: Array | None
    high: Array | None

    def place(self, u: Array, dtype: jnp.dtype) -> Array:
        """The points x + weights · u in the dtype of the input, within ball and box."""
        return inwards(self.x, self.near(u, self.x.dtype), self.weights * u, dtype)

    def near(self, u: Array, dtype: jnp.dtype) -> Array:
        """Like ``place``, but to the nearest number, perhaps just beyond the ball."""
        x_adv = self.x + self.weights * u
        if self.low is not None:
            x_adv = jnp.clip(x_adv, self.low, self.high)
        return x_adv.astype(dtype)

    def of_free_features(self, g: Array) -> Array:
        """A gradient without the features that are held fixed, where it has no say.

        Where all are, as at radius 0, it is left as it is: nothing has vanished.
        """
        is_held = (self.weights == 0) & (_like(self.radius, g) > 0)
        return jnp.where(is_held, 0, g)

    def unweighted(self, delta: Array) -> Array:
        """The u of a perturbation; 0 where a feature is held fixed.

        Raises:
            ValueError: unless it has the shape of ``x``.
        """
        if jnp.shape(delta) != self.x.shape:
            shape = jnp.shape(delta)
            msg = f"delta has shape {shape}: give that of x, {self.x.shape}"
            raise ValueError(msg)
        held = self.weights == 0
        u = jnp.where(held, 0, delta / jnp.where(held, 1, self.weights))
        # Where weights · u rounds to less than delta, a point at which the model was
        # fooled would be left.
        fixed, delta = jax.lax.stop_gradient((u, delta))
        is_short = (jnp.abs(self.weights * fixed) < jnp.abs(delta)) & ~held
        outwards = jnp.nextafter(fixed, jnp.where(fixed < 0, -jnp.inf, jnp.inf))
        return u + jnp.where(is_short, outwards - fixed, 0)

    def box(self) -> tuple[Array, Array] | None:
        """The bounds of u, infinite where a feature is held fixed; None without any."""
        if self.low is None or self.high is None:
            return None
        held = self.weights == 0
        scale = jnp.where(held, 1, self.weights)
        low = jnp.where(held, -jnp.inf, (self.low - self.x) / scale)
        return low, jnp.where(held, jnp.inf, (self.high - self.x) / scale)


def _like(radius: Array, x: Array) -> Array:
    return radius.reshape(radius.shape + (1,) * (x.ndim - radius.ndim))


class Placed(NamedTuple):
    """A region, and whether each input is ``outside[n]`` of the bounds, or None."""

    region: Region
    outside: Array | None


def region(x: Array, eps: Array | float, bounds: Bounds | None = None) -> Placed:
    """The region of a batch, and which inputs do not lie within the bounds themselves.

    An entry of ``x`` outside of the bounds keeps its own value as its bound.

    Args:
        x: ``[n, ...]``, floating point.
        eps: as of ``types.Attack``; nan where it is negative.
        bounds: (low, high), scalars or arrays that broadcast against one example.

    Raises:
        ValueError: for shapes that do not fit, and unless ``x`` is one array of
            floating-point numbers.
    """
    dtype, wide = jnp.asarray(x).dtype, promoted(x)
    radius, weights = radii(wide, eps)
    if bounds is None:
        return Placed(Region(wide, radius, weights, None, None), None)
    # In the dtype of x first, or its own rounding would put it outside.
    low, high = (jnp.asarray(end, dtype).astype(wide.dtype) for end in bounds)
    low, high = (_over_examples("bounds", end, wide) for end in (low, high))
    is_outside = (wide < low) | (wide > high)
    outside = jnp.any(is_outside, axis=tuple(range(1, wide.ndim)))
    ends = jnp.minimum(low, wide), jnp.maximum(high, wide)
    return Placed(Region(wide, radius, weights, *ends), outside)


def _over_examples(name: str, value: Array, x: Array) -> Array:
    """``value`` broadcast against one example, with a leading axis."""
    try:
        return jnp.broadcast_to(value, x.shape[1:])[None]
    except ValueError:
        msg = (
            f"{name} have shape {value.shape}: they must fit an example, {x.shape[1:]}"
        )
        raise ValueError(msg) from None


def promoted(x: Array) -> Array:
    """``x`` in float32 at least.

    Half precision would round away small steps, and overflow in norms.
    """
    if isinstance(x, tuple | dict):
        msg = f"x is a {type(x).__name__}: give one array, and close over other inputs"
        raise ValueError(msg)
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        msg = f"x has dtype {x.dtype}; convert it to floating point before the attack"
        raise ValueError(msg)
    if x.ndim == 0:
        msg = "x is a scalar: give a batch of examples, [n, ...]"
        raise ValueError(msg)
    return arguments.single(x)


def radii(x: Array, eps: Array | float) -> tuple[Array, Array]:
    """The radius ``[n]``, nan where it is negative, and the weights of features.

    Radii of features that are infinite, or 1e38 times others, give nan as well.
    """
    try:
        eps = jnp.asarray(eps, x.dtype)
    except (TypeError, ValueError):
        msg = f"eps = {eps!r}: give numbers"
        raise ValueError(msg) from None
    ones = jnp.ones((len(x), *[1] * (x.ndim - 1)), x.dtype)
    if eps.shape in ((), x.shape[:1]):
        # An infinite radius is as large as one that has a sum with itself.
        eps = jnp.minimum(eps, jnp.finfo(x.dtype).max / 4)
        radius = jnp.broadcast_to(eps, x.shape[:1])
        return arguments.not_negative(radius), ones
    fits = (n in (1, m) for n, m in zip(eps.shape, x.shape, strict=False))
    if eps.ndim != x.ndim or not all(fits):
        msg = (
            f"eps has shape {eps.shape}, x {x.shape}: give a scalar, one radius per "
            "example [n], or one per feature, [1, ...] or [n, ...]"
        )
        raise ValueError(msg)
    eps = arguments.not_negative(jnp.broadcast_to(eps, x.shape))
    radius = jnp.max(eps, axis=tuple(range(1, x.ndim)))
    largest = radius.reshape(ones.shape)
    weights = eps / jnp.where(largest == 0, 1, largest)
    # A feature whose share underflows would be held fixed without a word.
    is_lost = (eps > 0) & ~(weights >= jnp.finfo(x.dtype).tiny)
    is_lost = jnp.any(is_lost, axis=tuple(range(1, x.ndim)))
    return arguments.nan_where(is_lost, radius), weights


def inwards(x: Array, x_adv: Array, delta: Array, dtype: jnp.dtype) -> Array:
    """``x_adv`` in ``dtype``, rounded towards ``x`` where it would be beyond delta.

    So |x_adv - x| ≤ |delta| in every entry, and the ball is not left by rounding.
    """
    x_adv = x_adv.astype(dtype)
    rounded, delta = jax.lax.stop_gradient((x_adv, delta))
    is_beyond = jnp.abs(rounded.astype(x.dtype) - x) > jnp.abs(delta)
    back = jnp.nextafter(rounded, jax.lax.stop_gradient(x).astype(dtype))
    # One unit in the last place, exactly, beside the gradient of x_adv.
    return x_adv + jnp.where(is_beyond, back - rounded, 0).astype(dtype)
