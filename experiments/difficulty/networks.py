"""The networks that the other studies of this folder measure.

Networks of several architectures are trained one after the other, all by the same
configuration. What they leave, ``<model>-last.safetensors``, is read by the studies
that take ``--config.networks=`` and this work directory.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from advjax import data, dynamics
from advjax.types import Array, Batch, Model, Params
from experiments import checks, figures
from experiments.training import finished, parameters, recipe, testing
from experiments.training.classifier import Trained, train_networks
from experiments.training.finished import Finished
from experiments.workdir import Workdir


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.tuples(config, "models")
    if len(set(config.models)) < len(config.models):
        raise checks.ConfigError(f"config.models = {config.models!r}: one is repeated")
    checks.tuples(config, "eps")
    if len(config.eps) > 1:
        raise checks.ConfigError(f"config.eps = {config.eps!r}: give one radius")
    for model in config.models:
        recipe.validate(_part(config, model))


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Trains all networks, and reports how accurate they are."""
    trained = {
        model: train_networks(_part(config, model), workdir, model)
        for model in config.models
    }
    rows = [
        [model, *(figures.plus_minus(value, 1) for value in _accuracies(each))]
        for model, each in trained.items()
    ]
    first = next(iter(trained.values()))
    attack = f"PGD-{config.test_num_steps} at ε = {config.eps[0]:g} ({config.norm})"
    task = "classes"
    if config.positive_classes:
        task = f"{config.positive_classes} against the other classes"
    workdir.write_text(
        "report.md",
        f"## Networks: {setting(config)}\n\nAccuracy in % after {config.num_epochs} "
        f"epochs on {first.num_train} images of {config.dataset} ({task}), tested on "
        f"{first.num_test}; mean ± sd over {config.num_seeds} seeds.\n\n"
        + figures.table(["network", "training", "clean test", attack], rows),
    )
    return {
        "summary": [
            f"{setting(config)}, {model}: clean {clean} %, {attack} {robust} %"
            for model, _, clean, robust in rows
        ],
        "num_train": first.num_train,
        "num_test": first.num_test,
        "accuracies": {model: _accuracies(each) for model, each in trained.items()},
        "curves": {
            model: {name: np.float32(value) for name, value in each.curves.items()}
            for model, each in trained.items()
        },
    }


def _part(config: ConfigDict, model: str) -> ConfigDict:
    part = ConfigDict(config.to_dict())
    part.model = model
    return part


def _accuracies(trained: Trained) -> list[np.ndarray]:
    """Of training, of the clean and of the attacked test, in %, ``[seed]`` each."""
    names = ("accuracy", "test_accuracy", "test_robust_accuracy")
    return [100 * trained.curves[name][-1].astype(float) for name in names]


def setting(config: ConfigDict) -> str:
    """Data, task and training, in words."""
    task = " (binary)" if config.positive_classes else ""
    training = "clean training"
    if config.objective != "standard":
        training = f"PGD-{config.num_steps} training at eps = {config.eps[0]:g}"
    return f"{config.dataset}{task}, {training}"


FIELDS = {
    "networks": "",
    "networks_digest": "",
    "models": (),
    "data_dir": "",
    "num_images": 0,
    "subset_seed": 0,
    "num_devices": 0,
}
"""Fields of a study of trained networks: their work directory, what was found there,
which of them to take (all if empty), how many random test images (all if 0), and where
and on what to find and do that."""


class Family(Finished):
    """Networks that were trained by one configuration."""

    __slots__ = ()

    @property
    def setting(self) -> str:
        """As ``setting``."""
        return setting(self.config)

    def model(self, name: str, **options: Any) -> Model:
        """An architecture."""
        return recipe.network(_part(self.config, name), **options)

    def networks(self, name: str) -> list[tuple[Params, Params]]:
        """Its parameters and batch statistics, seed by seed."""
        found = parameters.read(self.path / f"{name}-last.safetensors")
        return testing.networks(found.params, found.batch_stats)

    def images(self, config: ConfigDict) -> Batch:
        """Test images, ``config.num_images`` of them, with pixels in [0, 1].

        Raises:
            ConfigError: if there are not so many.
            DataError: if they cannot be read.
        """
        part = ConfigDict(self.config.to_dict())
        part.num_test, part.subset_seed = config.num_images, config.subset_seed
        test = recipe.read(part, "test")
        return Batch(np.asarray(data.as_float(test.x)), test.y)


