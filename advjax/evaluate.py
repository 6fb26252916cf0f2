"""Clean and robust accuracy and loss, example by example, and their intervals.

    result = evaluate.outcome(key, predict, losses.cross_entropy, attack, x, y, eps)
    evaluate.summary(result).robust_accuracy            # Estimate(value, low, high)

Keeping one row per example lets batches be concatenated, and several attacks be
combined into their worst case.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from advjax import arguments, criteria, flags, norms, regions
from advjax.norms import Norm
from advjax.types import (
    Array,
    Attack,
    AttackInfo,
    Key,
    Loss,
    LossFn,
    Predict,
    example_keys,
)

__all__ = [
    "Estimate",
    "Evaluation",
    "Outcome",
    "Summary",
    "TargetedOutcome",
    "attack_difference",
    "in_batches",
    "outcome",
    "summary",
    "targeted_outcome",
    "wilson",
    "worst_case",
]


class Outcome(NamedTuple):
    """Per example, all ``[n]``. Fields that are None are unknown.

    Attributes:
        loss: at the clean input.
        correct: classified correctly at the clean input; None for a regression.
        robust_loss: at the attacked input.
        robust: classified correctly at the clean *and* at the attacked input; None for
            a regression.
        zero_grad: the attack met a gradient of zero there, before it succeeded.
        undefined: something was not a number: a gradient of the attack, the attacked
            input, or an output or loss at either end. The attacked input and outputs
            are then not robust; a gradient alone leaves the verdict as it is.
        outside: the input itself is not within the attack's bounds.
        probabilities: the outputs are in [0, 1] and sum to 1, as no logits do.
    """

    loss: Array
    correct: Array | None
    robust_loss: Array
    robust: Array | None
    zero_grad: Array
    undefined: Array | None = None
    outside: Array | None = None
    probabilities: Array | None = None


class Estimate(NamedTuple):
    """A proportion with the ends of its confidence interval."""

    value: float
    low: float
    high: float


class Summary(NamedTuple):
    """Totals over ``num_examples``, and what speaks against them.

    Robust accuracy is unconditional: correct at both ends, out of all. Accuracies are
    None for a regression.

    Attributes:
        num_examples: n.
        loss: mean at the clean inputs.
        accuracy: at the clean inputs.
        robust_loss: mean at the attacked inputs.
        robust_accuracy: at both.
        num_zero_gradients: examples that are still robust and whose gradient vanished.
        num_undefined: examples where something was not a number.
        num_outside: inputs that were not within the bounds.
        caveats: a line for each reason to distrust the numbers; read them first.
    """

    num_examples: int
    loss: float
    accuracy: Estimate | None
    robust_loss: float
    robust_accuracy: Estimate | None
    num_zero_gradients: int
    num_undefined: int
    num_outside: int
    caveats: tuple[str, ...]


def outcome(
    key: Key,
    predict: Predict,
    loss: Loss,
    attack: Attack,
    x: Array,
    y: Array,
    eps: Array | float,
) -> Outcome:
    """Attacks a batch and looks at both ends; pure, so jit and vmap it.

    Args:
        key: one key, or ``[n]`` keys.
        predict: ``x[n, ...] -> output[n, ...]`` in evaluation mode, such as logits.
        loss: ``(output, y) -> loss[n]``, also what the attack raises.
        attack: the attack. It is given a ``criteria.Goal``, so that of several points
            it keeps one that is misclassified.
        x: ``[n, ...]``.
        y: ``[n]`` integers, labels or signs, as ``criteria.correct`` takes them; or
            ``[n, ...]`` floating-point targets of a regression, which has losses and no
            accuracy.
        eps: radius, as of ``types.Attack``.

    Returns:
        The outcome, recomputed from the attacked inputs, not taken from the attack. A
        prediction whose loss is not finite counts as wrong, and so does an attacked
        input that is not.

    Raises:
        ValueError: for lengths or shapes that do not fit.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    arguments.equal_lengths(x=x, y=y)
    arguments.functions(predict=predict, loss=loss, attack=attack)
    is_classified = criteria.has_accuracy(y)
    clean = _seen(predict, loss, x, y)
    goal = criteria.Goal(
        predict, loss, criteria.misclassified if is_classified else _never
    )
    x_adv, info = _attacked(attack, key, goal, x, y, eps)
    attacked = _seen(predict, loss, x_adv, y)
    x_is_finite = _all_finite(x_adv)
    is_defined = clean.defined & attacked.defined & x_is_finite
    robust = None
    if clean.correct is not None and attacked.correct is not None:
        robust = clean.correct & attacked.correct & x_is_finite
    return Outcome(
        clean.loss,
        clean.correct,
        attacked.loss,
        robust,
        *flags.of(info, undefined=~is_defined),
        clean.probabilities,
    )


