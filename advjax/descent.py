"""Full-batch descent in the fixed steps of the theory, plain and proximal.

    update = descent.step(gradient, 0.1)                        # θ ← θ - η ∇(θ)
    update = descent.step(gradient, 0.1, prox=descent.lasso(0.01))
    losses = descent.path(update, theta, num_steps=100, observe=loss)

``gradient`` and ``loss`` are functions of the parameters alone, an array or any pytree;
close over the data, and ``vmap`` outside. Minibatches and optimisers are in ``train``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from advjax import norms
from advjax.types import Array, Params

Update = Callable[[Params], Params]
Prox = Callable[[Params, Array | float], Params]


def step(
    gradient: Callable[[Params], Params],
    step_size: Array | float,
    prox: Prox | None = None,
) -> Update:
    """One step θ ← θ - η ∇(θ), then θ ← prox(θ, η) if there is one."""

    def update(params):
        direction = gradient(params)
        moved = jax.tree.map(lambda p, g: p - step_size * g, params, direction)
        return moved if prox is None else prox(moved, step_size)

    return update


def lasso(penalty: Array | float) -> Prox:
    """The proximal operator of λ‖θ‖₁: entries within ηλ of zero become exactly zero."""

    def prox(params, step_size):
        threshold = step_size * penalty
        return jax.tree.map(lambda p: norms.soft_threshold(p, threshold), params)

    return prox


def last(update: Update, params: Params, *, num_steps: int) -> Params:
    """The parameters after ``num_steps`` updates; nothing else is kept in memory."""
    return jax.lax.fori_loop(0, num_steps, lambda _, p: update(p), params)


def path(
    update: Update,
    params: Params,
    *,
    num_steps: int,
    observe: Callable[[Params], Any] = lambda params: params,
) -> Any:
    """``observe(params)`` before each update and after the last, ``[num_steps + 1]``.

    Args:
        update: see ``step``.
        params: the start.
        num_steps: how many updates.
        observe: what to keep of each iterate, such as a loss; all of it by default.

    Returns:
        What ``observe`` returns, with time as the leading axis of every array.

    Example:
        >>> from advjax import descent
        >>> halve = descent.step(lambda theta: theta, 0.5)
        >>> descent.path(halve, jnp.float32(8), num_steps=3)
        Array([8., 4., 2., 1.], dtype=float32)
    """

    def body(params, _):
        return update(params), observe(params)

    final, kept = jax.lax.scan(body, params, length=num_steps)
    return jax.tree.map(
        lambda rows, row: jnp.concatenate([rows, jnp.asarray(row)[None]]),
        kept,
        observe(final),
    )
