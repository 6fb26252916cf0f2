"""FAB: the nearest point beyond the decision boundary, by linear pieces of it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax import arguments, convolutions, norms
from advjax.arguments import Bounds
from advjax.attacks import gradients, projections, search, targets
from advjax.attacks.gradients import Flags
from advjax.attacks.search import Problem, Search, over_features
from advjax.criteria import Judgement
from advjax.norms import Norm
from advjax.types import Array, Attack, AttackInfo

__all__ = ["fab", "fab_search"]

OVERSHOOT = 1.05
"""η: how far beyond the linear boundary a step goes, over its length."""
MOST_BIAS = 0.1
"""The largest share α of the step from the input."""
PULL = 0.9
"""β: what is left of a perturbation that fools the model, before the next step."""


def fab(
    norm: Norm,
    *,
    num_steps: int = 100,
    num_targets: int = 9,
    bounds: Bounds | None = None,
) -> Attack:
    """Fast adaptive boundary attack: small perturbations that fool the model.

    With w = ∇(z_t - z_y) and c = z_y - z_t at the present u, d_1 is the shortest step
    in the box with <w, d_1> = c, and d_2 that from the input onto the same hyperplane:

        u ← clip((1 - α)(u + η d_1) + α η d_2),   α = min(‖d_1‖/(‖d_1‖ + ‖d_2‖), 0.1)

    A point that fools the model is pulled back to 0.9 of its perturbation. ``eps`` has
    no part in the search, which looks for the least perturbation; it decides which one
    counts.

    Args:
        norm: of the perturbation.
        num_steps: steps for each target, with a gradient and a forward pass each.
        num_targets: rivals t, those of largest logits at the input.
        bounds: as of ``pgd``.

    Returns:
        An attack, for goals of logits ``[n, k]``. Where no perturbation within ``eps``
        fools the model it returns the input.

    Raises:
        ValueError: for a wrong static argument; when called, for a plain loss, and
            for outputs that are no logits.

    Croce and Hein, Minimally distorted adversarial examples with a fast adaptive
    boundary attack, 2020; the version with targets is that of AutoAttack.
    """
    num_targets = arguments.count("num_targets", num_targets)
    steps = fab_search(norm, num_steps=num_steps)
    return search.as_attack(steps, bounds, num_repeats=num_targets)


def fab_search(norm: Norm, *, num_steps: int = 100) -> Search:
    """``fab`` in steps, towards the rival of rank ``problem.repeat``."""
    norms.check(norm)
    num_steps = arguments.count("num_steps", num_steps)
    onto = jax.vmap(projections.onto_plane(norm))

    def step(problem, state, k):
        del k
        return _step(problem, state, onto, jax.vmap(norm.value))

    return Search(num_steps, _begin, step, _end, _fooled, shortens=norm)


class _State(NamedTuple):
    """The search of each example.

    Attributes:
        u: where it is.
        target: the rival class.
        least: the shortest perturbation that fooled the model.
        length: its norm; infinite before there is one.
        flags: of gradients.
    """

    u: Array
    target: Array
    least: Array
    length: Array
    flags: Flags


def _begin(problem: Problem) -> _State:
    u = jnp.zeros_like(problem.region.x)
    target = targets.rival(
        targets.logits(problem, problem.input()), problem.y, problem.repeat
    )
    nowhere = jnp.zeros(len(u), bool)
    length = jnp.full(len(u), jnp.inf, u.dtype)
    return _State(u, target, u, length, Flags(nowhere, nowhere))


def _step(problem: Problem, state: _State, onto: Callable, length: Callable) -> _State:
    u = state.u
    ahead, w, flags = _boundary(problem, state)
    low, high = problem.box()
    own = onto(w, ahead, low - u, high - u)
    from_input = onto(w, ahead + _inner(w, u), low, high)
    a, b = (jnp.maximum(length(d), _TINY) for d in (own, from_input))
    share = over_features(jnp.minimum(a / (a + b), MOST_BIAS), u)
    u = (1 - share) * (u + OVERSHOOT * own) + share * OVERSHOOT * from_input
    u = jnp.clip(u, low, high)
    fooled = problem.judge(u).fooled
    is_shorter = fooled & (length(u) < state.length)
    return _State(
        gradients.where(fooled, PULL * u, u),
        state.target,
        gradients.where(is_shorter, u, state.least),
        jnp.where(is_shorter, length(u), state.length),
        flags,
    )


_TINY = 1e-8


def _boundary(problem: Problem, state: _State) -> tuple[Array, Array, Flags]:
    """z_y - z_t and the gradient of z_t - z_y at the present point."""

    def lead(x):
        z = targets.logits(problem, x)
        of_class = jax.vmap(lambda z, i: z[i])
        rise = of_class(z, state.target) - of_class(z, problem.y)
        return jnp.sum(rise), rise

    x = problem.place(state.u)
    graded = jax.value_and_grad(lead, has_aux=True)
    (_, rise), g = convolutions.rewritten(graded)(x)
    w = problem.over_u(g)
    judged = Judgement(rise, rise > 0)
    flags = gradients.flagged(state.flags, judged, w)
    return -rise.astype(w.dtype), gradients.finite(w), flags


def _inner(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)))


def _fooled(problem: Problem, state: _State) -> Array:
    return state.length <= problem.region.radius


def _end(problem: Problem, state: _State) -> tuple[Array, AttackInfo]:
    is_near = state.length <= problem.region.radius
    u = gradients.where(is_near, state.least, jnp.zeros_like(state.least))
    judged = problem.judge(u)
    info = gradients.info(problem.loss_fn, judged, state.flags, problem.outside)
    return problem.place(u), info
