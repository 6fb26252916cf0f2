"""Objectives of training: factories of ``types.Objective``.

    objective = objectives.adversarial(model, losses.cross_entropy, attack)
    (value, aux), grads = jax.value_and_grad(objective, has_aux=True)(
        params, batch_stats, key, Batch(x, y), eps)

The perturbed examples count as constants: gradients do not flow through the attack,
which by Danskin's theorem loses nothing at an exact maximum.

``attack_mode`` says how batch statistics enter the attack. "eval" uses the running
averages, the field's default and that of TRADES and MART; "train" uses the statistics
of the attacked batch, as Rice et al. 2020 and Wong et al. 2020. Passes inside the
attack never move the running averages.

Dropout draws one mask for each training pass from the objective's key; with
``attack_mode="train"`` the attack meets the mask of the pass on the attacked inputs.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from advjax import arguments, losses, penalties
from advjax.penalties import Where
from advjax.types import (
    Array,
    Attack,
    Aux,
    Key,
    Loss,
    Model,
    Objective,
    Params,
    Predict,
)

__all__ = ["adversarial", "mart", "standard", "trades", "with_penalty"]


def standard(model: Model, loss: Loss) -> Objective:
    """Mean of ``loss`` at the clean inputs; ``eps`` is not used."""

    def objective(params, batch_stats, key, batch, eps):
        del eps
        logits, batch_stats = model.apply(
            params, batch_stats, batch.x, train=True, key=_dropout(key, _CLEAN)
        )
        terms = loss(logits, batch.y)
        arguments.per_example(batch.x, losses=terms)
        return jnp.mean(terms), Aux(batch_stats, terms, logits)

    return objective


def adversarial(
    model: Model, loss: Loss, attack: Attack, *, attack_mode: str = "eval"
) -> Objective:
    """Mean of ``loss`` at the attacked inputs: (1/n) Σ max over delta of loss.

    Madry et al., Towards deep learning models resistant to adversarial attacks, 2018.
    """
    frozen = _frozen(model, attack_mode)
    arguments.functions(loss=loss, attack=attack)

    def objective(params, batch_stats, key, batch, eps):
        predict, key_adv = frozen(params, batch_stats, key), _dropout(key, _ATTACKED)
        x_adv, info = attack(
            key, lambda x, y: loss(predict(x), y), batch.x, batch.y, eps
        )
        logits, batch_stats = model.apply(
            params, batch_stats, x_adv, train=True, key=key_adv
        )
        terms = loss(logits, batch.y)
        return jnp.mean(terms), Aux(batch_stats, terms, logits, info)

    return objective


def trades(
    model: Model, attack: Attack, *, beta: float, attack_mode: str = "eval"
) -> Objective:
    """Mean of CE(p, y) + beta · KL(p ‖ p_adv), the attack raising the KL term.

    p and p_adv are the softmax at the clean and the attacked input; gradients flow
    through both. At the clean input the gradient of the KL term is zero up to rounding,
    which is no direction to start in: give the attack a random start, as the original
    ``attacks.gaussian(1e-3)``. Batch statistics are updated by the clean pass, then by
    the attacked one; the original code makes a second clean pass.

    Zhang et al., Theoretically principled trade-off between robustness and accuracy,
    2019.
    """
    frozen, passes = _frozen(model, attack_mode), _two_passes(model)
    arguments.functions(attack=attack)
    arguments.number("beta", beta)

    def objective(params, batch_stats, key, batch, eps):
        predict = frozen(params, batch_stats, key)
        x_adv, info = attack(
            key,
            lambda x, clean: losses.kl(clean, predict(x)),
            batch.x,
            predict(batch.x),
            eps,
        )
        clean, logits, batch_stats = passes(params, batch_stats, key, batch.x, x_adv)
        terms = arguments.single(losses.cross_entropy(clean, batch.y))
        terms = terms + beta * losses.kl(clean, logits)
        return jnp.mean(terms), Aux(batch_stats, terms, logits, info)

    return objective


def mart(
    model: Model, attack: Attack, *, beta: float, attack_mode: str = "eval"
) -> Objective:
    """Mean of BCE(p_adv, y) + beta · KL(p ‖ p_adv) · (1 - p[y]), the attack raising CE.

    BCE(p, y) = CE(p, y) - log(1 - max over j ≠ y of p[j]). The guards of the original
    code are kept: 1.0001 and 1e-12 in the logarithms, 1.0000001 in the weight. At
    ``eps = 0`` this is BCE at the clean input, about twice the cross-entropy.

    Wang et al., Improving adversarial robustness requires revisiting misclassified
    examples, 2020.
    """
    frozen, passes = _frozen(model, attack_mode), _two_passes(model)
    arguments.functions(attack=attack)
    arguments.number("beta", beta)

    def objective(params, batch_stats, key, batch, eps):
        x, y = batch
        predict = frozen(params, batch_stats, key)
        x_adv, info = attack(
            key, lambda x, y: losses.cross_entropy(predict(x), y), x, y, eps
        )
        clean, logits, batch_stats = passes(params, batch_stats, key, x, x_adv)
        terms = _mart_terms(clean, logits, y, beta)
        return jnp.mean(terms), Aux(batch_stats, terms, logits, info)

    return objective


def _mart_terms(clean: Array, logits: Array, y: Array, beta: Array | float) -> Array:
    # The guards would round away in half precision.
    clean, logits = arguments.single(clean), arguments.single(logits)
    masked = clean == -jnp.inf
    p, p_adv = jax.nn.softmax(clean), jax.nn.softmax(logits)
    is_label = jax.nn.one_hot(y, p.shape[-1], dtype=bool)
    p_label = jnp.sum(jnp.where(is_label, p, 0), axis=-1)
    p_wrong = jnp.max(jnp.where(is_label, 0, p_adv), axis=-1)
    bce = losses.cross_entropy(logits, y) - jnp.log(1.0001 - p_wrong + 1e-12)
    log_p = jnp.where(masked, 0, jax.nn.log_softmax(clean))
    kl = jnp.sum(p * (log_p - jnp.log(p_adv + 1e-12)), axis=-1)
    return bce + beta * kl * (1.0000001 - p_label)


def with_penalty(
    objective: Objective,
    penalty_fn: Callable[[Array], Array],
    *,
    where: Where = penalties.weights,
) -> Objective:
    """``objective`` plus the sum of ``penalty_fn(w)`` over the penalised arrays w.

    LASSO is ``lambda w: strength * norms.l1.value(w)``. Its subgradient leaves weights
    jumping about zero; ``penalties.proximal`` makes them exactly zero.

    Args:
        objective: without the penalty.
        penalty_fn: ``array -> []``.
        where: ``params -> bools``; by default weights, not biases or normalisation.

    Returns:
        An objective whose ``Aux.losses`` are without the penalty.
    """

    def penalised(params, batch_stats, key, batch, eps):
        value, aux = objective(params, batch_stats, key, batch, eps)
        terms = [penalty_fn(w) for w in penalties.selected(params, where=where)]
        return value + sum(terms), aux

    return penalised


def _two_passes(model: Model) -> Callable:
    """Training passes on clean, then on attacked inputs."""

    def passes(params, batch_stats, key, x, x_adv):
        outputs = []
        for inputs, name in ((x, _CLEAN), (x_adv, _ATTACKED)):
            output, batch_stats = model.apply(
                params, batch_stats, inputs, train=True, key=_dropout(key, name)
            )
            outputs.append(output)
        return *outputs, batch_stats

    return passes


def _frozen(model: Model, attack_mode: str) -> Callable[[Params, Params, Key], Predict]:
    """``(params, batch_stats, key) -> predict(x)``, constants to the attack."""
    arguments.model(model)
    if attack_mode not in ("eval", "train"):
        msg = f"attack_mode = {attack_mode!r}: choose 'eval' or 'train'"
        raise ValueError(msg)

    def frozen(params, batch_stats, key):
        params, batch_stats = jax.lax.stop_gradient((params, batch_stats))
        if attack_mode == "eval":
            return lambda x: model.predict(params, batch_stats, x)
        key = _dropout(key, _ATTACKED)
        return lambda x: model.apply(params, batch_stats, x, train=True, key=key)[0]

    return frozen


# Attacks fold the numbers of the examples, from zero on, into the key; the largest
# numbers are free for the masks of the two passes.
_CLEAN = jnp.iinfo(jnp.int32).max
_ATTACKED = _CLEAN - 1


def _dropout(key: Key, name: int) -> Key:
    return jax.random.fold_in(key, name)