def read(config: ConfigDict) -> Family:
    """The networks that a study starts from, by ``config.networks``.

    Sets ``config.networks_digest``, so that other networks under the same name do not
    meet the results of these, and ``config.models`` where it is empty.

    Raises:
        ConfigError: unless the directory holds finished networks, of that digest if one
            is given, and of those names.
    """
    wanted = "trained networks, see experiments/difficulty/configs/networks.py"
    where = ("networks", config.networks, "difficulty.networks", wanted)
    family = Family(*finished.read(*where))
    finished.set_digest(config, "networks_digest", family.digest)
    family.config.data_dir = config.data_dir or family.config.data_dir
    trained = family.config.models
    for model in config.models:
        if model not in trained:
            raise checks.ConfigError(
                f"config.models: no {model!r} in {family.path}, which has "
                f"{', '.join(trained)}"
            )
    config.models = config.models or trained
    checks.integers(config, "num_images", "subset_seed", least=0)
    checks.single(config, "num_images", "subset_seed")
    return family


def read_binary(config: ConfigDict) -> Family:
    """As ``read``, for studies of networks with one logit.

    Raises:
        ConfigError: also if the networks have more.
    """
    family = read(config)
    if not family.config.positive_classes:
        raise checks.ConfigError("config.networks: give those of a binary task")
    return family


def measured(
    config: ConfigDict, family: Family, workdir: Workdir, measure: Callable
) -> dict[str, dict[str, np.ndarray]]:
    """``measure(config, family, name)`` of every network, each in a stage, by name."""
    return {
        name: workdir.stage(name, measure, config, family, name)
        for name in config.models
    }


def predict(model: Model, network: tuple[Params, Params], x: Array) -> Array:
    """The logits of one image."""
    return model.predict(*network, x[None])[0]


def reduced(predict: Callable, x: Array) -> tuple[Array, Array]:
    """Logits at an image, and R of W̃ = QR.

    In the coordinates of Q the network with fixed gates is logits + Rᵀx, from 0;
    lengths and angles are what they are.
    """
    logits, jacobian = dynamics.logit_jacobian(predict, x)
    return logits, jnp.linalg.qr(jacobian.reshape(logits.size, -1).T, mode="r")


def compiled(function: Callable) -> Callable:
    """``(batch_size, *arrays[n, ...])``: ``function`` in parts, results on the host."""
    function = jax.jit(function)

    def in_parts(batch_size: int, *arrays: np.ndarray):
        parts = []
        for first in range(0, len(arrays[0]), batch_size):
            rows = slice(first, first + batch_size)
            parts.append(jax.device_get(function(*(array[rows] for array in arrays))))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    return in_parts


def in_batches(function: Callable, batch_size: int, *arrays: np.ndarray) -> Any:
    """``compiled``, once."""
    return compiled(function)(batch_size, *arrays)


# --- binary tasks ---


def signs(labels: np.ndarray) -> np.ndarray:
    """Labels 0 and 1 as -1.0 and 1.0."""
    return 2.0 * labels - 1.0


def logit(model: Model, network: tuple[Params, Params], x: Array) -> Array:
    """The logit of one image: the second output minus the first."""
    first, second = predict(model, network, x)
    return second - first


def first_layer(params: Params) -> Params:
    """The first layer's parameters."""
    return params[_first(params)]


def first_layer_logit(model: Model, params: Params, stats: Params) -> Callable:
    """``(w, x[...]) -> []``: one image's logit as a function of the first layer."""
    name = _first(params)

    def z(w, x):
        return logit(model, ({**params, name: w}, stats), x)

    return z


def _first(params: Params) -> str:
    return "Conv_0" if "Conv_0" in params else "Dense_0"