def _attacked(attack: Attack, *args: Any) -> tuple[Array, AttackInfo]:
    found = attack(*args)
    if not isinstance(found, tuple) or len(found) != 2:
        kind = type(found).__name__
        msg = f"the attack returns a {kind}: give one that returns (x_adv, AttackInfo)"
        raise ValueError(msg)
    return found


def _all_finite(x: Array) -> Array:
    return jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim)))


class _Seen(NamedTuple):
    """A batch at one end, ``[n]`` each."""

    loss: Array
    correct: Array | None
    defined: Array
    probabilities: Array | None


def _seen(predict: Predict, loss: Loss, x: Array, y: Array) -> _Seen:
    output = predict(x)
    right = criteria.correct(output, y) if criteria.has_accuracy(y) else None
    losses = criteria.judge(lambda *_: loss(output, y), x, y).loss
    is_defined = criteria.defined(output, y) & ~jnp.isnan(losses)
    if right is None:
        return _Seen(losses, None, is_defined, None)
    # Not minus infinity, the margin where all other classes are masked.
    right = right & (losses < jnp.inf)
    return _Seen(losses, right, is_defined, criteria.probabilities(output))


def _never(output: Array, y: Array) -> Array:
    del y
    return jnp.zeros(len(output), bool)


def attack_difference(
    key: Key,
    loss_fn: LossFn,
    attack: Attack,
    norm: Norm,
    x: Array,
    y: Array,
    eps: Array | float,
) -> Array:
    """The distance between the ends of two attacks from different starts, ``[n]``.

    ‖delta_1 - delta_2‖, between 0 and 2 eps in the norm of the ball. Zero if the attack
    always reaches one and the same maximum; with few steps something of the starts is
    left, also on a linear function.

    Args:
        key: one key, or ``[n]`` keys.
        loss_fn: what the attack raises.
        attack: an attack with a random start; without one the result is 0.
        norm: of the distance.
        x: ``[n, ...]``.
        y: ``[n, ...]``.
        eps: radius.

    Figure 8 of Xing et al., On the generalization properties of adversarial training,
    2021.
    """
    norms.check(norm)
    arguments.functions(attack=attack, loss_fn=loss_fn)
    keys = example_keys(key, len(x))
    first, second = (
        attack(jax.vmap(jax.random.fold_in, (0, None))(keys, i), loss_fn, x, y, eps)[0]
        for i in (0, 1)
    )
    # Half precision would round the distance, and overflow in sums.
    first, second = regions.promoted(first), regions.promoted(second)
    return jax.vmap(norm.value)(first - second)


class Evaluation(Protocol):
    """``outcome`` with all but its data given."""

    def __call__(self, key: Key, x: Array, y: Array, /) -> Outcome:
        """``(keys[n], x[n, ...], y[n, ...]) -> Outcome``."""


