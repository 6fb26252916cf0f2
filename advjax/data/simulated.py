"""Simulated designs of linear models, and a mixture of two classes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import arguments
from advjax.types import Array, Batch, Key

__all__ = [
    "Separable",
    "equicorrelated",
    "gaussian",
    "separable",
    "sparse_coefficients",
]


def gaussian(
    key: Key,
    num_examples: int,
    theta0: Array,
    cov: Array | None,
    sigma: Array | float,
) -> Batch:
    """Linear data: x ~ N(0, Σ), y = θ0ᵀx + N(0, σ²); ``x[n, d]``, ``y[n]``.

    ``cov[d, d]`` is Σ, positive semi-definite, or None for the identity; with an
    eigenvalue below zero by more than rounding, x and y are nan. All but
    ``num_examples`` may be traced, so replicates and parameters can be vmapped.

    Raises:
        ValueError: for arrays of other shapes than ``theta0[d]``, ``cov[d, d]`` and
            ``sigma[]``.
    """
    num_examples = arguments.count("num_examples", num_examples)
    theta0 = _vector("theta0", theta0)
    arguments.scalars(sigma=sigma)
    key_x, key_noise = jax.random.split(key)
    x = jax.random.normal(key_x, (num_examples, theta0.size), theta0.dtype)
    if cov is not None:
        cov = jnp.asarray(cov)
        if np.shape(cov) != theta0.shape * 2:
            msg = f"shapes theta0 {theta0.shape}, cov {np.shape(cov)}: give cov[d, d]"
            raise ValueError(msg)
        x = x @ _root(cov).T
    noise = jax.random.normal(key_noise, (num_examples,), theta0.dtype)
    return Batch(x, x @ theta0 + sigma * noise)


def _root(cov: Array) -> Array:
    """R with RRᵀ = Σ."""
    eigvals, basis = jnp.linalg.eigh(cov)
    rounding = eigvals.size * jnp.finfo(eigvals.dtype).eps * jnp.max(jnp.abs(eigvals))
    roots = jnp.sqrt(arguments.nan_where(eigvals < -rounding, jnp.maximum(eigvals, 0)))
    return basis * roots[None]


def sparse_coefficients(d: int, *, num_active: int) -> Array:
    """Coefficients θ0: ``num_active`` ones followed by zeros, ``[d]``.

    Raises:
        ValueError: unless 0 ≤ num_active ≤ d.
    """
    d = arguments.count("d", d)
    num_active = arguments.count("num_active", num_active, least=0)
    if not 0 <= num_active <= d:
        msg = f"num_active = {num_active}: choose from 0 to d = {d}"
        raise ValueError(msg)
    return (jnp.arange(d) < num_active).astype(jnp.float32)


def equicorrelated(d: int, rho: float) -> Array:
    """The covariance with unit variances and every correlation ``rho``, ``[d, d]``.

    Blocks of it are joined by ``jax.scipy.linalg.block_diag``.

    Raises:
        ValueError: unless -1/(d-1) < rho < 1, where it is positive definite.
    """
    d = arguments.count("d", d)
    if not (rho < 1 and (d == 1 or rho > -1 / (d - 1))):
        msg = f"rho = {rho}: choose above -1/(d-1) and below 1, where d = {d}"
        raise ValueError(msg)
    return (1 - rho) * jnp.eye(d) + rho * jnp.ones((d, d))


class Separable(NamedTuple):
    """Examples of two classes.

    Attributes:
        x: ``[n, d]``.
        y: ``[n]``, signs.
        is_small: ``[n]``, whether the margin is the small one.
    """

    x: Array
    y: Array
    is_small: Array


def separable(
    key: Key,
    num_examples: int,
    target: Array,
    *,
    small_share: Array | float,
    large: Array | float,
    small: Array | float,
) -> Separable:
    """The separable mixture x = c y w* + ξ, with ξ ~ N(0, I - w* w*ᵀ).

    y is -1 or 1 with equal chance, and c is β with probability μ, else α: w* classifies
    every example with margin c, and no smaller radius of an l2 attack changes that.

    Args:
        key: random key.
        num_examples: n.
        target: w*, ``[d]``, of length 1; with another length margins are others.
        small_share: μ.
        large: α.
        small: β.

    Raises:
        ValueError: for arrays of other shapes than ``target[d]`` and ``[]``.

    Why clean generalization and robust memorization both happen in adversarial
    training, 2023, Section 4.
    """
    num_examples = arguments.count("num_examples", num_examples)
    target = _vector("target", target)
    arguments.scalars(small_share=small_share, large=large, small=small)
    key_y, key_c, key_x = jax.random.split(key, 3)
    n, dtype = num_examples, target.dtype
    y = jax.random.rademacher(key_y, (n,), dtype)
    is_small = jax.random.bernoulli(key_c, small_share, (n,))
    noise = jax.random.normal(key_x, (n, target.size), dtype)
    along = jnp.where(is_small, small, large) * y - noise @ target
    return Separable(noise + jnp.outer(along, target), y, is_small)


def _vector(name: str, value: Any) -> Array:
    value = jnp.asarray(value)
    if value.ndim != 1:
        msg = f"{name} has shape {value.shape}: give a vector, [d], and vmap over more"
        raise ValueError(msg)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(float)
