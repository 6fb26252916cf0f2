"""Each example's own gradient, what an attack reports of it, and the better point."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from advjax import convolutions, criteria
from advjax.criteria import Judgement
from advjax.types import Array, AttackInfo, LossFn

__all__ = ["Flags", "finite", "flagged", "info", "judge_and_grad", "stronger", "where"]

Tree = TypeVar("Tree")


class Flags(NamedTuple):
    """``zero_grad[n]`` and ``undefined_grad[n]`` so far."""

    zero_grad: Array
    undefined_grad: Array | None


def judge_and_grad(loss_fn: LossFn, y: Any) -> Callable:
    """``x -> (Judgement, g[n, ...])``, each example's own gradient."""

    def total(x):
        judged = criteria.judge(loss_fn, x, y)
        return jnp.sum(judged.loss), judged

    def judge_and_grad(x):
        (_, judged), g = jax.value_and_grad(total, has_aux=True)(x)
        return judged, g

    return convolutions.rewritten(judge_and_grad)


def flagged(flags: Flags, judged: Judgement, g: Array) -> Flags:
    """The flags, with those that this gradient raises."""
    # One pass: the largest entry is 0 if all are, and nan if one is.
    largest = jnp.max(jnp.abs(g), axis=tuple(range(1, g.ndim)))
    undefined = ~jnp.isfinite(largest)
    if flags.undefined_grad is not None:
        undefined = undefined | flags.undefined_grad
    return Flags(flags.zero_grad | ((largest == 0) & ~judged.fooled), undefined)


def finite(g: Array) -> Array:
    """With nan as 0, and infinity as the largest number: it still has a direction."""
    return jnp.nan_to_num(g)


def info(
    loss_fn: LossFn, judged: Judgement, flags: Flags, outside: Array | None
) -> AttackInfo:
    """What an attack reports of its result."""
    fooled = judged.fooled if isinstance(loss_fn, criteria.Goal) else None
    return AttackInfo(judged.loss, *flags, outside, fooled)


def stronger(
    new: tuple[Array, Judgement], old: tuple[Array, Judgement]
) -> tuple[Array, Judgement]:
    """Per example the point, with its judgement, that ``criteria.better`` prefers."""
    return where(criteria.better(new[1], old[1]), new, old)


def where(condition: Array, a: Tree, b: Tree) -> Tree:
    """``a`` where ``condition[n]`` holds and else ``b``, trees of ``[n, ...]``."""
    choose = jax.vmap(jnp.where)
    return jax.tree.map(lambda a, b: choose(condition, a, b), a, b)
