"""Products with Hessians and Gauss-Newton matrices, which are never formed.

    loss = lambda x: losses.cross_entropy(predict(x[None])[0], label)
    matvec = hessians.hvp(loss, x)                          # ∇²loss(x) v, never n×n

    hvp_at = hessians.dataset_hvp(loss_fn, x, y, batch_size=128)
    for params in checkpoints:                              # compiled once
        top = eigs(key, hvp_at(params), params)

A matrix is a ``Matvec``: with respect to one input or to all parameters, for one batch
or for a data set in parts. On accelerators its products have jax's default precision,
which ``jax_default_matmul_precision`` changes. ``spectrum`` takes eigenvalues, traces
and densities from the products.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from advjax import arguments, convolutions
from advjax.types import Array, Loss, Params

__all__ = [
    "Forward",
    "Matvec",
    "MatvecAt",
    "ParamsLossFn",
    "dataset_gauss_newton",
    "dataset_hvp",
    "gauss_newton",
    "hvp",
]


class Matvec(Protocol):
    """A symmetric matrix as its products."""

    def __call__(self, v: Params, /) -> Params:
        """``v -> A v``, linear in ``v``, on pytrees of one structure."""


class MatvecAt(Protocol):
    """A matrix at any parameters, compiled once for all of them."""

    def __call__(self, params: Params, /) -> Matvec:
        """``params -> (v -> A v)``; the matvec is compiled already, not to be jitted.

        Raises:
            ValueError: where the loss of an example depends on the others in its batch,
                as with batch normalisation in training mode, unless the batch is all
                examples and nothing else.
        """


class ParamsLossFn(Protocol):
    """A loss of parameters and data."""

    def __call__(self, params: Params, x: Array, y: Any, /) -> Array:
        """``(params, x[b, ...], y[b, ...]) -> loss[b]``."""


class Forward(Protocol):
    """A network as a function of its parameters and its input."""

    def __call__(self, params: Params, x: Array, /) -> Params:
        """``(params, x[b, ...]) -> outputs[b, ...]``."""


def hvp(f: Callable[[Params], Array], x: Params) -> Matvec:
    """Products with the Hessian of ``f`` at ``x``, forward over reverse.

    Args:
        f: ``x -> []``.
        x: the point, any pytree.

    Raises:
        ValueError: if ``f`` is not scalar.
    """
    _check_scalar(f, x)

    @jax.jit
    @convolutions.rewritten
    def compiled(x, v):
        return jax.jvp(jax.grad(f), (x,), (v,))[1]

    return lambda v: compiled(x, v)


def gauss_newton(
    inner: Callable[[Params], Params], outer: Callable[[Params], Array], x: Params
) -> Matvec:
    """Products with Jᵀ H J: the Hessian of ``outer(inner(x))`` less that of ``inner``.

    J is the Jacobian of ``inner`` at ``x``, H the Hessian of ``outer`` at its value.
    For a convex ``outer``, such as a loss of the outputs, it is positive semi-definite.
    It is the Hessian where ``inner`` is linear, as ReLU networks are in their input
    where no gate changes: there it is the H_x = W̃ H_z W̃ᵀ of Cheng et al. 2024.

    Args:
        inner: ``x -> outputs``.
        outer: ``outputs -> []``.
        x: the point, any pytree.

    Raises:
        ValueError: if ``outer`` is not scalar.
    """
    _check_scalar(lambda x: outer(inner(x)), x)

    @jax.jit
    @convolutions.rewritten
    def compiled(x, v):
        outputs, tangent = jax.jvp(inner, (x,), (v,))
        curved = jax.jvp(jax.grad(outer), (outputs,), (tangent,))[1]
        return jax.vjp(inner, x)[1](curved)[0]

    return lambda v: compiled(x, v)


def dataset_hvp(
    loss_fn: ParamsLossFn,
    x: Array,
    y: Array,
    *,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> MatvecAt:
    """Products with the Hessian of the mean loss over a data set, batch after batch.

    Args:
        loss_fn: ``(params, x[b, ...], y[b, ...]) -> loss[b]``.
        x: ``[n, ...]``; on the host it is brought to the device in parts, so that the
            memory needed there does not depend on n.
        y: ``[n, ...]``.
        batch_size: examples at once, all by default; the result does not depend on it.
        mesh: devices that share a batch, which is filled up to a multiple of their
            number. Wherever ``params`` and vectors are, they are brought to all.

    Returns:
        ``params -> Matvec``, of one compiled program for all parameters.

    Raises:
        ValueError: for a wrong batch size, for ``x`` and ``y`` of different lengths,
            and, in the calls, for losses of another shape or that depend on the batch.
    """

    def product(params, v, x, y, counts, n):
        def share(params):
            losses = _one_each(loss_fn(params, x, y), y)
            return jnp.sum(losses, where=counts) / n

        return hvp(share, params)(v)

    return _over_batches(loss_fn, product, x, y, batch_size, mesh)


def dataset_gauss_newton(
    forward: Forward,
    loss: Loss,
    x: Array,
    y: Array,
    *,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> MatvecAt:
    """Like ``dataset_hvp``, for the Gauss-Newton matrix.

    Args:
        forward: ``(params, x[b, ...]) -> outputs[b, ...]``.
        loss: ``(outputs[b, ...], y[b, ...]) -> loss[b]``.
        x: ``[n, ...]``.
        y: ``[n, ...]``.
        batch_size: examples at once.
        mesh: devices that share a batch.

    Raises:
        ValueError: as ``dataset_hvp``.
    """

    def loss_fn(params, x, y):
        return loss(forward(params, x), y)

    def product(params, v, x, y, counts, n):
        def share(outputs):
            return jnp.sum(_one_each(loss(outputs, y), y), where=counts) / n

        return gauss_newton(lambda params: forward(params, x), share, params)(v)

    return _over_batches(loss_fn, product, x, y, batch_size, mesh)


def _over_batches(
    loss_fn: ParamsLossFn,
    product: Callable[..., Params],
    x: Any,
    y: Any,
    batch_size: int | None,
    mesh: Mesh | None,
) -> MatvecAt:
    # Arrays on the host may be of any kind that reads its rows when asked for them.
    x, y = (v if hasattr(v, "shape") else np.asarray(v) for v in (x, y))
    n = arguments.equal_lengths(x=x, y=y)
    size = n if batch_size is None else arguments.count("batch_size", batch_size)
    if not 1 <= size <= n:
        msg = f"batch_size = {batch_size}: choose from 1 to the {n} examples"
        raise ValueError(msg)
    num_devices = mesh.size if mesh else 1
    size = -(-size // num_devices) * num_devices
    place, share = _placements(mesh)
    losses = jax.jit(lambda params, x, y: _one_each(loss_fn(params, x, y), y))

    @jax.jit
    def accumulate(total, params, v, x, y, counts):
        return jax.tree.map(jnp.add, total, product(params, v, x, y, counts, n))

    def at(params):
        if size != n:
            _check_independent(losses, params, x, y, size)
        params = share(params)

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

    return at


def _placements(mesh: Mesh | None) -> tuple[Callable, Callable]:
    """Functions that put a batch's array on the devices, and a tree on each of them."""
    if mesh is None:
        return jnp.asarray, lambda tree: tree
    divided = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    whole = NamedSharding(mesh, PartitionSpec())
    return partial(jax.device_put, device=divided), partial(
        jax.device_put, device=whole
    )


def _one_each(losses: Array, y: Array) -> Array:
    if np.shape(losses) != y.shape[:1]:
        msg = (
            f"the loss has shape {np.shape(losses)} for {y.shape[0]} examples; it "
            f"must be one number per example, shape {y.shape[:1]}"
        )
        raise ValueError(msg)
    return losses


def _check_independent(
    losses: ParamsLossFn, params: Params, x: Any, y: Any, size: int
) -> None:
    """The losses of a batch must be what they are among other examples."""
    n = len(y)
    # In any order: neighbours of a sorted data set are alike.
    order = np.random.default_rng(0).permutation(n)

    def among(number):
        rows = order[np.minimum(np.arange(number), n - 1)]
        return np.asarray(losses(params, jnp.asarray(x[rows]), jnp.asarray(y[rows])))

    few, many = (found[: min(size, n)] for found in map(among, (size, 2 * size)))
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


def _check_scalar(f: Callable[[Any], Any], x: Any) -> None:
    out = jax.eval_shape(f, x)
    if getattr(out, "shape", None) != ():
        shapes = jax.tree.map(lambda leaf: leaf.shape, out)
        msg = f"the function returned shape {shapes}; its Hessian needs a scalar"
        raise ValueError(msg)
