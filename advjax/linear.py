"""Linear regression under attack: closed forms, population risks and the optimum.

The model is y = θ0ᵀx + noise, x ~ N(0, Σ), noise ~ N(0, σ²), the loss (θᵀx - y)², and
the perturbation maximises that loss over a ball in ``norm``. With r = θᵀx - y and
q = ‖θ‖_* everything is explicit: the attack is eps · sgn(r) · steepest(θ), and the
attacked loss (|r| + eps q)².

Functions take one data set ``x[n, d], y[n]`` and one ``theta[d]``; ``vmap`` them over
replicates and radii. ``eps`` and ``xi`` are traced.

References: Xing et al., Phase transition from clean training to adversarial training,
2022 (appendix C); Xing et al., On the generalization properties of adversarial
training, 2021 (formulas 5 and 9, Proposition 8).

A negative ``eps`` or ``xi`` gives nan.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from advjax import norms
from advjax.norms import Norm
from advjax.types import Array

C0 = (2 / jnp.pi) ** 0.5
"""E|z| of a standard normal z."""


def span(*rows: Array) -> Array:
    """An orthonormal basis ``[d, k]`` of the span of vectors and rows of matrices.

    Under l2 attack, θ, gradients and losses are the same in the coordinates of the span
    of x, θ0 and the start, ``x @ basis`` and ``theta @ basis``: where d is large, a
    faster way to the same numbers. k is d, or the number of rows if that is smaller. A
    covariance other than the identity turns into basisᵀ Σ basis.
    """
    basis, _ = jnp.linalg.qr(jnp.vstack(rows).T)
    return basis


def _residual(theta: Array, x: Array, y: Array) -> Array:
    chex.assert_rank([theta, x, y], [1, 2, 1])
    return x @ theta - y


def _radius(eps: Array) -> Array:
    return jnp.where(jnp.asarray(eps) < 0, jnp.nan, eps)


def _direction(r: Array) -> Array:
    """sgn(r) with sgn(0) = 1: at r = 0 both signs are maximisers, and 0 is none."""
    return jnp.where(r < 0, -1, 1).astype(r.dtype)


def perturb(theta: Array, x: Array, y: Array, eps: Array, norm: Norm) -> Array:
    """The exact worst case x + eps · sgn(r) · steepest(θ), ``[n, d]``.

    At θ = 0 the loss does not depend on x, and x is returned.
    """
    r = _residual(theta, x, y)
    return x + _radius(eps) * jnp.outer(_direction(r), norm.steepest(theta))


def adversarial_loss(theta: Array, x: Array, y: Array, eps: Array, norm: Norm) -> Array:
    """(|r| + eps ‖θ‖_*)² per example, ``[n]``: the largest loss over the ball."""
    r = _residual(theta, x, y)
    return (jnp.abs(r) + _radius(eps) * norm.dual(theta)) ** 2


def adversarial_gradient(
    theta: Array, x: Array, y: Array, eps: Array, norm: Norm
) -> Array:
    """The gradient of the mean adversarial loss, ``[d]``.

    (2/n) Σ (|r_i| + eps q) (sgn(r_i) x_i + eps ∂q), with ∂q = steepest(θ): formula C.1.
    The perturbed examples are never formed. At θ = 0, where q has a kink, ∂q = 0.
    """
    r, eps = _residual(theta, x, y), _radius(eps)
    v = norm.steepest(theta)
    size = jnp.abs(r) + eps * jnp.dot(theta, v)
    return 2 * ((_direction(r) * size) @ x / r.size + eps * jnp.mean(size) * v)


def _shrinkage(theta: Array, r: Array, norm: Norm, xi: Array) -> Array:
    """What A_{eps,xi} multiplies each entry of a perturbation by, ``[n, 1 or d]``.

    ``norms.surrogate_factor`` of the clean gradients g = 2 r θ, without forming them.
    """
    norms.check_surrogate(norm)
    xi = jnp.where(jnp.asarray(xi) < 0, jnp.nan, xi)
    size = 2 * jnp.abs(r)[:, None]
    if norm is norms.linf:
        part = size * jnp.abs(theta)[None]
        whole = part + xi
    else:
        part = size * norm.dual(theta)
        whole = jnp.hypot(part, jnp.asarray(xi, part.dtype))
    return jnp.where(whole == 0, 1, part / jnp.where(whole == 0, 1, whole))


def _surrogate_size(theta: Array, r: Array, eps: Array, norm: Norm, xi: Array) -> Array:
    """|r| + eps Σ_j f_j steepest(θ)_j θ_j, ``[n]``."""
    factor = _shrinkage(theta, r, norm, xi)
    if norm is norms.linf:
        reach = factor @ jnp.abs(theta)
    else:
        reach = factor[:, 0] * norm.dual(theta)
    return jnp.abs(r) + _radius(eps) * reach


def surrogate_perturb(
    theta: Array, x: Array, y: Array, eps: Array, norm: Norm, xi: Array
) -> Array:
    """The surrogate attack of ``attacks.smooth`` in closed form, ``[n, d]``.

    The clean gradient is g = 2 r θ, which makes the factors 2|r|‖θ‖/√(4r²‖θ‖² + xi²)
    for l2, and 2|r θ_j|/(2|r θ_j| + xi) per entry for linf.
    """
    factor = _shrinkage(theta, _residual(theta, x, y), norm, xi)
    return x + factor * (perturb(theta, x, y, eps, norm) - x)


def surrogate_loss(
    theta: Array, x: Array, y: Array, eps: Array, norm: Norm, xi: Array
) -> Array:
    """The loss at the surrogate attack, ``[n]``; at xi = 0 the adversarial loss.

    (|r| + eps Σ_j f_j |θ_j|)² for linf and (|r| + eps f ‖θ‖)² for l2, with the factors
    f of ``surrogate_perturb``.
    """
    return _surrogate_size(theta, _residual(theta, x, y), eps, norm, xi) ** 2


def surrogate_gradient(
    theta: Array, x: Array, y: Array, eps: Array, norm: Norm, xi: Array
) -> Array:
    """The gradient of the mean loss at the frozen surrogate attack, ``[d]``.

    (2/n) Σ sgn(r_i) size_i (x_i + eps sgn(r_i) f_i steepest(θ)), size_i the root of the
    surrogate loss. This is what training with A_{eps,xi} descends, since the
    perturbation counts as a constant; it is not the gradient of the surrogate loss. At
    xi = 0 it equals ``adversarial_gradient``.
    """
    r, eps = _residual(theta, x, y), _radius(eps)
    size = _surrogate_size(theta, r, eps, norm, xi)
    pull = jnp.mean(size[:, None] * _shrinkage(theta, r, norm, xi), axis=0)
    return 2 * ((_direction(r) * size) @ x / r.size + eps * pull * norm.steepest(theta))


def _spread(theta: Array, theta0: Array, cov: Array | None, sigma: Array) -> Array:
    """The standard deviation s of r = θᵀx - y."""
    diff = theta - theta0
    variance = diff @ diff if cov is None else diff @ cov @ diff
    return jnp.sqrt(variance + sigma**2)


def population_risk(
    theta: Array,
    theta0: Array,
    cov: Array | None,
    sigma: Array,
    eps: Array,
    norm: Norm,
) -> Array:
    """E(|r| + eps q)² = s² + eps² q² + 2 c0 eps q s, s² = ‖θ-θ0‖²_Σ + σ², c0 = √(2/π).

    Formula 5 for l2 (q = ‖θ‖₂) and 9 for linf (q = ‖θ‖₁). ``cov[d, d]`` is Σ, or None
    for the identity; that it is positive semi-definite is not checked.
    """
    s = _spread(theta, theta0, cov, sigma)
    eps, q = _radius(eps), norm.dual(theta)
    return s**2 + (eps * q) ** 2 + 2 * C0 * eps * q * s


def surrogate_risk(
    theta: Array,
    theta0: Array,
    cov: Array | None,
    sigma: Array,
    eps: Array,
    norm: Norm,
    xi: Array,
) -> Array:
    """The population mean of ``surrogate_loss``; at xi = 0 ``population_risk``.

    An integral over r ~ N(0, s²), by the trapezoidal rule after the substitution
    |r| = s exp(t - e^-t): the integrand varies on the scale xi / ‖θ‖ near r = 0, which
    Gauss-Hermite nodes miss. In double precision the relative error is below 1e-8.
    """
    s = _spread(theta, theta0, cov, sigma)
    t = jnp.linspace(*_NODES, dtype=s.dtype)
    z = jnp.exp(t - jnp.exp(-t))
    density = jnp.exp(-(z**2) / 2) * (2 / jnp.pi) ** 0.5
    weights = (t[1] - t[0]) * z * (1 + jnp.exp(-t)) * density
    return weights @ _surrogate_size(theta, s * z, eps, norm, xi) ** 2


_NODES = (-3.4, 2.4, 64)  # beyond them less than 1e-14 of the integral is left


class Optimum(NamedTuple):
    """``theta[d]`` and the population ``risk[]``, R*(eps)."""

    theta: Array
    risk: Array


def optimal(
    theta0: Array, cov: Array | None, sigma: Array, eps: Array, norm: Norm
) -> Optimum:
    """The minimiser of the population risk under l2 attack, for any covariance.

    By Proposition 8 it lies on the curve θ(κ) = (Σ + κI)⁻¹ Σ θ0, where stationarity is

        κ = (eps² + eps c0 s/‖θ‖) / (1 + eps c0 ‖θ‖/s).

    The risk is convex, so this has one solution, unless eps ≥ ‖Σθ0‖ / (c0 v) with
    v² = θ0ᵀΣθ0 + σ², where θ* = 0 exactly. Solved by bisection to the last digit.
    The risk is differentiable in all arguments where s > 0; ``theta`` is a constant to
    autodiff. A covariance that is not positive semi-definite gives nan.

    Raises:
        ValueError: for norms other than l2, where Proposition 8 does not hold.
    """
    if norm is not norms.l2:
        msg = "optimal is known in closed form for norms.l2 only"
        raise ValueError(msg)
    eps = _radius(eps)
    cov = jnp.eye(theta0.size, dtype=theta0.dtype) if cov is None else cov
    eigvals, basis = jnp.linalg.eigh(cov)
    # Rounding leaves a singular covariance with eigenvalues slightly below zero.
    rounding = eigvals.size * jnp.finfo(eigvals.dtype).eps * jnp.max(jnp.abs(eigvals))
    eigvals = jnp.where(eigvals < -rounding, jnp.nan, jnp.maximum(eigvals, 0))
    target = basis.T @ theta0
    scale = jnp.maximum(jnp.mean(eigvals), jnp.finfo(eigvals.dtype).tiny)

    def direction(t):
        # With κ = scale · (1-t)/t, θ = t · direction(t), so that t in [0, 1] runs from
        # θ = 0 to θ0 and nothing is singular at either end.
        shrunk = eigvals * t + scale * (1 - t)
        return eigvals * target / jnp.where(shrunk == 0, 1, shrunk)

    def excess(t):
        # t times the difference of the two sides of the stationarity condition.
        nu = norms.l2.value(direction(t))
        s = jnp.sqrt(jnp.sum(eigvals * (t * direction(t) - target) ** 2) + sigma**2)
        right = (t * eps**2 + eps * C0 * s / nu) / (1 + eps * C0 * t * nu / s)
        return scale * (1 - t) - right

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        below = excess(middle) > 0
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    dtype = jnp.result_type(theta0, cov)
    num_halvings = jnp.finfo(dtype).nmant + 10
    zero, one = jnp.zeros((), dtype), jnp.ones((), dtype)
    low, _ = jax.lax.fori_loop(0, num_halvings, halve, (zero, one))
    t = jnp.where(eps == 0, 1, jnp.where(excess(zero) > 0, low, 0))
    theta = jax.lax.stop_gradient(basis @ (t * direction(t)))
    return Optimum(theta, population_risk(theta, theta0, cov, sigma, eps, norm))


def least_squares_variance(n: int, d: int, signal: Array, sigma: Array) -> Array:
    """E‖θ̂ - Eθ̂‖² of (min-norm) least squares with identity covariance.

    σ² d / (n - d - 1) for d < n - 1, and for d > n + 1, with ``signal`` = ‖θ0‖,

        σ² n / (d - n - 1) + (n/d) (1 - n/d) ‖θ0‖².

    Lemma 1 of Xing et al. 2022 prints the first and, without its last term, the second.

    Raises:
        ValueError: for d within [n - 1, n + 1], where it is infinite.
    """
    _check_moments(n, d)
    if d < n:
        return jnp.asarray(sigma) ** 2 * d / (n - d - 1)
    share = n / d
    noise = jnp.asarray(sigma) ** 2 * n / (d - n - 1)
    return noise + share * (1 - share) * jnp.asarray(signal) ** 2


def generalization_gap(n: int, d: int, signal: Array, sigma: Array) -> Array:
    """E∆, the clean test loss less the training loss of (min-norm) least squares.

    σ² d (1/(n - d - 1) + 1/n) for d < n - 1, and for d > n + 1, where the training loss
    is zero, the test loss σ² + (1 - n/d) ‖θ0‖² + σ² n / (d - n - 1). Lemma 2 of Xing et
    al. 2022 prints the first with a minus between its fractions.

    Raises:
        ValueError: for d within [n - 1, n + 1], where it is infinite.
    """
    _check_moments(n, d)
    variance = jnp.asarray(sigma) ** 2
    if d < n:
        return variance * d * (1 / (n - d - 1) + 1 / n)
    bias = (1 - n / d) * jnp.asarray(signal) ** 2
    return variance + bias + variance * n / (d - n - 1)


def _check_moments(n: int, d: int) -> None:
    if abs(n - d) <= 1:
        msg = f"d = {d} is within [n - 1, n + 1], n = {n}: the variance is infinite"
        raise ValueError(msg)
