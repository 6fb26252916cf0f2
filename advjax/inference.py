"""p-values of one training run against replicates of another kind of training.

The null hypothesis is that the run and the replicates have one distribution. ``vmap``
over runs; the replicates come from ``vmap`` over data sets.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc
from jax.typing import ArrayLike

from advjax import arguments
from advjax.types import Array

__all__ = ["p_value", "rank_p_value"]


def p_value(observed: ArrayLike, replicates: ArrayLike) -> Array:
    """Hotelling's test that ``observed`` is one more draw of the replicates.

    With m and S the replicates' mean and covariance and D² = (o-m)ᵀ S⁻¹ (o-m),

        F = D² · r/(r+1) · (r-d)/(d (r-1))

    has the F(d, r-d) law if the draws are normal: exact at any number of replicates,
    where comparing D² with chi²(d) is its limit for large r. A scalar (``d = 1``) gives
    the two-sided t-test with r-1 degrees of freedom.

    Args:
        observed: parameters of any shape, of d entries in all, or ``[]`` a loss.
        replicates: ``[r, ...]`` of that shape.

    Returns:
        The p-value ``[]``; nan where the covariance is singular.

    Raises:
        ValueError: for fewer than d + 2 replicates, which determine no covariance, or
            another shape of ``observed`` than of a replicate.

    Hotelling, The generalization of Student's ratio, 1931.
    """
    observed, replicates = _checked(observed, replicates)
    r, d = len(replicates), observed.size
    replicates = replicates.reshape(r, d)
    if r < d + 2:
        msg = f"{r} replicates of dimension {d}: at least {d + 2} are needed"
        raise ValueError(msg)
    mean = jnp.mean(replicates, axis=0)
    centred = replicates - mean[None]
    cov = centred.T @ centred / (r - 1)
    diff = jnp.ravel(observed) - mean
    root = jnp.linalg.cholesky(cov)
    whitened = jax.scipy.linalg.solve_triangular(root, diff, lower=True)
    f = jnp.sum(whitened**2) * r / (r + 1) * (r - d) / (d * (r - 1))
    # The survival function of F(d, r-d) through the incomplete beta function.
    return betainc((r - d) / 2, d / 2, (r - d) / (r - d + d * f))


def rank_p_value(observed: ArrayLike, replicates: ArrayLike) -> Array:
    """Two-sided p-value of a scalar by its rank among the replicates, ``[]``.

    min(1, 2 · (1 + smaller of #{≤ observed} and #{≥ observed}) / (r + 1)): valid for
    any distribution, never below 2/(r + 1). nan where a value is nan.

    Args:
        observed: ``[]``.
        replicates: ``[r]``.

    Raises:
        ValueError: for arrays of other shapes.
    """
    observed, replicates = _checked(observed, replicates)
    if observed.ndim != 0:
        msg = f"observed has shape {observed.shape}: give one number, and vmap"
        raise ValueError(msg)
    r = len(replicates)
    smaller = jnp.minimum(
        jnp.sum(replicates <= observed), jnp.sum(replicates >= observed)
    )
    undefined = jnp.isnan(observed) | jnp.any(jnp.isnan(replicates))
    return arguments.nan_where(undefined, jnp.minimum(1.0, 2 * (1 + smaller) / (r + 1)))


def _checked(observed: ArrayLike, replicates: ArrayLike) -> tuple[Array, Array]:
    observed, replicates = jnp.asarray(observed), jnp.asarray(replicates)
    if replicates.ndim == 0 or replicates.shape[1:] != observed.shape:
        msg = (
            f"shapes observed {observed.shape}, replicates {replicates.shape}: give "
            "replicates[r, ...] of the shape of observed, and vmap over runs"
        )
        raise ValueError(msg)
    return observed, replicates
