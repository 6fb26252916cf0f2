"""How gradient ascent without normalisation moves an input, and its closed form.

    delta^(m) = Σ over t < m of α ∇L(x + delta^(t)),     α = β/m

where β, the ``horizon``, is the overall strength of the attack. With the gates of all
ReLUs fixed the logits z are affine in the input, z = W̃ᵀx + b, and the Hessian of the
loss is W̃ H_z W̃ᵀ, with H_z the small Hessian with respect to the logits. Held at its
mean along the path, it makes delta and the gradient exponential in β:

    path = dynamics.ascend_logits(num_steps)(loss, logits, jacobian, horizon)
    values, vectors = dynamics.logit_eigs(jacobian, path.logit_hessian)
    theory = dynamics.closed_form(values, vectors, grad, horizon)      # Theorem 2

Functions are for one example: ``vmap`` them over a batch. ``predict`` is then a network
of one input, ``lambda x: network(x[None])[0]``, and ``loss`` a function of its logits.

Cheng et al., Clarifying the behavior and the difficulty of adversarial training, 2024,
whose symbols these are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax.types import Array

Predict = Callable[[Array], Array]
"""``x[...] -> logits[k]``, of one example."""


# --- ascent ---


class Ascent(NamedTuple):
    """Where an ascent of one example ended.

    Attributes:
        delta: like ``x``.
        effective: like ``x``, the sum of the steps' components along the gradients; of
            steps along the gradient it is ``delta``.
        records: what was recorded before each step, ``[num_steps, ...]``.
    """

    delta: Array
    effective: Array
    records: Any


def ascend(
    num_steps: int,
    *,
    direction: Callable[[Array], Array] = lambda g: g,
    record: Callable[[Array, Array], Any] | None = None,
    unroll: int = 1,
) -> Callable[[Callable[[Array], Array], Array, Array | float], Ascent]:
    """Ascent by ``num_steps`` steps of horizon/num_steps along ``direction(gradient)``.

    Args:
        num_steps: gradient evaluations.
        direction: of a step, from the gradient of one example: itself by default, or
            ``norms.l2.steepest`` and ``norms.linf.steepest`` for l2 and linf attacks,
            whose horizon is then their length. There is no projection, as in the paper.
        record: ``(x + delta, gradient) -> pytree``, kept of every step.
        unroll: as of ``lax.scan``; ``num_steps`` for convolutional networks on CPU.

    Returns:
        ``(f, x, horizon) -> Ascent`` for a function ``x -> []``. Where the gradient is
        zero nothing moves.

    Raises:
        ValueError: for fewer than one step.
    """
    check_steps(num_steps)

    def ascent(f, x, horizon):
        step_size = horizon / num_steps

        def step(carry, _):
            delta, effective = carry
            g = jax.grad(f)(x + delta)
            move = step_size * direction(g)
            recorded = record(x + delta, g) if record else None
            return (delta + move, effective + along(move, g)), recorded

        start = (jnp.zeros_like(x), jnp.zeros_like(x))
        ends, records = jax.lax.scan(step, start, length=num_steps, unroll=unroll)
        return Ascent(*ends, records)

    return ascent


def along(v: Array, g: Array) -> Array:
    """The component of ``v`` along ``g``, oᵀv o with o = g/‖g‖; 0 where g is 0.

    For ``v = sign(g)`` it is ‖g‖₁/‖g‖₂² g, the effective part of an linf step.
    """
    # By the largest entry first, so that no square is lost.
    size = jnp.max(jnp.abs(g))
    o = g / jnp.where(size == 0, 1, size)
    square = jnp.sum(o * o)
    return jnp.sum(v * o) / jnp.where(square == 0, 1, square) * o


def path_mean(values: Array, weights: Array) -> Array:
    """The mean of ``values[t, ...]``, weighted by ``weights[t]``.

    H̄_z is that of the logit Hessians, with the lengths of the steps as weights, all of
    which count. The plain mean where all weights are zero, as at a zero gradient.
    """
    weights = jnp.where(jnp.all(weights == 0), jnp.ones_like(weights), weights)
    return jnp.tensordot(weights / jnp.sum(weights), values, axes=1)


def logit_hessians(predict: Predict, loss: Callable[[Array], Array]) -> Callable:
    """A ``record`` for ``ascend``: the length of the gradient, and H_z, ``[k, k]``.

    ``path_mean(*records[::-1])`` of its records is H̄_z.
    """

    def record(x, g):
        return jnp.linalg.norm(g), jax.hessian(loss)(predict(x))

    return record


# --- fixed gates ---


def frozen(predict: Predict, x: Array) -> Predict:
    """The network with its gates fixed as they are at ``x``: affine in its input.

    z(x') = z(x) + J(x)(x' - x), which for piecewise linear networks, of ReLUs and
    max-pooling, is the network whose choices are those at ``x``. It is differentiable
    with respect to parameters that ``predict`` closes over.
    """
    return lambda x_new: sum(jax.jvp(predict, (x,), (x_new - x,)))


def logit_jacobian(predict: Predict, x: Array) -> tuple[Array, Array]:
    """``logits[k]`` and W̃ᵀ, the Jacobian ``[k, ...]``, by k reverse passes."""
    logits, pullback = jax.vjp(predict, x)
    (jacobian,) = jax.vmap(pullback)(jnp.eye(logits.size, dtype=logits.dtype))
    return logits, jacobian


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


def ascend_logits(num_steps: int) -> Callable[..., LogitAscent]:
    """``ascend`` on the network with fixed gates, exactly, with k numbers a step.

    All gradients are in the span of the columns of W̃, so delta = W̃ a with
    a ← a + α ∇_z L(z + W̃ᵀW̃ a): a thousand steps cost next to nothing.

    Returns:
        ``(loss, logits[k], jacobian[k, ...], horizon) -> LogitAscent``.

    Raises:
        ValueError: for fewer than one step.
    """
    check_steps(num_steps)

    def ascent(loss, logits, jacobian, horizon):
        rows = jacobian.reshape(logits.size, -1)
        gram = jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)

        def step(a, _):
            z = logits + gram @ a
            g = jax.grad(loss)(z)
            length = jnp.sqrt(jnp.maximum(g @ gram @ g, 0))
            return a + horizon / num_steps * g, (length, jax.hessian(loss)(z))

        a, (lengths, hessians) = jax.lax.scan(
            step, jnp.zeros_like(logits), length=num_steps
        )
        g = jax.grad(loss)(logits + gram @ a)
        delta, grad = (jnp.tensordot(c, jacobian, axes=1) for c in (a, g))
        return LogitAscent(delta, grad, path_mean(hessians, lengths))

    return ascent


def logit_eigs(jacobian: Array, logit_hessian: Array) -> tuple[Array, Array]:
    """The eigenpairs of H_x = W̃ H_z W̃ᵀ that can differ from zero.

    By way of W̃ = QR and the small matrix R H_z Rᵀ, so that nothing of the size of the
    input squared is formed.

    Args:
        jacobian: ``[k, ...]``, W̃ᵀ.
        logit_hessian: ``[k, k]``, H_z.

    Returns:
        ``values[r]``, descending, and ``vectors[r, ...]``, with r the smaller of k and
        the size of an input.
    """
    q, r = jnp.linalg.qr(jacobian.reshape(len(jacobian), -1).T)
    values, rotation = jnp.linalg.eigh(r @ logit_hessian @ r.T)
    vectors = (q @ rotation[:, ::-1]).T
    return values[::-1], vectors.reshape(-1, *jacobian.shape[1:])


# --- closed form ---


class ClosedForm(NamedTuple):
    """A perturbation ``delta`` and the gradient ``grad`` at its end."""

    delta: Array
    grad: Array


def closed_form(
    values: Array,
    vectors: Array,
    grad: Array,
    horizon: Array | float,
    num_steps: int | None = None,
) -> ClosedForm:
    """Ascent where the Hessian is constant: Theorem 1, and Theorem 2 without steps.

    With γ_i = gᵀv_i and α = β/m,

        delta = Σ ((1 + αλ_i)^m - 1)/λ_i γ_i v_i      →   Σ (e^{βλ_i} - 1)/λ_i γ_i v_i
        grad  = Σ (1 + αλ_i)^m γ_i v_i                →   Σ e^{βλ_i} γ_i v_i

    and β γ_i for λ_i = 0.

    Args:
        values: ``[r]``, λ.
        vectors: ``[r, ...]``, orthonormal; directions that they leave out have λ = 0.
        grad: like one input, g at its start.
        horizon: β.
        num_steps: m; None for infinitely many.

    Raises:
        ValueError: for fewer than one step.
    """
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
    check_steps(num_steps)
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
    """
    difference = a / jnp.linalg.norm(a) - b / jnp.linalg.norm(b)
    return 0.5 * jnp.sum(difference**2)


def check_steps(num_steps: int) -> None:
    """Raises ValueError unless it is an integer of at least 1."""
    if not isinstance(num_steps, int) or isinstance(num_steps, bool) or num_steps < 1:
        msg = f"num_steps = {num_steps!r}: choose an integer of at least 1"
        raise ValueError(msg)
