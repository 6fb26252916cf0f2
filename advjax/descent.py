"""Full-batch gradient and proximal-gradient descent with a constant step size.

    update = descent.step(gradient, 0.1)                        # θ ← θ - η ∇(θ)
    update = descent.step(gradient, 0.1, prox=descent.lasso(0.01))
    values = descent.path(theta, update, num_steps=100, observe=params_loss)

``gradient`` and ``params_loss`` are functions of the parameters alone, an array or any
pytree; close over the data, and ``vmap`` outside. Minibatches and optimisers are in
``train``.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from advjax import arguments, norms
from advjax.types import Array, Params

__all__ = ["Prox", "Update", "lasso", "last", "path", "step"]


class Update(Protocol):
    """One step of descent."""

    def __call__(self, params: Params, /) -> Params:
        """``params -> params``, in the same structure, shapes and dtypes."""


class Prox(Protocol):
    """A proximal operator."""

    def __call__(self, params: Params, step_size: Array | float, /) -> Params:
        """``(params, η) -> argmin over p of ‖p - params‖²/2 + η · penalty(p)``."""


def step(
    gradient: Callable[[Params], Params],
    step_size: Array | float,
    *,
    prox: Prox | None = None,
) -> Update:
    """One step θ ← θ - η ∇(θ), then θ ← prox(θ, η) if there is one."""

    def update(params):
        direction = gradient(params)
        moved = jax.tree.map(lambda p, g: p - step_size * g, params, direction)
        return moved if prox is None else prox(moved, step_size)

    return update


def lasso(penalty: Array | float) -> Prox:
    """The proximal operator of λ‖θ‖₁: entries within ηλ of zero become exactly zero.

    A negative penalty gives nan.
    """
    strength = arguments.not_negative(penalty)

    def prox(params, step_size):
        threshold = step_size * strength
        return jax.tree.map(lambda p: norms.soft_threshold(p, threshold), params)

    return prox


def last(params: Params, update: Update, *, num_steps: int) -> Params:
    """The parameters after ``num_steps`` updates; nothing else is kept in memory.

    Raises:
        ValueError: unless ``num_steps`` is an integer of at least 0.
    """
    num_steps = arguments.count("num_steps", num_steps, least=0)
    return jax.lax.fori_loop(0, num_steps, lambda _, p: update(p), params)


def path(
    params: Params,
    update: Update,
    *,
    num_steps: int,
    observe: Callable[[Params], Any] = lambda params: params,
) -> Any:
    """``observe(params)`` before each update and after the last, ``[num_steps + 1]``.

    Args:
        params: the start.
        update: see ``step``.
        num_steps: number of updates.
        observe: ``params -> pytree`` to keep for each iterate, such as a loss; the
            parameters themselves by default.

    Returns:
        The observations, with time as the leading axis of every array.

    Raises:
        ValueError: unless ``num_steps`` is an integer of at least 0.

    Example:
        >>> from advjax import descent
        >>> halve = descent.step(lambda theta: theta, 0.5)
        >>> descent.path(jnp.float32(8), halve, num_steps=3)
        Array([8., 4., 2., 1.], dtype=float32)
    """
    num_steps = arguments.count("num_steps", num_steps, least=0)

    def body(params, _):
        return update(params), observe(params)

    final, kept = jax.lax.scan(body, params, length=num_steps)
    return jax.tree.map(
        lambda rows, row: jnp.concatenate([rows, jnp.asarray(row)[None]]),
        kept,
        observe(final),
    )
