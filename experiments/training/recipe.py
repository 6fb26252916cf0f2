"""What a configuration means: data, network, optimiser, objective and attacks.

``defaults()`` lists every field. A configuration file starts from it and states what
differs.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from advjax import attacks, augmentation, data, losses, models, norms, objectives
from advjax.types import Array, Attack, Batch, Key, Model, Objective, Params
from experiments import checks

NORMS = {"linf": norms.linf, "l2": norms.l2, "l1": norms.l1}
STARTS = ("none", "in_ball", "radius_uniform", "gaussian")
DATASETS = ("digits", "mnist", "cifar10", "cifar100", "svhn_cropped")
OBJECTIVES = ("standard", "adversarial", "trades", "mart")
OPTIMISERS = ("sgd", "adam")
SCHEDULES = ("constant", "piecewise", "linear", "cosine")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def defaults() -> ConfigDict:
    """Every field, with the protocol of Rice et al. 2020 where it says something."""
    config = ConfigDict()
    config.experiment = "training.classifier"

    config.dataset = "digits"  # or a data set of TFDS
    config.data_dir = ""  # that of TFDS if empty
    config.classes = ()  # all classes if empty
    config.num_train = 0  # a fixed random subset; 0 for all
    config.num_test = 0
    config.subset_seed = 0
    config.augment = True  # as is usual for the data set

    config.model = "mlp"
    config.width = 0  # the network's own if 0
    config.dtype = "float32"  # of the computation; parameters are float32
    config.init_from = ""  # a file of released parameters

    # One network is trained for every radius and seed.
    config.seed = 0
    config.num_seeds = 1
    config.norm = "linf"
    config.eps = (8 / 255,)
    config.eps_warmup_epochs = 0.0  # from 0, linearly

    config.num_epochs = 200
    config.batch_size = 128
    config.keep_remainder = True  # the smaller batch at the end of an epoch
    config.optimiser = "sgd"
    config.learning_rate = 0.1
    config.schedule = "piecewise"
    config.schedule_knots = (0.5, 0.75)  # fractions of the run
    config.schedule_values = (1.0, 0.1, 0.01)  # times the learning rate
    config.momentum = 0.9
    config.weight_decay = 5e-4  # coupled, on all parameters
    config.l1_penalty = 0.0  # on weights, not on biases and normalisation

    config.objective = "adversarial"
    config.beta = 6.0  # of trades and mart
    config.num_steps = 10
    config.rel_step_size = 0.25
    config.start = "in_ball"
    # Batch statistics inside the attack: "train", those of the attacked batch, as Rice
    # et al. and Wong et al.; "eval", the running averages. Passes inside the attack do
    # not move the averages, where those codes move them at every step.
    config.attack_mode = "train"

    config.test_num_steps = 10
    config.test_rel_step_size = 0.25
    config.test_batch_size = 500

    config.dispatch = "auto"  # "loop" or "scan", see train.dispatched
    config.num_devices = 0  # that share a batch; 0 for one CPU, or all accelerators
    config.hosts = False  # join the devices of several hosts
    config.checkpoint_steps = 0  # between checkpoints within an epoch; 0 for none
    return config


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong, before any data is read."""
    checks.one_of(config, "dataset", DATASETS)
    checks.one_of(config, "dtype", DTYPES)
    checks.one_of(config, "norm", NORMS)
    checks.one_of(config, "optimiser", OPTIMISERS)
    checks.one_of(config, "objective", OBJECTIVES)
    checks.one_of(config, "start", STARTS)
    checks.one_of(config, "attack_mode", ("train", "eval"))
    checks.one_of(config, "dispatch", ("auto", "loop", "scan"))
    checks.seed(config)
    checks.tuples(config, "eps")
    checks.numbers(config, "eps")
    positive = ("num_epochs", "batch_size", "test_batch_size", "num_seeds")
    checks.integers(config, *positive)
    checks.integers(config, "num_steps", "test_num_steps")
    counts = ("num_train", "num_test", "subset_seed", "width", "num_devices")
    checks.integers(config, *counts, "checkpoint_steps", least=0)
    if config.classes:
        checks.integers(config, "classes", least=0)
    for field in ("eps_warmup_epochs", "weight_decay", "l1_penalty", "beta"):
        checks.numbers(config, field)
    for field in ("learning_rate", "rel_step_size", "test_rel_step_size"):
        checks.numbers(config, field, above=0)
    checks.numbers(config, "momentum", most=1)
    _validate_schedule(config)
    network(config, num_classes=10)


