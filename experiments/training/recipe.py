"""What a configuration of training means: its fields, and the parts that they name.

``FIELDS`` lists every field, and ``training`` resolves a configuration into the parts
that the engine takes.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict, FrozenConfigDict

from advjax import (
    attacks,
    augmentation,
    data,
    free,
    losses,
    models,
    norms,
    objectives,
    penalties,
)
from advjax.types import Array, Attack, Batch, Key, Model, Objective, Params
from experiments import checks, files
from experiments.fields import (
    Field,
    agree,
    at_most,
    count,
    counts,
    digest,
    machine,
    number,
    numbers,
    one_of,
    seed,
    switch,
    text,
)
from experiments.inputs import ReleasedFile
from experiments.training import own
from experiments.training.parts import Replays, Training, Watch

NORMS = {"linf": norms.linf, "l2": norms.l2, "l1": norms.l1}
STARTS = ("none", "in_ball", "radius_uniform", "gaussian")
DATASETS = ("digits", "mnist", "cifar10", "cifar100", "svhn_cropped")
"""Data sets whose contents are known."""
ACTIVATIONS = {"relu": nn.relu, "relu_softplus": models.relu_softplus}
OBJECTIVES = ("standard", "adversarial", "trades", "mart", "free")
OPTIMISERS = ("sgd", "adam")
# Of Algorithm A.1's 40 epochs. Figure B.1 of the paper prints no values; with a rate of
# 0.1 these peak at 0.01, where the clean model was selected.
FINE_TUNING = (
    np.array([0, 0.25, 0.5, 0.75, 1]),
    np.array([0.01, 0.1, 0.1, 0.01, 0.001]),
)
SCHEDULES = ("constant", "piecewise", "linear", "cosine", "fine_tuning")
DISPATCHES = ("auto", "loop", "scan")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def dataset_digest(config: ConfigDict) -> str:
    """The digest of files whose contents are not known; empty for ``DATASETS``."""
    if config.dataset in DATASETS:
        return ""
    _validate_dataset(config)
    place = data.place(config.dataset, config.data_dir or None)
    if place is None or not place.is_dir():
        return "" if place is None else files.digest(place)[:12]
    inside = sorted(each for each in place.iterdir() if each.is_file())
    parts = [f"{each.name} {files.digest(each)}" for each in inside]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def model_digest(config: ConfigDict) -> str:
    """The digest of the file that an own network is in; empty for others."""
    # Studies of several networks name them in another field.
    name = config.get("model", "")
    return own.digest(name) if own.is_own(name) else ""


FIELDS: dict[str, Field] = {
    "dataset": text(
        "digits",
        "digits, mnist, cifar10, another set that TFDS prepared, or a .npz file",
    ),
    "dataset_digest": digest("files that are read for it", dataset_digest),
    "data_dir": machine(text("", "directory of the data sets; that of TFDS if empty")),
    "classes": counts((), "classes to keep; all if empty", least=0, length=0),
    # The one logit of a binary task is the second output minus the first.
    "positive_classes": counts(
        (),
        "classes with label 1, others with 0; no binary task if empty",
        least=0,
        length=0,
    ),
    "num_train": count(0, "training images, a random subset; 0 for all", least=0),
    "num_test": count(0, "test images, a random subset; 0 for all", least=0),
    "subset_seed": seed(0, "seed of random subsets"),
    "augment": switch(
        "augment training images, as is usual for a known data set", default=True
    ),
    "model": text(
        "mlp", "network in advjax.models, or package.module:Name for an own one"
    ),
    "model_digest": digest("the file of an own network", model_digest),
    "width": count(0, "width of the network; its own if 0", least=0),
    "hidden": counts(
        (),
        "units of each hidden layer; the network's own if empty",
        length=0,
        longest=64,
    ),
    "activation": one_of(
        "relu", "relu, or relu_softplus of Xie et al. 2020", ACTIVATIONS
    ),
    # On accelerators "float32" multiplies at jax's default precision, which
    # jax_default_matmul_precision changes.
    "dtype": one_of(
        "float32",
        "float32 or bfloat16, of the computation; parameters are float32",
        DTYPES,
    ),
    "seed": seed(),
    "num_seeds": count(1, "networks at each radius, with a seed for each"),
    "norm": one_of("linf", "norm of the attack: linf, l2 or l1", NORMS),
    "eps": numbers(
        (8 / 255,), "radii, of pixels in [0, 1]; networks are trained at each"
    ),
    "eps_warmup_epochs": number(0, "epochs in which the radius rises linearly from 0"),
    "num_epochs": count(200, "epochs of training"),
    "batch_size": count(128, "examples in a batch"),
    "keep_remainder": switch(
        "train on the smaller batch at the end of an epoch, too", default=True
    ),
    "optimiser": one_of("sgd", "sgd or adam", OPTIMISERS),
    "learning_rate": number(
        0.1, "learning rate, which the schedule multiplies", above=0
    ),
    "schedule": one_of("piecewise", ", ".join(SCHEDULES), SCHEDULES),
    "schedule_knots": numbers(
        (0.5, 0.75),
        "where the rate changes, as fractions of the run, increasing",
        most=1,
        length=0,
        increasing=True,
    ),
    "schedule_values": numbers(
        (1.0, 0.1, 0.01),
        "factors of the rate: of linear at knots, of piecewise between",
        length=0,
    ),
    "momentum": number(0.9, "momentum of SGD", most=1),
    # Coupled, and of normalisation layers, too.
    "weight_decay": number(5e-4, "decay of all parameters, added to the gradient"),
    "l1_penalty": number(
        0, "LASSO penalty on weights, not on biases and normalisation"
    ),
    "l1_proximal": switch(
        "LASSO by proximal steps, which leave exact zeros", default=False
    ),
    "objective": one_of("adversarial", ", ".join(OBJECTIVES), OBJECTIVES),
    "beta": number(6, "weight of the KL divergence in trades and mart"),
    "num_replays": count(8, "trainings on each batch in free"),
    "weight_eps": number(
        0, "radius of adversarial weight perturbation, over a weight's norm"
    ),
    "alignment": number(0, "weight of GradAlign's penalty"),
    "num_steps": count(10, "steps of the attack in training"),
    "rel_step_size": number(0.25, "step of the attack in training, over eps", above=0),
    "start": one_of(
        "",
        "none, in_ball, radius_uniform or gaussian; by objective if empty",
        ("", *STARTS),
    ),
    # Batch statistics inside the attack are with "train" those of the attacked batch,
    # as in the code of Rice et al. and of Wong et al., with "eval" the running
    # averages. Passes inside the attack do not move the averages, where those codes
    # move them at every step.
    "attack_mode": one_of(
        "",
        "train or eval, mode inside the attack; by objective if empty",
        ("", "train", "eval"),
    ),
    # In units of the input gradient of one example's loss.
    "xi": number(0, "smoothing of the attack in training; 0 for the attack itself"),
    "xi_follows_rate": switch("xi falls with the learning rate", default=False),
    "test_num_steps": count(10, "steps of the attack in tests"),
    "test_rel_step_size": number(
        0.25, "step of the attack in tests, over eps", above=0
    ),
    # A larger one is slower on CPU, and faster elsewhere.
    "test_batch_size": machine(count(100, "test images at once")),
    "dispatch": machine(
        one_of(
            "auto",
            "auto, loop (step after step) or scan (all in one program)",
            DISPATCHES,
        )
    ),
    "num_devices": machine(
        count(
            0, "devices that share a batch; 0 for one CPU, or all accelerators", least=0
        )
    ),
    "hosts": machine(switch("join the devices of several hosts", default=False)),
    "checkpoint_steps": machine(
        count(0, "steps between checkpoints within an epoch; 0 for none", least=0)
    ),
    # Rice et al.'s best epoch follows the first drop of the rate, at a half.
    "select_from": number(
        0, "share of the epochs before the best network may be chosen", most=1
    ),
}
"""The protocol of Rice et al. 2020 where it says something."""


RADIUS = numbers(
    (8 / 255,), "radius, of pixels in [0, 1]; one, in brackets", above=0, longest=1
)
"""``eps`` of a study that trains at one radius."""


START = ReleasedFile(
    "file of released parameters to start from; new ones if empty", is_optional=True
)
NEEDS = {"init_from": START}
"""What studies with all of ``FIELDS`` need."""


def defaults() -> ConfigDict:
    """A configuration with every field at its default."""
    fields = START.fields("init_from") | FIELDS
    config = ConfigDict({name: field.default for name, field in fields.items()})
    config.experiment = "training.classifier"
    return config


def restored(stored: Mapping[str, Any], model: str = "") -> ConfigDict:
    """A configuration from its JSON; fields that it does not have are the defaults.

    Args:
        stored: the fields, which may come from anybody.
        model: an own network that the user names; one that ``stored`` alone names is
            refused, for that would run code which a file chose.

    Raises:
        ConfigError: for a field of another type than the default, and for an own
            network.
    """
    for field in stored:
        if not field.isidentifier():
            raise checks.ConfigError(f"config.{field}: it is no name of a field")
    config = ConfigDict({**defaults().to_dict(), **files.tuples(stored)})
    for field, default in defaults().items():
        is_number = isinstance(default, float) and type(config[field]) is int
        if type(config[field]) is not type(default) and not is_number:
            kind = type(default).__name__
            msg = f"config.{field} = {config[field]!r}: it is no {kind}"
            raise checks.ConfigError(msg)
    if model and model != config.model:
        msg = f"config.model = {model!r}: the networks are of {config.model!r}"
        raise checks.ConfigError(msg)
    if config.dataset.endswith(".npz"):
        if not config.dataset_digest:
            msg = f"config.dataset = {config.dataset!r}: it has no digest"
            raise checks.ConfigError(checks.printable(msg))
        # Where it is, the user says, by data_dir or the working directory.
        config.dataset = Path(config.dataset).name
    if own.is_own(config.model) and model != config.model:
        msg = f"the networks are of {config.model!r}, whose code would run: if that is "
        msg += f"yours, give --config.model={config.model}"
        raise checks.ConfigError(checks.printable(msg))
    return config


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong, before any data is read."""
    for name, field in FIELDS.items():
        field.check(name, config[name])
    check(config)


