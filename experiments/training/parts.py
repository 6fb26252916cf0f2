"""What training is made of. ``recipe`` makes it from a configuration, anyone by hand.

Training(train, test, model, objective, optimiser, schedule, eps=(0.0, 0.1), ...)
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import optax

from advjax import augmentation, data
from advjax.train import Step
from advjax.types import Array, Attack, Batch, Key, Model, Objective, Params
from experiments.training.parameters import Released


def first_selectable(select_from: float, num_epochs: int) -> int:
    """The first epoch, from 0, after a share of the epochs; at least the last one."""
    return min(math.ceil(select_from * num_epochs - 1e-6), num_epochs - 1)


class Watch(NamedTuple):
    """Numbers of one network to follow over the epochs.

    Attributes:
        names: their names.
        measure: ``((params, batch_stats), key, eps) -> {name: []}``; the key is that of
            the tests, the same in every epoch.
    """

    names: tuple[str, ...]
    measure: Callable[[tuple[Params, Params], Key, Array], Mapping[str, Array]]


class Replays(NamedTuple):
    """Steps that train several times on each batch, at one learning rate.

    Attributes:
        number: of trainings on a batch.
        make_step: ``optimiser -> step``.
    """

    number: int
    make_step: Callable[[optax.GradientTransformation], Step]


def as_pixels(key: Key, x: Array) -> Array:
    """Pixels in [0, 1], without augmentation."""
    return augmentation.identity(key, data.as_float(x))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """Training of one network for every radius and seed, with a test after each epoch.

    Attributes:
        train: training data, on the host; pixels may be uint8.
        test: test data, likewise.
        model: the network.
        objective: the objective at a learning rate, ``rate -> Objective``.
        replays: of free adversarial training, in the place of the objective; or None.
        optimiser: the optimiser with a schedule of rates.
        schedule: the schedule of a run of so many steps, ``num_steps -> schedule``.
            Its rates count steps as done: ``schedule(t)`` is that of step t + 1.
        eps: radii.
        test_attack: the attack of the tests.
        single_step: another one, whose robust accuracy is followed beside it.
        num_epochs: epochs.
        batch_size: examples in a batch.
        prepare: what is done to images of a batch, ``(key, x) -> x``.
        keep_remainder: whether the smaller batch at the end of an epoch is trained on.
        warm_up_epochs: epochs in which the radius rises linearly from 0.
        select_from: share of the epochs before the best network may be chosen.
        num_seeds: networks at each radius.
        seed: random seed of all.
        start: released networks to start from: one for all runs, one for each seed, or
            one for each run; in a study also the name of the part whose last networks
            these are; None for new ones.
        watches: more numbers to follow over the epochs.
        step_metrics: names of further metrics of the objective to follow.
        update_gradients: gradients per example that an update takes.
        test_gradients: gradients per example that a test takes.
        test_batch_size: test images at once, which changes no result.
        dispatch: how steps are run, as ``train.dispatched``.
        num_devices: devices that share a batch; 0 for one CPU, or all accelerators.
        hosts: whether those of all hosts take part.
        checkpoint_steps: steps between checkpoints within an epoch; 0 for none.
        kept_epochs: numbers of epochs after which networks are released as well.
        label: in a few words, for progress bars.
        about: facts about the networks, written beside released parameters.
    """

    train: Batch
    test: Batch
    model: Model
    objective: Callable[[Array], Objective]
    optimiser: Callable[[optax.Schedule], optax.GradientTransformation]
    schedule: Callable[[int], optax.Schedule]
    eps: tuple[float, ...]
    test_attack: Attack
    single_step: Attack
    num_epochs: int
    batch_size: int
    replays: Replays | None = None
    prepare: Callable[[Key, Array], Array] = as_pixels
    keep_remainder: bool = True
    warm_up_epochs: float = 0.0
    select_from: float = 0.0
    num_seeds: int = 1
    seed: int = 0
    start: Released | str | None = None
    watches: tuple[Watch, ...] = ()
    step_metrics: tuple[str, ...] = ()
    update_gradients: int = 1
    test_gradients: int = 1
    test_batch_size: int = 100
    dispatch: str = "auto"
    num_devices: int = 0
    hosts: bool = False
    checkpoint_steps: int = 0
    kept_epochs: Collection[int] = ()
    label: str = "training"
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def replaced(self, **changes: Any) -> "Training":
        """The same training with other parts."""
        return dataclasses.replace(self, **changes)

    @property
    def num_train(self) -> int:
        """Number of training examples."""
        return len(self.train.y)

    @property
    def num_test(self) -> int:
        """Number of test examples."""
        return len(self.test.y)

    @property
    def batch_sizes(self) -> list[int]:
        """Examples in each batch of an epoch."""
        full, rest = divmod(self.num_train, self.batch_size)
        return [self.batch_size] * full + [rest] * (rest > 0 and self.keep_remainder)

    @property
    def first_selectable(self) -> int:
        """The first epoch, from 0, whose network may be the best."""
        return first_selectable(self.select_from, self.num_epochs)

    @property
    def num_gradients(self) -> int:
        """Gradients of single examples that training one network takes, with tests."""
        update = self.num_train * self.update_gradients
        return self.num_epochs * (update + self.num_test * self.test_gradients)

    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        """The radius and the seed's number of each network, ``[r]``, seeds inside."""
        eps, seeds = np.meshgrid(self.eps, np.arange(self.num_seeds), indexing="ij")
        return eps.ravel(), seeds.ravel()
