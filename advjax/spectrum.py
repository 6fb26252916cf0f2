"""Eigenpairs, traces and spectral densities of matrices known by their products.

    loss = lambda x: losses.cross_entropy(predict(x[None])[0], label)
    matvec = spectrum.hvp(loss, x)                        # ∇²loss(x) v, never n×n
    values, vectors, residuals = spectrum.top_eigs(20, 3)(key, matvec, x)

A matrix is a ``matvec``, a function that takes a pytree to one of the same structure
and is linear and symmetric: a Hessian or a Gauss-Newton matrix, with respect to one
input or to all parameters, of one batch or of a data set in parts. Nothing of the size
of the matrix is ever formed; Lanczos keeps its basis, ``num_matvecs`` vectors.

Called on its own, a loop over products is dispatched from Python, which suits large
networks everywhere and is the fast way for convolutions on CPU. Under ``jit`` or
``vmap``, as for the input Hessians of a batch, all but the first product are in one
``lax.scan``. On accelerators the products of the matrix itself are of jax's default
precision, which ``jax_default_matmul_precision`` changes; those of Lanczos are of the
highest.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from advjax.types import Array, Key, Params

Matvec = Callable[[Params], Params]
"""``v -> A v`` for symmetric A, on pytrees of one structure."""


# --- products ---


def hvp(f: Callable[[Params], Array], x: Params) -> Matvec:
    """Products with the Hessian of ``f`` at ``x``, forward over reverse.

    Args:
        f: ``x -> []``.
        x: the point, any pytree.

    Raises:
        ValueError: if ``f`` is not scalar.
    """
    _check_scalar(f, x)
    compiled = jax.jit(lambda x, v: jax.jvp(jax.grad(f), (x,), (v,))[1])
    return lambda v: compiled(x, v)


def gauss_newton(
    predict: Callable[[Params], Params], loss: Callable[[Params], Array], x: Params
) -> Matvec:
    """Products with Jᵀ H J: the Hessian of ``loss(predict(x))`` less that of predict.

    J is the Jacobian of ``predict`` at ``x``, H the Hessian of ``loss`` at its value.
    For a convex loss it is positive semi-definite. It is the Hessian where ``predict``
    is linear, as ReLU networks are in their input where no gate changes: there it is
    the H_x = W̃ H_z W̃ᵀ of Cheng et al. 2024.

    Args:
        predict: ``x -> outputs``.
        loss: ``outputs -> []``.
        x: the point, any pytree.

    Raises:
        ValueError: if ``loss`` is not scalar.
    """
    _check_scalar(lambda x: loss(predict(x)), x)

    @jax.jit
    def compiled(x, v):
        outputs, tangent = jax.jvp(predict, (x,), (v,))
        curved = jax.jvp(jax.grad(loss), (outputs,), (tangent,))[1]
        return jax.vjp(predict, x)[1](curved)[0]

    return lambda v: compiled(x, v)


def dataset_hvp(
    loss_fn: Callable[[Params, Array, Array], Array],
    params: Params,
    x: Array,
    y: Array,
    *,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> Matvec:
    """Products with the Hessian of the mean loss over a data set, batch after batch.

    Args:
        loss_fn: ``(params, x[b, ...], y[b, ...]) -> loss[b]``.
        params: the point.
        x: ``[n, ...]``; on the host it is brought to the device in parts, so that the
            memory needed there does not depend on n.
        y: ``[n, ...]``.
        batch_size: examples at once, all by default; the result does not depend on it.
        mesh: devices that share a batch, which is filled up to a multiple of their
            number. Wherever ``params`` and vectors are, they are brought to all.

    Returns:
        A matvec that is compiled already, not to be jitted.

    Raises:
        ValueError: for a wrong batch size, for ``x`` and ``y`` of different lengths or
            losses of another shape, and where the loss of an example depends on the
            others of its batch, as with batch normalisation in training mode, unless
            the batch is all examples and nothing else.
    """
    n = len(y)

    def product(params, v, x, y, counts):
        def share(params):
            return jnp.sum(_losses(loss_fn, params, x, y), where=counts) / n

        return hvp(share, params)(v)

    return _over_batches(loss_fn, product, params, x, y, batch_size, mesh)


def dataset_gauss_newton(
    predict: Callable[[Params, Array], Array],
    loss: Callable[[Array, Array], Array],
    params: Params,
    x: Array,
    y: Array,
    *,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> Matvec:
    """As ``dataset_hvp``, with the Gauss-Newton matrix.

    Args:
        predict: ``(params, x[b, ...]) -> outputs[b, ...]``.
        loss: ``(outputs[b, ...], y[b, ...]) -> loss[b]``.
        params: the point.
        x: ``[n, ...]``.
        y: ``[n, ...]``.
        batch_size: examples at once.
        mesh: devices that share a batch.

    Raises:
        ValueError: as ``dataset_hvp``.
    """
    n = len(y)

    def loss_fn(params, x, y):
        return loss(predict(params, x), y)

    def product(params, v, x, y, counts):
        def share(outputs):
            return jnp.sum(loss(outputs, y), where=counts) / n

        return gauss_newton(lambda params: predict(params, x), share, params)(v)

    return _over_batches(loss_fn, product, params, x, y, batch_size, mesh)


def _over_batches(loss_fn, product, params, x, y, batch_size, mesh) -> Matvec:
    n = len(y)
    if len(x) != n:
        msg = f"x has {len(x)} examples and y {n}; make them equal"
        raise ValueError(msg)
    size = n if batch_size is None else batch_size
    if not 1 <= size <= n:
        msg = f"batch_size = {batch_size}: choose from 1 to the {n} examples"
        raise ValueError(msg)
    num_devices = mesh.size if mesh else 1
    size = -(-size // num_devices) * num_devices
    if size != n:
        _check_independent(loss_fn, params, x, y, size)
    place, share = _placements(mesh)
    params = share(params)

    @jax.jit
    def accumulate(total, params, v, x, y, counts):
        return jax.tree.map(jnp.add, total, product(params, v, x, y, counts))

    def matvec(v):
        v = share(v)
        total = jax.tree.map(jnp.zeros_like, v)
        for first in range(0, n, size):
            # The last batch is filled up with examples that do not count.
            rows = np.arange(first, first + size)
            counts, rows = rows < n, np.minimum(rows, n - 1)
            batch = jax.tree.map(place, (x[rows], y[rows], counts))
            total = accumulate(total, params, v, *batch)
        return total

    return matvec


def _placements(mesh: Mesh | None) -> tuple[Callable, Callable]:
    """What puts a batch's array on the devices, and a tree on every one of them."""
    if mesh is None:
        return jnp.asarray, lambda tree: tree
    divided = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    whole = NamedSharding(mesh, PartitionSpec())
    return partial(jax.device_put, device=divided), partial(
        jax.device_put, device=whole
    )