def check(config: ConfigDict) -> None:
    """Raises ConfigError for fields that do not go together."""
    if len(config.classes) == 1:
        msg = f"config.classes = {config.classes!r}: give a tuple of at least 2 values"
        raise checks.ConfigError(msg)
    _validate_dataset(config)
    _validate_radii(config)
    _validate_schedule(config)
    _validate_surrogate(config)
    _validate_objective(config)
    network(config)


def _validate_dataset(config: ConfigDict) -> None:
    try:
        num_classes(config)
    except ValueError:
        raise checks.ConfigError(
            f"config.dataset = {config.dataset!r}: "
            f"{checks.choose(config.dataset, DATASETS)}, one that TFDS has prepared, "
            "or a .npz file"
        ) from None


def _validate_radii(config: ConfigDict) -> None:
    """A radius of 1 in linf is any image; pixels are in [0, 1]."""
    if config.norm == "linf" and max(config.eps) >= 1:
        wide = f"config.eps = {config.eps!r}: pixels are in [0, 1]; give 8/255 for 8"
        raise checks.ConfigError(wide)


def _validate_surrogate(config: ConfigDict) -> None:
    """The gradient of TRADES' own loss is zero at the clean input: nothing is left."""
    takes = {"norm": ("l2", "linf"), "objective": ("adversarial", "mart")}
    for field, choices in takes.items():
        if config.xi and config[field] not in choices:
            raise checks.ConfigError(
                f"config.xi = {config.xi!r}: no surrogate for config.{field} = "
                f"{config[field]!r}; choose from {', '.join(choices)}, or xi = 0"
            )


