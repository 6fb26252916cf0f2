"""Rival classes as targets, and searches that aim at one of them."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax import criteria
from advjax.attacks.search import Problem, Search, State
from advjax.types import Array

__all__ = ["TargetedLoss", "aimed", "goal", "logits", "rival"]

TargetedLoss = Callable[[Array, Array, Array], Array]
"""``(logits[n, k], labels[n], targets[n]) -> loss[n]``, higher nearer to the target."""


def goal(problem: Problem) -> criteria.Goal:
    """The goal of a search that looks at logits.

    Raises:
        ValueError: for a plain loss, which hides them.
    """
    if not isinstance(problem.loss_fn, criteria.Goal):
        msg = "loss_fn is a plain loss: give a criteria.Goal, which knows the logits"
        raise ValueError(msg)
    return problem.loss_fn


def logits(problem: Problem, x: Array) -> Array:
    """The logits ``[n, k]`` at these inputs.

    Raises:
        ValueError: for outputs that are not the logits of at least two classes.
    """
    output = goal(problem).predict(x)
    if output.ndim != 2 or output.shape[-1] < 2:
        shape = output.shape
        msg = f"output has shape {shape}: give logits [n, k] of at least 2 classes"
        raise ValueError(msg)
    return output


def rival(logits: Array, y: Array, rank: Array) -> Array:
    """The class ``[n]`` of the ``rank[n]``-th largest logit, from 0, but for ``y``.

    Beyond k - 2 the last one.
    """
    is_own = jax.nn.one_hot(y, logits.shape[-1], dtype=bool)
    # Classes that are masked by -inf come before the own one.
    others = jnp.maximum(logits, jnp.finfo(logits.dtype).min)
    order = jnp.argsort(jnp.where(is_own, -jnp.inf, others), axis=-1, descending=True)
    rank = jnp.minimum(rank, logits.shape[-1] - 2)
    return jnp.take_along_axis(order, rank[:, None], axis=-1)[:, 0]


class _Aimed(NamedTuple):
    target: Array
    state: State


def aimed(search: Search, loss: TargetedLoss) -> Search:
    """A search that raises the loss of a rival class.

    The rival is that of rank ``problem.repeat`` at the input. Any class but the right
    one is a success.
    """

    def at(problem: Problem, target: Array) -> Problem:
        def towards(logits, y):
            return loss(logits, y, target)

        aim = dataclasses.replace(goal(problem), loss=towards)
        return problem._replace(loss_fn=aim)

    def begin(problem):
        found = logits(problem, problem.input())
        target = rival(found, problem.y, problem.repeat)
        return _Aimed(target, search.begin(at(problem, target)))

    def step(problem, aimed, k):
        state = search.step(at(problem, aimed.target), aimed.state, k)
        return aimed._replace(state=state)

    def end(problem, aimed):
        return search.end(at(problem, aimed.target), aimed.state)

    def fooled(problem, aimed):
        return search.fooled(at(problem, aimed.target), aimed.state)

    return search._replace(begin=begin, step=step, end=end, fooled=fooled)
