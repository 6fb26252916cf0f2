"""Factories of attacks: ``fgsm``, ``pgd``, ``climb``, ``best_of``, ``smooth``.

    attack = attacks.pgd(norms.linf, num_steps=10, rel_step_size=0.25,
                         start=attacks.in_ball(norms.linf), bounds=(0.0, 1.0))
    goal = criteria.Goal(predict, losses.cross_entropy)
    x_adv, info = jax.jit(attack, static_argnums=1)(key, goal, x, y, eps)

An attack sees the model only through ``loss_fn(x, y) -> loss[n]``, so any JAX function
can be attacked; see ``types.Attack`` for the call. Give it a ``criteria.Goal`` wherever
an accuracy is asked for: of several points it then keeps one that fools the model, and
of these the one of largest loss. Build attacks outside of loops and jit the outermost
function.

Step sizes are relative to ``eps``. ``bounds`` is the range of valid inputs. An entry of
``x`` that lies outside keeps its own value as its bound, so that the result is in the
ball in any case, and ``info.outside`` flags the example. After each step the point is
projected onto the ball, then clipped, which keeps it in the ball and is the exact
projection onto ball and box for linf only; for l2 it is what the codes of the papers
do. For l1 it is clipped first, and steps go on to the next entry at a wall. Inputs of
half precision are attacked in float32. Results are rounded towards ``x``, and so stay
in the ball in every dtype.

Attacks are differentiable; to hold the perturbed examples fixed, stop the gradient in
``loss_fn``, as ``objectives`` does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from advjax import arguments, criteria, norms, regions
from advjax.arguments import Bounds
from advjax.criteria import Judgement
from advjax.norms import Norm
from advjax.regions import Region
from advjax.types import Array, Attack, AttackInfo, Key, LossFn, example_keys

__all__ = [
    "Climb",
    "Start",
    "best_of",
    "climb",
    "fgsm",
    "gaussian",
    "in_ball",
    "pgd",
    "radius_uniform",
    "smooth",
    "starts",
]


class Start(Protocol):
    """Where an attack begins."""

    def __call__(self, key: Key, like: Array, eps: Array, /) -> Array:
        """``delta``, in the shape and dtype of ``like``, for one example.

        Args:
            key: the example's own.
            like: one example.
            eps: ``[]``, the radius; the largest one where features have their own.
        """


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


def in_ball(norm: Norm) -> Start:
    """Uniform in the ball of radius ``eps``.

    Most of a ball in d dimensions is near its surface: E‖delta‖ = eps d/(d+1) for l2.
    """
    norms.check(norm)

    def start(key, like, eps):
        return eps * norm.sample(key, like)

    return start


def radius_uniform(norm: Norm) -> Start:
    """A Gaussian direction at a radius uniform in [0, eps].

    The start of Rice et al. 2020 for l2, which is not uniform in the ball.
    """
    norms.check(norm)

    def start(key, like, eps):
        key_direction, key_radius = jax.random.split(key)
        direction = jax.random.normal(key_direction, like.shape, like.dtype)
        radius = eps * jax.random.uniform(key_radius, dtype=like.dtype)
        return direction * (radius / norm.value(direction))

    return start


def gaussian(scale: float) -> Start:
    """``scale * N(0, I)`` whatever ``eps``, projected onto the ball by the attack.

    With ``scale`` 0.001 the start of TRADES (Zhang et al. 2019), whose objective has
    no gradient at the clean input.
    """

    def start(key, like, eps):
        del eps
        return scale * jax.random.normal(key, like.shape, like.dtype)

    return start


def pgd(
    norm: Norm,
    *,
    num_steps: int,
    rel_step_size: Array | float,
    start: Start | None = None,
    bounds: Bounds | None = None,
    keep_best: bool = False,
    unroll: int | None = None,
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
        keep_best: return, per example, the strongest point among the start and all
            iterates, instead of the last: one that fools the model, if ``loss_fn`` is a
            ``criteria.Goal``, and of these the one of largest loss. Never weaker, and
            costs one forward pass where the caller would not use ``info.loss``;
            training protocols keep the last.
        unroll: loop steps per iteration, as in ``jax.lax.scan``. By default loops of up
            to 100 steps are unrolled on CPU, where gradients of convolutions are slow
            inside loops, and rolled elsewhere; 1 compiles faster and is the better
            choice for networks of matrix products.

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
        keep_best=keep_best,
        unroll=unroll,
    )
    _check_start(start)

    def attack(key, loss_fn, x, y, eps):
        delta = None if start is None else starts(key, start, x, eps)
        return climbing(loss_fn, x, y, eps, delta)

    return attack


def _check_start(start: Any) -> None:
    factories: tuple[Any, ...] = (in_ball, radius_uniform, gaussian)
    if start in factories:
        msg = f"start = attacks.{start.__name__} makes a start: call it first"
        raise ValueError(msg)
    if start is not None and not callable(start):
        msg = f"start = {start!r}: choose such as attacks.in_ball(norm), or None"
        raise ValueError(msg)


def starts(key: Key, start: Start, x: Array, eps: Array | float) -> Array:
    """The perturbations ``[n, ...]`` at which an attack with this start begins.

    Args:
        key: one key, or ``[n]`` keys.
        start: of one example.
        x: ``[n, ...]``.
        eps: as of ``types.Attack``.
    """
    x = regions.promoted(x)
    radius, weights = regions.radii(x, eps)
    delta = jax.vmap(start)(example_keys(key, len(x)), x, radius)
    if jnp.shape(delta) != x.shape:
        shape = jnp.shape(delta)[1:]
        msg = f"start returned shape {shape} for an example of shape {x.shape[1:]}"
        raise ValueError(msg)
    return weights * delta


def climb(
    norm: Norm,
    *,
    num_steps: int,
    rel_step_size: Array | float,
    bounds: Bounds | None = None,
    keep_best: bool = False,
    unroll: int | None = None,
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
    if unroll is not None:
        unroll = arguments.count("unroll", unroll)
    admit, step = _moves(norm, rel_step_size)

    def climbing(loss_fn, x, y, eps, delta=None):
        arguments.functions(loss_fn=loss_fn)
        region, outside = regions.region(x, eps, bounds)
        dtype = jnp.asarray(x).dtype
        x = region.x
        u = jnp.zeros_like(x) if delta is None else region.unweighted(delta)
        u = jax.vmap(admit)(region, u)
        judge_and_grad = _judge_and_grad(loss_fn, y)

        def at(u):
            return region.place(u, dtype)

        def body(carry, _):
            u, best, flags = carry
            # Points that may be returned are judged as they are returned.
            judged, g = judge_and_grad(at(u) if keep_best else region.near(u, dtype))
            g = region.of_free_features(g)
            best = best and _stronger((u, judged), best)
            flags = _flagged(flags, judged, g)
            u = jax.vmap(step)(region, u, _finite(g).astype(x.dtype))
            return (u, best, flags), None

        nowhere = jnp.zeros(len(x), bool)
        best = None
        if keep_best:
            judge = partial(criteria.judge, loss_fn)
            loss_dtype = jax.eval_shape(judge, at(u), y).loss.dtype
            best = (u, Judgement(jnp.full(len(x), -jnp.inf, loss_dtype), nowhere))
        carry = (u, best, _Flags(nowhere, nowhere))
        if num_steps == 1:
            # A loop all the same for XLA, which on CPU takes its convolutions slowly.
            carry, _ = body(carry, None)
        else:
            unrolled = unroll or _default_unroll(num_steps)
            carry, _ = jax.lax.scan(body, carry, length=num_steps, unroll=unrolled)
        u, best, flags = carry
        last = (u, criteria.judge(loss_fn, at(u), y))
        u, judged = last if best is None else _stronger(last, best)
        return at(u), _info(loss_fn, judged, flags, outside)

    return climbing


def _default_unroll(num_steps: int) -> int:
    # XLA on CPU runs the gradient of a convolution inside a while loop several times
    # slower than outside (jax issue 12868), so loops of usual length are unrolled
    # there; experiments/benchmarks/unroll.py measures it.
    on_cpu = jax.default_backend() == "cpu"
    return num_steps if on_cpu and 1 < num_steps <= 100 else 1


def fgsm(
    norm: Norm,
    *,
    rel_step_size: Array | float = 1.0,
    start: Start | None = None,
    bounds: Bounds | None = None,
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
        keep_best=keep_best,
    )


def best_of(attack: Attack, *, num_restarts: int) -> Attack:
    """The strongest result, per example, among restarts of ``attack``.

    A result that fools the model, if ``loss_fn`` is a ``criteria.Goal``, and of these
    the one of largest loss. Restart ``j`` folds ``j`` into each example's key, so that
    more restarts try the same points and more: with a goal, they never leave more
    examples robust, and without one they never return a smaller loss. The restarts run
    at once under ``vmap`` and take as much memory. Flags of gradients are those of any
    restart.
    """
    num_restarts = arguments.count("num_restarts", num_restarts)
    arguments.functions(attack=attack)

    def restarted(key, loss_fn, x, y, eps):
        n = len(x)
        keys = example_keys(key, n)

        def restart(j):
            keys_j = jax.vmap(jax.random.fold_in, (0, None))(keys, j)
            x_adv, info = attack(keys_j, loss_fn, x, y, eps)
            if info.fooled is None and isinstance(loss_fn, criteria.Goal):
                # An attack of the caller's, which knows nothing of goals.
                judged = criteria.judge(loss_fn, x_adv, y)
                info = info._replace(loss=judged.loss, fooled=judged.fooled)
            return x_adv, info

        results = jax.vmap(restart)(jnp.arange(num_restarts))
        best = _strongest(results[1])
        x_adv, info = jax.tree.map(lambda leaf: leaf[best, jnp.arange(n)], results)
        flags = {
            name: jnp.any(getattr(results[1], name), axis=0)
            for name in ("zero_grad", "undefined_grad")
            if getattr(results[1], name) is not None
        }
        return x_adv, info._replace(**flags)

    return restarted


def _strongest(info: AttackInfo) -> Array:
    """The restart of each example that ``criteria.better`` prefers to all others."""
    loss, fooled = info.loss, info.fooled
    if fooled is None:
        return jnp.argmax(loss, axis=0)
    is_eligible = fooled == jnp.any(fooled, axis=0)[None]
    least = jnp.finfo(loss.dtype).min
    return jnp.argmax(
        jnp.where(is_eligible, jnp.where(loss < least, least, loss), -jnp.inf), axis=0
    )


def smooth(attack: Attack, norm: Norm, xi: Array | float) -> Attack:
    """The surrogate attack A_{eps,xi}, which vanishes with the clean gradient.

    With g = ∇_x loss at the clean input, per example, the perturbation delta of
    ``attack`` is multiplied by

        ‖g‖ / √(‖g‖² + xi²)   for l2,        |g_i| / (|g_i| + xi)   for linf, per entry,

    which makes the attacked loss differentiable where g vanishes. ``xi = 0`` is
    ``attack`` itself (0/0 counts as 1). The size of xi is meant relative to the
    gradient of one example's loss, not of a batch mean; where the model's batch
    statistics are those of the attacked batch, the other examples have a share in g.
    ``info.factor`` is Σ|g_i| factor_i / Σ|g_i|: for l2 the factor itself, for linf,
    where many entries hardly matter, the share of the attack's gain to first order.

    Args:
        attack: attack to shrink, in the same norm.
        norm: ``norms.l2`` or ``norms.linf``.
        xi: at least 0. To follow a schedule, build the attack inside the jitted
            function, where xi may be traced.

    Raises:
        ValueError: for a norm without a surrogate.

    Xing et al., On the generalization properties of adversarial training, 2021.
    """
    norms.check_surrogate(norm)
    arguments.scalars(xi=xi)
    arguments.functions(attack=attack)

    def smoothed(key, loss_fn, x, y, eps):
        x_adv, info = attack(key, loss_fn, x, y, eps)
        x = jnp.asarray(x)
        clean, g = _judge_and_grad(loss_fn, y)(x)
        flags = _flagged(_Flags(info.zero_grad, info.undefined_grad), clean, g)
        g = arguments.single(_finite(g))
        factor = jax.vmap(lambda g: norms.surrogate_factor(norm, g, xi))(g)
        wide, wide_adv = regions.promoted(x), regions.promoted(x_adv)
        delta = factor.astype(wide.dtype) * (wide_adv - wide)
        x_adv = regions.inwards(wide, wide + delta, delta, x.dtype)
        judged = criteria.judge(loss_fn, x_adv, y)
        mean = jax.vmap(_weighted_mean)(factor, jnp.abs(g))
        info = _info(loss_fn, judged, flags, info.outside)
        return x_adv, info._replace(factor=mean)

    return smoothed


def _moves(norm: Norm, rel_step_size: Array | float) -> tuple[Callable, Callable]:
    """The projection and the ascent step of ``pgd``, for one example."""

    def admit(region: Region, u: Array) -> Array:
        box = region.box()
        if box is None:
            return norm.project(u, region.radius)
        if norm is not norms.l1:
            return jnp.clip(norm.project(u, region.radius), *box)
        # Shrinking all entries keeps them in the box, but clipping after it would
        # take radius from the longest that the others have already paid for.
        return norm.project(jnp.clip(u, *box), region.radius)

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


# --- gradients and verdicts ---


class _Flags(NamedTuple):
    """``zero_grad[n]`` and ``undefined_grad[n]`` so far."""

    zero_grad: Array
    undefined_grad: Array | None


def _judge_and_grad(loss_fn: LossFn, y: Any) -> Callable:
    """``x -> (Judgement, g[n, ...])``, each example's own gradient."""

    def total(x):
        judged = criteria.judge(loss_fn, x, y)
        return jnp.sum(judged.loss), judged

    def judge_and_grad(x):
        (_, judged), g = jax.value_and_grad(total, has_aux=True)(x)
        return judged, g

    return judge_and_grad