def _validate_objective(config: ConfigDict) -> None:
    """Not all objectives have all terms."""
    attacked = ("adversarial", "trades", "mart")
    terms = {"weight_eps": attacked, "alignment": attacked, "l1_penalty": _MINIMISED}
    for field, choices in terms.items():
        if config[field] and config.objective not in choices:
            raise checks.ConfigError(
                f"config.{field} = {config[field]!r}: not of config.objective = "
                f"{config.objective!r}; choose from {', '.join(choices)}, or 0"
            )


_MINIMISED = tuple(each for each in OBJECTIVES if each != "free")


def _validate_schedule(config: ConfigDict) -> None:
    if config.schedule in ("piecewise", "linear"):
        for name in ("schedule_knots", "schedule_values"):
            if not config[name]:
                msg = f"config.{name} = (): give a tuple of at least 1 value"
                raise checks.ConfigError(msg)
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
    if config.get("dataset_digest"):
        agree(config, "dataset_digest", dataset_digest(config))
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


def watched(config: ConfigDict | FrozenConfigDict, test: Batch) -> Batch:
    """The ``config.num_watched`` test images that a study follows through training.

    Raises:
        ConfigError: if there are not so many.
    """
    at_most(config, "num_watched", len(test.y))
    return data.subset(test, config.num_watched, seed=config.subset_seed)


