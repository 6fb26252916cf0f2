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

``weight_eps`` makes it adversarial weight perturbation: each weight array w moves by
weight_eps · ‖w‖₂ · g / ‖g‖₂ up the gradient g of the objective at the attacked inputs,
and the objective is that of the moved weights. The move counts as a constant, too.
Biases and normalisation stay, and weight decay is that of the unmoved weights. Wu, Xia
and Wang, Adversarial weight perturbation helps robust generalization, 2020, take 0.01
for adversarial training and 0.005 for TRADES.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from advjax import arguments, losses, norms, penalties
from advjax.norms import Norm
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
    example_keys,
)

__all__ = [
    "adversarial",
    "mart",
    "standard",
    "trades",
    "with_alignment",
    "with_penalty",
]


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
    model: Model,
    loss: Loss,
    attack: Attack,
    *,
    attack_mode: str = "eval",
    weight_eps: float = 0.0,
) -> Objective:
    """Mean of ``loss`` at the attacked inputs: (1/n) Σ max over delta of loss.

    Madry et al., Towards deep learning models resistant to adversarial attacks, 2018.
    """
    frozen, moved = _frozen(model, attack_mode), _moved(weight_eps)
    arguments.functions(loss=loss, attack=attack)

    def objective(params, batch_stats, key, batch, eps):
        predict, key_adv = frozen(params, batch_stats, key), _dropout(key, _ATTACKED)
        x_adv, info = attack(
            key, lambda x, y: loss(predict(x), y), batch.x, batch.y, eps
        )

        def value(params):
            logits, stats = model.apply(
                params, batch_stats, x_adv, train=True, key=key_adv
            )
            terms = loss(logits, batch.y)
            return jnp.mean(terms), Aux(stats, terms, logits, info)

        return value(moved(value, params))

    return objective


