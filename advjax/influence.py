"""The effect on the weights of training on perturbed instead of clean inputs.

For a network with one logit z and the loss L(z), of one example. With u = ∇_x z, a step
of size η along the gradient of the attacked instead of the clean loss adds Δg_W to the
update of W, and -η⟨P, Δg_W⟩ to the change of ‖u‖²/2, where

    P = ∇_W ⟨u, ∇_x z(x; W)⟩        with u held fixed.

For a first layer h = Wᵀx + b this is P = u g̃_hᵀ with g̃_h = ∇_h z, and the effect is the
uᵀΔu = -η uᵀ Δg_W g̃_h of Cheng et al. In this form it is plain differentiation with
respect to any part of the parameters, shared weights of convolutions included. Their
Theorems 3 to 5 hold with ‖P‖²/‖u‖² for ‖g̃_h‖², whichever layer W is: where gates are
fixed and delta = s u, ∇_W z(x + delta) = ∇_W z(x) + s P, and g_z grows e^A times.

Everything here has η = 1 and is proportional to it.

Cheng et al., Clarifying the behavior and the difficulty of adversarial training, 2024.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from advjax import arguments, convolutions, dynamics, penalties
from advjax.dynamics import LogitLoss
from advjax.types import Array, Params

__all__ = [
    "Effect",
    "Influence",
    "LogitFn",
    "Measure",
    "ParamsLogitFn",
    "RowTerms",
    "effect",
    "influence",
    "instability",
    "predicted_effect",
    "row_terms",
]


class LogitFn(Protocol):
    """A network of one input with one logit."""

    def __call__(self, x: Array, /) -> Array:
        """``x[...] -> []``."""


class ParamsLogitFn(Protocol):
    """One example's logit as a function of some parameters too."""

    def __call__(self, w: Params, x: Array, /) -> Array:
        """``(w, x[...]) -> []``."""


class Influence(NamedTuple):
    """The weight of one example in adversarial training, for an ascent from it.

    Attributes:
        delta: like the input, the perturbation.
        logit_grad: ``[]``, g_z, the derivative of the loss at the input.
        logit_hessian: ``[]``, H̄_z, the mean second derivative along the path.
        square: ``[]``, ‖g̃_x‖², the logit's gradient at the input squared.
        strength: ``[]``, A = β H̄_z ‖g̃_x‖².
        running: ``[]``, Â = Σ_t α H̄_z ‖g̃_{x + delta(t)}‖², where gates change.
    """

    delta: Array
    logit_grad: Array
    logit_hessian: Array
    square: Array
    strength: Array
    running: Array


class Measure(Protocol):
    """Measures the influence of an example."""

    def __call__(
        self, logit_fn: LogitFn, logit_loss: LogitLoss, x: Array, horizon: Array, /
    ) -> Influence:
        """``logit_fn`` is ``x -> []``, ``logit_loss`` takes its value; β ``[]``."""


def influence(*, num_steps: int) -> Measure:
    """The weight of an example in adversarial training.

    Returns:
        ``(logit_fn, logit_loss, x, horizon) -> Influence``, by ``num_steps`` steps
        along the gradient, as ``dynamics.ascend``.

    Raises:
        ValueError: for fewer than one step.
    """
    num_steps = arguments.count("num_steps", num_steps)

    def measure(logit_fn, logit_loss, x, horizon):
        step_size = horizon / num_steps
        slope, curvature = jax.grad(logit_loss), jax.grad(jax.grad(logit_loss))
        value_and_grad = convolutions.rewritten(jax.value_and_grad(logit_fn))

        def step(delta, _):
            value, u = value_and_grad(x + delta)
            g_z, h_z = slope(value), curvature(value)
            length = jnp.abs(g_z) * jnp.linalg.norm(u)
            ascent = (step_size * g_z * u).astype(delta.dtype)
            return delta + ascent, (h_z, length, jnp.sum(u**2), g_z)

        delta, (seconds, lengths, squares, slopes) = jax.lax.scan(
            step, jnp.zeros_like(x), length=num_steps
        )
        mean = dynamics.path_mean(seconds, lengths)
        return Influence(
            delta,
            slopes[0],
            mean,
            squares[0],
            horizon * mean * squares[0],
            step_size * mean * jnp.sum(squares),
        )

    return measure


