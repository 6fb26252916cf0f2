"""Eigenpairs, traces and spectral densities of matrices known by their products.

    matvec = hessians.hvp(loss, x)                        # ∇²loss(x) v, never n×n
    eigs = spectrum.top_eigs(num_matvecs=20, num_eigs=3)
    values, vectors, residuals = eigs(key, matvec, x)

A matrix is a ``hessians.Matvec``, a function that takes a pytree to one of the same
structure and is linear and symmetric. Nothing of the size of the matrix is ever formed;
Lanczos keeps its basis, ``num_matvecs`` vectors.

Called on its own, a loop over products is dispatched from Python, which suits large
networks everywhere and is the fast way for convolutions on CPU. Under ``jit`` or
``vmap``, as for the input Hessians of a batch, all but the first product are in one
``lax.scan``. On accelerators the products of the matrix itself are of jax's default
precision; those of Lanczos are of the highest.
"""

from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from advjax import arguments, norms
from advjax.hessians import Matvec
from advjax.types import Array, Key, Params

__all__ = [
    "Density",
    "DensityEstimator",
    "Eigenpairs",
    "Eigs",
    "Smoothed",
    "Trace",
    "TraceEstimator",
    "density",
    "smoothed",
    "top_eigs",
    "trace",
]


class Eigenpairs(NamedTuple):
    """Approximate eigenpairs, ``k`` of them.

    Attributes:
        values: ``[k]``.
        vectors: pytree with a leading axis of ``k``, of unit norm and orthogonal.
        residuals: ``[k]``, ‖A v - λ v‖, measured by a product each. An exactly
            symmetric A has an eigenvalue at most that far from each value.
    """

    values: Array
    vectors: Params
    residuals: Array


class Eigs(Protocol):
    """Finds extreme eigenpairs."""

    def __call__(self, key: Key, matvec: Matvec, like: Params, /) -> Eigenpairs:
        """``like`` has the structure of a vector; nan where a product is not finite.

        Raises:
            ValueError: if there are more products than dimensions, or for vectors that
                are not of single precision at least.
        """


_ORDER = {
    "largest": lambda values: -values,
    "smallest": lambda values: values,
    "magnitude": lambda values: -jnp.abs(values),
}


def top_eigs(*, num_matvecs: int, num_eigs: int, which: str = "largest") -> Eigs:
    """Extreme eigenpairs by Lanczos, with full reorthogonalisation.

    By ``num_matvecs`` products, and one for the residual of each pair. A repeated
    eigenvalue is found once; only with ``num_matvecs`` equal to the dimension are all
    copies found.

    Args:
        num_matvecs: steps, and vectors kept. Twice to four times ``num_eigs`` for
            values that stand out; the residuals tell whether it was enough.
        num_eigs: eigenpairs to return.
        which: "largest" algebraically, "smallest", or largest in "magnitude"; the first
            in this order comes first.

    Returns:
        ``(key, matvec, like) -> Eigenpairs``.

    Raises:
        ValueError: for a wrong argument.
    """
    num_matvecs = arguments.count("num_matvecs", num_matvecs)
    num_eigs = arguments.count("num_eigs", num_eigs)
    if num_eigs > num_matvecs:
        msg = f"num_eigs = {num_eigs}: choose at most num_matvecs = {num_matvecs}"
        raise ValueError(msg)
    if which not in _ORDER:
        msg = f"which = {which!r}: choose from {', '.join(_ORDER)}"
        raise ValueError(msg)

    def eigs(key, matvec, like):
        found, unravel = _lanczos(key, matvec, like, num_matvecs)
        values, vectors = _ritz(found, which, num_eigs)

        def residual(carry, i):
            product = ravel_pytree(matvec(unravel(vectors[i])))[0]
            return carry, norms.l2.value(product - values[i] * vectors[i])

        _, residuals = _repeat(residual, (), num_eigs)
        return Eigenpairs(values, jax.vmap(unravel)(vectors), residuals)

    return eigs


class Trace(NamedTuple):
    """An estimate of a trace.

    Attributes:
        value: ``[]``.
        standard_error: ``[]``, nan for a single sample.
    """

    value: Array
    standard_error: Array


class TraceEstimator(Protocol):
    """Estimates the trace of a matrix."""

    def __call__(self, key: Key, matvec: Matvec, like: Params, /) -> Trace:
        """``like`` has the structure of a vector, in single precision at least."""


