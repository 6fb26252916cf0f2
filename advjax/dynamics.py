"""Gradient ascent on an input without normalisation, and its closed form.

    delta^(m) = Σ over t < m of α ∇L(x + delta^(t)),     α = β/m

where β, the ``horizon``, is the overall strength of the attack. With the gates of all
ReLUs fixed the logits z are affine in the input, z = W̃ᵀx + b, and the Hessian of the
loss is W̃ H_z W̃ᵀ, with H_z the small Hessian with respect to the logits. Held at its
mean along the path, it makes delta and the gradient exponential in β:

    ascent = dynamics.ascend_logits(num_steps=1000)
    logits, jacobian = dynamics.logit_jacobian(logits_fn, x)
    path = ascent(logit_loss, logits, jacobian, horizon)
    eigs = dynamics.logit_eigs(jacobian, path.logit_hessian)
    theory = dynamics.closed_form(eigs, grad, horizon)                 # Theorem 2

Functions are for one example: ``vmap`` them over a batch. ``logits_fn`` is a network of
one input, ``lambda x: predict(x[None])[0]``, and ``logit_loss`` a function of its
logits, ``lambda z: losses.cross_entropy(z, label)``.

Cheng et al., Clarifying the behavior and the difficulty of adversarial training, 2024,
whose symbols these are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from advjax import arguments, convolutions
from advjax.types import Array

__all__ = [
    "Ascend",
    "AscendLogits",
    "Ascent",
    "ClosedForm",
    "LogitAscent",
    "LogitEigs",
    "LogitJacobian",
    "LogitLoss",
    "LogitsFn",
    "Record",
    "ascend",
    "ascend_logits",
    "closed_form",
    "frozen",
    "logit_eigs",
    "logit_hessians",
    "logit_jacobian",
    "matching_error",
    "path_mean",
    "project_onto",
]


class LogitsFn(Protocol):
    """A network of one input."""

    def __call__(self, x: Array, /) -> Array:
        """``x[...] -> logits[k]``."""


class LogitLoss(Protocol):
    """A loss of one example's logits."""

    def __call__(self, logits: Array, /) -> Array:
        """``logits[k] -> []``."""


# --- ascent ---


class Ascent(NamedTuple):
    """The end of an ascent from one example.

    Attributes:
        delta: like ``x``.
        effective: like ``x``, the sum of each step's component along its gradient;
            equals ``delta`` for plain gradient steps.
        records: what was recorded before each step, ``[num_steps, ...]``.
    """

    delta: Array
    effective: Array
    records: Any


class Record(Protocol):
    """Chooses what is kept of each step."""

    def __call__(self, at: Array, gradient: Array, /) -> Any:
        """``(x + delta, gradient) -> pytree`` of arrays."""


class Ascend(Protocol):
    """Raises a function from an example."""

    def __call__(
        self, f: Callable[[Array], Array], x: Array, horizon: Array | float, /
    ) -> Ascent:
        """``f`` is ``x -> []``; where its gradient is zero nothing moves."""


def ascend(
    *,
    num_steps: int,
    direction: Callable[[Array], Array] = lambda g: g,
    record: Record | None = None,
) -> Ascend:
    """Ascent by ``num_steps`` steps of horizon/num_steps along ``direction(gradient)``.

    Args:
        num_steps: gradient evaluations.
        direction: the direction of a step, from the gradient of one example: itself by
            default, or ``norms.l2.steepest`` and ``norms.linf.steepest`` for l2 and
            linf attacks, whose horizon is then their length. There is no projection, as
            in the paper.
        record: ``(x + delta, gradient) -> pytree``, kept for every step.

    Returns:
        ``(f, x, horizon) -> Ascent``.

    Raises:
        ValueError: for fewer than one step.
    """
    num_steps = arguments.count("num_steps", num_steps)

    def ascent(f, x, horizon):
        step_size, gradient = horizon / num_steps, convolutions.rewritten(jax.grad(f))

        def step(carry, _):
            delta, effective = carry
            g = gradient(x + delta)
            move = step_size * direction(g)
            recorded = record(x + delta, g) if record else None
            return (delta + move, effective + project_onto(move, g)), recorded

        start = (jnp.zeros_like(x), jnp.zeros_like(x))
        ends, records = jax.lax.scan(step, start, length=num_steps)
        return Ascent(*ends, records)

    return ascent


def project_onto(v: Array, g: Array) -> Array:
    """The component of ``v`` along ``g``, oᵀv o with o = g/‖g‖; 0 where g is 0.

    For ``v = sign(g)`` it is ‖g‖₁/‖g‖₂² g, the effective part of an linf step.

    Raises:
        ValueError: for arrays of different shapes.
    """
    v, g = _alike(v=v, g=g)
    # By the largest entry first, so that no square is lost.
    size = jnp.max(jnp.abs(g))
    o = g / jnp.where(size == 0, 1, size)
    square = jnp.sum(o * o)
    return jnp.sum(v * o) / jnp.where(square == 0, 1, square) * o


