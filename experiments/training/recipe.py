"""What a configuration means: data, network, optimiser, objective and attacks.

``defaults()`` lists every field. A configuration file starts from it and states what
differs.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from advjax import (
    attacks,
    augmentation,
    data,
    losses,
    models,
    norms,
    objectives,
    penalties,
)
from advjax.types import Array, Attack, Batch, Key, Model, Objective
from experiments import checks

NORMS = {"linf": norms.linf, "l2": norms.l2, "l1": norms.l1}
STARTS = ("none", "in_ball", "radius_uniform", "gaussian")
DATASETS = {
    "digits": 10,
    "mnist": 10,
    "cifar10": 10,
    "cifar100": 100,
    "svhn_cropped": 10,
}
"""Number of classes, by data set."""
ACTIVATIONS = {"relu": nn.relu, "relu_softplus": models.relu_softplus}
OBJECTIVES = ("standard", "adversarial", "trades", "mart")
OPTIMISERS = ("sgd", "adam")
# Of Algorithm A.1's 40 epochs. Figure B.1 of the paper prints no values; with a rate of
# 0.1 these peak at 0.01, where the clean model was selected.
FINE_TUNING = (
    np.array([0, 0.25, 0.5, 0.75, 1]),
    np.array([0.01, 0.1, 0.1, 0.01, 0.001]),
)
SCHEDULES = ("constant", "piecewise", "linear", "cosine", "fine_tuning")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def defaults() -> ConfigDict:
    """Every field, with the protocol of Rice et al. 2020 where it says something."""
    config = ConfigDict()
    config.experiment = "training.classifier"

    config.dataset = "digits"  # or a data set of TFDS
    config.data_dir = ""  # that of TFDS if empty
    config.classes = ()  # all classes if empty
    # If not empty, the task is binary: label 1 for these classes and 0 for the others.
    # The one logit of such a task is the second output minus the first.
    config.positive_classes = ()
    config.num_train = 0  # a fixed random subset; 0 for all
    config.num_test = 0
    config.subset_seed = 0
    config.augment = True  # as is usual for the data set

    config.model = "mlp"
    config.width = 0  # the network's own if 0
    config.hidden = ()  # likewise, of "mlp"
    config.activation = "relu"  # or "relu_softplus", that of Xie et al. 2020
    # Of the computation; parameters are float32. On accelerators "float32" multiplies
    # at jax's default precision, which jax_default_matmul_precision changes.
    config.dtype = "float32"
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
    config.l1_proximal = False  # with exact zeros, see penalties.proximal

    config.objective = "adversarial"
    config.beta = 6.0  # of trades and mart
    config.num_steps = 10
    config.rel_step_size = 0.25
    # The objective's own if empty: "gaussian" and "eval" for trades and mart, "in_ball"
    # and "train" for the others. Batch statistics inside the attack are with "train"
    # those of the attacked batch, as Rice et al. and Wong et al., with "eval" the
    # running averages. Passes inside the attack do not move the averages, where those
    # codes move them at every step.
    config.start = ""
    config.attack_mode = ""

    # Of the surrogate attack in training, in units of the input gradient of one
    # example's loss; 0 for the attack itself, which is also that of the tests.
    config.xi = 0.0
    config.xi_follows_rate = False  # times the rate over config.learning_rate

    config.test_num_steps = 10
    config.test_rel_step_size = 0.25
    config.test_batch_size = 100  # larger is slower on CPU, and faster elsewhere

    config.dispatch = "auto"  # "loop" or "scan", see train.dispatched
    # That share a batch; 0 for one CPU, or as many accelerators as it divides into.
    config.num_devices = 0
    config.hosts = False  # join the devices of several hosts
    config.checkpoint_steps = 0  # between checkpoints within an epoch; 0 for none
    # The share of the epochs after which the best network may be chosen; Rice et al.'s
    # best epoch follows the first drop of the rate, at a half.
    config.select_from = 0.0
    return config


def restored(stored: Mapping[str, Any]) -> ConfigDict:
    """A configuration from its JSON; fields that it does not have are the defaults.

    Raises:
        ConfigError: for a field of another type than the default.
    """
    config = ConfigDict({**defaults().to_dict(), **_tuples(stored)})
    for field, default in defaults().items():
        is_number = isinstance(default, float) and type(config[field]) is int
        if type(config[field]) is not type(default) and not is_number:
            kind = type(default).__name__
            msg = f"config.{field} = {config[field]!r}: it is no {kind}"
            raise checks.ConfigError(msg)
    return config


def _tuples(stored: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no tuples, and configurations no lists."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in stored.items()
    }


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong, before any data is read."""
    checks.one_of(config, "dataset", DATASETS)
    checks.one_of(config, "dtype", DTYPES)
    checks.one_of(config, "norm", NORMS)
    checks.one_of(config, "optimiser", OPTIMISERS)
    checks.one_of(config, "objective", OBJECTIVES)
    checks.one_of(config, "activation", ACTIVATIONS)
    checks.one_of(config, "start", ("", *STARTS))
    checks.one_of(config, "attack_mode", ("", "train", "eval"))
    checks.one_of(config, "dispatch", ("auto", "loop", "scan"))
    checks.seed(config)
    checks.tuples(config, "eps")
    checks.numbers(config, "eps")
    positive = ("num_epochs", "batch_size", "test_batch_size", "num_seeds")
    checks.integers(config, *positive)
    checks.integers(config, "num_steps", "test_num_steps")
    counts = ("num_train", "num_test", "subset_seed", "width", "num_devices")
    checks.integers(config, *counts, "checkpoint_steps", least=0)
    checks.single(config, *positive, *counts, "num_steps", "test_num_steps")
    if config.classes:
        checks.tuples(config, "classes", least=2)
        checks.integers(config, "classes", least=0)
    if config.positive_classes:
        checks.tuples(config, "positive_classes")
        checks.integers(config, "positive_classes", least=0)
    if config.hidden:
        checks.tuples(config, "hidden")
        checks.integers(config, "hidden")
    at_least_zero = ("eps_warmup_epochs", "weight_decay", "l1_penalty", "beta", "xi")
    above_zero = ("learning_rate", "rel_step_size", "test_rel_step_size")
    checks.single(config, *at_least_zero, *above_zero, "momentum")
    for field in at_least_zero:
        checks.numbers(config, field)
    for field in above_zero:
        checks.numbers(config, field, above=0)
    checks.numbers(config, "momentum", most=1)
    checks.single(config, "select_from")
    checks.numbers(config, "select_from", most=1)
    _validate_schedule(config)
    _validate_surrogate(config)
    network(config)


