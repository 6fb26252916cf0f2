"""Two-layer networks with a fixed output layer, trained near zero: the lazy regime.

    f(x) = (1/√h) Σ_j a_j φ(θ_jᵀx),    θ[h, d] trained, a[h] fixed.

From a vanishing start a network of many hidden units trains like the linear model
``as_linear``, if its step is ``step_size``. The loss is (f(x) - y)². The attack is the
fast gradient method, eps along the steepest direction of that loss at x, which for a
linear φ is the worst case; with ``xi`` it is the surrogate attack A_{eps,xi}.

    network = lazy.Network(lazy.output_weights(key, num_hidden=50), lazy.sigmoid)
    lazy.adversarial_loss(theta, network, norms.l2, x, y, eps)

Functions take one data set ``x[n, d], y[n]`` and one network; ``vmap`` them over
replicates and radii. A negative ``eps`` or ``xi`` gives nan.

References: Xing et al., On the generalization properties of adversarial training, 2021
(formula 6, appendices A.2 and A.4.2); Xing et al., Phase transition from clean training
to adversarial training, 2022 (Proposition 1).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax import arguments, norms
from advjax.norms import Norm
from advjax.types import Array, Key

__all__ = [
    "Activation",
    "Network",
    "adversarial_gradient",
    "adversarial_loss",
    "as_linear",
    "balanced",
    "init",
    "linear",
    "output_weights",
    "perturb",
    "predict",
    "relu",
    "sigmoid",
    "step_size",
]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Activation:
    """φ with φ(0) = 0, and its slope at 0, the mean of both sides where they differ.

    A static leaf: a part of a ``Network`` that is jitted or mapped.

    Attributes:
        value: ``z -> φ(z)``, entry by entry.
        slope: φ'(0).
    """

    value: Callable[[Array], Array]
    slope: float


# In a form that keeps its digits near zero.
sigmoid = Activation(lambda z: jnp.tanh(z / 2) / 2, 1 / 4)
"""1/(1 + e^-z) - 1/2."""
linear = Activation(lambda z: z / 4, 1 / 4)
"""z/4."""
relu = Activation(lambda z: jax.nn.relu(z) / 4, 1 / 8)
"""max(z, 0)/4."""


class Network(NamedTuple):
    """The fixed part of a network.

    Attributes:
        a: ``[h]``, output weights.
        phi: the activation.
    """

    a: Array
    phi: Activation


def output_weights(key: Key, *, num_hidden: int) -> Array:
    """a_j uniform in [-1, 1], ``[h]``."""
    shape = (arguments.count("num_hidden", num_hidden),)
    return jax.random.uniform(key, shape, minval=-1, maxval=1)


def balanced(a: Array) -> Array:
    """Output weights with the negative ones rescaled so that ‖a⁺‖ = ‖a⁻‖, ``[h]``.

    With them a ReLU network trains like a linear one on data with as many examples on
    either side of the origin; otherwise the difference falls with n, not with h. nan if
    all have one sign.
    """
    a = jnp.asarray(a)
    positive, negative = (norms.l2.value(jnp.maximum(part, 0)) for part in (a, -a))
    ratio = positive / jnp.where(negative == 0, 1, negative)
    rescaled = jnp.where(a < 0, ratio * a, a)
    return arguments.nan_where((positive == 0) | (negative == 0), rescaled)


def init(key: Key, *, num_hidden: int, num_inputs: int, scale: Array | float) -> Array:
    """The start θ_j ~ N(0, I / (d h scale)), ``[h, d]``; scale is the papers' h^δ."""
    h = arguments.count("num_hidden", num_hidden)
    d = arguments.count("num_inputs", num_inputs)
    return jax.random.normal(key, (h, d)) / jnp.sqrt(d * h * scale)


