"""What the studies of trained networks share: which they take, and how they measure."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from ml_collections import ConfigDict

from advjax import dynamics, models
from advjax.types import Array, Batch, Model, Params
from experiments import arrays, checks, finished
from experiments.batches import in_batches
from experiments.difficulty import networks
from experiments.fields import Field, count, numbers, some, words
from experiments.finished import Finished, Need, Networks
from experiments.study import Setup
from experiments.training import recipe

FIELDS = {
    "models": words((), "networks to measure; all if empty", length=0),
    "num_images": count(
        0, "test images to measure, a random subset; 0 for all", least=0
    ),
    **some(recipe.FIELDS, "subset_seed"),
    **some(finished.FIELDS, "data_dir"),
}
"""Fields of a study of trained networks."""


def strengths(default: tuple[float, ...]) -> Field:
    """A field for strengths of an ascent."""
    meaning = "strengths β of the ascent, its steps times their size, increasing"
    return numbers(default, meaning, above=0, increasing=True)


def batch_size(default: int) -> Field:
    """A field for the number of images at once, which takes memory."""
    return count(default, "images at once")


# --- the networks ---


def _read(run: Finished, config: ConfigDict) -> Networks:
    """Networks whose images are those of the whole test set.

    Raises:
        ConfigError: if one of ``config.models`` is not among them.
    """
    there = ConfigDict(run.config.to_dict())
    there.num_test = 0
    for name in config.models:
        if name not in there.models:
            raise checks.ConfigError(
                f"config.models: no {name!r} in {run.path}, which has "
                f"{', '.join(there.models)}"
            )
    return Networks.of(dataclasses.replace(run, config=there), config)


def _read_classes(run: Finished, config: ConfigDict) -> Networks:
    if run.config.positive_classes:
        msg = "config.networks: give those of a task of all classes, as of clean,table"
        raise checks.ConfigError(msg)
    return _read(run, config)


def _read_binary(run: Finished, config: ConfigDict) -> Networks:
    if not run.config.positive_classes:
        raise checks.ConfigError("config.networks: give those of a binary task")
    return _read(run, config)


NETWORKS = Need("difficulty.networks", _read)
CLASSES = Need("difficulty.networks", _read_classes)
BINARY = Need("difficulty.networks", _read_binary)


def names(setup: Setup) -> dict[str, tuple[str]]:
    """The networks to measure, as cases of a study."""
    there = setup.inputs["networks"].config.models
    return {name: (name,) for name in setup.config.models or there}


def images(setup: Setup) -> Batch:
    """The test images to measure, with pixels in [0, 1]."""
    config = setup.config
    return setup.inputs["networks"].images(
        "test", config.num_images, config.subset_seed
    )


def model(setup: Setup, name: str, **options: Any) -> Model:
    """An architecture; ``options`` come before those of its configuration."""
    family = setup.inputs["networks"]
    module = recipe.module(recipe.changed(family.config, model=name), **options)
    return models.from_linen(module)


def over_seeds(
    setup: Setup, name: str, measure: Callable[[tuple[Params, Params]], xr.Dataset]
) -> xr.Dataset:
    """``measure(network)`` of each network of a name, along ``seed``."""
    trained = setup.inputs["networks"].networks(name)
    return arrays.stacked(
        {i: measure(network) for i, network in enumerate(trained)}, "seed"
    )


def with_facts(setup: Setup, values: xr.Dataset, **facts: Any) -> xr.Dataset:
    """With what reports say about the networks, and other facts."""
    family = setup.inputs["networks"]
    return values.assign_attrs(
        setting=networks.setting(family.config), networks=family.origin, **facts
    )


# --- measuring ---


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


def reduced_in_batches(
    predict: Callable, batch_size: int, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``reduced`` of images ``[n, ...]``: logits ``[n, k]`` and R ``[n, k, k]``."""
    return in_batches(jax.jit(jax.vmap(partial(reduced, predict))), batch_size, x)


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
