"""The strongest of several restarts of an attack."""

import jax
import jax.numpy as jnp

from advjax import arguments, criteria
from advjax.types import Array, Attack, AttackInfo, example_keys

__all__ = ["best_of", "strongest"]


def best_of(attack: Attack, *, num_restarts: int) -> Attack:
    """The strongest result, per example, among restarts of ``attack``.

    A result that fools the model, if ``loss_fn`` is a ``criteria.Goal``, and of these
    the one of largest loss. Restart ``j`` folds ``j`` into each example's key, so that
    more restarts try the same points and more: with a goal, they never leave more
    examples robust, and without one they never return a smaller loss. The restarts run
    at once under ``vmap`` and take as much memory. Flags of gradients are those of any
    restart.
    """
    num_restarts = arguments.count("num_restarts", num_restarts)
    arguments.functions(attack=attack)

    def restarted(key, loss_fn, x, y, eps):
        n = len(x)
        keys = example_keys(key, n)

        def restart(j):
            keys_j = jax.vmap(jax.random.fold_in, (0, None))(keys, j)
            x_adv, info = attack(keys_j, loss_fn, x, y, eps)
            if info.fooled is None and isinstance(loss_fn, criteria.Goal):
                # An attack of the caller's, which knows nothing of goals.
                judged = criteria.judge(loss_fn, x_adv, y)
                info = info._replace(loss=judged.loss, fooled=judged.fooled)
            return x_adv, info

        return strongest(*jax.vmap(restart)(jnp.arange(num_restarts)))

    return restarted


def strongest(
    x_adv: Array, info: AttackInfo, length: Array | None = None
) -> tuple[Array, AttackInfo]:
    """Of results ``[r, n, ...]`` the strongest for each example.

    With lengths ``[r, n]`` of the perturbations, the shortest of those that fool the
    model. Flags of gradients are those of any.
    """
    best = _strongest(info if length is None else info._replace(loss=-length))
    rows = jnp.arange(len(best))
    x_adv, chosen = jax.tree.map(lambda leaf: leaf[best, rows], (x_adv, info))
    flags = {
        name: jnp.any(getattr(info, name), axis=0)
        for name in ("zero_grad", "undefined_grad")
        if getattr(info, name) is not None
    }
    return x_adv, chosen._replace(**flags)


def _strongest(info: AttackInfo) -> Array:
    """The restart of each example that ``criteria.better`` prefers to all others."""
    loss, fooled = info.loss, info.fooled
    if fooled is None:
        return jnp.argmax(loss, axis=0)
    is_eligible = fooled == jnp.any(fooled, axis=0)[None]
    least = jnp.finfo(loss.dtype).min
    return jnp.argmax(
        jnp.where(is_eligible, jnp.where(loss < least, least, loss), -jnp.inf), axis=0
    )
