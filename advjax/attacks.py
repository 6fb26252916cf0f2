"""Factories of attacks: ``fgsm``, ``pgd``, ``climb``, ``best_of``, ``smooth``.

    attack = attacks.pgd(norms.linf, num_steps=10, rel_step_size=0.25,
                         start=attacks.in_ball(norms.linf), bounds=(0.0, 1.0))
    x_adv, info = jax.jit(attack, static_argnums=1)(key, loss_fn, x, y, eps)

An attack sees the model only through ``loss_fn(x, y) -> loss[n]``, so any JAX function
can be attacked; see ``types.Attack`` for the call. Build attacks outside of loops and
jit the outermost function.

Step sizes are relative to ``eps``. ``bounds`` is the range of valid inputs, which must
contain ``x`` (what lies outside is clipped, whatever ``eps``). After each step the
point is projected onto the ball, then clipped, which keeps it in the ball and is the
exact projection onto ball and box for linf only; for l2 it is what the codes of the
papers do. For l1 it is clipped first, and steps go on to the next entry at a wall.
Inputs of half precision are attacked in float32 and rounded at the end.

Attacks are differentiable; to hold the perturbed examples fixed, stop the gradient in
``loss_fn``, as ``objectives`` does.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from advjax import norms
from advjax.norms import Norm
from advjax.types import Array, Attack, AttackInfo, Key, LossFn, example_keys

Start = Callable[[Key, Array, Array], Array]
"""``(key, like, eps[]) -> delta``: where one example's attack starts."""

Climb = Callable[..., tuple[Array, AttackInfo]]
"""``(loss_fn, x[n, ...], y, eps, delta[n, ...] = 0) -> (x_adv, AttackInfo)``."""


def in_ball(norm: Norm) -> Start:
    """Uniform in the ball of radius ``eps``.

    Most of a ball in d dimensions is near its surface: E‖delta‖ = eps d/(d+1) for l2.
    """

    def start(key, like, eps):
        return eps * norm.sample(key, like)

    return start


def radius_uniform(norm: Norm) -> Start:
    """A Gaussian direction at a radius uniform in [0, eps].

    The start of Rice et al. 2020 for l2, which is not uniform in the ball.
    """

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


