"""Nearest points of a ball cut by a box, and shortest moves onto a hyperplane in a box.

    u = projections.onto_ball(norms.l2)(v, radius, low, high)
    d = projections.onto_plane(norms.l2)(w, c, low, high)

Both are for one example of any shape, with ``low ≤ 0 ≤ high`` entry by entry, which
may be infinite. A projection onto the ball that is clipped afterwards is exact for linf
only; for l1 and l2 it ends inside the ball and wastes a part of the radius.

Each answer has one unknown number, the root of a monotone, piecewise linear function.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from advjax import norms
from advjax.norms import Norm
from advjax.types import Array

__all__ = ["Projection", "clipped_ball", "named", "onto_ball", "onto_plane"]

Projection = Literal["exact", "clip"]
"""Onto ball and box: the nearest point, or onto the ball and then clipped."""

_HALVINGS = 30
"""Of an interval about a root, before the linear piece that holds it is solved."""


def onto_ball(norm: Norm) -> Callable[[Array, Array, Array, Array], Array]:
    """``(v, radius, low, high) -> u``: the u in ball and box that is nearest in l2.

    nan where the radius is.

    Raises:
        ValueError: for what is no norm.
    """
    norms.check(norm)
    return {"linf": _linf_ball, "l2": _l2_ball, "l1": _l1_ball}[norm.name]


def onto_plane(norm: Norm) -> Callable[[Array, Array, Array, Array], Array]:
    """``(w, c, low, high) -> d``: the shortest d in the box with <w, d> = c.

    Shortest in ``norm``, of which there may be several for l1 and linf. Where the box
    does not reach the plane d is its corner that comes nearest.

    Raises:
        ValueError: for what is no norm.
    """
    norms.check(norm)
    return {"linf": _linf_plane, "l2": _l2_plane, "l1": _l1_plane}[norm.name]


def named(
    norm: Norm, name: Projection
) -> Callable[[Array, Array, Array, Array], Array]:
    """``onto_ball`` for "exact", ``clipped_ball`` for "clip".

    Raises:
        ValueError: for another name.
    """
    choices = {"exact": onto_ball, "clip": clipped_ball}
    if name not in choices:
        msg = f"project = {name!r}: choose from {', '.join(choices)}"
        raise ValueError(msg)
    return choices[name](norm)


def clipped_ball(norm: Norm) -> Callable[[Array, Array, Array, Array], Array]:
    """Like ``onto_ball``, but onto the ball first and then clipped, or in l1 reversed.

    In the set, but not the nearest point of it.
    """
    norms.check(norm)

    def clipped(v, radius, low, high):
        if norm is not norms.l1:
            return jnp.clip(norm.project(v, radius), low, high)
        # Shrinking all entries keeps them in the box, but clipping after it would
        # take radius from the longest that the others have already paid for.
        return norm.project(jnp.clip(v, low, high), radius)

    return clipped


def _linf_ball(v: Array, radius: Array, low: Array, high: Array) -> Array:
    return jnp.clip(jnp.clip(v, -radius, radius), low, high)


def _l2_ball(v: Array, radius: Array, low: Array, high: Array) -> Array:
    radius = jnp.asarray(radius, v.dtype)
    # u(t) = clip(t v) at the largest t ≤ 1 with ‖u(t)‖ ≤ radius.
    room = jnp.where(v > 0, high, -low)
    scale = _scale(jnp.minimum(jnp.abs(v), room))
    size, room, r = jnp.abs(v) / scale, room / scale, radius / scale

    def root(size, room, r, is_free):
        walls = jnp.sum(jnp.where(is_free, 0, room) ** 2)
        free = jnp.sum(jnp.where(is_free, size, 0) ** 2)
        return _root_of_ratio(r**2 - walls, free)

    is_free = _free(root, lambda t, size: jnp.minimum(t, 1) * size, size, room, r)
    t = jnp.minimum(root(size, room, r, is_free), 1)
    u = jnp.clip(t * v, low, high)
    return jnp.where(jnp.isnan(radius), radius, u)


def _root_of_ratio(over: Array, under: Array) -> Array:
    """√(over/under), 0 where ``over`` is not positive and inf where ``under`` is 0."""
    is_there = (over > 0) & (under > 0)
    ratio = jnp.where(is_there, over, 1) / jnp.where(is_there, under, 1)
    none = jnp.where(under > 0, 0, jnp.inf).astype(ratio.dtype)
    return jnp.where(is_there, jnp.sqrt(ratio), none)


def _scale(v: Array) -> Array:
    """The largest finite size of an entry, or 1."""
    size = jnp.where(jnp.isfinite(v), jnp.abs(v), 0)
    largest = jax.lax.stop_gradient(jnp.max(size))
    return jnp.where(largest == 0, 1, largest)


def _free(
    root: Callable, move: Callable, size: Array, room: Array, target: Array
) -> Array:
    """The entries that do not meet their walls at the root.

    An entry at its wall leaves more to the others, so the root rises as free entries
    are found to be walled, and their set shrinks until it stays.

    Args:
        root: ``(size, room, target, is_free) -> level``, if just these are free.
        move: ``(level, size) -> moves``, of free entries.
        size: as ``root`` and ``move`` take it.
        room: the way to the wall.
        target: what the moves make up together.
    """
    size, room, target = jax.lax.stop_gradient((size, room, target))

    def shrink(carry):
        is_free, _ = carry
        level = root(size, room, target, is_free)
        still = is_free & (move(level, size) < room)
        return still, jnp.any(still != is_free)

    start = (jnp.ones_like(size, bool), jnp.any(size >= 0))
    is_free, _ = jax.lax.while_loop(lambda carry: carry[1], shrink, start)
    return is_free


def _l1_ball(v: Array, radius: Array, low: Array, high: Array) -> Array:
    radius = jnp.asarray(radius, v.dtype)
    # |u_i| = min(max(|v_i| - level, 0), room_i), at the least level with ‖u‖ ≤ radius.
    room = jnp.where(v > 0, high, -low)
    size = jnp.abs(v)

    def length(level):
        return jnp.sum(jnp.minimum(jnp.maximum(size - level, 0), room))

    def halve(_, ends):
        middle = (ends[0] + ends[1]) / 2
        is_long = length(middle) > radius
        return jnp.where(is_long, middle, ends[0]), jnp.where(is_long, ends[1], middle)

    ends = jax.lax.stop_gradient((jnp.zeros_like(radius), jnp.max(size)))
    least, most = jax.lax.stop_gradient(jax.lax.fori_loop(0, _HALVINGS, halve, ends))
    middle = (least + most) / 2
    is_walled = size - middle >= room
    is_free = (size > middle) & ~is_walled
    whole = jnp.sum(jnp.where(is_free, size, jnp.where(is_walled, room, 0)))
    number = jnp.sum(is_free).astype(v.dtype)
    level = (whole - radius) / jnp.maximum(number, 1)
    level = jnp.where(number == 0, most, jnp.clip(level, least, most))
    level = jnp.where(length(0) <= radius, 0, level)
    u = jnp.sign(v) * jnp.minimum(jnp.maximum(size - level, 0), room)
    return jnp.where(jnp.isnan(radius), radius, u)


# --- hyperplanes ---


def _turned(w: Array, c: Array, low: Array, high: Array) -> tuple[Array, ...]:
    """|w|, |c|, the signs of moves that raise c w, and the rooms in that direction."""
    scale = _scale(w)
    w, c = w / scale, c / scale
    sign = jnp.sign(w) * jnp.where(c < 0, -1, 1)
    room = jnp.where(sign > 0, high, jnp.where(sign < 0, -low, 0))
    return jnp.abs(w), jnp.abs(c), sign, room


def _linf_plane(w: Array, c: Array, low: Array, high: Array) -> Array:
    size, c, sign, room = _turned(w, c, low, high)

    def root(size, room, c, is_free):
        walls = jnp.sum(jnp.where(is_free, 0, size * room))
        return _ratio(c - walls, jnp.sum(jnp.where(is_free, size, 0)))

    def move(level, size):
        return jnp.where(size > 0, level, 0)

    is_free = _free(root, move, size, room, c)
    return sign * jnp.minimum(root(size, room, c, is_free), room)


def _l2_plane(w: Array, c: Array, low: Array, high: Array) -> Array:
    size, c, sign, room = _turned(w, c, low, high)

    def root(size, room, c, is_free):
        walls = jnp.sum(jnp.where(is_free, 0, size * room))
        return _ratio(c - walls, jnp.sum(jnp.where(is_free, size, 0) ** 2))

    def move(level, size):
        # An infinite level is that of a corner, to which flat entries do not go.
        return jnp.where(size > 0, level * jnp.where(size > 0, size, 1), 0)

    is_free = _free(root, move, size, room, c)
    return sign * jnp.minimum(move(root(size, room, c, is_free), size), room)


def _ratio(over: Array, under: Array) -> Array:
    """Infinite where nothing is free."""
    return jnp.where(
        under > 0, jnp.maximum(over, 0) / jnp.where(under > 0, under, 1), jnp.inf
    )


def _l1_plane(w: Array, c: Array, low: Array, high: Array) -> Array:
    # The steepest entries go to their walls, one after the other, and the last a part.
    size, c, sign, room = _turned(w, c, low, high)
    size, room = jnp.ravel(size), jnp.ravel(room)
    order = jnp.argsort(-size)
    steps = size[order] * jnp.minimum(room[order], 2 * c / _nonzero(size[order]))
    before = jnp.cumsum(steps) - steps
    moves = jnp.clip(c - before, 0, steps) / _nonzero(size[order])
    moves = jnp.where(size[order] > 0, jnp.minimum(moves, room[order]), 0)
    return sign * jnp.zeros_like(size).at[order].set(moves).reshape(w.shape)


def _nonzero(v: Array) -> Array:
    return jnp.where(v == 0, 1, v)