def _validate_surrogate(config: ConfigDict) -> None:
    """The gradient of TRADES' own loss is zero at the clean input: nothing is left."""
    takes = {"norm": ("l2", "linf"), "objective": ("adversarial", "mart")}
    for field, choices in takes.items():
        if config.xi and config[field] not in choices:
            raise checks.ConfigError(
                f"config.xi = {config.xi!r}: no surrogate for config.{field} = "
                f"{config[field]!r}; choose from {', '.join(choices)}, or xi = 0"
            )


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


def read(config: ConfigDict, split: str) -> Batch:
    """The "train" or "test" part of the data, on the host.

    Raises:
        ConfigError: for a selection that the data do not admit.
        DataError: if they cannot be read.
    """
    part = data.load(config.dataset, split=split, data_dir=config.data_dir or None)
    size = {"train": config.num_train, "test": config.num_test}[split]
    try:
        if config.classes:
            part = data.of_classes(part, config.classes)
        # Studies with fields of their own need not have this one.
        if config.get("positive_classes"):
            part = data.binary(part, config.positive_classes)
        if size:
            part = data.subset(part, size, seed=config.subset_seed)
    except ValueError as error:
        msg = f"{split} part of {config.dataset}: {error}"
        raise checks.ConfigError(msg) from None
    return part


def network(config: ConfigDict, **options) -> Model:
    """``module`` as a model."""
    return models.from_linen(module(config, **options))


def module(config: ConfigDict, **options) -> nn.Module:
    """The network, with the normalisation of its data set inside.

    Args:
        config: the configuration.
        options: of the network, which come before those of the configuration.

    Raises:
        ConfigError: for an option that the network does not take.
    """
    given = options
    options = dict(models.NORMALISATION.get(config.dataset, {}))
    options["dtype"] = DTYPES[config.dtype]
    if config.activation != "relu":
        options["activation"] = ACTIVATIONS[config.activation]
    options |= {name: config[name] for name in ("width", "hidden") if config[name]}
    num_classes = len(config.classes) or DATASETS[config.dataset]
    num_classes = 2 if config.positive_classes else num_classes
    try:
        return models.module(config.model, num_classes=num_classes, **options | given)
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
    knots, values = np.array(config.schedule_knots), np.array(config.schedule_values)
    # In whole steps, since a share of the run is rounded differently under jit.
    drops = np.ceil(knots * num_steps - 1e-6).astype(np.int32)
    shapes = {
        "constant": lambda _: 1.0,
        "piecewise": lambda t: jnp.asarray(values)[
            jnp.searchsorted(jnp.asarray(drops), t, side="right")
        ],
        "linear": lambda t: jnp.interp(t / num_steps, knots, values),
        "cosine": lambda t: 0.5 * (1 + jnp.cos(jnp.pi * t / num_steps)),
        "fine_tuning": lambda t: jnp.interp(t / num_steps, *FINE_TUNING),
    }
    shape = shapes[config.schedule]
    return lambda step: jnp.float32(config.learning_rate * shape(step + 1))


def optimiser(config: ConfigDict, rate: optax.Schedule) -> optax.GradientTransformation:
    """SGD or Adam in the form of torch: the decay is added to the gradient."""
    steps = {"sgd": optax.sgd(rate, config.momentum), "adam": optax.adam(rate)}
    decay = optax.add_decayed_weights(config.weight_decay)
    tx = optax.chain(decay, steps[config.optimiser])
    if config.l1_penalty and config.l1_proximal:
        return penalties.proximal(tx, config.l1_penalty)
    return tx