def _positive_int(name: str, value: int, least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        msg = f"{name} = {value!r}: choose an integer of at least {least}"
        raise ValueError(msg)


def _default_unroll(num_steps: int) -> int:
    # XLA on CPU runs the gradient of a convolution inside a while loop several times
    # slower than outside (jax issue 12868), so loops of usual length are unrolled
    # there; experiments/benchmarks/unroll.py measures it.
    on_cpu = jax.default_backend() == "cpu"
    return num_steps if on_cpu and 1 < num_steps <= 100 else 1


def pgd(
    norm: Norm,
    *,
    num_steps: int,
    rel_step_size: float,
    start: Start | None = None,
    bounds: tuple[Array | float, Array | float] | None = None,
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
            one example, or None.
        keep_best: return, per example, the point of largest loss among the start and
            all iterates, instead of the last. Never weaker, and costs one forward pass
            where the caller would not use ``info.loss``; training protocols keep the
            last.
        unroll: loop steps per iteration, as in ``jax.lax.scan``. By default loops of up
            to 100 steps are unrolled on CPU, where gradients of convolutions are slow
            inside loops, and rolled elsewhere; 1 compiles faster and is the better
            choice for networks of matrix products.

    Returns:
        An attack. A zero gradient makes no step and is flagged; an undefined one gives
        nan, not a weak attack.

    Raises:
        ValueError: for a wrong static argument.
        TypeError: when called with ``x`` of an integer dtype.

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

    def attack(key, loss_fn, x, y, eps):
        delta = None
        if start is not None:
            wide, radii = _wide(x, eps)
            delta = jax.vmap(start)(example_keys(key, len(wide)), wide, radii)
        return climbing(loss_fn, x, y, eps, delta)

    return attack


def climb(
    norm: Norm,
    *,
    num_steps: int,
    rel_step_size: float,
    bounds: tuple[Array | float, Array | float] | None = None,
    keep_best: bool = False,
    unroll: int | None = None,
) -> Climb:
    """``pgd`` from given perturbations, which are admitted to ball and box first.

    To go on where another attack ended, or at another radius. Arguments and errors are
    those of ``pgd``.
    """
    _positive_int("num_steps", num_steps, least=0)
    if rel_step_size < 0:
        msg = f"rel_step_size = {rel_step_size!r}: choose a number of at least 0"
        raise ValueError(msg)
    if unroll is not None:
        _positive_int("unroll", unroll)

    place, admit, step = _moves(norm, rel_step_size, bounds)

    def climbing(loss_fn, x, y, eps, delta=None):
        dtype = jnp.asarray(x).dtype
        x, eps = _wide(x, eps)
        delta = jnp.zeros_like(x) if delta is None else jax.vmap(admit)(x, delta, eps)
        value_and_grad = _per_example_grad(loss_fn, y)

        def at(delta):
            return jax.vmap(place)(x, delta).astype(dtype)

        def body(carry, _):
            delta, best, zero_grad = carry
            loss, g = value_and_grad(at(delta))
            best = best and _better(best, (delta, loss))
            delta = jax.vmap(step)(x, delta, g.astype(x.dtype), eps)
            return (delta, best, zero_grad | _is_zero(g)), None

        best = None
        if keep_best:
            loss_dtype = jax.eval_shape(loss_fn, x.astype(dtype), y).dtype
            best = (delta, jnp.full(len(x), -jnp.inf, loss_dtype))
        carry = (delta, best, jnp.zeros(len(x), bool))
        if num_steps == 1:
            # A loop all the same for XLA, which on CPU takes its convolutions slowly.
            carry, _ = body(carry, None)
        else:
            unrolled = unroll or _default_unroll(num_steps)
            carry, _ = jax.lax.scan(body, carry, length=num_steps, unroll=unrolled)
        delta, best, zero_grad = carry
        last = (delta, loss_fn(at(delta), y))
        delta, loss = _better(best, last) if keep_best else last
        return at(delta), AttackInfo(loss, zero_grad)

    return climbing


def _wide(x: Array, eps: Array | float) -> tuple[Array, Array]:
    """``x`` in float32 at least, and ``eps[n]``, nan where it is negative."""
    x = jnp.asarray(x)
    _check_floating(x)
    # Half precision would round away small steps, and overflow in norms.
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    eps = jnp.broadcast_to(jnp.asarray(eps, x.dtype), x.shape[:1])
    return x, jnp.where(eps < 0, jnp.nan, eps)


def fgsm(
    norm: Norm,
    *,
    rel_step_size: float = 1.0,
    start: Start | None = None,
    bounds: tuple[Array | float, Array | float] | None = None,
) -> Attack:
    """One step of ``pgd``: the fast gradient sign method, or FGM for other norms.

    With ``start=in_ball(linf)`` and ``rel_step_size=1.25`` it is the fast adversarial
    training of Wong et al. 2020. Goodfellow et al., Explaining and harnessing
    adversarial examples, 2015.
    """
    return pgd(
        norm, num_steps=1, rel_step_size=rel_step_size, start=start, bounds=bounds
    )


def best_of(attack: Attack, num_restarts: int) -> Attack:
    """The result of largest loss, per example, among restarts of ``attack``.

    Restart ``j`` folds ``j`` into each example's key, so that more restarts try the
    same points and more, and never return a smaller loss. The restarts run at once
    under ``vmap`` and take as much memory.
    """
    _positive_int("num_restarts", num_restarts)

    def restarted(key, loss_fn, x, y, eps):
        n = x.shape[0]
        keys = example_keys(key, n)

        def restart(j):
            keys_j = jax.vmap(jax.random.fold_in, (0, None))(keys, j)
            return attack(keys_j, loss_fn, x, y, eps)

        results = jax.vmap(restart)(jnp.arange(num_restarts))
        best = jnp.argmax(results[1].loss, axis=0)
        return jax.tree.map(lambda leaf: leaf[best, jnp.arange(n)], results)

    return restarted


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
    where many entries hardly matter, the share of what the attack gains to first order.

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

    def smoothed(key, loss_fn, x, y, eps):
        x_adv, info = attack(key, loss_fn, x, y, eps)
        _, g = _per_example_grad(loss_fn, y)(x)
        factor = jax.vmap(lambda g: norms.surrogate_factor(norm, g, xi))(g)
        x_adv = x + factor * (x_adv - x)
        zero_grad = info.zero_grad | _is_zero(g)
        mean = jax.vmap(_weighted_mean)(factor, jnp.abs(g))
        return x_adv, AttackInfo(loss_fn(x_adv, y), zero_grad, mean)

    return smoothed


def _moves(norm: Norm, rel_step_size: float, bounds) -> tuple[Callable, ...]:
    """What ``pgd`` does to one example: place it in the box, admit and step a delta."""

    def place(x: Array, delta: Array) -> Array:
        return x + delta if bounds is None else jnp.clip(x + delta, *bounds)

    def admit(x: Array, delta: Array, eps: Array) -> Array:
        if norm is norms.l1:
            # Shrinking all entries keeps them in the box, but clipping after it would
            # take radius from the longest that the others have already paid for.
            return norm.project(place(x, delta) - x, eps)
        return place(x, norm.project(delta, eps)) - x

    def step(x: Array, delta: Array, g: Array, eps: Array) -> Array:
        size = rel_step_size * eps
        if norm is norms.l1 and bounds is not None:
            move = _l1_step_in_box(g, x + delta, size, *bounds)
        else:
            move = size * norm.steepest(g)
        return admit(x, delta + move, eps)

    return place, admit, step


def _l1_step_in_box(g: Array, x: Array, size: Array, low: Array, high: Array) -> Array:
    """The steepest step of l1 length ``size`` that stays in the box.

    It fills the steepest entries up to their walls, one after the other. A step of the
    steepest entry alone would push it against its wall for ever.
    """
    room = jnp.ravel(jnp.where(g > 0, high - x, jnp.where(g < 0, x - low, 0)))
    order = jnp.argsort(-jnp.ravel(jnp.abs(g)))
    filled = jnp.cumsum(room[order])
    taken = jnp.clip(size - (filled - room[order]), 0, room[order])
    return jnp.sign(g) * jnp.zeros_like(room).at[order].set(taken).reshape(g.shape)


def _per_example_grad(loss_fn: LossFn, y: Array) -> Callable:
    """``x -> (loss[n], g[n, ...])``, each example's own gradient."""

    def total(x):
        losses = loss_fn(x, y)
        if losses.shape != x.shape[:1]:
            msg = (
                f"loss_fn returned shape {losses.shape} for {x.shape[0]} examples; "
                f"it must return one loss per example, shape {x.shape[:1]}"
            )
            raise ValueError(msg)
        return jnp.sum(losses), losses

    def value_and_grad(x):
        (_, losses), g = jax.value_and_grad(total, has_aux=True)(x)
        return losses, g

    return value_and_grad


def _weighted_mean(values: Array, weights: Array) -> Array:
    """Of one example; without weights if all of them are zero."""
    weights = weights / jnp.maximum(jnp.max(weights), jnp.finfo(weights.dtype).tiny)
    total = jnp.sum(weights)
    mean = jnp.sum(values * weights) / jnp.where(total == 0, 1, total)
    return jnp.where(total == 0, jnp.mean(values), mean)


def _is_zero(g: Array) -> Array:
    return jnp.all(g == 0, axis=tuple(range(1, g.ndim)))


def _better(best: tuple[Array, Array], new: tuple[Array, Array]):
    """Per example the (delta, loss) of larger loss; nan counts as largest and shows."""
    new_wins = ~(new[1] <= best[1]) & ~jnp.isnan(best[1])
    return jax.tree.map(partial(_where, new_wins), new, best)


def _where(condition: Array, a: Array, b: Array) -> Array:
    return jax.vmap(jnp.where)(condition, a, b)


def _check_floating(x: Array) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        msg = f"x has dtype {x.dtype}; convert it to floating point before the attack"
        raise TypeError(msg)