class Effect(NamedTuple):
    """The change of ‖g̃_x‖²/2 by one step on an example, for η = 1.

    Attributes:
        original: ``[]``, by the clean gradient, -⟨P, g_W⟩.
        adversarial: ``[]``, by the attacked one, -⟨P, g_W^(adv)⟩.
        additional: ``[]``, by their difference, -⟨P, Δg_W⟩.
        square: ``[]``, ‖P‖²/‖g̃_x‖², which for a dense first layer is ‖g̃_h‖².
        difference: Δg_W, like ``w``.
    """

    original: Array
    adversarial: Array
    additional: Array
    square: Array
    difference: Params


def effect(
    w: Params, z: ParamsLogitFn, logit_loss: LogitLoss, x: Array, delta: Array
) -> Effect:
    """The effect measured by differentiation, for any network z.

    To first order in η it is the change of ‖∇_x z‖²/2, gates free or fixed.

    Args:
        w: the parameters that are trained, such as the first layer.
        z: ``(w, x) -> []``; with fixed gates, as the theorems have it,
            ``lambda w, x_new: dynamics.frozen(partial(z, w), x)(x_new)``.
        logit_loss: ``z -> []``.
        x: one input.
        delta: its perturbation.

    Raises:
        ValueError: for a perturbation of another shape than the input.
    """
    if np.shape(x) != np.shape(delta):
        msg = f"shapes x {np.shape(x)}, delta {np.shape(delta)}: give one shape"
        raise ValueError(msg)
    u = jax.grad(z, argnums=1)(w, x)
    p = jax.grad(lambda w: jax.jvp(lambda x: z(w, x), (x,), (u,))[1])(w)
    gradient = jax.grad(lambda w, x: logit_loss(z(w, x)))
    clean, attacked = gradient(w, x), gradient(w, x + delta)
    difference = jax.tree.map(jnp.subtract, attacked, clean)
    square = jnp.sum(u**2)
    return Effect(
        -_inner(p, clean),
        -_inner(p, attacked),
        -_inner(p, difference),
        _inner(p, p) / jnp.where(square == 0, 1, square),
        difference,
    )


def predicted_effect(
    effect: Effect, influence: Influence, *, rel_length: Array | float = 1.0
) -> Array:
    """The additional effect by theory, ``[]``: Theorems 3 and 5.

        k · original - (g_z² · square / H̄_z)(k + k²),    k = rel_length (e^A - 1)

    For the perturbation of infinitely many steps, of which A is the strength, k is
    e^A - 1 (Theorem 3); for that perturbation at length C, in l2 attacks and in the
    effective part of linf attacks, it is C (e^A - 1)/‖delta‖ (Theorem 5).
    ``effect.original`` added to it is the effect of adversarial training as a whole
    (Theorem 4).

    Args:
        effect: ``original`` and ``square`` are used, which no perturbation changes.
        influence: measured along the ascent at full length; ``strength``,
            ``logit_grad`` and ``logit_hessian`` are used. Where the last is 0, so is
            the second term.
        rel_length: ``[]``, C/‖delta‖.
    """
    boost, hessian = rel_length * jnp.expm1(influence.strength), influence.logit_hessian
    is_flat = hessian == 0
    slope = influence.logit_grad
    ratio = jnp.where(is_flat, 0, slope**2 / jnp.where(is_flat, 1, hessian))
    return boost * effect.original - ratio * effect.square * (boost + boost**2)


