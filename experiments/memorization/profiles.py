"""Flatness of trained networks over radii, which Figures 1 to 3 show.

Around every image, the largest l1 norm of the input gradient and the largest loss in
linf balls, as ``advjax.flatness`` finds them: by ascent from the best point of the ball
before, from where PGD on the loss ends, and from random points. All are lower
bounds of the maxima. Networks are in evaluation mode and float32; images are not
augmented.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from advjax import attacks, criteria, flatness, losses, norms
from advjax.types import Batch, Model, Params, example_keys
from experiments import arrays, checks, figures
from experiments.batches import in_batches
from experiments.fields import count, number, numbers, seed, switch, with_defaults
from experiments.finished import Networks
from experiments.memorization import networks
from experiments.study import Config, Setup

FIELDS = {
    **with_defaults(networks.FIELDS, num_images=200),
    "radii": numbers(
        (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
        "over the radius of training, increasing from 0, with 1 in it",
        increasing=True,
        first=0.0,
    ),
    # The paper's formula has the whole ball; training attacks within the cube.
    "bounded": switch(
        "attacked points stay images, with pixels in [0, 1]", default=True
    ),
    "num_starts": count(1, "random starts of each search", least=0),
    "num_steps": count(10, "steps of the search for the largest gradient"),
    "rel_step_size": number(0.25, "step of that search, over the radius", above=0),
    "loss_steps": count(
        20, "steps of the search for the largest loss, 2.5 radii together"
    ),
    "batch_size": count(50, "images at once"),
    "seed": seed(),
}
"""Fields of a study of profiles, those of ``networks`` included."""

VARIANTS = (
    {
        "cpu": {},
        "paper": {"num_images": 1000},
        "smoke": {
            "num_images": 10,
            "num_steps": 2,
            "loss_steps": 2,
            "batch_size": 10,
            "radii": (0.0, 1.0, 2.0),
        },
    },
)


def check(config: Config, inputs: Mapping[str, Any]) -> None:
    """Raises ConfigError unless the radius of training is among those measured."""
    del inputs
    if 1 not in config.radii:
        msg = f"config.radii = {config.radii!r}: have 1 among them"
        raise checks.ConfigError(msg)


Profile = Callable[[tuple[Params, Params], Batch], dict[str, np.ndarray]]
"""``(network, images) -> {"gradient", "loss", "error"}``, all ``[t, n]``: the largest
of the first two, and whether the image, or a point that was met within the radius, is
misclassified.
"""


def measurer(config: Config, run: Networks) -> Profile:
    """What measures any network of a run; compiles once."""
    model = run.model(dtype=jnp.float32)
    radii = [radius * run.config.eps[0] for radius in config.radii]
    steepest, highest, broken = (
        jax.jit(partial(find, config, model)) for find in (_steepest, _highest, _broken)
    )

    def profile(network: tuple[Params, Params], images: Batch) -> dict[str, np.ndarray]:
        def of_part(keys, x, y):
            gradient, loss = (
                flatness.profile(partial(search, network), keys, x, y, radii)
                for search in (steepest, highest)
            )
            errors, delta = [], jnp.zeros_like(x)
            for eps, peak in zip(radii, loss.delta, strict=True):
                error, delta = broken(network, x, y, eps, delta, peak)
                errors.append(error)
            found = {"gradient": gradient.value, "loss": loss.value}
            return found | {"error": jnp.stack(errors)}

        keys = example_keys(jax.random.key(config.seed), len(images.y))
        return in_batches(of_part, config.batch_size, keys, *images, axis=1)

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


def _bounds(config: Config):
    return (0.0, 1.0) if config.bounded else None


def measured(
    setup: Setup, profile: Profile, images: Batch, part: str, name: str
) -> xr.Dataset:
    """Means over images, over ``seed`` and ``radius``.

    Args:
        setup: with the networks.
        profile: as ``measurer`` makes it, shared so that it compiles once.
        images: the images.
        part: of the training.
        name: "last", or "epoch-5" for networks that were kept.
    """
    networks = setup.inputs["networks"].networks(part, name)
    found = [profile(network, images) for network in networks]
    means = jax.tree.map(lambda *leaves: np.stack(leaves).mean(axis=-1), *found)
    return arrays.dataset(
        {name: (("seed", "radius"), each) for name, each in means.items()},
        {"seed": np.arange(len(networks)), "radius": setup.config.radii},
    )


def curve(axis, values: xr.DataArray, eps: float, label: str, color: Any) -> None:
    """Seeds against the radius, as it is and not over ``eps``, that of training."""
    scaled = values.assign_coords(radius=values["radius"] * eps)
    figures.span(axis, scaled, "radius", label, color)


def mark_training(axis, eps: float) -> None:
    """The dotted line at the radius of training, and the label of the radius."""
    axis.axvline(eps, color="0.3", linewidth=0.8, linestyle=":")
    axis.set_xlabel("radius ε of the linf ball (pixels in [0, 1])")
