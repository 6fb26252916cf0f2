"""The surrogate attack, which vanishes with the clean gradient."""

import jax
import jax.numpy as jnp

from advjax import arguments, criteria, norms, regions
from advjax.attacks import gradients
from advjax.norms import Norm
from advjax.types import Array, Attack

__all__ = ["smooth"]


def smooth(attack: Attack, norm: Norm, xi: Array | float) -> Attack:
    """The surrogate attack A_{eps,xi}, which vanishes with the clean gradient.

    With g = ∇_x loss at the clean input, per example, the perturbation delta of
    ``attack`` is multiplied by

        ‖g‖ / √(‖g‖² + xi²)   for l2,        |g_i| / (|g_i| + xi)   for linf, per entry,

    which makes the attacked loss differentiable where g vanishes. ``xi = 0`` is
    ``attack`` itself (0/0 counts as 1). The size of xi is meant relative to the
    gradient of one example's loss, not of a batch mean; where the model's batch
    statistics are those of the attacked batch, the other examples have a share in g.
    ``info.factor`` is Σ|g_i| factor_i / Σ|g_i|: for l2 the factor itself, for linf,
    where many entries hardly matter, the share of the attack's gain to first order.

    Args:
        attack: attack to shrink, in the same norm.
        norm: ``norms.l2`` or ``norms.linf``.
        xi: at least 0. To follow a schedule, build the attack inside the jitted
            function, where xi may be traced.

    Raises:
        ValueError: for a norm without a surrogate.

    Xing et al., On the generalization properties of adversarial training, 2021.
    """
    norms.check_surrogate(norm)
    arguments.scalars(xi=xi)
    arguments.functions(attack=attack)

    def smoothed(key, loss_fn, x, y, eps):
        x_adv, info = attack(key, loss_fn, x, y, eps)
        x = jnp.asarray(x)
        clean, g = gradients.judge_and_grad(loss_fn, y)(x)
        flags = gradients.flagged(
            gradients.Flags(info.zero_grad, info.undefined_grad), clean, g
        )
        g = arguments.single(gradients.finite(g))
        factor = jax.vmap(lambda g: norms.surrogate_factor(norm, g, xi))(g)
        wide, wide_adv = regions.promoted(x), regions.promoted(x_adv)
        delta = factor.astype(wide.dtype) * (wide_adv - wide)
        x_adv = regions.inwards(wide, wide + delta, delta, x.dtype)
        judged = criteria.judge(loss_fn, x_adv, y)
        mean = jax.vmap(_weighted_mean)(factor, jnp.abs(g))
        info = gradients.info(loss_fn, judged, flags, info.outside)
        return x_adv, info._replace(factor=mean)

    return smoothed


def _weighted_mean(values: Array, weights: Array) -> Array:
    """The mean over one example; without weights if all of them are zero."""
    weights = weights / jnp.maximum(jnp.max(weights), jnp.finfo(weights.dtype).tiny)
    total = jnp.sum(weights)
    mean = jnp.sum(values * weights) / jnp.where(total == 0, 1, total)
    return jnp.where(total == 0, jnp.mean(values), mean)
