"""APGD: projected gradient ascent that chooses its own step sizes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import arguments, norms
from advjax.arguments import Bounds
from advjax.attacks import gradients, search, sparse
from advjax.attacks.gradients import Flags
from advjax.attacks.projections import Projection
from advjax.attacks.search import Point, Problem, Search, over_features
from advjax.criteria import Judgement
from advjax.norms import Norm
from advjax.types import Array, Attack

__all__ = ["apgd", "apgd_search", "checks"]

MOMENTUM = 0.75
"""The share of the new direction in a step; the rest is the step before."""
RISES = 0.75
"""The step is halved where the loss rose in no more than this share of the steps."""


def apgd(
    norm: Norm,
    *,
    num_steps: int = 100,
    bounds: Bounds | None = None,
    project: Projection = "exact",
) -> Attack:
    """Auto-PGD: ascent with momentum, whose step halves where the loss stops rising.

        z = P(u + η steepest(∇loss)),   u ← P(u + a (z - u) + (1 - a)(u - u_before))

    with a = 3/4, but 1 in the first step; η starts at 2 ε. At fixed steps, ``checks``,
    η is halved and the search goes back to the point of largest loss if the loss rose
    in at most 3/4 of the steps since the last check, or if its largest value has not
    risen since then, and η was not halved there. It starts at a random point of the
    sphere. For l1 it takes the sparse steps of ``sparse`` instead.

    Args:
        norm: of the ball and of the step.
        num_steps: steps; there is one gradient more, at the start.
        bounds: as of ``pgd``.
        project: P, onto ball and box; "clip" is that of the original code, which for
            l2 ends inside the ball.

    Returns:
        An attack. It keeps, per example, a point that fools the model if ``loss_fn`` is
        a ``criteria.Goal``, and of these the one of largest loss.

    Raises:
        ValueError: for a wrong static argument; when called, as ``pgd``.

    Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks, 2020; for l1 Croce and Hein, Mind the box, 2021.
    """
    steps = apgd_search(norm, num_steps=num_steps, project=project)
    return search.as_attack(steps, bounds)


def apgd_search(
    norm: Norm, *, num_steps: int = 100, project: Projection = "exact"
) -> Search:
    """``apgd`` in steps."""
    norms.check(norm)
    num_steps = arguments.count("num_steps", num_steps)
    onto = search.projection(norm, project)
    if norm is norms.l1:
        return sparse.search(onto, num_steps)
    checked, windows = checks(num_steps)
    is_check, most = jnp.asarray(checked), jnp.asarray(RISES * windows, jnp.int32)

    def begin(problem):
        return _begin(problem, onto, norm)

    def step(problem, state, k):
        state = _ascend(problem, state, k, onto, norm)
        return _checked(state, is_check[k], most[k])

    return Search(num_steps, begin, step, search.end, search.fooled)


def checks(num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """After which steps η may be halved, ``[t]``, and the steps since the check before.

    The first check comes after 22 % of the steps, and each window is 3 % of the steps
    shorter than the last one, down to 6 %.
    """
    window, shorter, least = (
        max(int(share * num_steps), 1) for share in (0.22, 0.03, 0.06)
    )
    is_check = np.zeros(num_steps, bool)
    windows = np.zeros(num_steps, np.int32)
    last = -1
    while (last := last + window) < num_steps:
        is_check[last], windows[last] = True, window
        window = max(window - shorter, least)
    return is_check, windows


class _State(NamedTuple):
    """The search of each example.

    Attributes:
        now: where it is.
        before: the point before.
        best: that of largest loss.
        found: the strongest by ``criteria.better``, and its judgement.
        step_size: η.
        num_rises: of the loss since the last check.
        loss: of the last step, whose rise the next one is compared with.
        checked_loss: the largest one at the last check.
        was_halved: whether η was halved at the last check.
        flags: of gradients.
    """

    now: Point
    before: Array
    best: Point
    found: tuple[Array, Judgement]
    step_size: Array
    num_rises: Array
    loss: Array
    checked_loss: Array
    was_halved: Array
    flags: Flags


def sphere(norm: Norm) -> Callable[[Array, Array], Array]:
    """``(key, like) -> u`` on the unit sphere of linf or l2, for one example."""
    draw = _uniform if norm is norms.linf else jax.random.normal

    def on_sphere(key, like):
        v = draw(key, like.shape, like.dtype)
        return v / norm.value(v)

    return on_sphere


def _uniform(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, minval=-1, maxval=1)


def _begin(problem: Problem, onto: Callable, norm: Norm) -> _State:
    region = problem.region
    u = problem.free(jax.vmap(sphere(norm))(problem.keys, region.x))
    u = onto(problem, over_features(region.radius, u) * u)
    point, judged, flags = problem.look(u)
    nowhere = jnp.zeros(len(u), bool)
    return _State(
        point,
        u,
        point,
        (u, judged),
        2 * region.radius,
        jnp.zeros(len(u), jnp.int32),
        judged.loss,
        judged.loss,
        ~nowhere,
        flags,
    )


def _ascend(
    problem: Problem, state: _State, k: Array, onto: Callable, norm: Norm
) -> _State:
    """One step, without the check that may follow."""
    u, _, g = state.now
    share = jnp.where(k == 0, 1, MOMENTUM).astype(u.dtype)
    steepest = over_features(state.step_size, u) * jax.vmap(norm.steepest)(g)
    z = onto(problem, u + steepest)
    u = onto(problem, u + share * (z - u) + (1 - share) * (u - state.before))
    now, judged, flags = problem.look(u, state.flags)
    rises = judged.loss > state.loss
    return state._replace(
        now=now,
        before=state.now.u,
        best=gradients.where(now.loss > state.best.loss, now, state.best),
        found=gradients.stronger((u, judged), state.found),
        num_rises=jnp.where(rises, state.num_rises + 1, state.num_rises),
        loss=judged.loss,
        flags=flags,
    )


def _checked(state: _State, is_check: Array, most: Array) -> _State:
    """Halves η and goes back to the best point where the loss stopped rising."""
    oscillates = state.num_rises <= most
    stays = ~state.was_halved & (state.best.loss <= state.checked_loss)
    halves = is_check & (oscillates | stays)
    return state._replace(
        now=gradients.where(halves, state.best, state.now),
        step_size=jnp.where(halves, state.step_size / 2, state.step_size),
        num_rises=jnp.where(is_check, 0, state.num_rises),
        checked_loss=jnp.where(is_check, state.best.loss, state.checked_loss),
        was_halved=jnp.where(is_check, halves, state.was_halved),
    )
