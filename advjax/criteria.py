"""Correctness of outputs, and the goals of attacks.

    right = criteria.correct(output, y)                      # [n] booleans
    goal = criteria.Goal(predict, losses.cross_entropy)
    x_adv, info = attack(key, goal, x, y, eps)               # info.fooled

Evaluation, training metrics, margins and attacks all judge by ``correct``. Integers are
labels and floating-point numbers are targets:

    output            y                                right where
    ``[n, k]``        ``[n]`` integers in [0, k)       the label's output is the largest
    ``[n]``           ``[n]`` integers -1 and 1        the output has the sign of y
    ``[n, ..., k]``   ``[n, ...]`` integers in [0, k)  every position is right
    like y            floating point                   a regression has no accuracy

A loss is no substitute for this: the point of largest loss may be classified correctly
while another one is not. So what is kept on behalf of an accuracy is kept by
``better``: a point that fools the model first, then the larger loss.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from advjax import arguments
from advjax.types import Array, Loss, LossFn, Predict

__all__ = [
    "Criterion",
    "Expected",
    "Goal",
    "Judgement",
    "better",
    "correct",
    "defined",
    "has_accuracy",
    "judge",
    "labelled",
    "misclassified",
    "probabilities",
    "targeted",
]


def has_accuracy(y: Any) -> bool:
    """Whether ``y`` are labels, which are integers, and not targets of a regression.

    Raises:
        ValueError: for booleans, which are neither.
    """
    dtype = jnp.asarray(y).dtype
    if jnp.issubdtype(dtype, jnp.bool_):
        msg = "labels have dtype bool: give integers"
        raise ValueError(msg)
    return jnp.issubdtype(dtype, jnp.integer)


def correct(output: Array, y: Array) -> Array:
    """Whether each example is classified correctly, ``[n]``.

    Among equal largest outputs the first counts, as in ``argmax``; one logit of 0 is
    wrong. An output with nan is wrong, and so is one whose label is no class. Outputs
    of minus infinity are fine, as those of masked classes.

    Args:
        output: ``[n, k]`` logits of k ≥ 2 classes, ``[n]`` single logits, or
            ``[n, ..., k]`` logits at several positions, all of which must be right.
        y: ``[n]`` or ``[n, ...]`` integers: classes, or for single logits -1 and 1.

    Raises:
        ValueError: for other shapes, targets that are not integers, and labels of
            single logits that are known and neither -1 nor 1.
    """
    output, y = _labelled(output, y)
    if output.ndim == 1:
        has_sign = jnp.where(y > 0, output > 0, output < 0)
        return has_sign & (jnp.abs(y) == 1)
    wide = np.int32 if y.dtype.itemsize <= 4 else y.dtype
    right = jnp.argmax(output, axis=-1).astype(wide) == y.astype(wide)
    return _everywhere(right & ~jnp.any(jnp.isnan(output), axis=-1))


def defined(output: Array, y: Array) -> Array:
    """Whether a judgement means anything, ``[n]``: no nan, and a label that is one.

    For a regression, whether output and target are finite.
    """
    output, y = jnp.asarray(output), jnp.asarray(y)
    if not has_accuracy(y):
        return _everywhere(jnp.isfinite(output)) & _everywhere(jnp.isfinite(y))
    return _everywhere(~jnp.isnan(output)) & labelled(output, y)


def labelled(output: Array, y: Array) -> Array:
    """Whether each example has labels that are classes, or signs, ``[n]``."""
    if output.ndim == 1:
        return jnp.abs(y) == 1
    return _everywhere((y >= 0) & (y < output.shape[-1]))


def _everywhere(holds: Array) -> Array:
    return jnp.all(holds, axis=tuple(range(1, holds.ndim)))


def probabilities(output: Array) -> Array:
    """Whether each example's outputs are in [0, 1] and sum to 1, as no logits do.

    ``[n]``; of single logits, whether they are in [0, 1].
    """
    within = (output >= 0) & (output <= 1)
    if output.ndim < 2:
        return within
    # The rounding of k numbers of half precision is below 1 %.
    is_whole = jnp.abs(jnp.sum(arguments.single(output), axis=-1) - 1) < 1e-2
    return _everywhere(jnp.all(within, axis=-1) & is_whole)


def misclassified(output: Array, y: Array) -> Array:
    """Not ``correct``, ``[n]``: what fools a classifier."""
    return ~correct(output, y)


def _labelled(output: Any, y: Any) -> tuple[Array, Array]:
    """Both as arrays, after a check that the labels fit the outputs."""
    output, y = arguments.output(output), jnp.asarray(y)
    shapes = f"output has shape {output.shape}, y {y.shape} of {y.dtype}"
    if not has_accuracy(y):
        msg = (
            f"{shapes}: labels are integers, and a regression has losses and no "
            "accuracy; for single logits give the integers -1 and 1"
        )
        raise ValueError(msg)
    fits = output.shape == y.shape if output.ndim < 2 else output.shape[:-1] == y.shape
    if not fits or output.ndim == 0 or (output.ndim > 1 and output.shape[-1] < 2):
        msg = (
            f"{shapes}: give logits [n, k] of at least 2 classes with labels [n], "
            "single logits [n] with signs [n], or logits [n, ..., k] with labels "
            "[n, ...]"
        )
        raise ValueError(msg)
    is_known = output.ndim == 1 and arguments.is_known(y)
    found = set(np.unique(np.asarray(y)).tolist()) if is_known else set()
    if found - {-1, 1}:
        msg = f"labels of single logits are {sorted(found)[:5]}: give -1 and 1"
        raise ValueError(msg)
    return output, y


class Judgement(NamedTuple):
    """The verdict of a goal on a batch: ``loss[n]``, and where it is ``fooled[n]``."""

    loss: Array
    fooled: Array


class Criterion(Protocol):
    """A test for whether a model is fooled."""

    def __call__(self, output: Array, y: Any, /) -> Array:
        """``(output[n, ...], y[n, ...]) -> fooled[n]``, booleans."""


@dataclasses.dataclass(frozen=True)
class Goal:
    """A loss to raise, and a criterion for having fooled the model: a ``LossFn``.

    An attack on a goal reports ``info.fooled``, and where it keeps the best of several
    points it keeps those that fool the model first.

    Attributes:
        predict: ``x[n, ...] -> output[n, ...]``, in evaluation mode.
        loss: ``(output, y) -> loss[n]``.
        fooled: ``(output, y) -> [n]``, by default ``misclassified``.
    """

    predict: Predict
    loss: Loss
    fooled: Criterion = misclassified

    def __call__(self, x: Array, y: Any, /) -> Array:
        """The loss alone, ``[n]``."""
        return self.loss(arguments.output(self.predict(x)), y)

    def judge(self, x: Array, y: Any) -> Judgement:
        """Loss and verdict of one pass."""
        output = arguments.output(self.predict(x))
        return Judgement(self.loss(output, y), self.fooled(output, y))


@dataclasses.dataclass(frozen=True)
class Expected(Goal):
    """A goal of a random model: the mean loss of several draws, fooled in the last one.

    Attributes:
        draws: ``x[n, ...] -> output[m, n, ...]``, of which ``predict`` is the last.
    """

    draws: Predict = dataclasses.field(kw_only=True)

    def __call__(self, x: Array, y: Any, /) -> Array:
        """The mean loss, ``[n]``."""
        return self.judge(x, y).loss

    def judge(self, x: Array, y: Any) -> Judgement:
        """Mean loss, and the verdict of the last draw."""
        outputs = self.draws(x)
        terms = jax.vmap(self.loss, (0, None))(outputs, y)
        return Judgement(jnp.mean(terms, axis=0), self.fooled(outputs[-1], y))


def targeted(predict: Predict, loss: Loss) -> Goal:
    """The goal of making a model answer ``y``: -loss, fooled where it does.

    The second argument of the goal is the wanted class ``[n]``, or the sign of a single
    logit. For more than two classes ``losses.margin`` is the loss that aims at the
    boundary; ``losses.cross_entropy`` is the common choice.
    """
    return Goal(predict, lambda output, y: -loss(output, y), correct)


def judge(loss_fn: LossFn, x: Array, y: Any) -> Judgement:
    """``Goal.judge``; a plain loss function is never known to be fooled.

    Raises:
        ValueError: unless there is one loss per example.
    """
    if isinstance(loss_fn, Goal):
        found = loss_fn.judge(x, y)
    else:
        losses = loss_fn(x, y)
        found = Judgement(losses, jnp.zeros(getattr(losses, "shape", ()), bool))
    n = len(x)
    if not _is_floating(found.loss):
        msg = (
            f"loss_fn returned {type(found.loss).__name__} for {n} examples; it must "
            f"return one floating-point array of shape {(n,)}"
        )
        raise ValueError(msg)
    for name, values in found._asdict().items():
        if jnp.shape(values) != (n,):
            what = "loss_fn" if name == "loss" else "the criterion"
            msg = (
                f"{what} returned shape {jnp.shape(values)} for {n} examples; it must "
                f"return one value per example, shape {(n,)}"
            )
            raise ValueError(msg)
    if found.fooled.dtype != bool:
        msg = f"the criterion returned {found.fooled.dtype}; it must return booleans"
        raise ValueError(msg)
    return found


def _is_floating(values: Any) -> bool:
    dtype = getattr(values, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)


def better(new: Judgement, old: Judgement) -> Array:
    """Whether ``new`` is the stronger point for an attacker, example by example.

    A fooled point beats one that is not; among equals the larger loss wins, where nan
    is the largest and stays visible. A tie keeps ``old``.
    """
    is_larger = ~(new.loss <= old.loss) & ~jnp.isnan(old.loss)
    return jnp.where(new.fooled == old.fooled, is_larger, new.fooled)
