"""Square: random search by squares of pixels, which needs no gradient."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import arguments, criteria, losses, norms
from advjax.arguments import Bounds
from advjax.attacks import gradients, search
from advjax.attacks.gradients import Flags
from advjax.attacks.search import Problem, Search
from advjax.criteria import Goal, Judgement
from advjax.norms import Norm
from advjax.types import Array, Attack, AttackInfo, Key

__all__ = ["share_of_pixels", "square", "square_search"]

_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(
    norm: Norm,
    *,
    num_steps: int = 5000,
    share: float = 0.8,
    bounds: Bounds | None = None,
) -> Attack:
    """Random search: changes one square of pixels, and keeps it if the loss rises.

    For linf a square takes +ε or -ε in each channel; for l2 and l1 one square is
    emptied, and what it had goes to another one, to a bump beside what was there. Each
    example draws its own squares, and any place may be drawn. It finds what attacks by
    gradients do not where gradients are masked.

    Args:
        norm: of the ball.
        num_steps: queries; there is one more at the start.
        share: of the pixels in a square at first; it halves after 10, 50, 200, 500,
            1000, 2000, 4000, 6000 and 8000 steps, whatever ``num_steps``.
        bounds: as of ``pgd``.

    Returns:
        An attack. Examples are ``[h, w, c]``, or ``[h, w]`` and ``[d]``, of one channel
        and of one column; of examples with more axes the last is that of channels, and
        all before but the first count as columns.

    Raises:
        ValueError: for a wrong static argument; when called, as ``pgd``.

    Andriushchenko et al., Square attack, 2020, and for l1 Croce and Hein, Mind the box,
    2021.
    """
    steps = square_search(norm, num_steps=num_steps, share=share)
    return search.as_attack(steps, bounds)


def square_search(norm: Norm, *, num_steps: int = 5000, share: float = 0.8) -> Search:
    """``square`` in steps."""
    norms.check(norm)
    num_steps = arguments.count("num_steps", num_steps)
    arguments.number("share", share)
    shares = jnp.asarray(share_of_pixels(num_steps, share))
    moves = _stripes() if norm is norms.linf else _bumps(norm)

    def begin(problem):
        return _begin(problem, moves)

    def step(problem, state, k):
        return _step(problem, state, k, moves, shares[k])

    return Search(num_steps, begin, step, _end, _fooled, has_gradients=False)


def share_of_pixels(num_steps: int, share: float) -> np.ndarray:
    """Of a square at each step, ``[t]``."""
    number = np.arange(1, num_steps + 1)
    halvings = np.searchsorted(_HALVED_AFTER, number, side="left")
    return (share / 2.0**halvings).astype(np.float32)


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Rows, columns and channels of an example of this shape."""
    rows, *rest = shape
    *columns, channels = rest if len(rest) > 1 else (*rest, 1)
    return rows, math.prod(columns), channels


class _State(NamedTuple):
    """The search of each example.

    Attributes:
        u: the best point.
        judged: its margin, and whether it fools the model.
    """

    u: Array
    judged: Judgement


class _Moves(NamedTuple):
    """Of one image ``[h, w, c]`` of perturbations in the ball of some radius.

    Attributes:
        first: ``(key, like, radius) -> u``.
        change: ``(key, u, radius, share) -> u``.
    """

    first: Callable[[Key, Array, Array], Array]
    change: Callable[[Key, Array, Array, Array], Array]


def _over_images(problem: Problem, move: Callable, u: Array, *args: Array) -> Array:
    """``move(key, u, radius, *args)`` of every example as an image, within the box."""
    region = problem.region
    image = u.reshape(len(u), *_image(u.shape[1:]))
    moved = jax.vmap(lambda *each: move(*each, *args))
    moved = moved(problem.keys, image, region.radius).reshape(u.shape)
    return problem.free(jnp.clip(moved, *problem.box()))


def _begin(problem: Problem, moves: _Moves) -> _State:
    u = _over_images(problem, moves.first, jnp.zeros_like(problem.region.x))
    return _State(u, _judged(problem, u))


def _step(
    problem: Problem, state: _State, k: Array, moves: _Moves, share: Array
) -> _State:
    keys = jax.vmap(jax.random.fold_in, (0, None))(problem.keys, k + 1)
    u = _over_images(problem._replace(keys=keys), moves.change, state.u, share)
    judged = _judged(problem, u)
    # A point that fools the model stays what it is.
    is_kept = ~state.judged.fooled & ((judged.loss > state.judged.loss) | judged.fooled)
    return gradients.where(is_kept, _State(u, judged), state)


def _judged(problem: Problem, u: Array) -> Judgement:
    """By the margin of logits where there are some, and else by the loss."""
    goal = problem.loss_fn
    if not isinstance(goal, Goal):
        return problem.judge(u)
    output = goal.predict(problem.place(u))
    is_plain = output.ndim == 2 and goal.fooled is criteria.misclassified
    loss = losses.margin if is_plain else goal.loss
    return Judgement(loss(output, problem.y), goal.fooled(output, problem.y))


def _fooled(problem: Problem, state: _State) -> Array:
    del problem
    return state.judged.fooled


def _end(problem: Problem, state: _State) -> tuple[Array, AttackInfo]:
    nowhere = jnp.zeros(len(state.u), bool)
    judged = problem.judge(state.u)
    flags = Flags(nowhere, None)
    info = gradients.info(problem.loss_fn, judged, flags, problem.outside)
    return problem.place(state.u), info


# --- windows ---