def path_mean(values: Array, weights: Array) -> Array:
    """The mean of ``values[t, ...]``, weighted by ``weights[t]``.

    H̄_z is that of the logit Hessians, with the lengths of the steps as weights, all of
    which count. The plain mean where all weights are zero, as at a zero gradient.

    Raises:
        ValueError: for another number of weights than of values.
    """
    arguments.equal_lengths(values=values, weights=weights)
    values, weights = jnp.asarray(values), jnp.asarray(weights)
    weights = jnp.where(jnp.all(weights == 0), jnp.ones_like(weights), weights)
    return jnp.tensordot(weights / jnp.sum(weights), values, axes=1)


def logit_hessians(logits_fn: LogitsFn, logit_loss: LogitLoss) -> Record:
    """A ``record`` for ``ascend``: the length of the gradient, and H_z, ``[k, k]``.

    ``path_mean(*records[::-1])`` of its records is H̄_z.
    """

    def record(x, g):
        return jnp.linalg.norm(g), jax.hessian(logit_loss)(logits_fn(x))

    return record


# --- fixed gates ---


def frozen(logits_fn: LogitsFn, x: Array) -> LogitsFn:
    """The network with its gates fixed as they are at ``x``: affine in its input.

    z(x') = z(x) + J(x)(x' - x), which for piecewise linear networks, of ReLUs and
    max-pooling, is the network whose choices are those at ``x``. It is differentiable
    with respect to parameters that ``logits_fn`` closes over.
    """
    return lambda x_new: sum(jax.jvp(logits_fn, (x,), (x_new - x,)))


class LogitJacobian(NamedTuple):
    """A network at one input.

    Attributes:
        logits: ``[k]``.
        jacobian: ``[k, ...]``, W̃ᵀ.
    """

    logits: Array
    jacobian: Array


def logit_jacobian(logits_fn: LogitsFn, x: Array) -> LogitJacobian:
    """The logits at an input and their Jacobian, by k reverse passes."""
    logits, pullback = jax.vjp(logits_fn, x)
    (jacobian,) = jax.vmap(pullback)(jnp.eye(logits.size, dtype=logits.dtype))
    return LogitJacobian(logits, jacobian)


class LogitAscent(NamedTuple):
    """An ascent with fixed gates.

    Attributes:
        delta: like one input.
        grad: like one input, the gradient at its end.
        logit_hessian: ``[k, k]``, H̄_z, the mean along the path.
    """

    delta: Array
    grad: Array
    logit_hessian: Array


class AscendLogits(Protocol):
    """Raises a loss of the logits from an example, with fixed gates."""

    def __call__(
        self,
        logit_loss: LogitLoss,
        logits: Array,
        jacobian: Array,
        horizon: Array | float,
        /,
    ) -> LogitAscent:
        """``logits[k]`` and ``jacobian[k, ...]`` as from ``logit_jacobian``."""


def ascend_logits(*, num_steps: int) -> AscendLogits:
    """``ascend`` on the network with fixed gates, exactly, with k numbers a step.

    All gradients are in the span of the columns of W̃, so delta = W̃ a with
    a ← a + α ∇_z L(z + W̃ᵀW̃ a): a thousand steps cost next to nothing.

    Returns:
        ``(logit_loss, logits[k], jacobian[k, ...], horizon) -> LogitAscent``.

    Raises:
        ValueError: for fewer than one step, and, in the call, for another number of
            logits than of rows of the Jacobian.
    """
    num_steps = arguments.count("num_steps", num_steps)

    def ascent(logit_loss, logits, jacobian, horizon):
        arguments.equal_lengths(logits=logits, jacobian=jacobian)
        rows = jacobian.reshape(logits.size, -1)
        gram = jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)

        def step(a, _):
            z = logits + gram @ a
            g = jax.grad(logit_loss)(z)
            length = jnp.sqrt(jnp.maximum(g @ gram @ g, 0))
            return a + horizon / num_steps * g, (length, jax.hessian(logit_loss)(z))

        a, (lengths, hessians) = jax.lax.scan(
            step, jnp.zeros_like(logits), length=num_steps
        )
        g = jax.grad(logit_loss)(logits + gram @ a)
        delta, grad = (jnp.tensordot(c, jacobian, axes=1) for c in (a, g))
        return LogitAscent(delta, grad, path_mean(hessians, lengths))

    return ascent


class LogitEigs(NamedTuple):
    """Eigenpairs of the Hessian with respect to one input.

    Attributes:
        values: ``[r]``, λ, descending.
        vectors: ``[r, ...]``, orthonormal; directions that they leave out have λ = 0.
    """

    values: Array
    vectors: Array


