"""Linear regression under attack: closed forms, population risks and the optimum.

The model is y = θ0ᵀx + noise, x ~ N(0, Σ), noise ~ N(0, σ²), the loss (θᵀx - y)², and
the perturbation maximises that loss over a ball in ``norm``. With r = θᵀx - y and
q = ‖θ‖_* everything is explicit: the attack is eps · sgn(r) · steepest(θ), and the
attacked loss (|r| + eps q)².

    population = linear.Population(theta0, cov=None, sigma=1.0)
    risk = linear.population_risk(theta, norms.l2, population, eps)
    loss = linear.adversarial_loss(theta, norms.l2, x, y, eps)            # exact
    loss = linear.adversarial_loss(theta, norms.l2, x, y, eps, xi=0.1)    # surrogate

With ``xi`` the attack is the surrogate A_{eps,xi} of ``attacks.smooth``, for l2 and
linf: each entry of the exact attack is multiplied by ``norms.surrogate_factor`` of the
clean gradient 2 r θ, which is 2|r|‖θ‖/√(4r²‖θ‖² + xi²) for l2 and
2|r θ_j|/(2|r θ_j| + xi) for linf. At xi = 0 it is the exact attack.

Functions take one data set ``x[n, d], y[n]`` and one ``theta[d]``; ``vmap`` them over
replicates and radii. ``eps[]`` and ``xi[]`` are traced; a negative one gives nan.
Arrays of other shapes raise ValueError.

References: Xing et al., Phase transition from clean training to adversarial training,
2022 (appendix C); Xing et al., On the generalization properties of adversarial
training, 2021 (formulas 5 and 9, Proposition 8).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import arguments, norms
from advjax.norms import Norm
from advjax.types import Array

__all__ = [
    "Optimum",
    "Population",
    "adversarial_gradient",
    "adversarial_loss",
    "generalization_gap",
    "least_squares_variance",
    "optimal",
    "perturb",
    "population_risk",
    "span",
]

_C0 = (2 / jnp.pi) ** 0.5  # E|z| of a standard normal z


class Population(NamedTuple):
    """The law of the data: x ~ N(0, Σ), y = θ0ᵀx + N(0, σ²).

    Attributes:
        theta0: ``[d]``.
        cov: ``[d, d]``, Σ, or None for the identity.
        sigma: ``[]``.
    """

    theta0: Array
    cov: Array | None
    sigma: Array | float


def span(*rows: Array) -> Array:
    """An orthonormal basis ``[d, k]`` of the span of vectors and rows of matrices.

    Under l2 attack, θ, gradients and losses are the same in the coordinates of the span
    of x, θ0 and the start, ``x @ basis`` and ``theta @ basis``: where d is large, a
    faster way to the same numbers. k is d, or the number of rows if that is smaller. A
    covariance other than the identity turns into basisᵀ Σ basis.
    """
    basis, _ = jnp.linalg.qr(jnp.vstack(rows).T)
    return basis


# --- one data set ---


def perturb(
    theta: Array,
    norm: Norm,
    x: Array,
    y: Array,
    eps: Array | float,
    *,
    xi: Array | float | None = None,
) -> Array:
    """The worst case x + eps · sgn(r) · steepest(θ), ``[n, d]``.

    At θ = 0 the loss does not depend on x, and x is returned.

    Args:
        theta: ``[d]``.
        norm: norm of the ball.
        x: ``[n, d]``.
        y: ``[n]``.
        eps: ``[]``, the radius.
        xi: ``[]``, the smoothing of the surrogate attack; None for the exact one.

    Raises:
        ValueError: for arrays of other shapes, and for a surrogate of another norm than
            l2 and linf.
    """
    theta, x, r, eps = _checked(theta, norm, x, y, eps, xi)
    exact = x + eps * jnp.outer(_direction(r), norm.steepest(theta))
    return exact if xi is None else x + _factor(theta, norm, r, xi) * (exact - x)


def adversarial_loss(
    theta: Array,
    norm: Norm,
    x: Array,
    y: Array,
    eps: Array | float,
    *,
    xi: Array | float | None = None,
) -> Array:
    """(|r| + eps ‖θ‖_*)² per example, ``[n]``: the largest loss over the ball.

    With ``xi``, the loss at the surrogate attack: (|r| + eps f ‖θ‖)² for l2 and
    (|r| + eps Σ_j f_j |θ_j|)² for linf, with its factors f. Arguments and errors are
    those of ``perturb``.
    """
    theta, _, r, eps = _checked(theta, norm, x, y, eps, xi)
    return _root_loss(theta, norm, r, eps, xi) ** 2


def adversarial_gradient(
    theta: Array,
    norm: Norm,
    x: Array,
    y: Array,
    eps: Array | float,
    *,
    xi: Array | float | None = None,
) -> Array:
    """The gradient of the mean adversarial loss, ``[d]``.

    (2/n) Σ (|r_i| + eps q) (sgn(r_i) x_i + eps ∂q), with ∂q = steepest(θ): formula C.1.
    The perturbed examples are never formed. At θ = 0, where q has a kink, ∂q = 0.

    With ``xi`` it is the gradient of the mean loss at the frozen surrogate attack,

        (2/n) Σ sgn(r_i) size_i (x_i + eps sgn(r_i) f_i steepest(θ)),

    where size_i is the root of the loss and f_i are the factors. Training with
    A_{eps,xi} descends this, since the perturbation is a constant there; it is not the
    gradient of ``adversarial_loss``. Arguments and errors are those of ``perturb``.
    """
    theta, x, r, eps = _checked(theta, norm, x, y, eps, xi)
    v = norm.steepest(theta)
    if xi is None:
        size = jnp.abs(r) + eps * jnp.dot(theta, v)
        pull = jnp.mean(size)
    else:
        size = _root_loss(theta, norm, r, eps, xi)
        pull = jnp.mean(size[:, None] * _factor(theta, norm, r, xi), axis=0)
    return 2 * ((_direction(r) * size) @ x / r.size + eps * pull * v)


def _checked(
    theta: Array,
    norm: Norm,
    x: Array,
    y: Array,
    eps: Array | float,
    xi: Array | float | None,
) -> tuple[Array, Array, Array, Array]:
    """``theta[d]``, ``x[n, d]``, ``r[n]`` and ``eps[]``, as floats."""
    _check_attack(norm, eps, xi)
    theta, x, y = (arguments.floating(v) for v in (theta, x, y))
    if x.ndim != 2 or theta.shape != x.shape[1:] or y.shape != x.shape[:1]:
        msg = (
            f"shapes theta {theta.shape}, x {x.shape}, y {y.shape}: give theta[d], "
            "x[n, d] and y[n], and vmap over more of them"
        )
        raise ValueError(msg)
    return theta, x, x @ theta - y, _or_nan(eps)


def _check_attack(norm: Norm, eps: Array | float, xi: Array | float | None) -> None:
    norms.check(norm)
    if xi is not None:
        norms.check_surrogate(norm)
    arguments.scalars(eps=eps, xi=0 if xi is None else xi)


def _or_nan(value: Array | float) -> Array:
    return arguments.not_negative(value)


def _direction(r: Array) -> Array:
    """sgn(r) with sgn(0) = 1: at r = 0 both signs are maximisers; 0 is not."""
    return jnp.where(r < 0, -1, 1).astype(r.dtype)


def _root_loss(
    theta: Array, norm: Norm, r: Array, eps: Array, xi: Array | float | None
) -> Array:
    """|r| + eps Σ_j f_j steepest(θ)_j θ_j, ``[n]``."""
    if xi is None:
        reach = norm.dual(theta)
    elif norm is norms.linf:
        reach = _factor(theta, norm, r, xi) @ jnp.abs(theta)
    else:
        reach = _factor(theta, norm, r, xi)[:, 0] * norm.dual(theta)
    return jnp.abs(r) + eps * reach


def _factor(theta: Array, norm: Norm, r: Array, xi: Array | float) -> Array:
    """The surrogate attack's factor for each entry of a perturbation, ``[n, 1 or d]``.

    ``norms.surrogate_factor`` of the clean gradients g = 2 r θ, without forming them.
    """
    xi = _or_nan(xi)
    size = 2 * jnp.abs(r)[:, None]
    if norm is norms.linf:
        part = size * jnp.abs(theta)[None]
        whole = part + xi
    else:
        part = size * norm.dual(theta)
        whole = jnp.hypot(part, jnp.asarray(xi, part.dtype))
    return jnp.where(whole == 0, 1, part / jnp.where(whole == 0, 1, whole))


# --- the population ---


def population_risk(
    theta: Array,
    norm: Norm,
    population: Population,
    eps: Array | float,
    *,
    xi: Array | float | None = None,
) -> Array:
    """E(|r| + eps q)² = s² + eps² q² + 2 c0 eps q s, s² = ‖θ-θ0‖²_Σ + σ², c0 = √(2/π).

    Formula 5 for l2 (q = ‖θ‖₂) and 9 for linf (q = ‖θ‖₁). That Σ is positive
    semi-definite is not checked.

    With ``xi`` it is the mean loss at the surrogate attack, an integral over
    r ~ N(0, s²) by the trapezoidal rule after the substitution |r| = s exp(t - e^-t):
    the integrand varies on the scale xi / ‖θ‖ near r = 0, which Gauss-Hermite nodes
    miss. In double precision the relative error is below 1e-8.

    Args:
        theta: ``[d]``.
        norm: norm of the ball.
        population: the law of the data.
        eps: ``[]``, the radius.
        xi: ``[]``, the smoothing of the surrogate attack; None for the exact one.

    Raises:
        ValueError: for arrays of other shapes, and for a surrogate of another norm than
            l2 and linf.
    """
    _check_attack(norm, eps, xi)
    theta, eps = arguments.floating(theta), _or_nan(eps)
    s = _spread(theta, _checked_population(population, theta.shape))
    if xi is None:
        q = norm.dual(theta)
        return s**2 + (eps * q) ** 2 + 2 * _C0 * eps * q * s
    t = jnp.linspace(*_NODES, dtype=s.dtype)
    z = jnp.exp(t - jnp.exp(-t))
    density = jnp.exp(-(z**2) / 2) * (2 / jnp.pi) ** 0.5
    weights = (t[1] - t[0]) * z * (1 + jnp.exp(-t)) * density
    return weights @ _root_loss(theta, norm, s * z, eps, xi) ** 2


_NODES = (-3.4, 2.4, 64)  # beyond them less than 1e-14 of the integral is left


def _spread(theta: Array, population: Population) -> Array:
    """The standard deviation s of r = θᵀx - y."""
    theta0, cov, sigma = population
    diff = theta - theta0
    variance = diff @ diff if cov is None else diff @ cov @ diff
    return jnp.sqrt(variance + sigma**2)


def _checked_population(population: Population, of_theta: tuple) -> Population:
    """The population in floats, for parameters of a shape."""
    theta0, cov, sigma = population
    theta0, cov = (
        arguments.floating(theta0),
        None if cov is None else arguments.floating(cov),
    )
    of_cov = theta0.shape * 2 if cov is None else cov.shape
    right = theta0.ndim == 1 and theta0.shape == of_theta and np.shape(sigma) == ()
    if not right or of_cov != theta0.shape * 2:
        msg = (
            f"shapes theta {of_theta}, theta0 {theta0.shape}, cov "
            f"{None if cov is None else cov.shape}, sigma {np.shape(sigma)}: give "
            "theta[d], theta0[d], cov[d, d] or None, and sigma[], and vmap over more"
        )
        raise ValueError(msg)
    return Population(theta0, cov, sigma)


class Optimum(NamedTuple):
    """The minimiser ``theta[d]`` and its population ``risk[]``, R*(eps)."""

    theta: Array
    risk: Array


def optimal(norm: Norm, population: Population, eps: Array | float) -> Optimum:
    """The minimiser of the population risk under l2 attack, for any covariance.

    By Proposition 8 it lies on the curve θ(κ) = (Σ + κI)⁻¹ Σ θ0, where stationarity is

        κ = (eps² + eps c0 s/‖θ‖) / (1 + eps c0 ‖θ‖/s).

    The risk is convex, so this has one solution, unless eps ≥ ‖Σθ0‖ / (c0 v) with
    v² = θ0ᵀΣθ0 + σ², where θ* = 0 exactly. Solved by bisection to the last digit.
    The risk is differentiable in all arguments where s > 0; ``theta`` is a constant to
    autodiff. A covariance that is not positive semi-definite gives nan.

    Raises:
        ValueError: for norms other than l2, where Proposition 8 does not hold, and for
            arrays of other shapes than those of ``Population``.
    """
    _check_attack(norm, eps, None)
    if norm is not norms.l2:
        msg = f"norm = {norm!r}: optimal is known in closed form for norms.l2 only"
        raise ValueError(msg)
    population = _checked_population(population, np.shape(population.theta0))
    theta0, cov, sigma = population
    eps = _or_nan(eps)
    cov = jnp.eye(theta0.size, dtype=theta0.dtype) if cov is None else cov
    eigvals, basis = jnp.linalg.eigh(cov)
    # Rounding leaves a singular covariance with eigenvalues slightly below zero.
    rounding = eigvals.size * jnp.finfo(eigvals.dtype).eps * jnp.max(jnp.abs(eigvals))
    eigvals = arguments.nan_where(eigvals < -rounding, jnp.maximum(eigvals, 0))
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
        right = (t * eps**2 + eps * _C0 * s / nu) / (1 + eps * _C0 * t * nu / s)
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
    return Optimum(theta, population_risk(theta, norm, population, eps))


def least_squares_variance(
    n: int, d: int, *, signal: Array | float, sigma: Array | float
) -> Array:
    """E‖θ̂ - Eθ̂‖² of (min-norm) least squares with identity covariance.

    σ² d / (n - d - 1) for d < n - 1, and for d > n + 1, with ``signal`` = ‖θ0‖,

        σ² n / (d - n - 1) + (n/d) (1 - n/d) ‖θ0‖².

    Lemma 1 of Xing et al. 2022 prints the first and, without its last term, the second.

    Raises:
        ValueError: for d within [n - 1, n + 1], where it is infinite.
    """
    n, d = _checked_moments(n, d)
    if d < n:
        return jnp.asarray(sigma) ** 2 * d / (n - d - 1)
    share = n / d
    noise = jnp.asarray(sigma) ** 2 * n / (d - n - 1)
    return noise + share * (1 - share) * jnp.asarray(signal) ** 2


def generalization_gap(
    n: int, d: int, *, signal: Array | float, sigma: Array | float
) -> Array:
    """E∆, the clean test loss less the training loss of (min-norm) least squares.

    σ² d (1/(n - d - 1) + 1/n) for d < n - 1, and for d > n + 1, where the training loss
    is zero, the test loss σ² + (1 - n/d) ‖θ0‖² + σ² n / (d - n - 1). Lemma 2 of Xing et
    al. 2022 prints the first with a minus between its fractions.

    Raises:
        ValueError: for d within [n - 1, n + 1], where it is infinite.
    """
    n, d = _checked_moments(n, d)
    variance = jnp.asarray(sigma) ** 2
    if d < n:
        return variance * d * (1 / (n - d - 1) + 1 / n)
    bias = (1 - n / d) * jnp.asarray(signal) ** 2
    return variance + bias + variance * n / (d - n - 1)


def _checked_moments(n: int, d: int) -> tuple[int, int]:
    n, d = arguments.count("n", n), arguments.count("d", d)
    if abs(n - d) <= 1:
        msg = f"d = {d} is within [n - 1, n + 1], n = {n}: the variance is infinite"
        raise ValueError(msg)
    return n, d