def _sides(share: Array, h: int, w: int) -> tuple[Array, Array]:
    """Of a square of this share of the pixels; a strip where the image is narrow."""
    side = jnp.maximum(jnp.round(jnp.sqrt(share * h * w)), 1)
    columns = jnp.minimum(side, w)
    rows = jnp.where(side <= min(h, w), side, jnp.round(share * h * w / columns))
    return jnp.clip(rows, 1, h).astype(jnp.int32), columns.astype(jnp.int32)


def _window(key: Key, rows: Array, columns: Array, h: int, w: int) -> tuple:
    """The rows and columns within a window at a random place, and where it is."""
    key_top, key_left = jax.random.split(key)
    top = jax.random.randint(key_top, (), 0, h - rows + 1)
    left = jax.random.randint(key_left, (), 0, w - columns + 1)
    i, j = jnp.arange(h)[:, None] - top, jnp.arange(w)[None] - left
    is_inside = (i >= 0) & (i < rows) & (j >= 0) & (j < columns)
    return i, j, is_inside[..., None]


def _signs(key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    return jax.random.rademacher(key, shape, dtype)


# --- linf ---


def _stripes() -> _Moves:
    def first(key, like, radius):
        _, w, c = like.shape
        return jnp.broadcast_to(radius * _signs(key, (1, w, c), like.dtype), like.shape)

    def change(key, u, radius, share):
        h, w, c = u.shape
        key_place, key_sign = jax.random.split(key)
        *_, is_inside = _window(key_place, *_sides(share, h, w), h, w)
        return jnp.where(is_inside, radius * _signs(key_sign, (1, 1, c), u.dtype), u)

    return _Moves(first, change)


# --- l2 and l1 ---


def _bumps(norm: Norm) -> _Moves:
    """Bumps of both signs; ``power`` 2 for l2, and 4 for l1, which is steeper."""
    order, power = (2, 2) if norm is norms.l2 else (1, 4)

    def length(v):
        """The norm of each channel, ``[1, 1, c]``."""
        total = jnp.sum(jnp.abs(v) ** order, axis=(0, 1), keepdims=True)
        return total ** (1 / order)

    def normalised(v):
        return v / (length(v) + 1e-12)

    def scaled(u, radius):
        return u * radius / (jnp.sum(length(u) ** order) ** (1 / order) + 1e-12)

    def first(key, like, radius):
        h, w, c = like.shape
        side = max(min(h, w) // 5, 1)
        top, left = (h % side) // 2, (w % side) // 2
        i, j = jnp.arange(h)[:, None] - top, jnp.arange(w)[None] - left
        num_rows, num_columns = h // side, w // side
        is_inside = (i >= 0) & (i < num_rows * side) & (j >= 0)
        is_inside &= j < num_columns * side
        signs = _signs(key, (num_rows, num_columns, c), like.dtype)
        of_tile = signs[(i // side) % num_rows, (j // side) % num_columns]
        bump = _bump(i % side, j % side, side, power, h, w)
        bumps = jnp.where(is_inside, bump, 0)[..., None] * of_tile
        return scaled(bumps, radius)

    def change(key, u, radius, share):
        h, w, c = u.shape
        key_to, key_from, key_sign, key_turn = jax.random.split(key, 4)
        side = _odd(jnp.round(jnp.sqrt(share * h * w)).astype(jnp.int32), min(h, w))
        i, j, to = _window(key_to, side, side, h, w)
        *_, emptied = _window(key_from, side, side, h, w)
        turns = jax.random.bernoulli(key_turn)
        i, j = jnp.where(turns, j, i), jnp.where(turns, i, j)
        bump = jnp.where(to, _bump(i, j, side, power, h, w)[..., None], 0)
        bump = normalised(bump) * _signs(key_sign, (1, 1, c), u.dtype)
        unused = jnp.maximum(radius**order - jnp.sum(length(u) ** order), 0) / c
        mass = length(jnp.where(to | emptied, u, 0)) ** order + unused
        moved = normalised(bump + normalised(jnp.where(to, u, 0)))
        moved = moved * mass ** (1 / order)
        new = jnp.where(to, moved, jnp.where(emptied, 0, u))
        return scaled(new, radius)

    return _Moves(first, change)


def _odd(side: Array, most: int) -> Array:
    """At least 3 and odd, as far as the image goes."""
    side = jnp.maximum(side, 3) // 2 * 2 + 1
    return jnp.minimum(side, most - (most + 1) % 2 if most > 1 else 1)


def _bump(i: Array, j: Array, side: Array | int, power: int, h: int, w: int) -> Array:
    """Two blocks of opposite sign in the upper and the lower half of a square.

    Each falls from its centre in rectangles, the k-th from it by 1/(k + 1)^power.
    """
    half = side // 2
    is_upper = i < half
    upper = _block(i, j, half, side, power, max(h, w))
    lower = _block(i - half, j, side - half, side, power, max(h, w))
    return jnp.where(is_upper, upper, -lower)


def _block(
    i: Array, j: Array, rows: Array | int, columns: Array | int, power: int, most: int
) -> Array:
    """Σ over k of 1/(k + 1)^power, from the rectangle of (i, j) outwards; unit norm."""
    k = np.arange(most + 1)
    sums = jnp.asarray(np.concatenate([[0.0], np.cumsum((k + 1.0) ** -power)]))
    sums = sums.astype(jnp.float32)
    last = jnp.maximum(rows // 2, columns // 2) + 1
    rectangle = jnp.maximum(jnp.abs(i - rows // 2), jnp.abs(j - columns // 2))
    height = sums[jnp.minimum(last, most + 1)] - sums[jnp.clip(rectangle, 0, most + 1)]
    is_inside = (i >= 0) & (i < rows) & (j >= 0) & (j < columns)
    height = jnp.where(is_inside, jnp.maximum(height, 0), 0)
    order = 2 if power == 2 else 1
    return height / (jnp.sum(height**order) ** (1 / order) + 1e-12)