def trades(
    model: Model,
    attack: Attack,
    *,
    beta: float,
    attack_mode: str = "eval",
    weight_eps: float = 0.0,
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
    moved = _moved(weight_eps)
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

        def value(params):
            clean, logits, stats = passes(params, batch_stats, key, batch.x, x_adv)
            terms = arguments.single(losses.cross_entropy(clean, batch.y))
            terms = terms + beta * losses.kl(clean, logits)
            return jnp.mean(terms), Aux(stats, terms, logits, info)

        return value(moved(value, params))

    return objective


def mart(
    model: Model,
    attack: Attack,
    *,
    beta: float,
    attack_mode: str = "eval",
    weight_eps: float = 0.0,
) -> Objective:
    """Mean of BCE(p_adv, y) + beta · KL(p ‖ p_adv) · (1 - p[y]), the attack raising CE.

    BCE(p, y) = CE(p, y) - log(1 - max over j ≠ y of p[j]). The guards of the original
    code are kept: 1.0001 and 1e-12 in the logarithms, 1.0000001 in the weight. At
    ``eps = 0`` this is BCE at the clean input, about twice the cross-entropy.

    Wang et al., Improving adversarial robustness requires revisiting misclassified
    examples, 2020.
    """
    frozen, passes = _frozen(model, attack_mode), _two_passes(model)
    moved = _moved(weight_eps)
    arguments.functions(attack=attack)
    arguments.number("beta", beta)

    def objective(params, batch_stats, key, batch, eps):
        x, y = batch
        predict = frozen(params, batch_stats, key)
        x_adv, info = attack(
            key, lambda x, y: losses.cross_entropy(predict(x), y), x, y, eps
        )

        def value(params):
            clean, logits, stats = passes(params, batch_stats, key, x, x_adv)
            terms = _mart_terms(clean, logits, y, beta)
            return jnp.mean(terms), Aux(stats, terms, logits, info)

        return value(moved(value, params))

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


def with_alignment(
    objective: Objective,
    model: Model,
    loss: Loss,
    *,
    strength: float,
    norm: Norm = norms.linf,
    attack_mode: str = "eval",
) -> Objective:
    """``objective`` plus strength · mean of 1 - cos(∇ℓ(x), ∇ℓ(x + η)): GradAlign.

    η is uniform in the ball, and the gradients, with respect to the input, are those of
    ``loss``. Where they turn within the ball, a single step of ``attacks.fgsm`` no
    longer finds the maximum, and training on it overfits catastrophically. The penalty
    needs second derivatives. The mean is over examples with two gradients that are not
    zero, as in the original code.

    Args:
        objective: without the penalty, such as ``adversarial`` by one step.
        model: the network.
        loss: the loss ℓ.
        strength: the published one is 0.2 for ε = 8/255 on CIFAR-10.
        norm: of the ball.
        attack_mode: of the passes that give the gradients.

    Returns:
        An objective whose ``Aux.losses`` are without the penalty.

    Andriushchenko and Flammarion, Understanding and improving fast adversarial
    training, 2020.
    """
    norms.check(norm)
    arguments.functions(loss=loss)
    arguments.number("strength", strength)
    passed = _passes_of(model, attack_mode)

    def aligned(params, batch_stats, key, batch, eps):
        value, aux = objective(params, batch_stats, key, batch, eps)
        predict, (x, y) = passed(params, batch_stats, key), batch
        keys = example_keys(_dropout(key, _ALIGNED), len(x))
        eta = jax.vmap(norm.sample)(keys, x)
        radius = jnp.asarray(eps, eta.dtype)
        eta = radius.reshape(radius.shape + (1,) * (x.ndim - radius.ndim)) * eta

        def direction(x):
            total = lambda x: jnp.sum(loss(predict(x), y))  # noqa: E731
            flat = jax.grad(total)(x).reshape(len(x), -1)
            return jax.vmap(norms.l2.steepest)(flat), jnp.any(flat != 0, axis=1)

        (here, is_here), (there, is_there) = direction(x), direction(x + eta)
        counts = is_here & is_there
        turns = jnp.where(counts, 1 - jnp.sum(here * there, axis=1), 0)
        return value + strength * jnp.sum(turns) / jnp.maximum(jnp.sum(counts), 1), aux

    return aligned


def _moved(weight_eps: float) -> Callable[[Callable, Params], Params]:
    """``(value, params) -> params`` where the weights are moved up the gradient."""
    arguments.number("weight_eps", weight_eps)
    if arguments.is_known(weight_eps) and weight_eps == 0:
        return lambda _value, params: params

    def moved(value, params):
        frozen = jax.lax.stop_gradient(params)
        g = jax.lax.stop_gradient(jax.grad(value, has_aux=True)(frozen)[0])

        def move(is_weight, w, w_frozen, g):
            if not is_weight:
                return w
            length = weight_eps * norms.l2.value(w_frozen)
            return w + (length * norms.l2.steepest(g)).astype(w.dtype)

        return jax.tree.map(move, penalties.weights(params), params, frozen, g)

    return moved


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
    passes = _passes_of(model, attack_mode)

    def frozen(params, batch_stats, key):
        return passes(*jax.lax.stop_gradient((params, batch_stats)), key)

    return frozen


def _passes_of(
    model: Model, attack_mode: str
) -> Callable[[Params, Params, Key], Predict]:
    """``(params, batch_stats, key) -> predict(x)``, which moves no statistics."""
    arguments.model(model)
    if attack_mode not in ("eval", "train"):
        msg = f"attack_mode = {attack_mode!r}: choose 'eval' or 'train'"
        raise ValueError(msg)

    def passes(params, batch_stats, key):
        if attack_mode == "eval":
            return lambda x: model.predict(params, batch_stats, x)
        key = _dropout(key, _ATTACKED)
        return lambda x: model.apply(params, batch_stats, x, train=True, key=key)[0]

    return passes


# Attacks fold the numbers of the examples, from zero on, into the key; the largest
# numbers are free for the masks of the two passes, and of alignment.
_CLEAN = jnp.iinfo(jnp.int32).max
_ATTACKED = _CLEAN - 1
_ALIGNED = _CLEAN - 2


def _dropout(key: Key, name: int) -> Key:
    return jax.random.fold_in(key, name)
