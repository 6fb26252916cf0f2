"""p-values of one training run against replicates of another kind of training.

The null hypothesis is that the run and the replicates have one distribution. ``vmap``
over runs; the replicates come from ``vmap`` over data sets.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc

from advjax.types import Array


def p_value(observed: Array, replicates: Array) -> Array:
    """Hotelling's test that ``observed`` is one more draw of the replicates.

    With m and S the replicates' mean and covariance and D² = (o-m)ᵀ S⁻¹ (o-m),

        F = D² · r/(r+1) · (r-d)/(d (r-1))

    has the F(d, r-d) law if the draws are normal: exact at any number of replicates,
    where comparing D² with chi²(d) is its limit for large r. A scalar (``d = 1``) gives
    the two-sided t-test with r-1 degrees of freedom.

    Args:
        observed: ``[d]`` parameters, or ``[]`` a loss.
        replicates: ``[r, d]``, or ``[r]``.

    Returns:
        The p-value ``[]``; nan where the covariance is singular.

    Raises:
        ValueError: for fewer than d + 2 replicates, which determine no covariance, or
            another dimension of ``observed``.

    Hotelling, The generalization of Student's ratio, 1931.
    """
    r = replicates.shape[0]
    replicates = replicates.reshape(r, -1)
    d = replicates.shape[1]
    if r < d + 2:
        msg = f"{r} replicates of dimension {d}: at least {d + 2} are needed"
        raise ValueError(msg)
    if jnp.size(observed) != d:
        msg = f"observed has {jnp.size(observed)} entries, the replicates have {d}"
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


def rank_p_value(observed: Array, replicates: Array) -> Array:
    """Two-sided p-value of a scalar by its rank among the replicates, ``[]``.

    min(1, 2 · (1 + smaller of #{≤ observed} and #{≥ observed}) / (r + 1)): valid for
    any distribution, never below 2/(r + 1).
    """
    r = replicates.shape[0]
    smaller = jnp.minimum(
        jnp.sum(replicates <= observed), jnp.sum(replicates >= observed)
    )
    undefined = jnp.isnan(observed) | jnp.any(jnp.isnan(replicates))
    return jnp.where(undefined, jnp.nan, jnp.minimum(1.0, 2 * (1 + smaller) / (r + 1)))
