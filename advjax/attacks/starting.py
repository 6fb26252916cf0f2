"""Where an attack begins: in the ball, at a random radius, or near the input."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from advjax import norms, regions
from advjax.norms import Norm
from advjax.types import Array, Key, example_keys

__all__ = ["Start", "check_start", "gaussian", "in_ball", "radius_uniform", "starts"]


class Start(Protocol):
    """Where an attack begins."""

    def __call__(self, key: Key, like: Array, eps: Array, /) -> Array:
        """``delta``, in the shape and dtype of ``like``, for one example.

        Args:
            key: the example's own.
            like: one example.
            eps: ``[]``, the radius; the largest one where features have their own.
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


def check_start(start: Any) -> None:
    """Raises ValueError unless ``start`` is a start, or None."""
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