def attack(config: ConfigDict) -> Attack:
    """The attack used in training, before a surrogate shrinks it."""
    return pgd(config.norm, config.num_steps, config.rel_step_size, start(config))


def start(config: ConfigDict) -> str:
    """The name of the random start in training."""
    return config.start or ("gaussian" if _is_trades(config) else "in_ball")


def surrogate(config: ConfigDict, steps_per_epoch: int) -> Callable[[Array], Array]:
    """Xi at each step."""
    rate = learning_rate(config, steps_per_epoch)
    if not config.xi_follows_rate:
        return lambda _: jnp.float32(config.xi)
    return lambda step: config.xi * rate(step) / config.learning_rate


def _is_trades(config: ConfigDict) -> bool:
    return config.objective in ("trades", "mart")


def test_attack(config: ConfigDict) -> Attack:
    """PGD from a random start, at the end of every epoch.

    Uniform in the ball, or of uniform radius if training starts so: Rice et al. test
    with the attack of training, which starts so under l2.
    """
    steps, size = config.test_num_steps, config.test_rel_step_size
    name = "radius_uniform" if config.start == "radius_uniform" else "in_ball"
    return pgd(config.norm, steps, size, name)


def fgsm(config: ConfigDict) -> Attack:
    """One full step from the clean input."""
    return pgd(config.norm, 1, 1.0, "none")


def pgd(
    norm_name: str, num_steps: int, rel_step_size: float, start_name: str
) -> Attack:
    """PGD on pixels in [0, 1], from a start among ``STARTS``."""
    norm = NORMS[norm_name]
    starts = {
        "none": None,
        "in_ball": attacks.in_ball(norm),
        "radius_uniform": attacks.radius_uniform(norm),
        "gaussian": attacks.gaussian(1e-3),  # as TRADES
    }
    return attacks.pgd(
        norm,
        num_steps=num_steps,
        rel_step_size=rel_step_size,
        start=starts[start_name],
        bounds=(0.0, 1.0),
    )


def objective(config: ConfigDict, model: Model, xi: Array | None = None) -> Objective:
    """What is minimised, but for a LASSO penalty that the optimiser takes.

    Args:
        config: the configuration.
        model: the network.
        xi: of the surrogate at the present step; by default ``config.xi``.
    """
    loss = losses.cross_entropy
    mode = config.attack_mode or ("eval" if _is_trades(config) else "train")
    inner = attack(config)
    if config.xi:
        xi = config.xi if xi is None else xi
        inner = attacks.smooth(inner, NORMS[config.norm], xi)
    made = {
        "standard": lambda: objectives.standard(model, loss),
        "adversarial": lambda: objectives.adversarial(
            model, loss, inner, attack_mode=mode
        ),
        "trades": lambda: objectives.trades(
            model, inner, beta=config.beta, attack_mode=mode
        ),
        "mart": lambda: objectives.mart(
            model, inner, beta=config.beta, attack_mode=mode
        ),
    }[config.objective]()
    if not config.l1_penalty or config.l1_proximal:
        return made
    return objectives.with_penalty(
        made, lambda w: config.l1_penalty * norms.l1.value(w)
    )


def warm_up(config: ConfigDict, steps_per_epoch: int) -> Callable[[Array], Array]:
    """The share of eps at each step."""
    num_steps = config.eps_warmup_epochs * steps_per_epoch
    if not num_steps:
        return jnp.ones_like
    return lambda step: jnp.minimum(step / num_steps, 1.0)


def first_selectable(config: ConfigDict) -> int:
    """The first epoch, from 0, whose network may be the best."""
    epoch = math.ceil(config.select_from * config.num_epochs - 1e-6)
    return min(epoch, config.num_epochs - 1)


def remainder(config: ConfigDict, num_examples: int) -> int:
    """Examples in the smaller batch at the end of an epoch; 0 if there is none."""
    return num_examples % config.batch_size if config.keep_remainder else 0


def num_devices(config: ConfigDict, *batch_sizes: int) -> int:
    """How many devices share batches of these sizes.

    Raises:
        ConfigError: if there are fewer than the configuration asks for, or a batch does
            not divide into them; or for a part of the devices of several hosts.
    """
    available = jax.device_count()
    checks.integers(config, "num_devices", least=0, most=available)
    if not (config.num_devices or config.hosts):
        most = 1 if jax.default_backend() == "cpu" else available
        choices = range(1, most + 1)
        return max(n for n in choices if all(size % n == 0 for size in batch_sizes))
    number = config.num_devices or available
    if config.hosts and number != available:
        raise checks.ConfigError(
            f"config.num_devices = {number}: with config.hosts all {available} devices "
            "take part; give 0"
        )
    for size in batch_sizes:
        if size % number:
            raise checks.ConfigError(
                f"a batch of {size} examples does not divide into {number} devices; "
                "change config.batch_size, config.num_devices, or set "
                "config.keep_remainder=False"
            )
    return number


def runs(config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """The radius and the seed's number of every network, both ``[r]``, seeds inside."""
    eps, seeds = np.meshgrid(config.eps, np.arange(config.num_seeds), indexing="ij")
    return eps.ravel(), seeds.ravel()
