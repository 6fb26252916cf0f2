"""How far examples are from the decision boundary, and which of them are close.

    score = margins.score(predict)                              # a LossFn
    value = margins.adversarial(attack)(key, score, x, y, eps)  # [n]
    is_small = value < 0

A score is positive where an example is classified correctly; of several classes it is
the logit of the label minus the largest other, and of one output f it is y f(x). The
adversarial margin is min over ‖ξ‖ ≤ eps of the score at x + ξ. Where it is negative the
example has a small margin: the boundary is within ``eps``, or the example itself is on
its wrong side.

Margins and distances that an attack finds are upper bounds of the true ones: examples
that it calls small are, and a stronger attack may find more. ``linear`` is exact.

Why clean generalization and robust memorization both happen in adversarial training,
2023, Section 3. Its Proposition 3.1, that the margin is negative if and only if the
boundary is nearer than ``eps``, holds for examples that are classified correctly only.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax import losses
from advjax.norms import Norm
from advjax.types import Array, Attack, Key, LossFn


def score(predict: Callable[[Array], Array]) -> LossFn:
    """``(x, y) -> [n]``: positive where ``predict`` is right, 0 on the boundary.

    Args:
        predict: ``x[n, ...] -> logits[n, k]``, with integer labels ``y[n]``; or
            ``x[n, ...] -> f[n]``, with signs ``y[n]``, -1 and 1.
    """

    def of(x, y):
        output = predict(x)
        return output * y if output.ndim == 1 else -losses.margin(output, y)

    return of


def adversarial(attack: Attack) -> Callable[..., Array]:
    """``(key, score, x, y, eps) -> [n]``, the least score that the attack finds.

    Not above that at ``x``, and not below the true minimum.
    """

    def margin(key, score, x, y, eps):
        _, info = attack(key, _negative(score), x, y, eps)
        return jnp.minimum(-info.loss, score(x, y))

    return margin


class Boundary(NamedTuple):
    """A point on the other side of the boundary for each example.

    Attributes:
        distance: ``[n]``, to it; 0 where the example is misclassified, inf where no
            attack within the largest radius crossed the boundary.
        delta: like ``x``, from the example to it; 0 where the distance is 0 or inf.
    """

    distance: Array
    delta: Array


def boundary(
    attack: Attack, norm: Norm, *, num_halvings: int = 10
) -> Callable[[Key, LossFn, Array, Any, Array | float], Boundary]:
    """The nearest point of another class, by bisecting the radius of an attack.

    The attack is tried at ``max_eps`` and then in the middle between a radius at which
    it failed and one at which it succeeded, per example. What is returned is a point at
    which the score is not positive, so the distance is an upper bound, whatever the
    attack.

    Args:
        attack: raises the negative score.
        norm: of the distance.
        num_halvings: radii are told apart to max_eps / 2^num_halvings.

    Returns:
        ``(key, score, x, y, max_eps) -> Boundary``, a Python loop over one attack,
        which is compiled once for a score. Random starts are the same at every radius,
        but for their length.

    Raises:
        ValueError: unless num_halvings is an integer of at least 0.
    """
    if not isinstance(num_halvings, int) or num_halvings < 0:
        msg = f"num_halvings = {num_halvings!r}: choose an integer of at least 0"
        raise ValueError(msg)

    @partial(jax.jit, static_argnums=1)
    def tried(key, score, x, y, eps, best):
        x_adv, _ = attack(key, _negative(score), x, y, eps)
        delta = x_adv - x
        new = Boundary(jax.vmap(norm.value)(delta), delta)
        has_crossed = score(x_adv, y) <= 0
        is_nearer = has_crossed & (new.distance < best.distance)
        return has_crossed, jax.tree.map(partial(_where, is_nearer), new, best)

    def find(key, score, x, y, max_eps):
        best = Boundary(jnp.full(len(x), jnp.inf, x.dtype), jnp.zeros_like(x))
        failed, succeeded = (
            jnp.zeros(len(x), x.dtype),
            jnp.full(len(x), max_eps, x.dtype),
        )
        eps = succeeded
        for _ in range(num_halvings + 1):
            has_crossed, best = tried(key, score, x, y, eps, best)
            failed = jnp.where(has_crossed, failed, eps)
            succeeded = jnp.minimum(succeeded, best.distance)
            eps = (failed + succeeded) / 2
        wrong = score(x, y) <= 0
        delta = _where(wrong, jnp.zeros_like(x), best.delta)
        return Boundary(jnp.where(wrong, 0, best.distance), delta)

    return find


def linear(theta: Array, bias: Array | float, x: Array, y: Array, norm: Norm) -> Array:
    """The signed distance to a hyperplane, exact: y (θᵀx + b) / ‖θ‖_*, ``[n]``.

    The adversarial margin is this minus eps, times ‖θ‖_*. ``theta[d]``, ``x[n, d]``,
    signs ``y[n]``.
    """
    return y * (x @ theta + bias) / norm.dual(theta)


def _where(condition: Array, a: Array, b: Array) -> Array:
    return jax.vmap(jnp.where)(condition, a, b)


def _negative(score: LossFn) -> LossFn:
    return lambda x, y: -score(x, y)