class RowTerms(NamedTuple):
    """The loss at h + Wᵀdelta as a function of one row w_i of W, all ``[]``.

    Their sum is the loss. ``constant`` does not depend on w_i while h is held fixed,
    ``linear`` and ``cross`` are linear in it, and ``remainder`` is of third order in
    Wᵀdelta.

    Attributes:
        constant: τ.
        linear: delta_i g_hᵀ w_i.
        cross: delta_i (Σ over j ≠ i of delta_j w_j)ᵀ H_h w_i, which the printed theorem
            leaves out.
        quadratic: w_iᵀ (delta_i²/2 H_h) w_i.
        remainder: the rest.
    """

    constant: Array
    linear: Array
    cross: Array
    quadratic: Array
    remainder: Array


def row_terms(
    w: Array, f: Callable[[Array], Array], h: Array, delta: Array, i: Array | int
) -> RowTerms:
    """Theorem 6: the loss of a perturbed input in terms of a row of the weights.

    Args:
        w: ``[n, D]``.
        f: ``h[D] -> []``, the loss as a function of the first layer's output.
        h: ``[D]``, at the clean input.
        delta: ``[n]``.
        i: the row; a known one is checked to be there.

    Raises:
        ValueError: for arrays of other shapes, or no such row.
    """
    w, h, delta = (jnp.asarray(v) for v in (w, h, delta))
    if w.ndim != 2 or (*delta.shape, *h.shape) != w.shape or h.ndim != 1:
        msg = (
            f"shapes w {w.shape}, h {h.shape}, delta {delta.shape}: give w[n, D], h[D] "
            "and delta[n]"
        )
        raise ValueError(msg)
    if arguments.is_known(i) and not -len(w) <= i < len(w):
        msg = f"i = {i}: choose a row of w, which has shape {w.shape}"
        raise ValueError(msg)
    own = delta[i] * w[i]
    rest = delta @ w - own
    gradient = jax.grad(f)
    slope, curved_own = jax.jvp(gradient, (h,), (own,))
    curved_rest = jax.jvp(gradient, (h,), (rest,))[1]
    terms = (
        f(h) + slope @ rest + rest @ curved_rest / 2,
        slope @ own,
        rest @ curved_own,
        own @ curved_own / 2,
    )
    return RowTerms(*terms, f(h + own + rest) - sum(terms))


def instability(
    params: Params,
    params_loss: Callable[[Params], Array],
    *,
    rel_step_size: float = 1e-2,
    where: penalties.Where = penalties.weights,
) -> dict[str, Array]:
    """The rate at which the gradient of each layer changes as the layer is trained.

        ‖∇_{W_j} L(W_j + ΔW_j) - ∇_{W_j} L(W_j)‖ / (D ‖ΔW_j‖)

    with ΔW_j against the gradient, of length rel_step_size ‖W_j‖, the other layers held
    fixed, and D = √(entries of W_j), the side of a square layer. For short steps it is
    ‖H_jj g_j‖/(D ‖g_j‖), with H_jj the layer's own block of the Hessian.

    Args:
        params: all parameters.
        params_loss: ``params -> []``, the loss of one example in the paper.
        rel_step_size: ‖ΔW_j‖/‖W_j‖.
        where: which arrays are layers, as in ``penalties``; by default kernels.

    Returns:
        A number for each layer, by its path; 0 where a layer has no gradient, or is 0.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    found = {}
    for j, is_layer in enumerate(jax.tree.leaves(where(params))):
        if not is_layer:
            continue

        def of_layer(value, j=j):
            values = [leaf for _, leaf in leaves]
            values[j] = value
            return params_loss(jax.tree.unflatten(tree, values))

        path, layer = leaves[j]
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found[name] = _change(jax.grad(of_layer), layer, rel_step_size)
    return found


def _change(gradient, layer, rel_step_size):
    g = gradient(layer)
    size, length = jnp.linalg.norm(g), rel_step_size * jnp.linalg.norm(layer)
    still = (size == 0) | (length == 0)
    step = -length * g / jnp.where(still, 1, size)
    moved = jnp.linalg.norm(gradient(layer + step) - g)
    return moved / (layer.size**0.5 * jnp.where(still, 1, length))


def _inner(a: Params, b: Params) -> Array:
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), a, b)
    return jax.tree.reduce(jnp.add, products)
