"""The compiled programs of one configuration, and what they keep between epochs.

An engine trains ``r`` networks, one for every radius and seed. How their steps are
dispatched is decided in ``train.dispatched``, over which devices in ``devices``.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import evaluate, losses, penalties, train
from advjax.train import TrainState
from advjax.types import Array, Aux, Batch, Key, Params
from experiments import checks, devices
from experiments.training import parameters, recipe, testing

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
"""Of every run. Where there are a surrogate attack, a LASSO penalty or watches, also
``factor``, ``sparsity`` of the weights, and what is watched."""

Watch = Callable[[tuple[Params, Params], Key, Array], Array]
"""``((params, batch_stats), key, eps) -> []``: a number of one network at the end of an
epoch. The key is that of the tests, the same in every epoch."""


_FIRST_PART, _PART_SECONDS = 8, 1.0
"""Steps of a loop in Python after which a signal is looked at: first so many, and then
twice as many while they take less than so many seconds."""


class Best(NamedTuple):
    """The epoch of smallest adversarial test loss so far, and its networks, ``[r]``.

    Of the epochs that ``config.select_from`` admits.
    """

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
    """Trains and tests the networks of a configuration; holds no state of a run."""

    def __init__(self, config: ConfigDict, watches: Mapping[str, Watch] | None = None):
        """Reads the data; compiles nothing yet.

        Args:
            config: the configuration.
            watches: what else to follow over the epochs, by name.

        Raises:
            ValueError: for a watch with the name of a metric.
            ConfigError: for a configuration that its data or devices do not admit.
            DataError: if the data cannot be read.
        """
        self._config = config
        self.eps, self.seeds = recipe.runs(config)
        train_part, test_part = (recipe.read(config, s) for s in ("train", "test"))
        self.num_train, self.num_test = train_part.y.size, test_part.y.size
        checks.integers(config, "batch_size", most=self.num_train)
        rest = recipe.remainder(config, self.num_train)
        self._sizes = [config.batch_size] * (self.num_train // config.batch_size)
        self._sizes += [rest] * (rest > 0)
        mesh = devices.mesh(recipe.num_devices(config, *set(self._sizes)))
        self._mesh = mesh
        self._train = devices.replicated(train_part, mesh)
        self._model = recipe.network(config)
        self._rate = recipe.learning_rate(config, self.steps_per_epoch)
        self._tx = recipe.optimiser(config, self._rate)
        self._key_run, self._key_test = jax.random.split(jax.random.key(config.seed))
        self._run = train.dispatched(self._step(), config.dispatch)
        self._is_looped = train.dispatch_mode(config.dispatch) == "loop"
        self._order = jax.jit(jax.vmap(self._shuffled, (0, None)))
        self._tests = [
            testing.tester(self._model, attack, test_part, mesh, config.test_batch_size)
            for attack in (recipe.test_attack(config), recipe.fgsm(config))
        ]
        self._watches = dict(watches or {})
        if taken := {*HISTORY, "factor", "sparsity"} & {*self._watches}:
            msg = f"watches = {sorted(taken)}: metrics have these names; choose others"
            raise ValueError(msg)
        if config.l1_penalty:
            self._watches["sparsity"] = _sparsity
        self._step_metrics = STEP_METRICS + ("factor",) * bool(config.xi)
        self._check_network()

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
        if self._config.init_from and load:
            states = self._loaded(states)
        r, num_epochs = self.eps.size, self._config.num_epochs
        best = self._best(np.full(r, np.inf), -1, states)
        shape = (r, self.steps_per_epoch)
        steps = {name: np.full(shape, np.nan) for name in self._step_metrics}
        names = dict.fromkeys([*HISTORY, *self._step_metrics, *self._watches])
        history = {name: np.full((num_epochs, r), np.nan) for name in names}
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

    def is_checkpoint(self, step: int) -> bool:
        """Whether a checkpoint is due after a step within an epoch."""
        done, every = step % self.steps_per_epoch, self._config.checkpoint_steps
        return done > 0 and every > 0 and done % every == 0

    def _next_stop(self, begin: int, num_full: int) -> int:
        """Where the present part must end at the latest.

        A compiled loop over steps has one length, and runs to the next checkpoint; a
        loop in Python may be left at any step.
        """
        every = self._config.checkpoint_steps or num_full
        return min((begin // every + 1) * every, num_full)

    def test(self, now: Progress, epoch: int, **row: float) -> Progress:
        """Tests all networks, keeps the better ones, and fills the epoch's row.

        Training losses and accuracies are means over the epoch's examples, each at the
        network of its step.

        Raises:
            DivergedError: if a test loss is not finite.
        """
        networks = testing.networks(now.states.params, now.states.batch_stats)
        tested = [self._tested(*pair) for pair in zip(networks, self.eps, strict=True)]
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
        may_be_best = epoch >= recipe.first_selectable(self._config)
        robust_loss = np.where(may_be_best, row["test_robust_loss"], np.inf)
        new = self._best(robust_loss, epoch, now.states)
        return now._replace(best=_better(new, now.best), history=history)

    def _check_network(self) -> None:
        """Raises ConfigError if the network cannot train on images of this size."""
        x = jnp.zeros((min(self._sizes), *self._train.x.shape[1:]))
        try:
            variables = jax.eval_shape(self._model.init, self._key_run, x)
            jax.eval_shape(lambda v: self._model.apply(*v, x, train=True), variables)
        except (ValueError, ZeroDivisionError, TypeError) as error:
            name, shape = self._config.model, x.shape
            msg = f"config.model = {name!r} cannot train on batches of shape {shape}"
            raise checks.ConfigError(f"{msg}: {error}") from error

    def _create(self, seed: Array) -> TrainState:
        x = jnp.zeros((1, *self._train.x.shape[1:]))
        key = jax.random.fold_in(self._key_run, seed)
        return train.create(key, self._model, self._tx, x)

    def _loaded(self, states: TrainState) -> TrainState:
        """The states ``[r]`` with released parameters.

        The file holds one network for all runs, one for each seed, or one for each run.
        """
        found = parameters.read(self._config.init_from)
        trees = (found.params, found.batch_stats)
        one = jax.tree.map(lambda leaf: leaf[0], (states.params, states.batch_stats))
        parameters.check_network(trees, one)
        number = len(jax.tree.leaves(trees)[0])
        rows = {1: np.zeros_like(self.seeds), self._config.num_seeds: self.seeds}
        rows[self.eps.size] = np.arange(self.eps.size)
        if number not in rows:
            raise checks.ConfigError(
                f"config.init_from holds {number} networks; give one, one for each of "
                f"{self._config.num_seeds} seeds, or for each of {self.eps.size} runs"
            )
        trees = jax.tree.map(lambda leaf: leaf[rows[number]], trees)
        params, batch_stats = devices.replicated(trees, self._mesh)
        return states._replace(params=params, batch_stats=batch_stats)

    def _step(self) -> train.Step:
        share = recipe.warm_up(self._config, self.steps_per_epoch)
        xi = recipe.surrogate(self._config, self.steps_per_epoch)
        prepare = recipe.prepare(self._config)

        def step(state, batch, eps):
            objective = recipe.objective(self._config, self._model, xi(state.step))
            plain = train.make_step(objective, self._tx, _robust_loss)
            prepared = train.preprocessed(plain, prepare)
            return prepared(state, batch, eps * share(state.step))

        return devices.data_parallel(step, self._mesh)

    def _shuffled(self, state: TrainState, epoch: Array) -> tuple[Array, Array]:
        key = train.shuffle_key(state, epoch)
        sizes = (self.num_train, self._config.batch_size)
        return train.epoch_indices(key, *sizes), train.remainder_indices(key, *sizes)

    def _tested(self, network: tuple[Params, Params], eps: float) -> dict[str, float]:
        pgd, fgsm = (
            evaluate.summary(test(network, self._key_test, eps)) for test in self._tests
        )
        robust, single_step = pgd.robust_accuracy.value, fgsm.robust_accuracy.value
        values = (
            *(pgd.loss, pgd.accuracy.value, pgd.robust_loss, robust),
            *(single_step, single_step - robust),
            *(pgd.num_zero_gradients, pgd.num_undefined),
        )
        watched = {
            name: float(watch(network, self._key_test, np.float32(eps)))
            for name, watch in self._watches.items()
        }
        return dict(zip(TEST_METRICS, values, strict=True)) | watched

    def _best(self, robust_loss: np.ndarray, epoch: int, states: TrainState) -> Best:
        numbers = (robust_loss.astype(np.float32), np.full(self.eps.size, epoch))
        numbers = devices.replicated(numbers, self._mesh)
        return Best(*numbers, states.params, states.batch_stats)

    def _compiled(self, function: Callable) -> Callable:
        return jax.jit(function, out_shardings=devices.whole(self._mesh))

    def _name(self, i: int, *_) -> str:
        return f"eps = {self.eps[i]:g}, seed {self.seeds[i]}"


def _robust_loss(aux: Aux, batch: Batch) -> dict[str, Array]:
    """Cross-entropy at the attacked inputs, also of TRADES and MART."""
    return {"robust_loss": jnp.mean(losses.cross_entropy(aux.logits, batch.y))}


@jax.jit
def _sparsity(network: tuple[Params, Params], key: Key, eps: Array) -> Array:
    del key, eps
    return penalties.sparsity(network[0])


@jax.jit
def _better(new: Best, best: Best) -> Best:
    better = new.robust_loss < best.robust_loss
    return jax.tree.map(lambda a, b: jax.vmap(jnp.where)(better, a, b), new, best)
