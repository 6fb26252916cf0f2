"""The compiled programs of one training, and what they keep between epochs.

An engine trains ``r`` networks, one for every radius and seed. How their steps are
dispatched is decided in ``train.dispatched``, over which devices in ``devices``.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import evaluate, free, losses, train, weights
from advjax.evaluate import Summary
from advjax.train import TrainState
from advjax.types import Array, Aux, Batch, Params
from experiments import checks, devices
from experiments.training import parameters, testing
from experiments.training.parts import Training

STEP_METRICS = (
    "objective",
    "loss",
    "robust_loss",
    "accuracy",
    "zero_grad",
    "undefined_grad",
)
TEST_METRICS = (
    "test_loss",
    "test_accuracy",
    "test_robust_loss",
    "test_robust_accuracy",
    "test_fgsm_accuracy",
    "test_fgsm_gap",
    "test_zero_grad",
    "test_undefined",
)
HISTORY = (*STEP_METRICS, *TEST_METRICS, "learning_rate", "images_per_second")
"""Of every run, beside its further step metrics and what is watched."""

_FIRST_PART, _PART_SECONDS = 8, 1.0
"""Steps of a loop in Python after which a signal is looked at: first so many, and then
twice as many while they take less than so many seconds."""


class Best(NamedTuple):
    """The epoch of least adversarial test loss, and its networks: ``[r]``."""

    robust_loss: Array
    epoch: Array
    params: Params
    batch_stats: Params


class Progress(NamedTuple):
    """All that a resumed run needs.

    Attributes:
        states: of ``r`` runs.
        best: of ``r`` runs.
        steps: metrics of the present epoch's batches, ``[r, t]``, nan where not done.
        history: metrics of all epochs, ``[epoch, r]``, nan where not done.
    """

    states: TrainState
    best: Best
    steps: dict[str, np.ndarray]
    history: dict[str, np.ndarray]

    @property
    def step(self) -> int:
        """Number of steps done."""
        return int(self.states.step[0])

    @property
    def num_tested(self) -> int:
        """Number of epochs done, their tests included."""
        return int(np.sum(np.isfinite(self.history["test_loss"][:, 0])))


class Engine:
    """Trains and tests the networks of a training; holds no state of a run."""

    def __init__(self, training: Training):
        """Places the data on the devices; compiles nothing yet.

        Raises:
            ValueError: for a watch with the name of a metric.
            ConfigError: for a training that its data or devices do not admit.
        """
        self.training = training
        self.eps, self.seeds = training.runs()
        if training.batch_size > training.num_train:
            raise checks.ConfigError(
                f"config.batch_size = {training.batch_size}: choose numbers at least 1 "
                f"and at most {training.num_train}"
            )
        self._sizes = training.batch_sizes
        self._is_looped = train.dispatch_mode(training.dispatch) == "loop"
        self._placement = devices.placement(
            training.num_devices,
            {*self._sizes},
            num_runs=self.eps.size,
            hosts=training.hosts,
            together=not self._is_looped,
        )
        self._train = devices.replicated(training.train, self._placement.mesh)
        self._rate = training.schedule(training.num_epochs * self.steps_per_epoch)
        # All updates of one step have its rate.
        number = training.replays.number if training.replays else 1
        self._tx = training.optimiser(lambda n: self._rate(n // number))
        keys = jax.random.split(jax.random.key(training.seed))
        self._key_run, self._key_test = keys
        self._run = train.dispatched(self._step(), training.dispatch)
        self._order = jax.jit(jax.vmap(self._shuffled, (0, None)))
        self._test_pgd, self._test_single_step = (
            testing.testers(
                training.model,
                attack,
                training.test,
                self._placement,
                training.test_batch_size,
                together=not self._is_looped,
            )
            for attack in (training.test_attack, training.single_step)
        )
        self._step_metrics = STEP_METRICS + training.step_metrics
        watched = [name for watch in training.watches for name in watch.names]
        if taken := {*HISTORY, *training.step_metrics} & {*watched}:
            msg = f"watches = {sorted(taken)}: metrics have these names; choose others"
            raise ValueError(msg)
        self._names = (*HISTORY, *training.step_metrics, *watched)
        self._check_network()
        self._check_start()

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self._sizes)

    @property
    def images_per_epoch(self) -> int:
        """Images that the batches of an epoch hold, over all runs."""
        return sum(self._sizes) * self.eps.size

    def start(self, *, load: bool = True) -> Progress:
        """Fresh networks; or released ones to train on, if asked for and ``load``."""
        states = self._compiled(jax.vmap(self._create))(self.seeds)
        if load and isinstance(self.training.start, parameters.Released):
            states = self._loaded(states, self.training.start)
        r, num_epochs = self.eps.size, self.training.num_epochs
        best = self._best(np.full(r, np.inf), -1, states)
        shape = (r, self.steps_per_epoch)
        steps = {name: np.full(shape, np.nan) for name in self._step_metrics}
        history = {name: np.full((num_epochs, r), np.nan) for name in self._names}
        # Copies, since the first step consumes the states.
        return Progress(states, jax.tree.map(jnp.copy, best), steps, history)

    def epoch(self, now: Progress, epoch: int) -> Iterator[Progress]:
        """Trains what is left of an epoch, and yields the progress after every part.

        Raises:
            DivergedError: if a training loss is not finite.
        """
        first = epoch * self.steps_per_epoch
        full, rest = map(np.asarray, self._order(now.states, epoch))
        num_steps = _FIRST_PART if self._is_looped else full.shape[1]
        while (begin := now.step - first) < self.steps_per_epoch:
            if begin < full.shape[1]:
                end = min(begin + num_steps, self._next_stop(begin, full.shape[1]))
                indices = full[:, begin:end]
            else:
                end, indices = begin + 1, rest
            time_begin = time.monotonic()
            states, metrics = self._run(now.states, self._train, indices, self.eps)
            metrics = jax.device_get(metrics)
            checks.finite(metrics["loss"].T, now.step, self._name)
            steps = {name: values.copy() for name, values in now.steps.items()}
            for name, values in steps.items():
                values[:, begin:end] = metrics[name]
            now = now._replace(states=states, steps=steps)
            yield now
            if time.monotonic() - time_begin < _PART_SECONDS:
                num_steps *= 2

    def number(self, now: Progress) -> int:
        """The number of a checkpoint: twice the step, and one more after its test."""
        is_tested = now.num_tested * self.steps_per_epoch == now.step
        return 2 * now.step + is_tested

    def is_checkpoint(self, step: int) -> bool:
        """Whether a checkpoint is due after a step within an epoch."""
        done, every = step % self.steps_per_epoch, self.training.checkpoint_steps
        return done > 0 and every > 0 and done % every == 0

    def _next_stop(self, begin: int, num_full: int) -> int:
        """Where the present part must end at the latest.

        A compiled loop over steps has one length, and runs to the next checkpoint; a
        loop in Python may be left at any step.
        """
        every = self.training.checkpoint_steps or num_full
        return min((begin // every + 1) * every, num_full)

    def test(self, now: Progress, epoch: int, **row: float) -> Progress:
        """Tests all networks, keeps the better ones, and fills the epoch's row.

        Training losses and accuracies are means over the epoch's examples, each at the
        network of its step.

        Raises:
            DivergedError: if a test loss is not finite.
        """
        trees = (now.states.params, now.states.batch_stats)
        at = (trees, self._key_test, self.eps.astype(np.float32))
        outcomes = zip(self._test_pgd(*at), self._test_single_step(*at), strict=True)
        tested = [_numbers(*map(evaluate.summary, each)) for each in outcomes]
        if self.training.watches:
            for i, network in enumerate(testing.networks(*trees)):
                tested[i] |= self._watched(network, self.eps[i])
        row |= {name: np.array([each[name] for each in tested]) for name in tested[0]}
        for name in ("test_loss", "test_robust_loss"):
            checks.finite(row[name][None], now.step, self._name)
        row |= {
            name: np.average(values, axis=1, weights=self._sizes)
            for name, values in now.steps.items()
        }
        row["learning_rate"] = self._rate(now.step - 1)
        history = {name: values.copy() for name, values in now.history.items()}
        for name, values in row.items():
            history[name][epoch] = values
        may_be_best = epoch >= self.training.first_selectable
        robust_loss = np.where(may_be_best, row["test_robust_loss"], np.inf)
        new = self._best(robust_loss, epoch, now.states)
        return now._replace(best=_better(new, now.best), history=history)

    def _check_network(self) -> None:
        """Raises ConfigError if the network cannot train on these images and labels."""
        x = jnp.zeros((min(self._sizes), *self._train.x.shape[1:]))
        model = self.training.model

        def output(key):
            network = model.init(key, x)
            return model.apply(*network, x, train=True, key=key)[0], network

        try:
            found, network = jax.eval_shape(output, self._key_run)
            found = found.shape
            _check_kinds(network)
            labels = [
                np.asarray(part.y) for part in (self.training.train, self.training.test)
            ]
            _check_output(found, np.concatenate(labels))
        except Exception as error:  # of whoever wrote the network
            name = self.training.about.get("config", {}).get("model", "the network")
            msg = f"config.model = {name!r} cannot train on batches of shape {x.shape}"
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            reason = kind + " ".join(str(error).split())[:300]
            raise checks.ConfigError(f"{msg}: {reason}") from error

    def _create(self, seed: Array) -> TrainState:
        x = jnp.zeros((1, *self._train.x.shape[1:]))
        key = jax.random.fold_in(self._key_run, seed)
        state = train.create(key, self.training.model, self._tx, x)
        if self.training.replays is None:
            return state
        return free.begin(state, jnp.zeros((max(self._sizes), *x.shape[1:])))

    def _check_start(self) -> None:
        """Raises an error for released networks of another kind or number."""
        found = self.training.start
        if not isinstance(found, parameters.Released):
            return
        fresh = jax.eval_shape(self._create, self.seeds[0])
        parameters.check_network(found[:2], (fresh.params, fresh.batch_stats))
        number = len(jax.tree.leaves(found.params)[0])
        if number not in self._rows():
            raise checks.ConfigError(
                f"config.init_from holds {number} networks; give one, one for each of "
                f"{self.training.num_seeds} seeds, or for each of {self.eps.size} runs"
            )

    def _rows(self) -> dict[int, np.ndarray]:
        """By the number of released networks, which of them each run starts from."""
        return {
            1: np.zeros_like(self.seeds),
            self.training.num_seeds: self.seeds,
            self.eps.size: np.arange(self.eps.size),
        }

    def _loaded(self, states: TrainState, found: parameters.Released) -> TrainState:
        """The states ``[r]`` with released parameters."""
        trees = (found.params, found.batch_stats)
        rows = self._rows()[len(jax.tree.leaves(trees)[0])]
        trees = jax.tree.map(lambda leaf: leaf[rows], trees)
        params, batch_stats = self._placement.placed(trees)
        return states._replace(params=params, batch_stats=batch_stats)

    def _step(self) -> train.Step:
        training = self.training
        num_warm = training.warm_up_epochs * self.steps_per_epoch

        def plain(state, batch, eps):
            if training.replays is not None:
                replay = training.replays.make_step(self._tx)
                state, metrics = replay(state, batch, eps)
                return state, metrics | {"robust_loss": metrics["loss"]}
            objective = training.objective(self._rate(state.step))
            return train.make_step(objective, self._tx, _robust_loss)(state, batch, eps)

        def step(state, batch, eps):
            prepared = train.preprocessed(plain, training.prepare)
            share = jnp.minimum(state.step / num_warm, 1.0) if num_warm else 1.0
            return prepared(state, batch, eps * share)

        return self._placement.parallel(step)

    def _shuffled(self, state: TrainState, epoch: Array) -> tuple[Array, Array]:
        key = train.shuffle_key(state, epoch)
        sizes = (self.training.num_train, self.training.batch_size)
        return train.epoch_indices(key, *sizes), train.remainder_indices(key, *sizes)

    def _watched(self, network: tuple[Params, Params], eps: float) -> dict[str, float]:
        watched: dict[str, float] = {}
        for watch in self.training.watches:
            found = watch.measure(network, self._key_test, np.float32(eps))
            watched |= {name: float(found[name]) for name in watch.names}
        return watched

    def _best(self, robust_loss: np.ndarray, epoch: int, states: TrainState) -> Best:
        numbers = (robust_loss.astype(np.float32), np.full(self.eps.size, epoch))
        numbers = self._placement.placed(numbers)
        return Best(*numbers, states.params, states.batch_stats)

    def _compiled(self, function: Callable) -> Callable:
        return jax.jit(function, out_shardings=self._placement.over_runs)

    def _name(self, i: int, *_) -> str:
        return f"eps = {self.eps[i]:g}, seed {self.seeds[i]}"


def _check_kinds(network: Any) -> None:
    """Raises ValueError for what released files do not hold."""
    for name, leaf in weights.named(network).items():
        if leaf.dtype != jnp.float32:
            msg = f"{name} is of {leaf.dtype}: released files hold float32 alone"
            raise ValueError(msg)


def _check_output(shape: tuple[int, ...], y: np.ndarray) -> None:
    """Raises ValueError unless outputs of this shape have a logit for every label."""
    if len(shape) == 1 and y.min() < 0:
        return  # single logits, for signs
    most = int(y.max()) + 1
    if len(shape) != 2 or shape[1] < most:
        msg = f"its output has shape {shape}, and labels go up to {most - 1}"
        raise ValueError(f"{msg}: give [{shape[0]}, {most}] logits")


def _numbers(pgd: Summary, single_step: Summary) -> dict[str, float]:
    """The metrics of the tests of one network."""
    robust, first = pgd.robust_accuracy.value, single_step.robust_accuracy.value
    return {
        "test_loss": pgd.loss,
        "test_accuracy": pgd.accuracy.value,
        "test_robust_loss": pgd.robust_loss,
        "test_robust_accuracy": robust,
        "test_fgsm_accuracy": first,
        "test_fgsm_gap": first - robust,
        "test_zero_grad": pgd.num_zero_gradients,
        "test_undefined": pgd.num_undefined,
    }


def _robust_loss(aux: Aux, batch: Batch) -> dict[str, Array]:
    """Cross-entropy at the attacked inputs, also of TRADES and MART."""
    return {"robust_loss": jnp.mean(losses.cross_entropy(aux.logits, batch.y))}


@jax.jit
def _better(new: Best, best: Best) -> Best:
    better = new.robust_loss < best.robust_loss
    return jax.tree.map(lambda a, b: jax.vmap(jnp.where)(better, a, b), new, best)