def in_batches(
    evaluation: Evaluation, key: Key, x: Array, y: Array, *, batch_size: int
) -> Outcome:
    """``evaluation(keys[b], x[b, ...], y[b])`` over a data set, part by part.

    Every example keeps its own key, so the result does not depend on ``batch_size``.
    The last batch is filled up with repeated examples and cut again, so that one
    compiled program serves all. A Python loop: jit ``evaluation``, not this.

    Raises:
        ValueError: for no examples, a batch size below 1, or lengths that differ.
    """
    data: list[Any] = [
        each if hasattr(each, "shape") else np.asarray(each) for each in (x, y)
    ]
    n = arguments.equal_lengths(x=data[0], y=data[1])
    batch_size = arguments.count("batch_size", batch_size)
    if n < 1:
        msg = "x has no examples: give at least 1"
        raise ValueError(msg)
    keys = example_keys(key, n)
    parts = []
    for first in range(0, n, batch_size):
        rows = np.minimum(np.arange(first, first + batch_size), n - 1)
        part = evaluation(keys[rows], *(each[rows] for each in data))
        _check_part(part, len(rows))
        parts.append(jax.tree.map(lambda leaf, m=n - first: leaf[:m], part))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _check_part(part: Any, n: int) -> None:
    """An evaluation that is vmapped inside would be cut along the wrong axis."""
    shapes = {jnp.shape(leaf) for leaf in jax.tree.leaves(part)}
    is_flat = isinstance(part, Outcome | TargetedOutcome)
    fits = {shape == (n,) if is_flat else shape[:1] == (n,) for shape in shapes}
    if fits != {True}:
        found = ", ".join(map(str, sorted(shapes))) or "nothing"
        msg = (
            f"the evaluation returned shapes {found} for {n} examples: give one whose "
            "results have the examples first, and map over radii outside"
        )
        raise ValueError(msg)


def _check_outcome(value: Any) -> None:
    if not isinstance(value, Outcome):
        kind = type(value).__name__
        msg = f"a {kind} is no Outcome: give what evaluate.outcome returns"
        raise ValueError(msg)


def worst_case(*outcomes: Outcome) -> Outcome:
    """The worst over attacks, example by example: robust only if robust to each.

    Raises:
        ValueError: for no outcomes, outcomes of different examples, or of a regression
            beside a classification.
    """
    for each in outcomes:
        _check_outcome(each)
    if len({outcome.robust is None for outcome in outcomes}) > 1:
        msg = "some outcomes have no accuracy: combine classifications or regressions"
        raise ValueError(msg)
    if len({jnp.shape(outcome.loss) for outcome in outcomes}) != 1:
        shapes = [jnp.shape(outcome.loss) for outcome in outcomes]
        msg = f"outcomes have shapes {shapes}: give one or more, of the same examples"
        raise ValueError(msg)

    def over(name, combine):
        values = [getattr(outcome, name) for outcome in outcomes]
        known = [value for value in values if value is not None]
        return combine(jnp.stack(known), axis=0) if known else None

    return Outcome(
        outcomes[0].loss,
        over("correct", jnp.all),
        over("robust_loss", jnp.max),
        over("robust", jnp.all),
        over("zero_grad", jnp.any),
        over("undefined", jnp.any),
        over("outside", jnp.any),
        over("probabilities", jnp.any),
    )


def wilson(num_correct: int, num_examples: int, z: float = 1.96) -> Estimate:
    """A proportion with Wilson's interval, which stays in [0, 1] and near 0 and 1.

    Args:
        num_correct: successes.
        num_examples: trials, at least 1.
        z: normal quantile; 1.96 for 95 %.

    Raises:
        ValueError: unless they are integers, 0 ≤ num_correct ≤ num_examples and
            num_examples ≥ 1.

    Example:
        >>> from advjax import evaluate
        >>> [round(end, 3) for end in evaluate.wilson(98, 100)]
        [0.98, 0.93, 0.994]
    """
    num_correct = arguments.count("num_correct", num_correct, least=0)
    num_examples = arguments.count("num_examples", num_examples)
    if num_correct > num_examples:
        msg = f"{num_correct} correct of {num_examples} is no proportion"
        raise ValueError(msg)
    p, n = num_correct / num_examples, num_examples
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half))


