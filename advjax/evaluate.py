"""Clean and robust accuracy and loss, example by example, and their intervals.

    result = evaluate.outcome(key, predict, losses.cross_entropy, attack, x, y, eps)
    evaluate.summary(result).robust_accuracy            # Estimate(value, low, high)

Keeping one row per example lets batches be concatenated, and several attacks be
combined into their worst case.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.types import Array, Attack, Key, LossFn, example_keys


class Outcome(NamedTuple):
    """Per example, all ``[n]``.

    Attributes:
        loss: at the clean input.
        correct: classified correctly at the clean input.
        robust_loss: at the attacked input.
        robust: classified correctly at the clean *and* at the attacked input.
        zero_grad: the attack met a gradient of zero there.
    """

    loss: Array
    correct: Array
    robust_loss: Array
    robust: Array
    zero_grad: Array


class Estimate(NamedTuple):
    """A proportion with the ends of its confidence interval."""

    value: float
    low: float
    high: float


class Summary(NamedTuple):
    """Totals over ``num_examples``; robust accuracy is unconditional, out of all."""

    num_examples: int
    loss: float
    accuracy: Estimate
    robust_loss: float
    robust_accuracy: Estimate
    num_zero_grad: int


def outcome(
    key: Key,
    predict: Callable[[Array], Array],
    loss: Callable[[Array, Array], Array],
    attack: Attack,
    x: Array,
    y: Array,
    eps: Array | float,
) -> Outcome:
    """Attacks a batch and looks at both ends; pure, so jit and vmap it.

    Args:
        key: one key, or ``[n]`` keys.
        predict: ``x[n, ...] -> logits[n, k]`` in evaluation mode.
        loss: ``(logits, y) -> loss[n]``, also what the attack raises.
        attack: the attack.
        x: ``[n, ...]``.
        y: ``[n]`` integer labels.
        eps: radius.

    Returns:
        The outcome, recomputed from the attacked inputs, not taken from the attack. A
        prediction whose loss is not finite counts as wrong.
    """
    x_adv, info = attack(key, lambda x, y: loss(predict(x), y), x, y, eps)
    clean_loss, correct = _judge(predict(x), loss, y)
    robust_loss, still_correct = _judge(predict(x_adv), loss, y)
    return Outcome(
        clean_loss, correct, robust_loss, correct & still_correct, info.zero_grad
    )


def attack_difference(
    key: Key,
    loss_fn: LossFn,
    attack: Attack,
    length: Callable[[Array], Array],
    x: Array,
    y: Array,
    eps: Array | float,
) -> Array:
    """How far apart two attacks from different random starts end, per example.

    ‖delta_1 - delta_2‖, between 0 and 2 eps in the norm of the ball. Zero if the attack
    always reaches one and the same maximum; steps that are few leave something of the
    starts, also on a linear function.

    Args:
        key: one key, or ``[n]`` keys.
        loss_fn: what the attack raises.
        attack: an attack with a random start; without one the result is 0.
        length: norm of one example's difference, such as ``norms.l2.value``.
        x: ``[n, ...]``.
        y: ``[n, ...]``.
        eps: radius, ``[]`` or ``[n]``.

    Returns:
        ``[n]``.

    Figure 8 of Xing et al., On the generalization properties of adversarial training,
    2021.
    """
    keys = example_keys(key, x.shape[0])
    first, second = (
        attack(jax.vmap(jax.random.fold_in, (0, None))(keys, i), loss_fn, x, y, eps)[0]
        for i in (0, 1)
    )
    return jax.vmap(length)(first - second)


def _judge(logits: Array, loss: Callable, y: Array) -> tuple[Array, Array]:
    losses = loss(logits, y)
    return losses, (jnp.argmax(logits, axis=-1) == y) & jnp.isfinite(losses)


def in_batches(
    evaluate: Callable[[Key, Array, Array], Outcome],
    key: Key,
    x: Array,
    y: Array,
    *,
    batch_size: int,
) -> Outcome:
    """``evaluate(keys[b], x[b, ...], y[b])`` over a data set that is attacked in parts.

    Every example keeps its own key, so the result does not depend on ``batch_size``.
    The last batch is filled up with repeated examples and cut again, so that one
    compiled program serves all. A Python loop: jit ``evaluate``, not this.

    Raises:
        ValueError: for no examples, or a batch size below 1.
    """
    n = x.shape[0]
    if n < 1 or batch_size < 1:
        msg = f"{n} examples in batches of {batch_size}: give at least 1 of each"
        raise ValueError(msg)
    keys = example_keys(key, n)
    parts = []
    for first in range(0, n, batch_size):
        rows = np.minimum(np.arange(first, first + batch_size), n - 1)
        part = evaluate(keys[rows], x[rows], y[rows])
        parts.append(jax.tree.map(lambda leaf, m=n - first: leaf[:m], part))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def worst_case(*outcomes: Outcome) -> Outcome:
    """The worst over attacks, example by example: robust only if robust to each."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *outcomes)
    return Outcome(
        stacked.loss[0],
        jnp.all(stacked.correct, axis=0),
        jnp.max(stacked.robust_loss, axis=0),
        jnp.all(stacked.robust, axis=0),
        jnp.any(stacked.zero_grad, axis=0),
    )


def wilson(num_correct: int, num_examples: int, z: float = 1.96) -> Estimate:
    """A proportion with Wilson's interval, which stays in [0, 1] and near 0 and 1.

    Args:
        num_correct: successes.
        num_examples: trials, at least 1.
        z: normal quantile; 1.96 for 95 %.

    Raises:
        ValueError: unless 0 ≤ num_correct ≤ num_examples and num_examples ≥ 1.

    Example:
        >>> from advjax import evaluate
        >>> [round(end, 3) for end in evaluate.wilson(98, 100)]
        [0.98, 0.93, 0.994]
    """
    if not 0 <= num_correct <= num_examples or num_examples < 1:
        msg = f"{num_correct} correct of {num_examples} is no proportion"
        raise ValueError(msg)
    p, n = num_correct / num_examples, num_examples
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half))


def summary(result: Outcome) -> Summary:
    """Means, and Wilson's 95 % intervals of the accuracies; on the host, in float64."""
    result = jax.tree.map(np.asarray, result)
    n = result.loss.shape[0]
    return Summary(
        n,
        float(result.loss.mean(dtype=np.float64)),
        wilson(int(result.correct.sum()), n),
        float(result.robust_loss.mean(dtype=np.float64)),
        wilson(int(result.robust.sum()), n),
        int(result.zero_grad.sum()),
    )
