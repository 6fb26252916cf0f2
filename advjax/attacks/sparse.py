"""APGD in the l1 ball: steps along few features, and radii that shrink to ε.

The largest entries of the gradient move, a share q of all features that follows the
number of those that the best point has changed:

    u ← P(u + η sgn(g_S) / |S|),   S: the features with the largest |g|, q d of them

The search goes through balls of radius 3 ε, 2 ε and ε, each from the best point of the
one before. Of few features, such as 16, it stops short of the best vertex: q d is
rounded up, and equal steps keep several entries. Croce and Hein, Mind the box, 2021.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks import gradients
from advjax.attacks.gradients import Flags
from advjax.attacks.search import (
    Point,
    Problem,
    Search,
    end,
    fooled,
    over_features,
)
from advjax.criteria import Judgement
from advjax.types import Array

__all__ = ["schedule", "search"]

FACTORS = (3, 2, 1)
"""Radii of the balls, over ε."""
_SHARES = (0.3, 0.3)
"""Of the steps, in all balls but the last one."""
_FIRST_SHARE = 0.2
_SHRINKS = 1.5
"""What η is divided by, and the number of changed features for q."""
_LEAST_STEP = 0.1
"""Over the radius."""
_SPARSER = 0.95
"""Times the features that were changed at the last check: then η starts again."""


def search(onto: Callable, num_steps: int) -> Search:
    """The search, of ``num_steps`` and the two that change the ball.

    Args:
        onto: ``(problem, u) -> u``, onto ball and box.
        num_steps: steps.
    """
    factors, is_start, is_check = map(jnp.asarray, schedule(num_steps))

    def begin(problem):
        return _begin(problem, onto)

    def step(problem, state, k):
        ball = _scaled(problem, factors[k])
        is_last = factors[k] == FACTORS[-1]
        moved = onto(ball, _moved(state))
        u = jnp.where(is_start[k], onto(ball, state.best.u), moved)
        state = _seen(problem, state, u, is_start[k], is_last)
        entered = _entered(state, ball.region.radius)
        checked = _checked(state, ball.region.radius)
        kept = jax.tree.map(lambda a, b: jnp.where(is_check[k], a, b), checked, state)
        return jax.tree.map(lambda a, b: jnp.where(is_start[k], a, b), entered, kept)

    return Search(len(factors), begin, step, end, fooled)


def schedule(num_steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The radius over ε of every step, whether it starts a ball, and is a check."""
    ends = np.cumsum([math.ceil(share * num_steps) for share in _SHARES])
    lengths = np.diff(np.minimum([0, *ends, num_steps], num_steps))
    factors, is_start, is_check = [], [], []
    for i, (factor, length) in enumerate(zip(FACTORS, lengths, strict=True)):
        first = [True] * (i > 0)
        period = max(int(0.04 * length), 1)
        steps = [(k + 1) % period == 0 for k in range(length)]
        factors += [factor] * (len(first) + length)
        is_start += first + [False] * length
        is_check += [False] * len(first) + steps
    return np.array(factors, np.float32), np.array(is_start), np.array(is_check)


class _State(NamedTuple):
    """The search of each example.

    Attributes:
        now: where it is.
        best: the point of largest loss in the present ball.
        found: the strongest in the last ball by ``criteria.better``.
        step_size: η.
        share: q, the share of the features that move.
        num_changed: features that the best point had changed at the last check.
        flags: of gradients.
    """

    now: Point
    best: Point
    found: tuple[Array, Judgement]
    step_size: Array
    share: Array
    num_changed: Array
    flags: Flags


def _scaled(problem: Problem, factor: Array) -> Problem:
    region = problem.region
    radius = (factor * region.radius).astype(region.radius.dtype)
    return problem._replace(region=region._replace(radius=radius))


def _begin(problem: Problem, onto: Callable) -> _State:
    ball = _scaled(problem, jnp.float32(FACTORS[0]))
    x = problem.region.x
    draw = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))
    point, _, flags = problem.look(onto(ball, problem.free(draw(problem.keys))))
    size = math.prod(x.shape[1:])
    # Nothing is found before the last ball but the input itself.
    found = jnp.zeros_like(x)
    return _State(
        point,
        point,
        (found, problem.judge(found)),
        ball.region.radius,
        jnp.full(len(x), _FIRST_SHARE, x.dtype),
        jnp.full(len(x), size, x.dtype),
        flags,
    )


def _moved(state: _State) -> Array:
    u, _, g = state.now
    direction = jax.vmap(_direction)(g, state.share)
    return u + over_features(state.step_size, u) * direction


def _direction(g: Array, share: Array) -> Array:
    """Signs of the largest entries, over their number; ties are among them."""
    size = jnp.abs(g)
    place = jnp.floor((1 - share) * g.size).astype(jnp.int32)
    least = jnp.sort(jnp.ravel(size))[jnp.clip(place, 0, g.size - 1)]
    kept = jnp.where(size >= least, jnp.sign(g), 0)
    return kept / jnp.maximum(jnp.sum(jnp.abs(kept)), 1)


def _seen(
    problem: Problem, state: _State, u: Array, is_start: Array, is_last: Array
) -> _State:
    now, judged, flags = problem.look(u, state.flags)
    is_better = is_start | (now.loss > state.best.loss)
    found = gradients.stronger((u, judged), state.found)
    return state._replace(
        now=now,
        best=gradients.where(is_better, now, state.best),
        found=jax.tree.map(lambda a, b: jnp.where(is_last, a, b), found, state.found),
        flags=flags,
    )


def _changed(u: Array) -> Array:
    return jnp.sum(u != 0, axis=tuple(range(1, u.ndim))).astype(u.dtype)


def _share(num_changed: Array, u: Array) -> Array:
    return num_changed / math.prod(u.shape[1:]) / _SHRINKS


def _entered(state: _State, radius: Array) -> _State:
    """At the start of a ball."""
    number = _changed(state.now.u)
    share = _share(number, state.now.u)
    return state._replace(step_size=radius, share=share, num_changed=number)


def _checked(state: _State, radius: Array) -> _State:
    """Goes back to the best point where it has become sparser, and else slows down."""
    number = _changed(state.best.u)
    is_sparser = number < _SPARSER * state.num_changed
    slower = jnp.maximum(state.step_size / _SHRINKS, _LEAST_STEP * radius)
    return state._replace(
        now=gradients.where(is_sparser, state.best, state.now),
        step_size=jnp.where(is_sparser, radius, slower),
        share=_share(number, state.best.u),
        num_changed=number,
    )
