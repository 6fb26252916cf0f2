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

from advjax import arguments, criteria, flags, losses, norms, regions
from advjax.flags import Flags
from advjax.norms import Norm
from advjax.types import Array, Attack, Key, LossFn, Predict

__all__ = [
    "AdversarialMargin",
    "Boundary",
    "BoundarySearch",
    "MarginSearch",
    "NearestSearch",
    "adversarial",
    "boundary",
    "linear",
    "logit_margin",
    "nearest",
]


def logit_margin(predict: Predict) -> LossFn:
    """``(x, y) -> [n]``: positive where ``predict`` is right, 0 on the boundary.

    Args:
        predict: ``x[n, ...] -> logits[n, k]``, with integer labels ``y[n]``; or
            ``x[n, ...] -> f[n]``, with signs ``y[n]``, -1 and 1; nan for others.

    Raises:
        ValueError: for what is no predict; by the returned function, for labels of
            another shape, and outputs that are not one array.
    """
    arguments.functions(predict=predict)

    def margin(x, y):
        output = arguments.output(predict(x))
        if output.ndim != 1:
            return -losses.margin(output, y)
        if jnp.shape(y) != output.shape:
            msg = f"single logits of shape {output.shape}, signs {jnp.shape(y)}"
            raise ValueError(f"{msg}; make them equal")
        return output * losses.signs(y, output.dtype)

    return margin


class AdversarialMargin(NamedTuple):
    """The least margin that was found in the ball about each example.

    Attributes:
        value: ``[n]``.
        flags: of the attack. Its gradient counts as vanished only where the margin is
            still positive.
    """

    value: Array
    flags: Flags


class MarginSearch(Protocol):
    """A search for the least margin within a ball."""

    def __call__(
        self, key: Key, margin: LossFn, x: Array, y: Any, eps: Array | float, /
    ) -> AdversarialMargin:
        """``margin`` is a ``logit_margin``, the rest as of ``Attack``."""


def adversarial(attack: Attack) -> MarginSearch:
    """The least margin that an attack finds.

    Not above that at ``x``, and not below the true minimum. nan where the attack
    returns nan, as for a negative radius.

    Raises:
        ValueError: for what is no attack.
    """
    arguments.functions(attack=attack)

    def least(key, margin, x, y, eps):
        _check_margin(margin)
        _, info = attack(key, _negative(margin), x, y, eps)
        value = jnp.minimum(-info.loss, margin(x, y))
        found = flags.of(info, undefined=jnp.isnan(value))
        return AdversarialMargin(
            value, found._replace(zero_grad=found.zero_grad & ~(value < 0))
        )

    return least


class Boundary(NamedTuple):
    """A point on the other side of the boundary for each example.

    Attributes:
        distance: ``[n]``, to it; 0 where the example is misclassified, inf where no
            attack within the largest radius crossed the boundary.
        delta: ``[n, ...]``, from the example to it, in float32 at least; 0 where the
            distance is 0 or inf.
        flags: of the attack at all radii. Its gradient counts as vanished at radii
            where the boundary was not crossed: a smaller distance may have been missed.
    """

    distance: Array
    delta: Array
    flags: Flags


class BoundarySearch(Protocol):
    """A search for the nearest point of another class."""

    def __call__(
        self, key: Key, margin: LossFn, x: Array, y: Any, eps: Array | float, /
    ) -> Boundary:
        """Looks within ``eps``, ``[]`` or ``[n]``; the rest as of ``Attack``.

        Raises:
            ValueError: for radii of features.
        """


def boundary(attack: Attack, norm: Norm, *, num_halvings: int = 10) -> BoundarySearch:
    """The nearest point of another class, by bisecting the radius of an attack.

    The attack is tried at ``eps`` and, while it fails, at half of the radius, since it
    may have overshot; then in the middle between a radius at which it failed and one at
    which it succeeded, per example. The result is a point at which the margin is not
    positive, so the distance is an upper bound, whatever the attack.

    Args:
        attack: raises the negative margin.
        norm: of the distance.
        num_halvings: radii are told apart to eps / 2^num_halvings.

    Returns:
        ``(key, margin, x, y, eps) -> Boundary``, a Python loop over one attack, which
        is compiled once a call; jit the search for several calls. Random starts are the
        same at every radius, but for their length. nan where the margin at the example
        is nan, and for negative ``eps``. Comparisons find the distance, and no gradient
        flows through them: it is nan.

    Raises:
        ValueError: unless num_halvings is an integer of at least 0, and for what is no
            attack.
    """
    norms.check(norm)
    num_halvings = arguments.count("num_halvings", num_halvings, least=0)
    arguments.functions(attack=attack)

    def tried(margin, key, x, y, eps):
        x_adv, info = attack(key, _negative(margin), x, y, eps)
        delta = regions.promoted(x_adv) - regions.promoted(x)
        there = margin(x_adv, y)
        found = flags.of(info, undefined=jnp.isnan(there))
        found = found._replace(zero_grad=found.zero_grad & ~(there <= 0))
        return there <= 0, Boundary(jax.vmap(norm.value)(delta), delta, found)

    def find(key, margin, x, y, eps):
        _check_margin(margin)
        x, y, n = jnp.asarray(x), jnp.asarray(y), len(x)
        # A program that is kept would keep the parameters that the margin has now.
        trial = jax.jit(partial(tried, margin))
        here = criteria.judge(margin, x, y).loss
        wide = regions.promoted(x)
        succeeded = _radius_of_examples(wide, eps)
        radius, failed = succeeded, jnp.zeros_like(succeeded)
        is_defined = (succeeded >= 0) & ~jnp.isnan(here)
        distance, delta = jnp.full(n, jnp.inf, wide.dtype), jnp.zeros_like(wide)
        seen = []
        for _ in range(num_halvings + 1):
            has_crossed, new = trial(key, x, y, radius)
            seen.append(new.flags)
            is_between = jnp.isfinite(distance)
            failed = jnp.where(is_between & ~has_crossed, radius, failed)
            is_nearer = has_crossed & (new.distance < distance)
            distance = jnp.where(is_nearer, new.distance, distance)
            delta = _where(is_nearer, new.delta, delta)
            succeeded = jnp.minimum(succeeded, distance)
            middle = (failed + succeeded) / 2
            radius = jnp.where(jnp.isfinite(distance), middle, radius / 2)
        is_wrong = here <= 0
        found = jax.tree.map(lambda *each: jnp.any(jnp.stack(each), axis=0), *seen)
        distance = arguments.nan_where(~is_defined, jnp.where(is_wrong, 0, distance))
        return Boundary(
            _without_gradient(distance),
            _without_gradient(_where(is_wrong, jnp.zeros_like(wide), delta)),
            found._replace(
                zero_grad=found.zero_grad & ~is_wrong,
                undefined=found.undefined | jnp.isnan(here),
            ),
        )

    return find


