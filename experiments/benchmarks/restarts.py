"""Robust accuracy over restarts, and what keeping the largest loss used to hide.

    python -m experiments.benchmarks.restarts runs/*/best.safetensors

For a model that is wrong at a small loss, and for every network of released files: the
share of examples robust to the best of 1, 3, 10 and 30 restarts of PGD, where a point
that fools the model is kept first, and where the point of largest loss is. Both rules
see the same points, so the difference is the number of examples that the second one
calls robust although a point that fools the model was in hand.

On case-1, digits (360 images) and 1000 MNIST images, two minutes on two cores.
"""

import platform
import sys
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import attacks, data, evaluate, losses, norms
from advjax.types import Array, Batch, Predict
from experiments import writing
from experiments.training import parameters, recipe, testing

RESTARTS = (1, 3, 10, 30)


class Subject(NamedTuple):
    """A model, where it is attacked, and how."""

    name: str
    predict: Predict
    images: Batch
    eps: float
    bounds: tuple[float, float] | None


def confident_where_right(x: Array) -> Array:
    """Logits ``[n, 10]`` of one input: from x = 0.2 on class 1 wins, at a small loss.

    For x < 0 class 0 is right at a loss of about 2.2, which no wrong point exceeds.
    """
    t = x[:, 0]
    ones = jnp.ones((10, len(t)))
    left = (-0.1 * ones).at[0].set(0.05 + 0.1 * t)
    right = (-20.0 * ones).at[0].set(2 - 10 * t).at[1].set(0.0)
    return jnp.where(t < 0, left, right).T


def subjects(paths: list[str], num_test: int) -> list[Subject]:
    """The constructed model, and all adversarially trained networks of some files."""
    case = Batch(jnp.zeros((200, 1)), jnp.zeros(200, int))
    found = [Subject("wrong at a small loss", confident_where_right, case, 0.3, None)]
    for path in paths:
        released = parameters.read(path)
        config = ConfigDict({**recipe.defaults().to_dict(), **released.about["config"]})
        test, model = recipe.read(config, "test"), recipe.network(config)
        x, y = test.x[:num_test], test.y[:num_test]
        images = Batch(data.as_float(x), jnp.asarray(y))
        networks = testing.networks(released.params, released.batch_stats)
        about = zip(released.about["eps"], released.about["seed"], strict=True)
        for network, (eps, seed) in zip(networks, about, strict=True):
            name = f"{config.model}, {config.dataset}, eps {eps:g}, seed {seed}"
            predict = partial(model.predict, *network)
            if eps > 0:
                found.append(Subject(name, predict, images, eps, (0.0, 1.0)))
    return found


def robust(subject: Subject, num_restarts: int, *, by_loss: bool) -> np.ndarray:
    """Which examples are robust to the best of some restarts, ``[n]``."""
    pgd = attacks.pgd(
        norms.linf,
        num_steps=10,
        rel_step_size=0.25,
        start=attacks.in_ball(norms.linf),
        bounds=subject.bounds,
    )
    best = attacks.best_of(pgd, num_restarts=num_restarts)

    def by_largest_loss(key, goal, *rest):
        return best(key, lambda x, y: goal(x, y), *rest)

    attack = by_largest_loss if by_loss else best

    @jax.jit
    def one(key, x, y):
        args = (subject.predict, losses.cross_entropy, attack)
        return evaluate.outcome(key, *args, x, y, subject.eps)

    size = min(len(subject.images.y), 200)
    found = evaluate.in_batches(
        one, jax.random.key(0), *subject.images, batch_size=size
    )
    return np.asarray(found.robust)


def main(paths: list[str]) -> None:
    """Prints a table."""
    rows = []
    for subject in subjects(paths, num_test=1000):
        n = len(subject.images.y)
        for r in RESTARTS:
            kept, by_loss = (
                robust(subject, r, by_loss=by_loss) for by_loss in (False, True)
            )
            rows.append(
                [
                    *(subject.name, str(n), str(r)),
                    *(f"{100 * share.mean():.2f}" for share in (kept, by_loss)),
                    str((by_loss & ~kept).sum()),
                ]
            )
    header = ["model", "n", "restarts", "fooled first, %", "largest loss, %", "hidden"]
    print(writing.table(header, rows))
    device = jax.devices()[0].device_kind
    print(f"PGD-10 of eps/4, seed 0; jax {jax.__version__}, {device}", end=", ")
    print(platform.machine())


if __name__ == "__main__":
    main(sys.argv[1:])