def logit_eigs(jacobian: Array, logit_hessian: Array) -> LogitEigs:
    """The eigenpairs of H_x = W̃ H_z W̃ᵀ that can differ from zero.

    By way of W̃ = QR and the small matrix R H_z Rᵀ, so that nothing of the size of the
    input squared is formed.

    Args:
        jacobian: ``[k, ...]``, W̃ᵀ.
        logit_hessian: ``[k, k]``, H_z.

    Returns:
        As many pairs as the smaller of k and the size of an input.

    Raises:
        ValueError: for a Hessian of another number of logits.
    """
    of_logits = (len(jacobian),) * 2
    if np.shape(logit_hessian) != of_logits:
        found = f"jacobian {np.shape(jacobian)}, hessian {np.shape(logit_hessian)}"
        msg = f"shapes {found}: give jacobian[k, ...] and logit_hessian[k, k]"
        raise ValueError(msg)
    q, r = jnp.linalg.qr(jacobian.reshape(len(jacobian), -1).T)
    values, rotation = jnp.linalg.eigh(r @ logit_hessian @ r.T)
    vectors = (q @ rotation[:, ::-1]).T
    return LogitEigs(values[::-1], vectors.reshape(-1, *jacobian.shape[1:]))


# --- closed form ---


class ClosedForm(NamedTuple):
    """A perturbation ``delta`` and the gradient ``grad`` at its end."""

    delta: Array
    grad: Array


def closed_form(
    eigs: LogitEigs,
    grad: Array,
    horizon: Array | float,
    *,
    num_steps: int | None = None,
) -> ClosedForm:
    """Ascent under a constant Hessian: Theorem 1 (m steps) and Theorem 2 (m → ∞).

    With γ_i = gᵀv_i and α = β/m,

        delta = Σ ((1 + αλ_i)^m - 1)/λ_i γ_i v_i      →   Σ (e^{βλ_i} - 1)/λ_i γ_i v_i
        grad  = Σ (1 + αλ_i)^m γ_i v_i                →   Σ e^{βλ_i} γ_i v_i

    and β γ_i for λ_i = 0.

    Args:
        eigs: eigenpairs of the Hessian, as from ``logit_eigs``.
        grad: like one input, g at its start.
        horizon: β.
        num_steps: m; None for infinitely many.

    Raises:
        ValueError: for fewer than one step, and for a gradient of another shape than
            the eigenvectors.
    """
    values, vectors = eigs
    grad = jnp.asarray(grad)
    arguments.equal_lengths(values=values, vectors=vectors)
    if np.shape(vectors)[1:] != grad.shape:
        found = f"vectors {np.shape(vectors)}, grad {grad.shape}"
        msg = f"shapes {found}: give vectors[r, ...] and grad[...]"
        raise ValueError(msg)
    axes = grad.ndim
    gamma = jnp.tensordot(vectors, grad, axes=axes)
    rest = grad - jnp.tensordot(gamma, vectors, axes=1)
    growth, duration = _growth(values, horizon, num_steps)
    delta = jnp.tensordot(duration * gamma, vectors, axes=1) + horizon * rest
    return ClosedForm(delta, jnp.tensordot(growth * gamma, vectors, axes=1) + rest)


def _growth(values, horizon, num_steps):
    """(1 + αλ)^m, and ((1 + αλ)^m - 1)/λ, without cancellation at small λ."""
    if num_steps is None:
        exponent = horizon * values
        return jnp.exp(exponent), horizon * _expm1_ratio(exponent)
    num_steps = arguments.count("num_steps", num_steps)
    rate = horizon / num_steps * values
    # A step across the maximum changes the sign, which no logarithm has.
    is_small = rate > -0.5
    small, large = jnp.where(is_small, rate, 0), jnp.where(is_small, -1, rate)
    exponent = num_steps * jnp.log1p(small)
    power = (1 + large) ** num_steps
    gain = _expm1_ratio(exponent) * _log1p_ratio(small)
    return (
        jnp.where(is_small, jnp.exp(exponent), power),
        horizon * jnp.where(is_small, gain, (power - 1) / (num_steps * large)),
    )


def _expm1_ratio(x):
    """(e^x - 1)/x, differentiable at 0."""
    is_small = jnp.abs(x) < 1e-3
    safe = jnp.where(is_small, 1, x)
    series = 1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5)))
    return jnp.where(is_small, series, jnp.expm1(safe) / safe)


def _log1p_ratio(x):
    """log(1 + x)/x, differentiable at 0."""
    is_small = jnp.abs(x) < 1e-3
    safe = jnp.where(is_small, 1, x)
    series = 1 - x * (1 / 2 - x * (1 / 3 - x * (1 / 4 - x * (1 / 5 - x / 6))))
    return jnp.where(is_small, series, jnp.log1p(safe) / safe)


def matching_error(a: Array, b: Array) -> Array:
    """1 - cos(a, b), as ‖a/‖a‖ - b/‖b‖‖²/2, which rounding does not floor at 1e-7.

    nan where one of them is zero.

    Raises:
        ValueError: for arrays of different shapes.
    """
    a, b = _alike(a=a, b=b)
    difference = a / jnp.linalg.norm(a) - b / jnp.linalg.norm(b)
    return 0.5 * jnp.sum(difference**2)


def _alike(**arrays: Array) -> tuple[Array, ...]:
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) != 1:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        msg = f"shapes {found}: give arrays of one shape"
        raise ValueError(msg)
    return tuple(jnp.asarray(array) for array in arrays.values())