class NearestSearch(Protocol):
    """A search for the nearest point of another class, in one run."""

    def __call__(
        self, key: Key, predict: Predict, x: Array, y: Any, eps: Array | float = ..., /
    ) -> Boundary:
        """Looks within ``eps``, ``[]`` or ``[n]``.

        The rest as of ``logit_margin``, for logits ``[n, k]``.

        Raises:
            ValueError: for radii of features, and single logits.
        """


def nearest(attack: Attack, norm: Norm) -> NearestSearch:
    """The nearest point of another class that one run of a minimum-norm attack finds.

    One run is a whole curve of robust accuracy, an upper bound at every radius:

        find = margins.nearest(attacks.fab(norms.linf, bounds=(0.0, 1.0)), norms.linf)
        found = find(key, predict, x, y)
        accuracy = (found.distance[:, None] > radii).mean(axis=0)

    Args:
        attack: such as ``attacks.fab``, which looks for a short perturbation; one that
            climbs, such as ``pgd``, ends at the radius.
        norm: of the distance, and that of the attack.

    Returns:
        ``(key, predict, x, y, eps=inf) -> Boundary``, for jit. nan where the margin at
        the example is nan, and for negative ``eps``. No gradient flows through it: it
        is nan.

    Raises:
        ValueError: for what is no attack or no norm.
    """
    norms.check(norm)
    arguments.functions(attack=attack)

    def find(key, predict, x, y, eps=jnp.inf):
        margin = logit_margin(predict)
        x, y = jnp.asarray(x), jnp.asarray(y)
        wide = regions.promoted(x)
        radius = _radius_of_examples(wide, eps)
        # What is not a number is beyond no boundary.
        goal = criteria.Goal(predict, losses.margin, _has_crossed)
        x_adv, info = attack(key, goal, x, y, radius)
        here, there = margin(x, y), margin(x_adv, y)
        delta = regions.promoted(x_adv) - wide
        has_crossed, is_wrong = there <= 0, here <= 0
        length = jnp.where(has_crossed, jax.vmap(norm.value)(delta), jnp.inf)
        distance = arguments.nan_where(
            ~(radius >= 0) | jnp.isnan(here), jnp.where(is_wrong, 0, length)
        )
        delta = _where(has_crossed & ~is_wrong, delta, jnp.zeros_like(delta))
        found = flags.of(info, undefined=jnp.isnan(here) | jnp.isnan(there))
        return Boundary(
            _without_gradient(distance),
            _without_gradient(delta),
            found._replace(zero_grad=found.zero_grad & ~has_crossed),
        )

    return find


def _has_crossed(output: Array, y: Array) -> Array:
    return losses.margin(output, y) >= 0


def linear(theta: Array, bias: Array | float, norm: Norm, x: Array, y: Array) -> Array:
    """The signed distance to a hyperplane, exact: y (θᵀx + b) / ‖θ‖_*, ``[n]``.

    The adversarial margin is this minus eps, times ‖θ‖_*. ``theta[d]``, ``x[n, d]``,
    signs ``y[n]``, -1 and 1; nan for others.

    Raises:
        ValueError: for ``x`` and ``y`` of different lengths.
    """
    norms.check(norm)
    arguments.per_example(x, y=y)
    theta, x = arguments.single(theta), arguments.single(x)
    return logit_margin(lambda x: x @ theta + bias)(x, y) / norm.dual(theta)


def _check_margin(margin: Any) -> None:
    arguments.functions(margin=margin)
    if isinstance(margin, criteria.Goal):
        msg = "margin is a criteria.Goal: give margins.logit_margin(predict)"
        raise ValueError(msg)


@jax.custom_jvp
def _without_gradient(x: Array) -> Array:
    """``x``, with a gradient of nan where zero would pass for one."""
    return x


@_without_gradient.defjvp
def _(primals, tangents):
    return primals[0], jnp.nan * tangents[0]


def _radius_of_examples(x: Array, eps: Array | float) -> Array:
    if jnp.shape(eps) not in ((), x.shape[:1]):
        msg = f"eps has shape {jnp.shape(eps)}: give one radius, or one per example [n]"
        raise ValueError(msg)
    return jnp.broadcast_to(jnp.asarray(eps, x.dtype), x.shape[:1])


def _where(condition: Array, a: Array, b: Array) -> Array:
    return jax.vmap(jnp.where)(condition, a, b)


def _negative(margin: LossFn) -> LossFn:
    return lambda x, y: -margin(x, y)
