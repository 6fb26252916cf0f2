"""Flatness of a loss around an example: its largest gradient, and its largest rise.

    slope = flatness.gradient_norm(loss_fn, norms.linf)
    search = flatness.largest(norms.linf, num_steps=10, rel_step_size=0.25)
    peak = search(key, slope, x, y, eps)                        # peak.value[n]
    rise = search(key, loss_fn, x, y, eps).rise                 # [n]

    max ‖∇_x L(f(x + ξ), y)‖_*   and   max L(f(x + ξ), y) - L(f(x), y)   over ‖ξ‖ ≤ eps

with the dual norm ‖·‖_*, l1 for linf. The mean over training examples is called local
flatness and that over test examples global flatness; large values mean a sharp loss.

A search finds a lower bound of the maximum: it climbs from several points and keeps the
largest value that it meets, at the example itself included. ``linear`` and ``logistic``
are the maxima of two models in closed form.

The point of largest loss need not be one that fools the model: for a robust error take
an attack on a ``criteria.Goal``.

Why clean generalization and robust memorization both happen in adversarial training,
2023, Sections 5 and 6.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from advjax import arguments, attacks, criteria, flags, losses, norms, regions
from advjax.arguments import Bounds
from advjax.flags import Flags
from advjax.norms import Norm
from advjax.types import Array, Key, LossFn, example_keys

__all__ = [
    "BoundSearch",
    "Flatness",
    "Peak",
    "Search",
    "gradient_norm",
    "largest",
    "linear",
    "logistic",
    "profile",
]


def gradient_norm(loss_fn: LossFn, norm: Norm) -> LossFn:
    """``(x, y) -> [n]``, ‖∇_x loss‖_* of every example, the dual norm.

    It can be attacked as any loss, by differentiating twice. To first order, an attack
    of radius ``eps`` raises the loss by ``eps`` times this.

    Raises:
        ValueError: for what is no loss, and by the returned function, for a loss that
            is reduced.
    """
    norms.check(norm)
    arguments.functions(loss_fn=loss_fn)

    def measure(x, y):
        g = jax.grad(lambda x: jnp.sum(criteria.judge(loss_fn, x, y).loss))(x)
        return jax.vmap(norm.dual)(arguments.single(g))

    return measure


class Peak(NamedTuple):
    """The largest value that was found around each example.

    Attributes:
        value: ``[n]``, at least ``centre``.
        centre: ``[n]``, the value at the example.
        delta: ``[n, ...]``, where it was found, in float32 at least; the example plus
            it is within ball and box.
        flags: of the climbs. The gradient counts as vanished where it did so on every
            climb, and as undefined where it was so on any.
    """

    value: Array
    centre: Array
    delta: Array
    flags: Flags

    @property
    def rise(self) -> Array:
        """``value - centre``, ``[n]``, at least 0."""
        return self.value - self.centre


class Search(Protocol):
    """A search for the largest value of a measure within balls."""

    def __call__(
        self,
        key: Key,
        measure: LossFn,
        x: Array,
        y: Any,
        eps: Array | float,
        /,
        *deltas: Array,
    ) -> Peak:
        """Searches around every example of a batch.

        Args:
            key: one key, or ``[n]`` keys.
            measure: any ``LossFn``; of a ``criteria.Goal`` the loss counts.
            x: ``[n, ...]``.
            y: as ``measure`` takes it.
            eps: radius, as of ``types.Attack``; a negative one gives nan.
            *deltas: ``[n, ...]`` each, where to start, in place of the example itself.
        """


class BoundSearch(Protocol):
    """A ``Search`` whose measure is given, as ``profile`` takes it."""

    def __call__(
        self, key: Key, x: Array, y: Any, eps: Array | float, /, *deltas: Array
    ) -> Peak:
        """``Search`` without its ``measure``."""


def largest(
    norm: Norm,
    *,
    num_steps: int,
    rel_step_size: float,
    num_starts: int = 1,
    bounds: Bounds | None = None,
) -> Search:
    """Searches for the largest value of a measure in balls.

    PGD ascent of the measure from ``num_starts`` points uniform in the ball, and from
    the given ``deltas``, or from the example itself if there are none; the largest
    value of all is kept, per example. With ``peak.delta`` of a smaller ball the result
    is not below that of the smaller ball. Random starts of one key are the same at
    every radius, but for their length.

    Args:
        norm: of the ball.
        num_steps: as of ``attacks.pgd``.
        rel_step_size: as of ``attacks.pgd``.
        num_starts: at least 0.
        bounds: as of ``attacks.pgd``; None for the whole ball.

    Returns:
        ``(key, measure, x, y, eps, *deltas) -> Peak``. All climbs run at once under
        ``vmap``.

    Raises:
        ValueError: as ``attacks.pgd``, and for a negative number of starts.
    """
    num_starts = arguments.count("num_starts", num_starts, least=0)
    climb = attacks.climb(
        norm,
        num_steps=num_steps,
        rel_step_size=rel_step_size,
        bounds=bounds,
        keep_best=True,
    )

    def search(key, measure, x, y, eps, *deltas):
        arguments.functions(loss_fn=measure)
        x, wide = jnp.asarray(x), regions.promoted(x)
        starts = [*(deltas or (jnp.zeros_like(wide),)), *draws(key, x, eps)]

        def climbed(delta):
            # Of a goal, the loss alone.
            x_adv, info = climb(lambda x, y: measure(x, y), x, y, eps, delta)
            return info.loss, regions.promoted(x_adv) - wide, flags.of(info)

        values, ends, found = jax.vmap(climbed)(jnp.stack(starts))
        centre = measure(x, y)
        # The centre is first, so that ties stay there.
        values = jnp.concatenate([centre[None], values])
        ends = jnp.concatenate([jnp.zeros_like(wide)[None], ends])
        best, rows = jnp.argmax(values, axis=0), jnp.arange(len(x))
        value = values[best, rows]
        found = Flags(
            jnp.all(found.zero_grad, axis=0),
            jnp.any(found.undefined, axis=0) | jnp.isnan(value),
            None if found.outside is None else jnp.any(found.outside, axis=0),
        )
        return Peak(value, centre, ends[best, rows], found)

    def draws(key, x, eps):
        start, keys = attacks.in_ball(norm), example_keys(key, len(x))
        fold = jax.vmap(jax.random.fold_in, (0, None))
        return [attacks.starts(fold(keys, j), start, x, eps) for j in range(num_starts)]

    return search


def profile(
    search: BoundSearch, key: Key, x: Array, y: Any, radii: Sequence[float] | Array
) -> Peak:
    """Peaks over increasing radii; each search also starts from the previous peak.

    So values do not decrease, as the maxima do not. A Python loop over the radii: jit
    the search, not this.

    Args:
        search: of ``largest`` with its measure given, such as
            ``lambda key, *rest: search(key, measure, *rest)``.
        key: one key, or ``[n]`` keys; random starts are the same at every radius, but
            for their length.
        x: ``[n, ...]``.
        y: as the measure takes it.
        radii: ``[t]``, increasing.

    Returns:
        Peaks ``[t, n]``.

    Raises:
        ValueError: for no radii, and for known ones that fall somewhere.
    """
    if not len(radii):
        msg = "there are no radii: give at least one"
        raise ValueError(msg)
    known = arguments.is_known(radii)
    if known and not np.all(np.diff(np.asarray(radii), axis=0) >= 0):
        msg = f"radii = {radii!r}: give them in increasing order"
        raise ValueError(msg)
    peaks: list[Peak] = []
    for eps in radii:
        last = peaks[-1] if peaks else None
        start = last.delta if last else jnp.zeros_like(regions.promoted(x))
        peak = search(key, x, y, eps, start)
        # Evaluated once more, the same point may differ by rounding.
        peaks.append(_larger(last, peak) if last else peak)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *peaks)


def _larger(old: Peak, new: Peak) -> Peak:
    """The larger of two peaks, with the flags of the new search."""
    old_wins = old.value > new.value
    larger = jax.tree.map(
        lambda one, other: jax.vmap(jnp.where)(old_wins, one, other), old, new
    )
    return larger._replace(flags=new.flags)


# --- two models in closed form ---


class Flatness(NamedTuple):
    """Both maxima over the ball of radius ``eps``, exact, ``[n]``."""

    gradient_norm: Array
    rise: Array


def linear(
    theta: Array, norm: Norm, x: Array, y: Array, eps: Array | float
) -> Flatness:
    """The maxima for the squared error (θᵀx - y)², ``theta[d]``, ``x[n, d]``, ``y[n]``.

    With r = θᵀx - y and s = ‖θ‖_*: 2 s (|r| + eps s), and (|r| + eps s)² - r². A
    negative ``eps`` gives nan.
    """
    theta, x, y = (arguments.single(each) for each in (theta, x, y))
    eps = _radius(norm, x, y, eps)
    r, s = x @ theta - y, norm.dual(theta)
    return Flatness(
        2 * s * (jnp.abs(r) + eps * s), eps * s * (2 * jnp.abs(r) + eps * s)
    )


def logistic(
    theta: Array, norm: Norm, x: Array, y: Array, eps: Array | float
) -> Flatness:
    """The maxima for log(1 + exp(-y θᵀx)), ``theta[d]``, ``x[n, d]``, signs ``y[n]``.

    With u = -y θᵀx, s = ‖θ‖_*: s σ(u + eps s), and softplus(u + eps s) - softplus(u). A
    negative ``eps``, or a label that is neither -1 nor 1, gives nan.
    """
    theta, x = arguments.single(theta), arguments.single(x)
    eps = _radius(norm, x, y, eps)
    u, s = -losses.signs(y, theta.dtype) * (x @ theta), norm.dual(theta)
    a = eps * s
    # A difference of two softplus would lose its digits where they are large; the
    # exponential overflows where a is.
    small = jnp.log1p(jax.nn.sigmoid(u) * jnp.expm1(jnp.minimum(a, 80)))
    large = jax.nn.softplus(u + a) - jax.nn.softplus(u)
    return Flatness(s * jax.nn.sigmoid(u + a), jnp.where(a < 80, small, large))


def _radius(norm: Norm, x: Array, y: Array, eps: Array | float) -> Array:
    norms.check(norm)
    arguments.per_example(x, y=y)
    return arguments.not_negative(eps)
