"""The ReLU network of f_adv beside it: Theorem 3.3 and Corollary 3.4."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from advjax import memorization, models, norms
from advjax.models import memorizing
from advjax.types import Batch
from experiments import arrays
from experiments.batches import in_batches
from experiments.memorization import construction
from experiments.memorization.construction import Construction, Predict
from experiments.training import recipe

MULTIPLICATIONS = ("products", "gates")
"""Of indicators and values, by a network of s levels, or exactly."""
SIDES = ("off", "on")
"""Of the shells in which the indicators of the ReLU network fall."""


def _relu(made: Construction, bound: float, num_levels: int | None) -> Predict:
    """The ReLU network, for logits below ``bound``; exact gates for None levels."""
    params, stats = made.network
    module = models.Memorizing(
        recipe.module(made.run.config, dtype=jnp.float32),
        len(made.small.y),
        made.num_classes,
        made.eps,
        made.config.shell * made.eps,
        bound,
        num_levels,
    )
    targets = jax.nn.one_hot(made.small.y, made.num_classes)
    own = memorizing.params(params, jnp.asarray(made.small.x), targets)
    stats = {"batch_stats": {"clean": stats}} if stats else {}
    return partial(module.apply, {"params": own, **stats})


def _bound(made: Construction, points: list[np.ndarray]) -> float:
    """A power of two that logits of f_clean at these points stay below."""
    logits = (np.abs(in_batches(made.clean, made.config.batch_size, x)) for x in points)
    return float(2 ** np.ceil(np.log2(np.max([each.max() for each in logits]))))


def _amid_shells(made: Construction) -> np.ndarray:
    """Points amid the shells, but where the cube of images is in the way."""
    rng = np.random.default_rng(made.config.seed)
    x = made.small.x
    signs = rng.choice(np.float32([-1, 1]), x.shape)
    return np.clip(x + (1 + made.config.shell) / 2 * made.eps * signs, 0, 1)


def _is_on_shell(made: Construction, points: list[np.ndarray]) -> np.ndarray:
    """Which points lie in a shell and in no ball, ``[n]`` of all together."""
    centres = jnp.asarray(made.small.x)

    @jax.jit
    def is_on(x):
        least = memorization.distances(norms.linf, x, centres).min(axis=1)
        is_out = least > memorization.reach(norms.linf, x, made.eps)
        return is_out & (least < made.config.shell * made.eps)

    size = made.config.batch_size
    return np.concatenate([in_batches(is_on, size, x) for x in points])


def compared(made: Construction) -> xr.Dataset:
    """Largest differences of logits to f_adv over ``multiplication`` and ``side``.

    Beside them the number of points on each side, and of parameters.
    """
    config, points = made.config, made.points
    every = [*points.own, *points.new, points.test.x, points.attacked]
    every = [x[: config.num_compared] for x in (*every, _amid_shells(made))]
    bound, is_on = _bound(made, every), _is_on_shell(made, every)
    num_clean = sum(leaf.size for leaf in jax.tree.leaves(made.network[0]))
    num_levels = memorizing.levels(bound, config.error)
    largest, parameters = [], []
    for levels in (num_levels, None):
        differences = _differences(made, _relu(made, bound, levels), every)
        sides = (differences[~is_on], differences[is_on])
        largest.append([side.max(initial=0) for side in sides])
        parameters.append(
            memorization.num_memorizing(
                num_inputs=made.small.x[0].size,
                num_centres=len(made.small.y),
                num_outputs=made.num_classes,
                num_levels=levels,
                clean=num_clean,
            )
        )
    return arrays.dataset(
        {
            "difference": (("multiplication", "side"), largest),
            "num_points": (("side",), [(~is_on).sum(), is_on.sum()]),
            "parameters": (("multiplication",), parameters),
            "clean_parameters": ((), num_clean),
            "logit_bound": ((), bound),
            "levels": ((), num_levels),
        },
        {"multiplication": MULTIPLICATIONS, "side": SIDES},
    )


def _differences(
    made: Construction, relu: Predict, points: list[np.ndarray]
) -> np.ndarray:
    """The largest of each point's logits to f_adv, ``[n]`` of all together."""
    apart = jax.jit(lambda x: jnp.abs(relu(x) - made.f_adv(x)).max(axis=1))
    size = made.config.batch_size
    return np.concatenate([in_batches(apart, size, x) for x in points])


def errors(made: Construction) -> dict[str, float]:
    """Corollary 3.4: errors of the ReLU network itself, with exact gates."""
    config, points, few = made.config, made.points, slice(made.config.num_compared)
    bounded = (*points.new, points.test.x, points.attacked)
    relu = jax.jit(_relu(made, _bound(made, [x[few] for x in bounded]), None))
    wrong = partial(construction.wrong, config, relu)

    def attacked_error(part: Batch) -> float:
        part = Batch(*(each[: config.num_attacked] for each in part))
        attack = partial(construction.attacked, config, relu, made.eps)
        x = attack(part, config.split_steps, "margin", 4)
        return wrong(x, part.y).mean()

    train_y, test_y = points.train.y[few], points.test.y[few]
    robust = np.any([wrong(x[few], train_y) for x in points.new], axis=0)
    return {
        "relu_robust_train_error": robust.mean(),
        "relu_attacked_train_error": attacked_error(made.small),
        "relu_clean_test_error": wrong(points.test.x[few], test_y).mean(),
        "relu_robust_test_error": wrong(points.attacked[few], test_y).mean(),
        "relu_attacked_test_error": attacked_error(points.test),
    }