def num_classes(config: ConfigDict | FrozenConfigDict) -> int:
    """The number of classes that networks tell apart.

    Raises:
        ValueError: for a data set that there is not.
        DataError: for one that cannot be read.
    """
    if config.get("positive_classes"):
        return 2
    number = data.num_classes(config.dataset, config.data_dir or None)
    return len(config.get("classes") or ()) or number


def network(config: ConfigDict, **options) -> Model:
    """The network as a model, with what it takes of the configuration.

    Raises:
        ConfigError: for an option that the network does not take.
    """
    if not own.is_own(config.model):
        return models.from_linen(module(config, **options))
    for name, value in {"hidden": (), "width": 0, "activation": "relu"}.items():
        if config[name] != value:
            msg = f"config.{name} = {config[name]!r}: an own network has its own; give "
            raise checks.ConfigError(f"{msg}'--config.{name}={value}'")
    if config.dtype != "float32":
        msg = (
            f"config.dtype = {config.dtype!r}: own networks compute as they are written"
        )
        raise checks.ConfigError(msg)
    if config.get("model_digest"):
        agree(config, "model_digest", model_digest(config))
    if other := {*options} - {"dtype"}:
        msg = f"config.model = {config.model!r}: an own network has no {min(other)}"
        raise checks.ConfigError(msg)
    return own.model(config.model, num_classes(config))


def module(config: ConfigDict, **options) -> nn.Module:
    """A network of ``advjax.models``, with the normalisation of its data set inside.

    Args:
        config: the configuration.
        options: of the network, which come before those of the configuration.

    Raises:
        ConfigError: for an option that the network does not take, and for an own one.
    """
    given = dict(models.NORMALISATION.get(config.dataset, {}))
    given["dtype"] = DTYPES[config.dtype]
    given |= {name: config[name] for name in ("width", "hidden") if config[name]}
    if config.activation != "relu":
        given["activation"] = ACTIVATIONS[config.activation]
    given |= options
    try:
        return models.module(config.model, num_classes=num_classes(config), **given)
    except ValueError as error:
        hint = "; or yours as module:Name, with a colon" if "." in config.model else ""
        msg = f"config.model = {config.model!r}: {error}{hint}"
        raise checks.ConfigError(msg) from None


def prepare(config: ConfigDict) -> Callable[[Key, Array], Array]:
    """``(key, x) -> x``: pixels to [0, 1], then the augmentation."""
    augment = (
        augmentation.standard(config.dataset)
        if config.augment and config.dataset in DATASETS
        else augmentation.identity
    )
    return lambda key, x: augment(key, data.as_float(x))


def schedule(config: ConfigDict, num_steps: int) -> optax.Schedule:
    """The rate of each step, which counts as done, as in the code of Rice et al.

    So a drop at half of the run meets the last step of its first half.
    """
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


def xi(config: ConfigDict, rate: Array) -> Array:
    """Xi of the surrogate attack at a learning rate."""
    if not config.xi_follows_rate:
        return jnp.float32(config.xi)
    return config.xi * rate / config.learning_rate


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
        project="clip",  # the protocols' own, where it differs: in l2
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
    options = {"attack_mode": mode, "weight_eps": config.weight_eps}
    made = {
        "standard": lambda: objectives.standard(model, loss),
        "adversarial": lambda: objectives.adversarial(model, loss, inner, **options),
        "trades": lambda: objectives.trades(model, inner, beta=config.beta, **options),
        "mart": lambda: objectives.mart(model, inner, beta=config.beta, **options),
    }[config.objective]()
    if config.alignment:
        made = objectives.with_alignment(
            made,
            model,
            loss,
            strength=config.alignment,
            norm=NORMS[config.norm],
            attack_mode=mode,
        )
    if not config.l1_penalty or config.l1_proximal:
        return made
    return objectives.with_penalty(
        made, lambda w: config.l1_penalty * norms.l1.value(w)
    )