def _validate_schedule(config: ConfigDict) -> None:
    checks.one_of(config, "schedule", SCHEDULES)
    if config.schedule in ("piecewise", "linear"):
        checks.increasing(config, "schedule_knots")
        checks.numbers(config, "schedule_knots", most=1)
        checks.numbers(config, "schedule_values")
        wanted = len(config.schedule_knots) + (config.schedule == "piecewise")
        if len(config.schedule_values) != wanted:
            raise checks.ConfigError(
                f"config.schedule_values = {config.schedule_values!r}: give {wanted} "
                f"values for the knots {config.schedule_knots!r}"
            )


class Data(NamedTuple):
    """The two parts of a data set, on the host, and the number of classes."""

    train: Batch
    test: Batch
    num_classes: int


def read(config: ConfigDict) -> Data:
    """The data of a configuration.

    Raises:
        ConfigError: for a selection that the data do not admit.
        DataError: if they cannot be read.
    """
    sizes = {"train": config.num_train, "test": config.num_test}
    parts = {}
    for split, size in sizes.items():
        part = data.load(config.dataset, split=split, data_dir=config.data_dir or None)
        try:
            if config.classes:
                part = data.of_classes(part, config.classes)
            if size:
                part = data.subset(part, size, seed=config.subset_seed)
        except ValueError as error:
            msg = f"{split} part of {config.dataset}: {error}"
            raise checks.ConfigError(msg) from None
        parts[split] = part
    num_classes = int(parts["train"].y.max()) + 1
    checks.integers(config, "batch_size", most=parts["train"].y.size)
    return Data(parts["train"], parts["test"], num_classes)


def network(config: ConfigDict, num_classes: int) -> Model:
    """The network, with the normalisation of its data set inside.

    Raises:
        ConfigError: for a width that the network does not take.
    """
    options = dict(models.NORMALISATION.get(config.dataset, {}))
    if config.width:
        options["width"] = config.width
    try:
        return models.make(
            config.model, num_classes=num_classes, dtype=DTYPES[config.dtype], **options
        )
    except ValueError as error:
        raise checks.ConfigError(f"config.model = {config.model!r}: {error}") from None


def prepare(config: ConfigDict) -> Callable[[Key, Array], Array]:
    """``(key, x) -> x``: pixels to [0, 1], then the augmentation."""
    augment = (
        augmentation.standard(config.dataset)
        if config.augment
        else augmentation.identity
    )
    return lambda key, x: augment(key, data.as_float(x))