def summary(result: Outcome) -> Summary:
    """Means, and Wilson's 95 % intervals of the accuracies; on the host, in float64.

    Raises:
        ValueError: for anything but the outcome of one run.
    """
    _check_outcome(result)
    result = jax.tree.map(np.asarray, result)
    if result.loss.ndim != 1:
        msg = f"losses have shape {result.loss.shape}: give the outcome of one run, [n]"
        raise ValueError(msg)
    n = len(result.loss)
    zero_grad = result.zero_grad
    if result.robust is not None:
        zero_grad = zero_grad & result.robust
    found = flags.Flags(zero_grad, result.undefined, result.outside)
    return Summary(
        n,
        float(result.loss.mean(dtype=np.float64)),
        None if result.correct is None else wilson(flags.raised(result.correct), n),
        float(result.robust_loss.mean(dtype=np.float64)),
        None if result.robust is None else wilson(flags.raised(result.robust), n),
        flags.raised(found.zero_grad),
        flags.raised(found.undefined),
        flags.raised(found.outside),
        found.caveats()
        + flags.of_probabilities(result.probabilities, result.undefined),
    )


class TargetedOutcome(NamedTuple):
    """The result of a targeted attack, per example, all ``[n]``.

    Attributes:
        already: the clean input is answered by the target class as it is.
        reached: the attacked input is.
        zero_grad: as in ``Outcome``.
        undefined: as in ``Outcome``.
        outside: as in ``Outcome``.
    """

    already: Array
    reached: Array
    zero_grad: Array
    undefined: Array | None
    outside: Array | None

    def caveats(self) -> tuple[str, ...]:
        """Reasons to distrust the rate; those that reached their target need none."""
        zero_grad = np.asarray(self.zero_grad) & ~np.asarray(self.reached)
        return flags.Flags(zero_grad, self.undefined, self.outside).caveats()

    def success_rate(self) -> Estimate:
        """The share of the examples not ``already`` there that reached their target.

        Raises:
            ValueError: if all were there already, or for outcomes of several runs.
        """
        if np.ndim(self.already) != 1:
            msg = f"shape {np.shape(self.already)}: give the outcome of one run, [n]"
            raise ValueError(msg)
        tried = ~np.asarray(self.already)
        if not tried.any():
            msg = "every clean input is answered by its target already: none was tried"
            raise ValueError(msg)
        return wilson(int((np.asarray(self.reached) & tried).sum()), int(tried.sum()))


def targeted_outcome(
    key: Key,
    predict: Predict,
    loss: Loss,
    attack: Attack,
    x: Array,
    target: Array,
    eps: Array | float,
) -> TargetedOutcome:
    """Attacks a batch so that it is answered by ``target``.

    Args:
        key: one key, or ``[n]`` keys.
        predict: ``x[n, ...] -> output[n, ...]`` in evaluation mode.
        loss: ``(output, target) -> loss[n]``, which the attack lowers.
        attack: any attack, given ``criteria.targeted(predict, loss)``.
        x: ``[n, ...]``.
        target: ``[n]`` integers: the wanted classes, or signs of single logits.
        eps: radius.

    Raises:
        ValueError: for lengths or shapes that do not fit.
    """
    x, target = jnp.asarray(x), jnp.asarray(target)
    arguments.equal_lengths(x=x, target=target)
    arguments.functions(predict=predict, loss=loss, attack=attack)
    clean = predict(x)
    already = criteria.correct(clean, target)
    goal = criteria.targeted(predict, loss)
    x_adv, info = _attacked(attack, key, goal, x, target, eps)
    output, x_is_finite = predict(x_adv), _all_finite(x_adv)
    is_defined = criteria.defined(clean, target) & criteria.defined(output, target)
    is_defined = is_defined & x_is_finite
    reached = criteria.correct(output, target) & x_is_finite
    return TargetedOutcome(already, reached, *flags.of(info, undefined=~is_defined))
