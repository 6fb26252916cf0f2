"""Factories of attacks, and ensembles of them.

    attack = attacks.pgd(norms.linf, num_steps=10, rel_step_size=0.25,
                         start=attacks.in_ball(norms.linf), bounds=(0.0, 1.0))
    goal = criteria.Goal(predict, losses.cross_entropy)
    x_adv, info = jax.jit(attack, static_argnums=1)(key, goal, x, y, eps)

``fgsm``, ``pgd`` and ``climb`` ascend the loss, ``apgd`` with step sizes of its own;
``fab`` seeks the nearest point beyond the boundary, and ``square`` needs no gradient.
``best_of`` restarts an attack, and ``smooth`` makes the surrogate of one. AutoAttack
and a stronger ensemble are in ``attacks.ensembles``.

An attack sees the model only through ``loss_fn(x, y) -> loss[n]``, so any JAX function
can be attacked; see ``types.Attack`` for the call. Give it a ``criteria.Goal`` wherever
an accuracy is asked for: of several points it then keeps one that fools the model, and
of these the one of largest loss. Build attacks outside of loops and jit the outermost
function.

Step sizes are relative to ``eps``. ``bounds`` is the range of valid inputs. An entry of
``x`` that lies outside keeps its own value as its bound, so that the result is in the
ball in any case, and ``info.outside`` flags the example. After each step the point is
projected onto ball and box together, the nearest point of both; ``project="clip"``
projects onto the ball and clips, as the codes of the papers do, and for l2 ends inside
the ball. In l1 steps go on to the next entry at a wall. Inputs of half precision are
attacked in float32. Results are rounded towards ``x``, and so stay in the ball in every
dtype.

Attacks are differentiable, but for ``fab`` and ``square``; to hold the perturbed
examples fixed, stop the gradient in ``loss_fn``, as ``objectives`` does.
"""

from advjax.attacks.auto import apgd
from advjax.attacks.boundary import fab
from advjax.attacks.projected import Climb, climb, fgsm, pgd
from advjax.attacks.restarts import best_of
from advjax.attacks.squares import square
from advjax.attacks.starting import Start, gaussian, in_ball, radius_uniform, starts
from advjax.attacks.surrogate import smooth

__all__ = [
    "Climb",
    "Start",
    "apgd",
    "best_of",
    "climb",
    "fab",
    "fgsm",
    "gaussian",
    "in_ball",
    "pgd",
    "radius_uniform",
    "smooth",
    "square",
    "starts",
]