def trace(*, num_samples: int) -> TraceEstimator:
    """The trace, as the mean of vᵀ A v over random signs v (Hutchinson 1990).

    Its variance is 2 Σ over i ≠ j of A_ij², over ``num_samples``: none for a diagonal
    matrix.

    Returns:
        ``(key, matvec, like) -> Trace``, by ``num_samples`` products.

    Raises:
        ValueError: for fewer than one sample.
    """
    num_samples = arguments.count("num_samples", num_samples)

    def estimate(key, matvec, like):
        flat, unravel = _flat(like)

        def sample(carry, i):
            signs = jax.random.rademacher(
                jax.random.fold_in(key, i), flat.shape, flat.dtype
            )
            product = ravel_pytree(matvec(unravel(signs)))[0]
            return carry, jnp.vdot(signs, product, precision=_HIGHEST)

        _, values = _repeat(sample, (), num_samples)
        return Trace(jnp.mean(values), _standard_error(values))

    return estimate


class Density(NamedTuple):
    """A spectral density as points and their weights.

    Attributes:
        nodes: ``[s, m]``, from each of ``s`` random starts.
        weights: ``[s, m]``, of sum 1 in each row.
    """

    nodes: Array
    weights: Array


class DensityEstimator(Protocol):
    """Estimates the spectral density of a matrix."""

    def __call__(self, key: Key, matvec: Matvec, like: Params, /) -> Density:
        """``like`` has the structure of a vector.

        Raises:
            ValueError: as ``Eigs``.
        """


def density(*, num_matvecs: int, num_samples: int) -> DensityEstimator:
    """The density of eigenvalues, by stochastic Lanczos quadrature.

    Σ weights f(nodes) estimates tr f(A)/d, in each row with ``num_matvecs`` products
    and exactly in expectation for polynomials f of degree up to 2 num_matvecs - 1.

    Returns:
        ``(key, matvec, like) -> Density``; ``smoothed`` turns it into a curve.

    Raises:
        ValueError: for counts below one.

    Golub and Welsch 1969; Ghorbani et al., An investigation into neural net
    optimization via Hessian eigenvalue density, 2019.
    """
    num_matvecs = arguments.count("num_matvecs", num_matvecs)
    num_samples = arguments.count("num_samples", num_samples)

    def quadrature(key, matvec, like):
        def sample(carry, i):
            key_i = jax.random.fold_in(key, i)
            found, _ = _lanczos(key_i, matvec, like, num_matvecs)
            return carry, Density(*_quadrature(found))

        return _repeat(sample, (), num_samples)[1]

    return quadrature


class Smoothed(NamedTuple):
    """A smoothed density.

    Attributes:
        value: ``[g]``.
        standard_error: ``[g]``, nan for a single sample.
    """

    value: Array
    standard_error: Array


def smoothed(density: Density, grid: Array, width: Array | float) -> Smoothed:
    """The density with every point spread to a Gaussian.

    Args:
        density: from ``s`` random starts.
        grid: ``[g]``, where to evaluate it.
        width: ``[]``, standard deviation of the Gaussians; unless it is positive, the
            result is nan.

    Raises:
        ValueError: for a grid of another shape.
    """
    grid = jnp.asarray(grid)
    if grid.ndim != 1 or np.ndim(width) != 0:
        msg = (
            f"shapes grid {grid.shape}, width {np.shape(width)}: give grid[g], width[]"
        )
        raise ValueError(msg)
    width = arguments.nan_where(jnp.asarray(width) <= 0, width).astype(grid.dtype)

    def curve(nodes, weights):
        z = (grid[:, None] - nodes[None]) / width
        return jnp.exp(-0.5 * z**2) @ weights / (width * (2 * jnp.pi) ** 0.5)

    curves = jax.vmap(curve)(*density)
    return Smoothed(jnp.mean(curves, axis=0), _standard_error(curves))


def _standard_error(values: Array) -> Array:
    """The standard error of the mean over the first axis."""
    n = len(values)
    if n < 2:
        return jnp.full(values.shape[1:], jnp.nan, values.dtype)
    return jnp.std(values, axis=0, ddof=1) / n**0.5


# --- Lanczos ---


class _Krylov(NamedTuple):
    """A Q ≈ Q T for the tridiagonal T, after some steps.

    Attributes:
        basis: ``[m + 1, d]``, orthonormal rows, zero where not reached.
        diagonal: ``[m]`` of T.
        off_diagonal: ``[m]``; the last one is the coupling to the row after the last.
    """

    basis: Array
    diagonal: Array
    off_diagonal: Array