def _losses(loss_fn, params, x, y):
    losses = loss_fn(params, x, y)
    if losses.shape != y.shape[:1]:
        msg = (
            f"loss_fn returned shape {losses.shape} for {y.shape[0]} examples; it must "
            f"return one loss per example, shape {y.shape[:1]}"
        )
        raise ValueError(msg)
    return losses


def _check_independent(loss_fn, params, x, y, size) -> None:
    """The losses of a batch must be what they are among other examples."""
    n, compiled = len(y), jax.jit(partial(_losses, loss_fn))

    def among(number):
        rows = np.minimum(np.arange(number), n - 1)
        return np.asarray(compiled(params, jnp.asarray(x[rows]), jnp.asarray(y[rows])))

    few, many = (losses[: min(size, n)] for losses in map(among, (size, 2 * size)))
    if size > n:
        many = among(n)
    # Relative to the losses, which at a point that fits them may all be small.
    tolerance = float(jnp.finfo(few.dtype).eps) ** 0.5 * np.abs(many).max()
    if not np.allclose(few, many, rtol=0, atol=tolerance, equal_nan=True):
        msg = (
            f"batches of {size}: the loss of an example depends on the others in its "
            "batch, as with batch normalisation in training mode; take the evaluation "
            f"mode, or all {n} examples at once on devices that they divide into"
        )
        raise ValueError(msg)


