"""How flat a loss is around an example: its largest gradient, and how far it rises.

    measure = flatness.gradient_norm(loss_fn, norms.linf)
    search = flatness.largest(norms.linf, num_steps=10, rel_step_size=0.25)
    peak = search(key, measure, x, y, eps)                      # peak.value[n]
    rise = search(key, loss_fn, x, y, eps).rise                 # [n]

    max ‖∇_x L(f(x + ξ), y)‖_*   and   max L(f(x + ξ), y) - L(f(x), y)   over ‖ξ‖ ≤ eps

with the dual norm ‖·‖_*, l1 for linf. The mean over training examples is called local
flatness and that over test examples global flatness; large values mean a sharp loss.

What a search finds is a lower bound of the maximum: it climbs from several points and
keeps the best of everything that it meets, the example itself included. ``linear`` and
``logistic`` are the maxima of two models in closed form.

Why clean generalization and robust memorization both happen in adversarial training,
2023, Sections 5 and 6.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax import attacks
from advjax.norms import Norm
from advjax.types import Array, Key, LossFn, example_keys


def gradient_norm(loss_fn: LossFn, norm: Norm) -> LossFn:
    """``(x, y) -> [n]``, ‖∇_x loss‖_* of every example, the dual norm.

    It can be attacked as any loss, by differentiating twice. To first order
    ``eps`` times it is how far an attack of radius ``eps`` raises the loss.
    """

    def measure(x, y):
        g = jax.grad(lambda x: jnp.sum(loss_fn(x, y)))(x)
        return jax.vmap(norm.dual)(g)

    return measure


class Peak(NamedTuple):
    """The largest value that was found around each example.

    Attributes:
        value: ``[n]``, at least ``centre``.
        centre: ``[n]``, the value at the example.
        delta: like ``x``, where it was found, within ball and box.
    """

    value: Array
    centre: Array
    delta: Array

    @property
    def rise(self) -> Array:
        """``value - centre``, ``[n]``, at least 0."""
        return self.value - self.centre


Search = Callable[..., Peak]
"""``(key, measure, x[n, ...], y, eps, *deltas[n, ...]) -> Peak``."""


def largest(
    norm: Norm,
    *,
    num_steps: int,
    rel_step_size: float,
    num_starts: int = 1,
    bounds: tuple[Array | float, Array | float] | None = None,
    unroll: int | None = None,
) -> Search:
    """Searches for the largest value of a measure in balls.

    PGD ascent of the measure from ``num_starts`` points uniform in the ball, and from
    the ``deltas`` that are given, or from the example itself if none are; the best
    point of all is kept, per example. With ``peak.delta`` of a smaller ball the result
    is not below that of the smaller ball. Random starts of one key are the same at
    every radius, but for their length.

    Args:
        norm: of the ball.
        num_steps: as of ``attacks.pgd``.
        rel_step_size: as of ``attacks.pgd``.
        num_starts: at least 0.
        bounds: of valid inputs, which must contain ``x``; None for the whole ball.
        unroll: as of ``attacks.pgd``.

    Returns:
        ``(key, measure, x, y, eps, *deltas) -> Peak``, where ``measure`` is any
        ``LossFn`` and ``eps`` is ``[]`` or ``[n]``. All climbs run at once under
        ``vmap``. A negative radius gives nan.

    Raises:
        ValueError: as ``attacks.pgd``, and for a negative number of starts.
    """
    if not isinstance(num_starts, int) or num_starts < 0:
        msg = f"num_starts = {num_starts!r}: choose an integer of at least 0"
        raise ValueError(msg)
    climb = attacks.climb(
        norm,
        num_steps=num_steps,
        rel_step_size=rel_step_size,
        bounds=bounds,
        keep_best=True,
        unroll=unroll,
    )

    def search(key, measure, x, y, eps, *deltas):
        starts = [*(deltas or (jnp.zeros_like(x),)), *draws(key, x, eps)]

        def climbed(delta):
            x_adv, info = climb(measure, x, y, eps, delta)
            return info.loss, x_adv - x

        values, ends = jax.vmap(climbed)(jnp.stack(starts))
        centre = measure(x, y)
        # The centre is first, so that ties stay there.
        values = jnp.concatenate([centre[None], values])
        ends = jnp.concatenate([jnp.zeros_like(x)[None], ends])
        best, rows = jnp.argmax(values, axis=0), jnp.arange(len(x))
        return Peak(values[best, rows], centre, ends[best, rows])

    def draws(key, x, eps):
        start = jax.vmap(attacks.in_ball(norm))
        radii = jnp.broadcast_to(jnp.asarray(eps, x.dtype), x.shape[:1])
        keys = example_keys(key, len(x))
        fold = jax.vmap(jax.random.fold_in, (0, None))
        return [start(fold(keys, j), x, radii) for j in range(num_starts)]

    return search


def profile(
    search: Search,
    key: Key,
    measure: LossFn,
    x: Array,
    y: Any,
    radii: Sequence[float] | Array,
) -> Peak:
    """Peaks over increasing radii, ``[t, n]``, each sought from the one before too.

    So values do not decrease, as the maxima do not. A Python loop over the radii: jit
    the search, with ``measure`` static or closed over, not this.

    Args:
        search: of ``largest``.
        key: one key, or ``[n]`` keys; random starts are the same at every radius, but
            for their length.
        measure: what is measured.
        x: ``[n, ...]``.
        y: as ``measure`` takes it.
        radii: ``[t]``; a sequence of numbers is checked to increase.

    Raises:
        ValueError: for a sequence of radii that falls somewhere.
    """
    if isinstance(radii, Sequence) and list(radii) != sorted(radii):
        msg = f"radii = {radii!r}: give them in increasing order"
        raise ValueError(msg)
    peaks = []
    for eps in radii:
        last = peaks[-1] if peaks else None
        start = last.delta if last else jnp.zeros_like(x)
        peak = search(key, measure, x, y, eps, start)
        # Evaluated once more, the same point may differ by rounding.
        peaks.append(_larger(last, peak) if last else peak)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *peaks)


def _larger(a: Peak, b: Peak) -> Peak:
    a_wins = a.value > b.value
    return jax.tree.map(
        lambda one, other: jax.vmap(jnp.where)(a_wins, one, other), a, b
    )


# --- two models in closed form ---


class Flatness(NamedTuple):
    """Both maxima over the ball of radius ``eps``, exact, ``[n]``."""

    gradient_norm: Array
    rise: Array


def linear(
    theta: Array, x: Array, y: Array, eps: Array | float, norm: Norm
) -> Flatness:
    """Of the squared error (θᵀx - y)² of ``theta[d]`` at ``x[n, d]``, ``y[n]``.

    With r = θᵀx - y and s = ‖θ‖_*: 2 s (|r| + eps s), and (|r| + eps s)² - r².
    """
    r, s = x @ theta - y, norm.dual(theta)
    return Flatness(
        2 * s * (jnp.abs(r) + eps * s), eps * s * (2 * jnp.abs(r) + eps * s)
    )


def logistic(
    theta: Array, x: Array, y: Array, eps: Array | float, norm: Norm
) -> Flatness:
    """Of log(1 + exp(-y θᵀx)) of ``theta[d]`` at ``x[n, d]``, signs ``y[n]``.

    With u = -y θᵀx, s = ‖θ‖_*: s σ(u + eps s), and softplus(u + eps s) - softplus(u).
    """
    u, s = -y * (x @ theta), norm.dual(theta)
    gradient = s * jax.nn.sigmoid(u + eps * s)
    return Flatness(gradient, jax.nn.softplus(u + eps * s) - jax.nn.softplus(u))
