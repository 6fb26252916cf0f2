"""The networks that the other studies of this folder measure.

Networks of several architectures are trained one after the other, all by the same
configuration. What they leave, ``<model>-last.npz``, is read by the studies that take
``--config.networks=`` and this work directory.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from advjax import data
from advjax.types import Array, Batch, Model, Params
from experiments import checks, figures
from experiments.training import checkpoints, recipe, testing
from experiments.training.classifier import Trained, train_networks
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


class Family(NamedTuple):
    """Networks that were trained by one configuration.

    Attributes:
        path: their work directory.
        config: that of training.
        models: their names.
        commit: that trained them.
        digest: of the results.
    """

    path: Path
    config: ConfigDict
    models: tuple[str, ...]
    commit: str
    digest: str

    @property
    def setting(self) -> str:
        """As ``setting``."""
        return setting(self.config)

    @property
    def origin(self) -> str:
        """Where the networks are, for reports."""
        return f"{self.path} (results {self.digest}, commit {self.commit})"

    def model(self, name: str, **options: Any) -> Model:
        """An architecture."""
        return recipe.network(_part(self.config, name), **options)

    def networks(self, name: str) -> list[tuple[Params, Params]]:
        """Its parameters and batch statistics, seed by seed."""
        found = checkpoints.released(self.path / f"{name}-last.npz")
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
    path = config.networks
    try:
        if not path:
            raise FileNotFoundError("no directory is given")
        stored = (Path(path) / "results.json").read_bytes()
        content = json.loads(stored)
        if content["config"]["experiment"] != "difficulty.networks":
            raise KeyError(content["config"]["experiment"])
    except (OSError, ValueError, KeyError) as error:
        raise checks.ConfigError(
            f"config.networks = {path!r}: {error}; give the work directory of trained "
            "networks, see experiments/difficulty/configs/networks.py"
        ) from None
    digest = hashlib.sha256(stored).hexdigest()[:12]
    if config.networks_digest not in ("", digest):
        raise checks.ConfigError(
            f"config.networks_digest = {config.networks_digest!r}: it is {digest!r}"
        )
    config.networks_digest = digest
    trained = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in {**recipe.defaults().to_dict(), **content["config"]}.items()
    }
    trained["data_dir"] = config.data_dir or trained["data_dir"]
    models = tuple(trained["models"])
    for model in config.models:
        if model not in models:
            raise checks.ConfigError(
                f"config.models: no {model!r} in {path}, which has {', '.join(models)}"
            )
    config.models = config.models or models
    checks.integers(config, "num_images", "subset_seed", least=0)
    checks.single(config, "num_images", "subset_seed")
    commit = content["environment"]["commit"]
    return Family(Path(path), ConfigDict(trained), config.models, commit, digest)


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
    """Z of one image: the second output minus the first."""
    outputs, _ = model.apply(*network, x[None], train=False)
    return outputs[0, 1] - outputs[0, 0]


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