def replays(config: ConfigDict, model: Model) -> Replays | None:
    """Those of free adversarial training; None for what has an objective."""
    if config.objective != "free":
        return None
    given = {"num_replays": config.num_replays, "bounds": (0.0, 1.0)}
    norm, loss = NORMS[config.norm], losses.cross_entropy
    return Replays(
        config.num_replays, lambda tx: free.make_step(model, loss, tx, norm, **given)
    )


def num_attack_gradients(config: ConfigDict) -> int:
    """Gradients per example of the attack: one a step, and one more for a surrogate."""
    return config.num_steps + (config.xi > 0)


def num_update_gradients(config: ConfigDict) -> int:
    """Gradients per example of an update: of the attack, and of each training pass.

    Those of a moved weight take as many as the passes; those of alignment are two, and
    their derivatives two each.
    """
    if config.objective == "free":
        return config.num_replays
    passes = {"standard": 1, "adversarial": 1, "trades": 2, "mart": 2}[config.objective]
    attack = 0 if config.objective == "standard" else num_attack_gradients(config)
    moved, aligned = config.weight_eps > 0, config.alignment > 0
    return attack + passes * (1 + moved) + 6 * aligned


def changed(config: ConfigDict | FrozenConfigDict, **changes: Any) -> ConfigDict:
    """A configuration with other values of fields; that which was given stays."""
    return ConfigDict({**config.to_dict(), **changes})


def named(config: ConfigDict | FrozenConfigDict) -> str:
    """The network in words, such as "cnn_wong (width 16)"."""
    return config.model + (f" (width {config.width})" if config.width else "")


def method(config: ConfigDict | FrozenConfigDict) -> str:
    """The training in words, such as "adversarial (one step, GradAlign)"."""
    is_attacked = config.objective in ("adversarial", "trades", "mart")
    terms = {
        "one step": is_attacked and config.num_steps == 1,
        "GradAlign": config.alignment,
        "AWP": config.weight_eps,
        f"{config.num_replays} replays": config.objective == "free",
    }
    words = ", ".join(term for term, holds in terms.items() if holds)
    return config.objective + (f" ({words})" if words else "")


def trainings(parts: Mapping[str, ConfigDict]) -> dict[str, Training]:
    """Trainings on the same data, which are read once."""
    first = next(iter(parts.values()))
    batches = [read(first, split) for split in ("train", "test")]
    return {name: training(each, *batches) for name, each in parts.items()}


def training(
    config: ConfigDict, train: Batch | None = None, test: Batch | None = None
) -> Training:
    """What a configuration says, resolved once; reads data and released parameters.

    Args:
        config: with the fields of ``FIELDS``.
        train: training data; None reads those of the configuration.
        test: test data; likewise.

    Raises:
        ConfigError: for a field that is wrong, or that the data do not admit.
        DataError: if data cannot be read.
        FileError: for released parameters that cannot be read.
    """
    validate(config)
    model = network(config)
    return Training(
        train=read(config, "train") if train is None else train,
        test=read(config, "test") if test is None else test,
        model=model,
        objective=lambda rate: objective(config, model, xi(config, rate)),
        replays=replays(config, model),
        optimiser=partial(optimiser, config),
        schedule=partial(schedule, config),
        eps=config.eps,
        test_attack=test_attack(config),
        single_step=fgsm(config),
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        prepare=prepare(config),
        keep_remainder=config.keep_remainder,
        warm_up_epochs=config.eps_warmup_epochs,
        select_from=config.select_from,
        num_seeds=config.num_seeds,
        seed=config.seed,
        start=START.read("init_from", config)[0],
        watches=(SPARSITY,) if config.l1_penalty else (),
        step_metrics=("factor",) if config.xi else (),
        update_gradients=num_update_gradients(config),
        test_gradients=config.test_num_steps + 1,
        test_batch_size=config.test_batch_size,
        dispatch=config.dispatch,
        num_devices=config.num_devices,
        hosts=config.hosts,
        checkpoint_steps=config.checkpoint_steps,
        label=f"{config.dataset}, {config.model}, {config.objective}",
        about={"config": config.to_dict()},
    )


@jax.jit
def _sparsity(network: tuple[Params, Params], key: Key, eps: Array) -> dict[str, Array]:
    del key, eps
    return {"sparsity": penalties.sparsity(network[0])}


SPARSITY = Watch(("sparsity",), _sparsity)
"""The share of weights that are exactly zero."""