def predict(theta: Array, network: Network, x: Array) -> Array:
    """f(x), ``[n]``.

    Raises:
        ValueError: unless the shapes are ``theta[h, d]``, ``a[h]`` and ``x[n, d]``.
    """
    a, phi = network
    theta, a, x = (jnp.asarray(v) for v in (theta, a, x))
    if theta.ndim != 2 or x.ndim != 2 or theta.shape != (*a.shape, *x.shape[1:]):
        msg = (
            f"shapes theta {theta.shape}, a {a.shape}, x {x.shape}: give theta[h, d], "
            "a[h] and x[n, d], and vmap over more of them"
        )
        raise ValueError(msg)
    return phi.value(x @ theta.T) @ a / jnp.sqrt(a.size)


def perturb(
    theta: Array,
    network: Network,
    norm: Norm,
    x: Array,
    y: Array,
    eps: Array | float,
    *,
    xi: Array | float | None = None,
) -> Array:
    """The fast gradient attack x + eps · factor · steepest(∂loss/∂x), ``[n, d]``.

    The factor is 1, or with ``xi`` the ``norms.surrogate_factor`` of that gradient.

    Args:
        theta: ``[h, d]``.
        network: output weights ``a[h]`` and the activation.
        norm: norm of the ball.
        x: ``[n, d]``.
        y: ``[n]``.
        eps: ``[]``, the radius.
        xi: ``[]``, the smoothing of the surrogate attack; None for none.

    Raises:
        ValueError: for arrays of other shapes, and for a surrogate of another norm than
            l2 and linf.
    """
    norms.check(norm)
    x, y = _checked(x, y, eps, xi)
    f, pull = jax.vjp(lambda x: predict(theta, network, x), x)
    (g,) = pull(2 * (f - y))
    radius = arguments.not_negative(eps)
    if xi is not None:
        radius = radius * jax.vmap(lambda g: norms.surrogate_factor(norm, g, xi))(g)
    return x + radius * jax.vmap(norm.steepest)(g)


def adversarial_loss(
    theta: Array,
    network: Network,
    norm: Norm,
    x: Array,
    y: Array,
    eps: Array | float,
    *,
    xi: Array | float | None = None,
) -> Array:
    """(f(x_adv) - y)² at the attack of ``perturb``, ``[n]``, of the same arguments."""
    x_adv = perturb(theta, network, norm, x, y, eps, xi=xi)
    return (predict(theta, network, x_adv) - jnp.asarray(y)) ** 2


def adversarial_gradient(
    theta: Array,
    network: Network,
    norm: Norm,
    x: Array,
    y: Array,
    eps: Array | float,
    *,
    xi: Array | float | None = None,
) -> Array:
    """The gradient of the mean loss at the frozen attack of ``perturb``, ``[h, d]``."""
    theta, y = arguments.floating(theta), jnp.asarray(y)
    x_adv = perturb(theta, network, norm, x, y, eps, xi=xi)
    f, pull = jax.vjp(lambda theta: predict(theta, network, x_adv), theta)
    (gradient,) = pull(2 * (f - y) / y.size)
    return gradient


def as_linear(theta: Array, network: Network) -> Array:
    """The linear model slope/√h · Σ_j a_j θ_j that f is near θ = 0, ``[d]``."""
    a, phi = network
    return phi.slope * (a @ theta) / jnp.sqrt(a.size)


def step_size(network: Network, linear_step_size: Array | float) -> Array:
    """η h / (‖a‖² slope²): with it f moves as a linear model does with step size η."""
    a, phi = network
    return linear_step_size * a.size / (jnp.sum(a**2) * phi.slope**2)


def _checked(
    x: Array, y: Array, eps: Array | float, xi: Array | float | None
) -> tuple[Array, Array]:
    """``x[n, d]`` in floating point, and ``y[n]``."""
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        msg = f"shapes x {x.shape}, y {y.shape}: give x[n, d] and y[n], and vmap"
        raise ValueError(msg)
    arguments.scalars(eps=eps, xi=0 if xi is None else xi)
    return arguments.floating(x), y