_HIGHEST = jax.lax.Precision.HIGHEST


def _flat(like):
    """``ravel_pytree``, for arrays that keep the digits of a vector."""
    for leaf in jax.tree.leaves(like):
        dtype = jnp.result_type(leaf)
        if dtype not in (jnp.float32, jnp.float64):
            msg = (
                f"like has an array of {dtype}: vectors take its dtype; choose float32 "
                "or float64, and cast inside matvec"
            )
            raise ValueError(msg)
    return ravel_pytree(like)


def _lanczos(key, matvec, like, num_matvecs):
    flat, unravel = _flat(like)
    if num_matvecs > flat.size:
        msg = (
            f"num_matvecs = {num_matvecs}: a matrix of {flat.size} dimensions is known "
            "after as many products; choose at most that"
        )
        raise ValueError(msg)
    krylov = _start(key, flat, num_matvecs)

    def step(krylov, i):
        product = ravel_pytree(matvec(unravel(krylov.basis[i])))[0]
        return _extended(jax.random.fold_in(key, i), krylov, i, product), None

    krylov, _ = _repeat(step, krylov, num_matvecs)
    return krylov, unravel


@partial(jax.jit, static_argnums=2)
def _start(key, flat, num_matvecs):
    first = jax.random.normal(jax.random.fold_in(key, num_matvecs), flat.shape)
    first = first.astype(flat.dtype)
    basis = jnp.zeros((num_matvecs + 1, flat.size), flat.dtype)
    zeros = jnp.zeros(num_matvecs, flat.dtype)
    return _Krylov(basis.at[0].set(first / jnp.linalg.norm(first)), zeros, zeros)


@partial(jax.jit, donate_argnums=1)
def _extended(key, krylov, i, product):
    """One step: the i-th row of T and the next row of the basis."""
    basis, diagonal, off_diagonal = krylov
    diagonal = diagonal.at[i].set(jnp.vdot(basis[i], product, precision=_HIGHEST))
    rest = _orthogonal(basis, product)
    # Squares of small Hessians underflow, and of large ones overflow.
    norm = norms.l2.value(rest)
    scale = jnp.maximum(jnp.max(jnp.abs(diagonal)), jnp.max(jnp.abs(off_diagonal)))

    def restart():
        # The rows span an invariant subspace: go on in a new direction.
        new = jax.random.normal(key, product.shape).astype(product.dtype)
        new = _orthogonal(basis, new)
        return new / jnp.linalg.norm(new), jnp.zeros_like(norm)

    is_invariant = norm <= 10 * jnp.finfo(norm.dtype).eps * scale
    length = jnp.where(norm == 0, 1, norm)
    following, norm = jax.lax.cond(is_invariant, restart, lambda: (rest / length, norm))
    off_diagonal = off_diagonal.at[i].set(norm)
    return _Krylov(basis.at[i + 1].set(following), diagonal, off_diagonal)


def _orthogonal(basis, vector):
    """The part orthogonal to all rows; twice, since once leaves rounding."""
    for _ in range(2):
        components = jnp.matmul(basis, vector, precision=_HIGHEST)
        vector = vector - jnp.matmul(components, basis, precision=_HIGHEST)
    return vector


def _eigh(krylov):
    couplings = krylov.off_diagonal[:-1]
    tridiagonal = jnp.diag(krylov.diagonal)
    tridiagonal += jnp.diag(couplings, 1) + jnp.diag(couplings, -1)
    return jnp.linalg.eigh(tridiagonal)


@partial(jax.jit, static_argnums=(1, 2))
def _ritz(krylov, which, num_eigs):
    values, rotation = _eigh(krylov)
    chosen = jnp.argsort(_ORDER[which](values))[:num_eigs]
    rows = rotation[:, chosen].T
    return values[chosen], jnp.matmul(rows, krylov.basis[:-1], precision=_HIGHEST)


@jax.jit
def _quadrature(krylov):
    values, rotation = _eigh(krylov)
    return values, rotation[0] ** 2


def _repeat(body, carry, length):
    """``body`` over ``range(length)`` from Python, or all but 0 in a scan if traced."""
    carry, first = body(carry, 0)
    if length == 1:
        return carry, jax.tree.map(lambda leaf: leaf[None], first)
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((carry, first))):
        later = jnp.arange(1, length)
        carry, rest = jax.lax.scan(body, carry, later)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
        return carry, both
    results = [first]
    for i in range(1, length):
        carry, result = body(carry, i)
        results.append(result)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)
