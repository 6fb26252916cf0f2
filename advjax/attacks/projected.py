"""Projected gradient ascent: ``fgsm``, ``pgd``, and ``climb`` from given points."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from advjax import arguments, criteria, norms, regions
from advjax.arguments import Bounds
from advjax.attacks import gradients, projections
from advjax.attacks.projections import Projection
from advjax.attacks.starting import Start, check_start, starts
from advjax.criteria import Judgement
from advjax.norms import Norm
from advjax.regions import Region
from advjax.types import Array, Attack, AttackInfo, LossFn

__all__ = ["Climb", "climb", "fgsm", "pgd"]


class Climb(Protocol):
    """An ascent from given points."""

    def __call__(
        self,
        loss_fn: LossFn,
        x: Array,
        y: Any,
        eps: Array | float,
        delta: Array | None = None,
        /,
    ) -> tuple[Array, AttackInfo]:
        """Like ``Attack``, starting at ``x + delta``.

        ``delta[n, ...]`` is projected onto the ball and clipped to the box first; None
        is 0.
        """


def pgd(
    norm: Norm,
    *,
    num_steps: int,
    rel_step_size: Array | float,
    start: Start | None = None,
    bounds: Bounds | None = None,
    project: Projection = "exact",
    keep_best: bool = False,
) -> Attack:
    """Projected gradient ascent along the norm's steepest direction.

    delta ← clip(project(delta + rel_step_size · eps · steepest(∇_x loss)))

    Args:
        norm: of the ball and of the step.
        num_steps: gradient evaluations. With 0 the start is returned.
        rel_step_size: step over ``eps``; 1/4 is common for 10 steps.
        start: random start, or None for the clean input.
        bounds: (low, high) of valid inputs, scalars or arrays that broadcast against
            one example, with infinite entries where there is no bound; or None.
        project: onto ball and box; "exact" is the nearest point, "clip" the ball and
            then the box, as the codes of the papers do, which for l2 ends inside the
            ball. For linf they are the same.
        keep_best: return, per example, the strongest point among the start and all
            iterates, instead of the last: one that fools the model, if ``loss_fn`` is a
            ``criteria.Goal``, and of these the one of largest loss. Never weaker, and
            costs one forward pass where the caller would not use ``info.loss``;
            training protocols keep the last.

    Returns:
        An attack. A zero gradient makes no step; it is flagged, and so is an undefined
        one, of which nan counts as zero and infinity as very large.

    Raises:
        ValueError: for a wrong static argument; when called, for shapes of ``eps``,
            ``key`` or the losses that do not fit ``x``, and unless ``x`` is one array
            of floating-point numbers.

    Madry et al., Towards deep learning models resistant to adversarial attacks, 2018.
    """
    climbing = climb(
        norm,
        num_steps=num_steps,
        rel_step_size=rel_step_size,
        bounds=bounds,
        project=project,
        keep_best=keep_best,
    )
    check_start(start)

    def attack(key, loss_fn, x, y, eps):
        delta = None if start is None else starts(key, start, x, eps)
        return climbing(loss_fn, x, y, eps, delta)

    return attack


def climb(
    norm: Norm,
    *,
    num_steps: int,
    rel_step_size: Array | float,
    bounds: Bounds | None = None,
    project: Projection = "exact",
    keep_best: bool = False,
) -> Climb:
    """Like ``pgd``, but from given perturbations.

    To go on where another attack ended, or at another radius: with ``keep_best``, a
    point of a smaller ball that fools the model is not lost in a larger one. Arguments
    and errors are those of ``pgd``.
    """
    norms.check(norm)
    num_steps = arguments.count("num_steps", num_steps, least=0)
    arguments.number("rel_step_size", rel_step_size)
    bounds = arguments.bounds(bounds)
    admit, step = _moves(norm, rel_step_size, project)

    def climbing(loss_fn, x, y, eps, delta=None):
        arguments.functions(loss_fn=loss_fn)
        region, outside = regions.region(x, eps, bounds)
        dtype = jnp.asarray(x).dtype
        x = region.x
        u = jnp.zeros_like(x) if delta is None else region.unweighted(delta)
        u = jax.vmap(admit)(region, u)
        judge_and_grad = gradients.judge_and_grad(loss_fn, y)

        def at(u):
            return region.place(u, dtype)

        def body(carry, _):
            u, best, flags = carry
            # Points that may be returned are judged as they are returned.
            judged, g = judge_and_grad(at(u) if keep_best else region.near(u, dtype))
            g = region.of_free_features(g)
            best = best and gradients.stronger((u, judged), best)
            flags = gradients.flagged(flags, judged, g)
            u = jax.vmap(step)(region, u, gradients.finite(g).astype(x.dtype))
            return (u, best, flags), None

        nowhere = jnp.zeros(len(x), bool)
        best = None
        if keep_best:
            judge = partial(criteria.judge, loss_fn)
            loss_dtype = jax.eval_shape(judge, at(u), y).loss.dtype
            best = (u, Judgement(jnp.full(len(x), -jnp.inf, loss_dtype), nowhere))
        carry = (u, best, gradients.Flags(nowhere, nowhere))
        carry, _ = jax.lax.scan(body, carry, length=num_steps)
        u, best, flags = carry
        last = (u, criteria.judge(loss_fn, at(u), y))
        u, judged = last if best is None else gradients.stronger(last, best)
        return at(u), gradients.info(loss_fn, judged, flags, outside)

    return climbing


def fgsm(
    norm: Norm,
    *,
    rel_step_size: Array | float = 1.0,
    start: Start | None = None,
    bounds: Bounds | None = None,
    project: Projection = "exact",
    keep_best: bool = False,
) -> Attack:
    """One step of ``pgd``: the fast gradient sign method, or FGM for other norms.

    With ``start=in_ball(linf)`` and ``rel_step_size=1.25`` it is the fast adversarial
    training of Wong et al. 2020. Goodfellow et al., Explaining and harnessing
    adversarial examples, 2015.
    """
    return pgd(
        norm,
        num_steps=1,
        rel_step_size=rel_step_size,
        start=start,
        bounds=bounds,
        project=project,
        keep_best=keep_best,
    )


def _moves(
    norm: Norm, rel_step_size: Array | float, project: Projection
) -> tuple[Callable, Callable]:
    """The projection and the ascent step of ``pgd``, for one example.

    Raises:
        ValueError: for a projection of another name.
    """
    onto = projections.named(norm, project)

    def admit(region: Region, u: Array) -> Array:
        box = region.box()
        if box is None:
            return norm.project(u, region.radius)
        return onto(u, region.radius, *box)

    def step(region: Region, u: Array, g: Array) -> Array:
        size = (rel_step_size * region.radius).astype(u.dtype)
        g, box = region.weights * g, region.box()
        if norm is norms.l1 and box is not None:
            move = _l1_step_in_box(g, u, size, *box)
        else:
            move = size * norm.steepest(g)
        return admit(region, u + move)

    return admit, step


def _l1_step_in_box(g: Array, u: Array, size: Array, low: Array, high: Array) -> Array:
    """The steepest step of l1 length ``size`` that stays in the box.

    It fills the steepest entries up to their walls, one after the other. A step of the
    steepest entry alone would push it against its wall for ever.
    """
    room = jnp.where(g > 0, high - u, jnp.where(g < 0, u - low, 0))
    # No entry takes more than the step, and infinite rooms have no differences.
    room = jnp.clip(jnp.ravel(room), 0, size)
    order = jnp.argsort(-jnp.ravel(jnp.abs(g)))
    filled = jnp.cumsum(room[order])
    taken = jnp.clip(size - (filled - room[order]), 0, room[order])
    return jnp.sign(g) * jnp.zeros_like(room).at[order].set(taken).reshape(g.shape)
