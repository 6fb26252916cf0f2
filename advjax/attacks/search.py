"""An attack step by step, so that it may run as one program or in parts.

    attack = search.as_attack(auto.apgd_search(norms.linf, num_steps=100), bounds)

``ensembles`` carries a search on from Python, a few steps at a time: programs stay
small, and XLA on CPU takes gradients of convolutions several times faster outside of
its loops (jax issue 12868).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax import arguments, convolutions, criteria, regions
from advjax.arguments import Bounds
from advjax.attacks import gradients, projections, restarts
from advjax.attacks.gradients import Flags
from advjax.attacks.projections import Projection
from advjax.criteria import Judgement
from advjax.norms import Norm
from advjax.regions import Region
from advjax.types import Array, Attack, AttackInfo, Key, LossFn, example_keys

__all__ = [
    "Point",
    "Problem",
    "Search",
    "Seen",
    "as_attack",
    "end",
    "fooled",
    "over_features",
    "problem",
    "projection",
]

State = Any
"""A pytree whose leaves have the examples first, ``[n, ...]``."""


class Point(NamedTuple):
    """A point, its loss and the gradient there, ``[n, ...]``."""

    u: Array
    loss: Array
    g: Array


class Seen(NamedTuple):
    """A point, its judgement, and the flags so far."""

    point: Point
    judged: Judgement
    flags: Flags


class Problem(NamedTuple):
    """What is attacked.

    Attributes:
        loss_fn: the loss to raise, or the goal.
        y: labels.
        region: the ball about each input, and the box.
        outside: whether an input is not in the box, ``[n]``; None without bounds.
        dtype: of the input.
        keys: ``[n]``, one for each example.
        repeat: ``[n]``, the number of the restart, or of the rival that is the target.
    """

    loss_fn: LossFn
    y: Any
    region: Region
    outside: Array | None
    dtype: Any
    keys: Key
    repeat: Array

    def place(self, u: Array) -> Array:
        """The points of these ``u``, as they are returned."""
        return self.region.place(u, self.dtype)

    def judge(self, u: Array) -> Judgement:
        """The verdict on these points."""
        judge = partial(criteria.judge, self.loss_fn, y=self.y)
        return convolutions.rewritten(judge)(self.place(u))

    def look(self, u: Array, flags: Flags | None = None) -> Seen:
        """The verdict and the gradient at ``u``, of which nan counts as zero."""
        nowhere = jnp.zeros(len(u), bool)
        judge_and_grad = gradients.judge_and_grad(self.loss_fn, self.y)
        judged, g = judge_and_grad(self.place(u))
        g = self.over_u(g)
        flags = gradients.flagged(flags or Flags(nowhere, nowhere), judged, g)
        return Seen(Point(u, judged.loss, gradients.finite(g)), judged, flags)

    def free(self, u: Array) -> Array:
        """``u`` with 0 for features that are held fixed, which take no radius."""
        return jnp.where(self.region.weights == 0, 0, u)

    def over_u(self, g: Array) -> Array:
        """The gradient with respect to ``u`` of one with respect to the input."""
        g = self.region.of_free_features(g.astype(self.region.x.dtype))
        return self.region.weights * g

    def input(self) -> Array:
        """The inputs, in their own dtype."""
        return self.region.x.astype(self.dtype)

    def box(self) -> tuple[Array, Array]:
        """Bounds of ``u``, infinite where there is none."""
        box = self.region.box()
        infinite = jnp.full_like(self.region.x, jnp.inf)
        return (-infinite, infinite) if box is None else box


class Search(NamedTuple):
    """An attack in steps.

    Attributes:
        num_steps: of them.
        begin: ``problem -> state``.
        step: ``(problem, state, k) -> state`` for k = 0, 1, ..., which may be traced.
        end: ``(problem, state) -> (x_adv, info)``.
        fooled: ``(problem, state) -> [n]``, which examples need no more steps.
        has_gradients: whether steps take the gradient of the model.
        shortens: the norm of perturbations that it makes short; None where it raises
            the loss, also where it fails.
    """

    num_steps: int
    begin: Callable[[Problem], State]
    step: Callable[[Problem, State, Array], State]
    end: Callable[[Problem, State], tuple[Array, AttackInfo]]
    fooled: Callable[[Problem, State], Array]
    has_gradients: bool = True
    shortens: Norm | None = None


def problem(
    key: Key,
    loss_fn: LossFn,
    x: Array,
    y: Any,
    eps: Array | float,
    bounds: Bounds | None,
    repeat: Array | int = 0,
) -> Problem:
    """The problem of a call of ``types.Attack``, whose errors it raises.

    Args:
        key: one key, or ``[n]``; ``repeat`` is folded into each.
        loss_fn: as of an attack, and so are the next three.
        x: inputs.
        y: labels.
        eps: radius.
        bounds: as of ``pgd``.
        repeat: the number of the restart, or ``[n]`` of them.
    """
    arguments.functions(loss_fn=loss_fn)
    region, outside = regions.region(x, eps, bounds)
    n = len(region.x)
    repeat = jnp.broadcast_to(jnp.asarray(repeat, jnp.int32), (n,))
    keys = jax.vmap(jax.random.fold_in)(example_keys(key, n), repeat)
    dtype = jnp.asarray(x).dtype
    return Problem(loss_fn, y, region, outside, dtype, keys, repeat)


def as_attack(
    search: Search,
    bounds: Bounds | None,
    *,
    num_repeats: int = 1,
) -> Attack:
    """The attack that takes all steps of a search in one program.

    Args:
        search: the steps.
        bounds: as of ``pgd``.
        num_repeats: restarts or targets, one after the other, of which each example
            keeps the strongest by ``criteria.better``, or the shortest that fools the
            model.
    """
    bounds = arguments.bounds(bounds)
    number = search.num_steps

    def attack(key, loss_fn, x, y, eps):
        def once(repeat):
            given = problem(key, loss_fn, x, y, eps, bounds, repeat)
            # First, as searches say best what they cannot attack.
            state = search.begin(given)

            def step(state, k):
                return search.step(given, state, k), None

            state, _ = jax.lax.scan(step, state, jnp.arange(number))
            return search.end(given, state)

        if num_repeats == 1:
            return once(0)
        x_adv, info = jax.lax.map(once, jnp.arange(num_repeats))
        length = None
        if search.shortens is not None:
            region, _ = regions.region(x, eps, bounds)
            value = jax.vmap(search.shortens.value)
            length = jax.vmap(lambda x_adv: value(region.unweighted(x_adv - region.x)))(
                regions.promoted(x_adv)
            )
        return restarts.strongest(x_adv, info, length)

    return attack


def _lengths(norm: Norm, region: Region, x_adv: Array) -> Array:
    """Of the perturbations ``[r, n]`` to points ``x_adv[r, n, ...]``."""

    def of_repeat(x_adv: Array) -> Array:
        u = region.unweighted(regions.promoted(x_adv) - region.x)
        return jax.vmap(norm.value)(u)

    return jax.vmap(of_repeat)(x_adv)


def projection(norm: Norm, project: Projection) -> Callable[[Problem, Array], Array]:
    """``(problem, u) -> u``, onto ball and box.

    Raises:
        ValueError: for what is no norm, or another name.
    """
    onto = jax.vmap(projections.named(norm, project))
    return lambda problem, u: onto(u, problem.region.radius, *problem.box())


def over_features(radius: Array, u: Array) -> Array:
    """``radius[n]`` with axes that broadcast against ``u[n, ...]``."""
    return radius.reshape(radius.shape + (1,) * (u.ndim - 1))


def end(problem: Problem, state: Any) -> tuple[Array, AttackInfo]:
    """The end of a search whose state has ``found`` and ``flags``."""
    u, judged = state.found
    info = gradients.info(problem.loss_fn, judged, state.flags, problem.outside)
    return problem.place(u), info


def fooled(problem: Problem, state: Any) -> Array:
    """Where a search whose state has ``found`` has fooled the model."""
    del problem
    return state.found[1].fooled
