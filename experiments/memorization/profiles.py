"""Flatness of trained networks over radii, which Figures 1 to 3 show.

Around every image, the largest l1 norm of the input gradient and the largest loss in
linf balls, as ``advjax.flatness`` finds them: by ascent from the best point of the ball
before, from where PGD on the loss ends, and from random points. All are lower
bounds of the maxima. Networks are in evaluation mode and float32; images are not
augmented.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import attacks, criteria, flatness, losses, norms
from advjax.types import Batch, Model, Params, example_keys
from experiments import checks
from experiments.memorization.networks import Networks
from experiments.training import recipe

FIELDS = {
    "radii": (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
    "bounded": True,
    "num_starts": 1,
    "num_steps": 10,
    "rel_step_size": 0.25,
    "loss_steps": 20,
    "batch_size": 50,
    "seed": 0,
}
"""Radii over that of training, increasing from 0; whether points must be images, with
pixels in [0, 1], as in training, or may leave the cube, as in the paper's formula;
random starts, steps and their size over the radius; steps of the ascent of the loss, of
2.5 radii in all; images measured at once; seed of the starts.
"""


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.increasing(config, "radii")
    if config.radii[0] != 0 or 1 not in config.radii:
        raise checks.ConfigError(
            f"config.radii = {config.radii!r}: begin with 0, and have 1 among them"
        )
    counts = ("num_steps", "loss_steps", "batch_size")
    checks.integers(config, *counts)
    checks.integers(config, "num_starts", least=0)
    checks.numbers(config, "rel_step_size", above=0)
    checks.single(config, *counts, "num_starts", "rel_step_size")
    checks.seed(config)


NAMES = ("gradient", "loss", "error")

Profile = Callable[[tuple[Params, Params], Batch], dict[str, np.ndarray]]
"""``(network, images) -> {"gradient", "loss", "error"}``, all ``[t, n]``: the largest
of the first two, and whether the image, or a point that was met within the radius, is
misclassified.
"""


def measurer(config: ConfigDict, networks: Networks) -> Profile:
    """What measures any network of the family; compiles once."""
    model = recipe.network(networks.config, dtype=jnp.float32)
    radii = [radius * networks.eps for radius in config.radii]
    steepest, highest, broken = (
        jax.jit(partial(find, config, model)) for find in (_steepest, _highest, _broken)
    )

    def profile(network, images):
        keys = example_keys(jax.random.key(config.seed), len(images.y))
        parts = []
        for first in range(0, len(images.y), config.batch_size):
            rows = slice(first, first + config.batch_size)
            x, y = jax.device_put((images.x[rows], images.y[rows]))
            gradient, loss = (
                flatness.profile(partial(search, network), keys[rows], x, y, radii)
                for search in (steepest, highest)
            )
            errors, delta = [], jnp.zeros_like(x)
            for eps, peak in zip(radii, loss.delta, strict=True):
                error, delta = broken(network, x, y, eps, delta, peak)
                errors.append(error)
            part = {"gradient": gradient.value, "loss": loss.value}
            parts.append(jax.tree.map(np.asarray, part | {"error": jnp.stack(errors)}))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *parts)

    return profile


def _broken(config, model: Model, network, x, y, eps, *deltas):
    """Whether an ascent from one of the points meets a misclassified one, and where.

    The point of largest loss may be classified correctly while another one is not.
    """
    climb = attacks.climb(
        norms.linf,
        num_steps=config.num_steps,
        rel_step_size=config.rel_step_size,
        bounds=_bounds(config),
        keep_best=True,
    )
    goal = criteria.Goal(partial(model.predict, *network), losses.cross_entropy)
    is_clean_wrong = criteria.misclassified(goal.predict(x), y)
    ends = [climb(goal, x, y, eps, delta) for delta in deltas]
    (first, info), (second, other) = ends
    delta = jax.vmap(jnp.where)(info.fooled, first, second) - x
    return is_clean_wrong | info.fooled | other.fooled, delta


def _steepest(config, model: Model, network, key, x, y, eps, delta):
    """The largest gradient, also sought from where PGD on the loss ends."""
    loss_fn, bounds = _loss(model, network), _bounds(config)
    attack = attacks.pgd(
        norms.linf,
        num_steps=config.num_steps,
        rel_step_size=config.rel_step_size,
        start=attacks.in_ball(norms.linf),
        bounds=bounds,
    )
    guide = attack(key, loss_fn, x, y, eps)[0] - x
    search = flatness.largest(
        norms.linf,
        num_steps=config.num_steps,
        rel_step_size=config.rel_step_size,
        num_starts=config.num_starts,
        bounds=bounds,
    )
    measure = flatness.gradient_norm(loss_fn, norms.linf)
    return search(key, measure, x, y, eps, delta, guide)


def _highest(config, model: Model, network, key, x, y, eps, delta):
    """The largest loss."""
    search = flatness.largest(
        norms.linf,
        num_steps=config.loss_steps,
        rel_step_size=2.5 / config.loss_steps,
        num_starts=config.num_starts,
        bounds=_bounds(config),
    )
    return search(key, _loss(model, network), x, y, eps, delta)


def _loss(model: Model, network):
    def loss_fn(x, y):
        return losses.cross_entropy(model.predict(*network, x), y)

    return loss_fn


def _bounds(config: ConfigDict):
    return (0.0, 1.0) if config.bounded else None


def over_seeds(
    profile: Profile, networks: list, images: Batch
) -> dict[str, np.ndarray]:
    """Means over images of several networks, ``[seed, t]`` each."""
    found = [profile(network, images) for network in networks]
    return jax.tree.map(lambda *leaves: np.stack(leaves).mean(axis=-1), *found)