def _check_scalar(f, x) -> None:
    out = jax.eval_shape(f, x)
    if getattr(out, "shape", None) != ():
        shapes = jax.tree.map(lambda leaf: leaf.shape, out)
        msg = f"the function returned shape {shapes}; its Hessian needs a scalar"
        raise ValueError(msg)


# --- what the products tell ---


class Eigenpairs(NamedTuple):
    """Approximate eigenpairs, ``k`` of them.

    Attributes:
        values: ``[k]``.
        vectors: pytree with a leading axis of ``k``, of unit norm and orthogonal.
        residuals: ``[k]``, ‖A v - λ v‖, measured by a product each. Of an exactly
            symmetric A there is an eigenvalue at most that far from each value.
    """

    values: Array
    vectors: Params
    residuals: Array


_ORDER = {
    "largest": lambda values: -values,
    "smallest": lambda values: values,
    "magnitude": lambda values: -jnp.abs(values),
}


def top_eigs(
    num_matvecs: int, num_eigs: int, *, which: str = "largest", unroll: int = 1
) -> Callable[[Key, Matvec, Params], Eigenpairs]:
    """Extreme eigenpairs by Lanczos, with full reorthogonalisation.

    By ``num_matvecs`` products, and one for the residual of each pair. An eigenvalue of
    multiplicity is found once, unless ``num_matvecs`` reaches the dimension of what the
    others span; at the dimension all are found.

    Args:
        num_matvecs: steps, and vectors kept. Twice to four times ``num_eigs`` for
            values that stand out; the residuals tell whether it was enough.
        num_eigs: eigenpairs to return.
        which: "largest" algebraically, "smallest", or largest in "magnitude"; the first
            in this order comes first.
        unroll: as of ``lax.scan``, where the loop is one; ``num_matvecs`` for
            convolutional networks on CPU.

    Returns:
        ``(key, matvec, like) -> Eigenpairs``, where ``like`` has the structure of a
        vector. nan where a product is not finite.

    Raises:
        ValueError: for a wrong argument, in the call also if there are more products
            than dimensions, or for vectors that are not of single precision at least.
    """
    _check_counts(num_matvecs=num_matvecs, num_eigs=num_eigs)
    if num_eigs > num_matvecs:
        msg = f"num_eigs = {num_eigs}: choose at most num_matvecs = {num_matvecs}"
        raise ValueError(msg)
    if which not in _ORDER:
        msg = f"which = {which!r}: choose from {', '.join(_ORDER)}"
        raise ValueError(msg)

    def eigs(key, matvec, like):
        found, unravel = _lanczos(key, matvec, like, num_matvecs, unroll)
        values, vectors = _ritz(found, which, num_eigs)

        def residual(carry, i):
            product = ravel_pytree(matvec(unravel(vectors[i])))[0]
            return carry, jnp.linalg.norm(product - values[i] * vectors[i])

        _, residuals = _repeat(residual, (), num_eigs, unroll)
        return Eigenpairs(values, jax.vmap(unravel)(vectors), residuals)

    return eigs


class Trace(NamedTuple):
    """An estimate of a trace, ``[]``, and its standard error, nan of one sample."""

    value: Array
    standard_error: Array


def trace(
    num_samples: int, *, unroll: int = 1
) -> Callable[[Key, Matvec, Params], Trace]:
    """The trace, as the mean of vᵀ A v over random signs v (Hutchinson 1990).

    Its variance is 2 Σ over i ≠ j of A_ij², over ``num_samples``: none for a diagonal
    matrix.

    Returns:
        ``(key, matvec, like) -> Trace``, by ``num_samples`` products.

    Raises:
        ValueError: for fewer than one sample.
    """
    _check_counts(num_samples=num_samples)

    def estimate(key, matvec, like):
        flat, unravel = _flat(like)

        def sample(carry, i):
            signs = jax.random.rademacher(
                jax.random.fold_in(key, i), flat.shape, flat.dtype
            )
            product = ravel_pytree(matvec(unravel(signs)))[0]
            return carry, jnp.vdot(signs, product, precision=_HIGHEST)

        _, values = _repeat(sample, (), num_samples, unroll)
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


