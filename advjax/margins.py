"""Distances of examples to the decision boundary, and which examples are close.

    margin = margins.logit_margin(predict)                        # a LossFn
    value = margins.adversarial(attack)(key, margin, x, y, eps)   # [n]
    is_small = value < 0

The margin at an input is positive where the example is classified correctly: for
several classes it is the logit of the label minus the largest other, and for a single
logit f it is y f(x). The adversarial margin is the minimum over ‖ξ‖ ≤ eps of the margin
at x + ξ. Where it is negative the example has a small margin: the boundary is within
``eps``, or the example itself is on its wrong side.

Margins and distances that an attack finds are upper bounds of the true ones: examples
that it calls small are, and a stronger attack may find more. ``linear`` is exact.

Why clean generalization and robust memorization both happen in adversarial training,
2023, Section 3. Its Proposition 3.1, that the margin is negative if and only if the
boundary is nearer than ``eps``, holds for examples that are classified correctly only.
"""

from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from advjax import arguments, losses, norms
from advjax.norms import Norm
from advjax.types import Array, Attack, Key, LossFn, Predict

__all__ = [
    "AdversarialMargin",
    "Boundary",
    "BoundarySearch",
    "adversarial",
    "boundary",
    "linear",
    "logit_margin",
]


def logit_margin(predict: Predict) -> LossFn:
    """``(x, y) -> [n]``: positive where ``predict`` is right, 0 on the boundary.

    Args:
        predict: ``x[n, ...] -> logits[n, k]``, with integer labels ``y[n]``; or
            ``x[n, ...] -> f[n]``, with signs ``y[n]``, -1 and 1; nan for others.

    Raises:
        ValueError: by the returned function, for labels of another shape.
    """

    def margin(x, y):
        output = predict(x)
        if output.ndim != 1:
            return -losses.margin(output, y)
        if jnp.shape(y) != output.shape:
            msg = f"single logits of shape {output.shape}, signs {jnp.shape(y)}"
            raise ValueError(f"{msg}; make them equal")
        return output * jnp.where(jnp.abs(y) == 1, y, jnp.nan).astype(output.dtype)

    return margin


class AdversarialMargin(Protocol):
    """The least margin within a ball."""

    def __call__(
        self, key: Key, margin: LossFn, x: Array, y: Any, eps: Array | float, /
    ) -> Array:
        """``[n]``; ``margin`` is a ``logit_margin``, the rest as of ``Attack``."""


def adversarial(attack: Attack) -> AdversarialMargin:
    """The least margin that an attack finds.

    Not above that at ``x``, and not below the true minimum. nan where the attack
    returns nan, as for a negative radius.
    """

    def least(key, margin, x, y, eps):
        _, info = attack(key, _negative(margin), x, y, eps)
        return jnp.minimum(-info.loss, margin(x, y))

    return least


class Boundary(NamedTuple):
    """A point on the other side of the boundary for each example.

    Attributes:
        distance: ``[n]``, to it; 0 where the example is misclassified, inf where no
            attack within the largest radius crossed the boundary.
        delta: like ``x``, from the example to it; 0 where the distance is 0 or inf.
    """

    distance: Array
    delta: Array


class BoundarySearch(Protocol):
    """A search for the nearest point of another class."""

    def __call__(
        self, key: Key, margin: LossFn, x: Array, y: Any, eps: Array | float, /
    ) -> Boundary:
        """Looks within ``eps``, ``[]`` or ``[n]``; the rest as of ``Attack``."""


def boundary(attack: Attack, norm: Norm, *, num_halvings: int = 10) -> BoundarySearch:
    """The nearest point of another class, by bisecting the radius of an attack.

    The attack is tried at ``eps`` and then in the middle between a radius at which it
    failed and one at which it succeeded, per example. The result is a point at which
    the margin is not positive, so the distance is an upper bound, whatever the attack.

    Args:
        attack: raises the negative margin.
        norm: of the distance.
        num_halvings: radii are told apart to eps / 2^num_halvings.

    Returns:
        ``(key, margin, x, y, eps) -> Boundary``, a Python loop over one attack, which
        is compiled once for a margin. Random starts are the same at every radius, but
        for their length. nan where the margin at the example is nan, and for negative
        ``eps``.

    Raises:
        ValueError: unless num_halvings is an integer of at least 0.
    """
    norms.check(norm)
    num_halvings = arguments.count("num_halvings", num_halvings, least=0)

    @partial(jax.jit, static_argnums=1)
    def tried(key, margin, x, y, eps, best):
        x_adv, _ = attack(key, _negative(margin), x, y, eps)
        delta = x_adv - x
        new = Boundary(jax.vmap(norm.value)(delta), delta)
        has_crossed = margin(x_adv, y) <= 0
        is_nearer = has_crossed & (new.distance < best.distance)
        return has_crossed, jax.tree.map(partial(_where, is_nearer), new, best)

    def find(key, margin, x, y, eps):
        x = jnp.asarray(x)
        best = Boundary(jnp.full(len(x), jnp.inf, x.dtype), jnp.zeros_like(x))
        failed = jnp.zeros(len(x), x.dtype)
        succeeded = jnp.broadcast_to(jnp.asarray(eps, x.dtype), len(x))
        is_defined = (succeeded >= 0) & ~jnp.isnan(margin(x, y))
        radius = succeeded
        for _ in range(num_halvings + 1):
            has_crossed, best = tried(key, margin, x, y, radius, best)
            failed = jnp.where(has_crossed, failed, radius)
            succeeded = jnp.minimum(succeeded, best.distance)
            radius = (failed + succeeded) / 2
        wrong = margin(x, y) <= 0
        delta = _where(wrong, jnp.zeros_like(x), best.delta)
        distance = jnp.where(wrong, 0, best.distance)
        return Boundary(jnp.where(is_defined, distance, jnp.nan), delta)

    return find


def linear(theta: Array, bias: Array | float, norm: Norm, x: Array, y: Array) -> Array:
    """The signed distance to a hyperplane, exact: y (θᵀx + b) / ‖θ‖_*, ``[n]``.

    The adversarial margin is this minus eps, times ‖θ‖_*. ``theta[d]``, ``x[n, d]``,
    signs ``y[n]``.

    Raises:
        ValueError: for ``x`` and ``y`` of different lengths.
    """
    norms.check(norm)
    arguments.per_example(x, y=y)
    return y * (x @ theta + bias) / norm.dual(theta)


def _where(condition: Array, a: Array, b: Array) -> Array:
    return jax.vmap(jnp.where)(condition, a, b)


def _negative(margin: LossFn) -> LossFn:
    return lambda x, y: -margin(x, y)
