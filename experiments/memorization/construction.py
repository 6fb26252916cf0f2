"""f_adv on a clean network of images, and where it is tested: Proposition 3.2."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import attacks, criteria, losses, margins, memorization, norms
from advjax.types import Array, Batch
from experiments.batches import in_batches
from experiments.finished import Networks
from experiments.study import Config
from experiments.training import recipe

Predict = Callable[[Array], Array]
"""Logits of images."""


class Points(NamedTuple):
    """Where classifiers are tested; all as many as the images they belong to.

    Attributes:
        train: training images.
        test: test images.
        own: the training images, and where the attacks end that f_adv is built by.
        new: where another attack on them ends, and random points in their balls.
        attacked: where an attack on the test images ends.
    """

    train: Batch
    test: Batch
    own: list[np.ndarray]
    new: list[np.ndarray]
    attacked: np.ndarray


class Construction(NamedTuple):
    """f_adv on a clean network.

    Attributes:
        config: the configuration.
        run: the networks.
        network: parameters and batch statistics of the clean one.
        points: where it is tested.
        broken: which training images are wrong at each of ``points.own``, ``[3, n]``.
        clean: f_clean.
        small: the training images of small margin, which are memorised.
        f_adv: f_adv.
    """

    config: Config
    run: Networks
    network: tuple[Any, Any]
    points: Points
    broken: np.ndarray
    clean: Predict
    small: Batch
    f_adv: Predict

    @property
    def eps(self) -> float:
        """The radius δ."""
        return self.run.config.eps[0]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return recipe.num_classes(self.run.config)


def made(config: Config, run: Networks, network: tuple[Any, Any]) -> Construction:
    """f_adv on one of the clean networks of a run."""
    clean = jax.jit(partial(run.model(dtype=jnp.float32).predict, *network))
    points = _points(config, run, clean)
    train = points.train
    broken = np.array([wrong(config, clean, x, train.y) for x in points.own])
    is_small = broken.any(axis=0)
    small = Batch(train.x[is_small], train.y[is_small])
    targets = jax.nn.one_hot(small.y, recipe.num_classes(run.config))
    f_adv = memorization.classifier(
        clean, norms.linf, jnp.asarray(small.x), targets, run.config.eps[0]
    )
    return Construction(config, run, network, points, broken, clean, small, f_adv)


def _points(config: Config, run: Networks, clean: Predict) -> Points:
    eps, chosen = run.config.eps[0], config.subset_seed
    train = run.images("train", config.num_images, chosen)
    test = run.images("test", config.num_test, chosen)
    attack = partial(attacked, config, clean, eps)
    weak = attack(train, config.split_steps, "margin", 0)
    strong = attack(train, config.strong_steps, "loss", 1)
    other = attack(train, config.strong_steps, "margin", 2)
    return Points(
        train,
        test,
        own=[train.x, weak, strong],
        new=[other, *_random(config, eps, train)],
        attacked=attack(test, config.strong_steps, "margin", 3),
    )


def _random(config: Config, eps: float, train: Batch) -> list[np.ndarray]:
    """Points uniform in the balls, within the cube of images."""
    rng = np.random.default_rng(config.seed)
    noise = [rng.uniform(-eps, eps, train.x.shape) for _ in range(config.num_random)]
    return [np.clip(train.x + each.astype(np.float32), 0, 1) for each in noise]


def attacked(
    config: Config,
    predict: Predict,
    eps: float,
    part: Batch,
    num_steps: int,
    kind: str,
    number: int,
) -> np.ndarray:
    """The images under PGD with restarts on the margin or the cross-entropy.

    ``number`` is that of the attack, by which its random starts differ from others'.
    """
    loss = {"margin": losses.margin, "loss": losses.cross_entropy}[kind]
    attack = attacks.best_of(
        attacks.pgd(
            norms.linf,
            num_steps=num_steps,
            rel_step_size=2.5 / num_steps,
            start=attacks.in_ball(norms.linf),
            bounds=(0.0, 1.0),
            keep_best=True,
        ),
        num_restarts=config.num_restarts,
    )
    goal = criteria.Goal(predict, loss)

    @jax.jit
    def one(key, x, y):
        return attack(key, goal, x, y, eps)[0]

    key = jax.random.fold_in(jax.random.key(config.seed), number)
    keys = jax.random.split(key, len(part.y))
    return in_batches(one, config.batch_size, keys, part.x, part.y)


def wrong(config: Config, predict: Predict, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``[n]``; by the margin, so that ties are wrong."""
    margin = jax.jit(margins.logit_margin(predict))
    return in_batches(margin, config.batch_size, x, y) <= 0


def errors(made: Construction) -> dict[str, float]:
    """Shares of images that are wrong at one of some points at least."""
    points = made.points
    train, test = points.train, points.test

    def share(predict: Predict, at: Sequence[np.ndarray], y: np.ndarray) -> float:
        return np.any([wrong(made.config, predict, x, y) for x in at], axis=0).mean()

    unbroken = ~made.broken
    return {
        "small_share": made.broken.any(axis=0).mean(),
        "clean_train_error": made.broken[0].mean(),
        "missed": (unbroken[0] & unbroken[1] & made.broken[2]).mean(),
        "own_train_error": share(made.f_adv, points.own, train.y),
        "robust_train_error": share(made.f_adv, points.new, train.y),
        "clean_test_error_of_clean": share(made.clean, [test.x], test.y),
        "clean_test_error": share(made.f_adv, [test.x], test.y),
        "robust_test_error_of_clean": share(made.clean, [points.attacked], test.y),
        "robust_test_error": share(made.f_adv, [points.attacked], test.y),
    }


def separations(made: Construction) -> dict[str, Any]:
    """The least distance R of memorised images to training images of other classes."""
    train, test, small = made.points.train, made.points.test, made.small
    nearest = jax.jit(partial(memorization.separation, norms.linf))
    between = jax.jit(partial(memorization.distances, norms.linf))
    to_test = between(jnp.asarray(test.x), jnp.asarray(small.x)).min(axis=1)
    return {
        "separation": np.asarray(nearest(train.x, train.y, small.x, small.y)).min(),
        "nearest_test_image": np.asarray(to_test).min(),
        "num_inputs": train.x[0].size,
        "num_small": small.y.size,
    }