def density(
    num_matvecs: int, num_samples: int, *, unroll: int = 1
) -> Callable[[Key, Matvec, Params], Density]:
    """The density of eigenvalues, by stochastic Lanczos quadrature.

    Σ weights f(nodes) estimates tr f(A)/d, in each row with ``num_matvecs`` products
    and exactly in expectation for polynomials f of degree up to 2 num_matvecs - 1.

    Returns:
        ``(key, matvec, like) -> Density``; ``smoothed`` makes a curve of it.

    Raises:
        ValueError: for counts below one, in the call also if there are more products
            than dimensions.

    Golub and Welsch 1969; Ghorbani et al., An investigation into neural net
    optimization via Hessian eigenvalue density, 2019.
    """
    _check_counts(num_matvecs=num_matvecs, num_samples=num_samples)

    def quadrature(key, matvec, like):
        def sample(carry, i):
            key_i = jax.random.fold_in(key, i)
            found, _ = _lanczos(key_i, matvec, like, num_matvecs, unroll)
            return carry, Density(*_quadrature(found))

        return _repeat(sample, (), num_samples, 1)[1]

    return quadrature


def smoothed(density: Density, grid: Array, width: float) -> tuple[Array, Array]:
    """The density with every point spread to a Gaussian, and its standard error.

    Args:
        density: of ``s`` samples.
        grid: ``[g]``, where to evaluate it.
        width: standard deviation of the Gaussians.

    Returns:
        ``[g]`` and ``[g]``, the second nan for one sample.
    """

    def curve(nodes, weights):
        z = (grid[:, None] - nodes[None]) / width
        return jnp.exp(-0.5 * z**2) @ weights / (width * (2 * jnp.pi) ** 0.5)

    curves = jax.vmap(curve)(*density)
    return jnp.mean(curves, axis=0), _standard_error(curves)


def _standard_error(values: Array) -> Array:
    """Of the mean over the first axis."""
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
    """``ravel_pytree``, of arrays that keep the digits of a vector."""
    for leaf in jax.tree.leaves(like):
        dtype = jnp.result_type(leaf)
        if dtype not in (jnp.float32, jnp.float64):
            msg = (
                f"like has an array of {dtype}: vectors take its dtype; choose float32 "
                "or float64, and cast inside matvec"
            )
            raise ValueError(msg)
    return ravel_pytree(like)


def _lanczos(key, matvec, like, num_matvecs, unroll):
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

    krylov, _ = _repeat(step, krylov, num_matvecs, unroll)
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
    norm = jnp.linalg.norm(rest)
    scale = jnp.maximum(jnp.max(jnp.abs(diagonal)), jnp.max(jnp.abs(off_diagonal)))

    def restart():
        # The rows span an invariant subspace: go on in a new direction.
        new = jax.random.normal(key, product.shape).astype(product.dtype)
        new = _orthogonal(basis, new)
        return new / jnp.linalg.norm(new), jnp.zeros_like(norm)

    is_invariant = norm <= 10 * jnp.finfo(norm.dtype).eps * scale
    following, norm = jax.lax.cond(is_invariant, restart, lambda: (rest / norm, norm))
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


def _repeat(body, carry, length, unroll):
    """``body`` over ``range(length)`` from Python, or all but 0 in a scan if traced."""
    carry, first = body(carry, 0)
    if length == 1:
        return carry, jax.tree.map(lambda leaf: leaf[None], first)
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((carry, first))):
        later = jnp.arange(1, length)
        carry, rest = jax.lax.scan(body, carry, later, unroll=unroll)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
        return carry, both
    results = [first]
    for i in range(1, length):
        carry, result = body(carry, i)
        results.append(result)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            msg = f"{name} = {count!r}: choose an integer of at least 1"
            raise ValueError(msg)