def _flagged(flags: _Flags, judged: Judgement, g: Array) -> _Flags:
    # One pass: the largest entry is 0 if all are, and nan if one is.
    largest = jnp.max(jnp.abs(g), axis=tuple(range(1, g.ndim)))
    undefined = ~jnp.isfinite(largest)
    if flags.undefined_grad is not None:
        undefined = undefined | flags.undefined_grad
    return _Flags(flags.zero_grad | ((largest == 0) & ~judged.fooled), undefined)


def _finite(g: Array) -> Array:
    """With nan as 0, and infinity as the largest number: it still has a direction."""
    return jnp.nan_to_num(g)


def _info(
    loss_fn: LossFn, judged: Judgement, flags: _Flags, outside: Array | None
) -> AttackInfo:
    fooled = judged.fooled if isinstance(loss_fn, criteria.Goal) else None
    return AttackInfo(judged.loss, *flags, outside, fooled)


def _stronger(
    new: tuple[Array, Judgement], old: tuple[Array, Judgement]
) -> tuple[Array, Judgement]:
    """Per example the point, with its judgement, that ``criteria.better`` prefers."""
    new_wins = criteria.better(new[1], old[1])
    return jax.tree.map(partial(_where, new_wins), new, old)


def _where(condition: Array, a: Array, b: Array) -> Array:
    return jax.vmap(jnp.where)(condition, a, b)


def _weighted_mean(values: Array, weights: Array) -> Array:
    """The mean over one example; without weights if all of them are zero."""
    weights = weights / jnp.maximum(jnp.max(weights), jnp.finfo(weights.dtype).tiny)
    total = jnp.sum(weights)
    mean = jnp.sum(values * weights) / jnp.where(total == 0, 1, total)
    return jnp.where(total == 0, jnp.mean(values), mean)
