"""Two-layer networks with a fixed output layer, trained near zero: the lazy regime.

    f(x) = (1/√h) Σ_j a_j φ(θ_jᵀx),    θ[h, d] trained, a[h] fixed.

From a vanishing start a network of many hidden units trains like the linear model
``as_linear``, if its step is ``step_size``. The loss is (f(x) - y)². The attack is the
fast gradient method, eps along the steepest direction of that loss at x, which for a
linear φ is the worst case; with xi > 0 it is the surrogate attack A_{eps,xi}.

    network = lazy.Network(lazy.output_weights(key, 50), lazy.sigmoid)
    lazy.adversarial_loss(theta, network, x, y, eps, norms.l2)

Functions take one data set ``x[n, d], y[n]`` and one network; ``vmap`` functions that
build their network over replicates and radii. A negative ``eps`` or ``xi`` gives nan,
and a norm without a surrogate attack raises ValueError.

References: Xing et al., On the generalization properties of adversarial training, 2021
(formula 6, appendices A.2 and A.4.2); Xing et al., Phase transition from clean training
to adversarial training, 2022 (Proposition 1).
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from advjax import norms
from advjax.norms import Norm
from advjax.types import Array, Key


class Activation(NamedTuple):
    """φ with φ(0) = 0, and its slope at 0, the mean of both sides where they differ."""

    value: Callable[[Array], Array]
    slope: float


# 1/(1 + e^-z) - 1/2, in a form that keeps its digits near zero.
sigmoid = Activation(lambda z: jnp.tanh(z / 2) / 2, 1 / 4)
linear = Activation(lambda z: z / 4, 1 / 4)
relu = Activation(lambda z: jax.nn.relu(z) / 4, 1 / 8)


class Network(NamedTuple):
    """What is fixed: the output weights ``a[h]`` and the activation."""

    a: Array
    phi: Activation


def output_weights(key: Key, num_hidden: int) -> Array:
    """a_j uniform in [-1, 1], ``[h]``."""
    return jax.random.uniform(key, (num_hidden,), minval=-1, maxval=1)


def balanced(a: Array) -> Array:
    """Output weights with the negative ones rescaled so that ‖a⁺‖ = ‖a⁻‖, ``[h]``.

    With them a ReLU network trains like a linear one on data with as many examples on
    either side of the origin; otherwise the difference falls with n, not with h. nan if
    all have one sign.
    """
    positive, negative = (norms.l2.value(jnp.maximum(part, 0)) for part in (a, -a))
    ratio = positive / jnp.where(negative == 0, 1, negative)
    rescaled = jnp.where(a < 0, ratio * a, a)
    return jnp.where((positive > 0) & (negative > 0), rescaled, jnp.nan)


def vanishing(key: Key, num_hidden: int, d: int, scale: Array | float) -> Array:
    """A start θ_j ~ N(0, I / (d h scale)), ``[h, d]``; scale is the papers' h^δ."""
    draw = jax.random.normal(key, (num_hidden, d))
    return draw / jnp.sqrt(d * num_hidden * scale)


def predict(theta: Array, network: Network, x: Array) -> Array:
    """f(x), ``[n]``."""
    chex.assert_rank([theta, network.a, x], [2, 1, 2])
    a, phi = network
    return phi.value(x @ theta.T) @ a / jnp.sqrt(a.size)


def perturb(
    theta: Array,
    network: Network,
    x: Array,
    y: Array,
    eps: Array,
    norm: Norm,
    xi: Array | float = 0.0,
) -> Array:
    """The fast gradient attack x + eps · factor · steepest(∂loss/∂x), ``[n, d]``.

    The factor is ``norms.surrogate_factor`` of that gradient, 1 at xi = 0.
    """
    chex.assert_rank(y, 1)
    f, pull = jax.vjp(lambda x: predict(theta, network, x), x)
    (g,) = pull(2 * (f - y))
    factor = jax.vmap(lambda g: norms.surrogate_factor(norm, g, xi))(g)
    radius = jnp.where(jnp.asarray(eps) < 0, jnp.nan, eps)
    return x + radius * factor * jax.vmap(norm.steepest)(g)


def adversarial_loss(
    theta: Array,
    network: Network,
    x: Array,
    y: Array,
    eps: Array,
    norm: Norm,
    xi: Array | float = 0.0,
) -> Array:
    """(f(x_adv) - y)² at the attack of ``perturb``, ``[n]``."""
    x_adv = perturb(theta, network, x, y, eps, norm, xi)
    return (predict(theta, network, x_adv) - y) ** 2


def adversarial_gradient(
    theta: Array,
    network: Network,
    x: Array,
    y: Array,
    eps: Array,
    norm: Norm,
    xi: Array | float = 0.0,
) -> Array:
    """The gradient of the mean loss at the frozen attack, ``[h, d]``."""
    x_adv = perturb(theta, network, x, y, eps, norm, xi)
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