def learning_rate(config: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """The rate of each step, which counts as done, as in the code of Rice et al.

    So a drop at half of the run meets the last step of its first half.
    """
    num_steps = config.num_epochs * steps_per_epoch
    knots = jnp.asarray(config.schedule_knots, jnp.float32)
    values = jnp.asarray(config.schedule_values, jnp.float32)
    shapes = {
        "constant": lambda t: jnp.ones_like(t),
        "piecewise": lambda t: values[jnp.searchsorted(knots, t, side="right")],
        "linear": lambda t: jnp.interp(t, knots, values),
        "cosine": lambda t: 0.5 * (1 + jnp.cos(jnp.pi * t)),
    }
    shape = shapes[config.schedule]
    return lambda step: config.learning_rate * shape((step + 1) / num_steps)


def optimiser(config: ConfigDict, rate: optax.Schedule) -> optax.GradientTransformation:
    """SGD or Adam in the form of torch: the decay is added to the gradient."""
    steps = {"sgd": optax.sgd(rate, config.momentum), "adam": optax.adam(rate)}
    decay = optax.add_decayed_weights(config.weight_decay)
    return optax.chain(decay, steps[config.optimiser])


def attack(config: ConfigDict) -> Attack:
    """The attack used in training."""
    return _pgd(config, config.num_steps, config.rel_step_size, config.start)


def test_attack(config: ConfigDict) -> Attack:
    """PGD from a random start, at the end of every epoch."""
    steps, size = config.test_num_steps, config.test_rel_step_size
    return _pgd(config, steps, size, "in_ball")


def fgsm(config: ConfigDict) -> Attack:
    """One full step from the clean input."""
    return _pgd(config, 1, 1.0, "none")


def _pgd(config: ConfigDict, num_steps: int, size: float, start: str) -> Attack:
    norm = NORMS[config.norm]
    starts = {
        "none": None,
        "in_ball": attacks.in_ball(norm),
        "radius_uniform": attacks.radius_uniform(norm),
        "gaussian": attacks.gaussian(1e-3),  # as TRADES
    }
    return attacks.pgd(
        norm,
        num_steps=num_steps,
        rel_step_size=size,
        start=starts[start],
        bounds=(0.0, 1.0),
    )


def objective(config: ConfigDict, model: Model) -> Objective:
    """What is minimised, LASSO penalty included."""
    loss, mode = losses.cross_entropy, config.attack_mode
    made = {
        "standard": lambda: objectives.standard(model, loss),
        "adversarial": lambda: objectives.adversarial(
            model, loss, attack(config), attack_mode=mode
        ),
        "trades": lambda: objectives.trades(
            model, attack(config), beta=config.beta, attack_mode=mode
        ),
        "mart": lambda: objectives.mart(
            model, attack(config), beta=config.beta, attack_mode=mode
        ),
    }[config.objective]()
    if not config.l1_penalty:
        return made
    return objectives.with_penalty(made, lambda p: config.l1_penalty * _l1(p))


def _l1(params: Params) -> Array:
    """Σ|w| over weights, which are the arrays of two and more axes."""
    weights = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    return sum(jnp.sum(jnp.abs(leaf)) for leaf in weights)


def warm_up(config: ConfigDict, steps_per_epoch: int) -> Callable[[Array], Array]:
    """The share of eps at each step."""
    num_steps = config.eps_warmup_epochs * steps_per_epoch
    if not num_steps:
        return jnp.ones_like
    return lambda step: jnp.minimum(step / num_steps, 1.0)


def num_devices(config: ConfigDict) -> int:
    """How many devices share a batch.

    Raises:
        ConfigError: if there are fewer, or a batch does not divide into them.
    """
    available = jax.device_count()
    default = 1 if jax.default_backend() == "cpu" and not config.hosts else available
    number = config.num_devices or default
    checks.integers(config, "num_devices", least=0, most=available)
    for field in ("batch_size", "test_batch_size"):
        if config[field] % number:
            raise checks.ConfigError(
                f"config.{field} = {config[field]} does not divide into {number} "
                "devices; choose a multiple, or config.num_devices"
            )
    return number


def steps_per_epoch(config: ConfigDict, num_examples: int, number: int) -> int:
    """Batches in an epoch, the smaller last one included if it is kept.

    Raises:
        ConfigError: if that one does not divide into ``number`` devices.
    """
    full, rest = divmod(num_examples, config.batch_size)
    if not (rest and config.keep_remainder):
        return full
    if rest % number:
        raise checks.ConfigError(
            f"config.keep_remainder: the last batch of {rest} examples does not divide "
            f"into {number} devices; set it to False, or choose config.num_devices"
        )
    return full + 1


def runs(config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """The radius and the seed's number of every network, both ``[r]``."""
    eps, seeds = np.meshgrid(config.eps, np.arange(config.num_seeds), indexing="ij")
    return eps.ravel().astype(np.float32), seeds.ravel()
