"""What an evaluation is of: released networks, test data, and a ball."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr
from jax.sharding import Mesh
from ml_collections import ConfigDict

from advjax.types import Batch, Model, Params, Predict
from experiments import checks, devices
from experiments.intervals import Interval
from experiments.training import parameters, recipe, testing
from experiments.training.parameters import Released


class Subject(NamedTuple):
    """What is evaluated.

    Attributes:
        model: the architecture.
        networks: parameters and batch statistics of each.
        about: what they are, as ``parameters.Released``.
        test: data, on the host.
        mesh: devices that share a batch.
        norm: of the attack, by name.
        eps: its radius.
    """

    model: Model
    networks: list[tuple[Params, Params]]
    about: dict[str, Any]
    test: Batch
    mesh: Mesh
    norm: str
    eps: float

    def predict(self, i: int) -> Predict:
        """``x -> logits`` of one network, in evaluation mode."""
        return partial(self.model.predict, *self.networks[i])

    def named(self, i: int) -> str:
        """How one network was trained, in words."""
        described = self.described()
        eps, seed = described["trained_eps"][1][i], described["seed"][1][i]
        return f"trained at ε = {eps:.4g}, seed {seed}"

    def described(self) -> dict[str, tuple[tuple[str, ...], Any]]:
        """How each network was trained, as values of a dataset."""
        is_attacked = self.about["config"]["objective"] != "standard"
        return {
            "trained_eps": (("network",), np.array(self.about["eps"]) * is_attacked),
            "seed": (("network",), self.about["seed"]),
            "epoch": (("network",), self.about["epoch"]),
        }

    def facts(self) -> dict[str, Any]:
        """What holds for all networks, under RobustBench's names where those exist."""
        trained = self.about["config"]
        return {
            "dataset": trained["dataset"],
            "architecture": trained["model"],
            "objective": recipe.method(ConfigDict(trained)),
            "norm": self.norm,
            "eps": float(self.eps),
            "num_examples": len(self.test.y),
            "additional_data": False,
            "number_forward_passes": 1,
            "trained_by": str(self.about.get("commit", "unknown")),
        }


def subject(found: Released, config: ConfigDict) -> Subject:
    """The networks of a file, and what they are attacked on.

    Raises:
        ConfigError: if they are not of the network that the file says.
        DataError: if the test data cannot be read.
    """
    trained = recipe.restored(found.about["config"], config.model)
    # Never the file's own: no file chooses what is read.
    trained.data_dir, trained.init_from = config.data_dir, ""
    trained.num_test = config.num_test
    recipe.validate(trained)
    test, model = recipe.read(trained, "test"), recipe.network(trained)
    x = jax.ShapeDtypeStruct((1, *test.x.shape[1:]), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    parameters.check_network(found[:2], shapes)
    available = 1 if jax.default_backend() == "cpu" else jax.device_count()
    if config.num_devices > jax.device_count():
        msg = f"choose numbers at least 0 and at most {jax.device_count()}"
        raise checks.ConfigError(f"config.num_devices = {config.num_devices}: {msg}")
    return Subject(
        model,
        testing.networks(found.params, found.batch_stats),
        found.about | {"config": trained.to_dict()},
        test,
        devices.mesh(config.num_devices or available),
        config.norm or trained.norm,
        max(found.about["eps"]) if config.eps is None else config.eps,
    )


# --- for reports ---


def name(network: xr.Dataset) -> tuple[str, str]:
    """The radius of training and the seed of a network."""
    return f"{float(network['trained_eps']):.4g}", str(int(network["seed"]))


def claim(facts: Mapping[str, Any], network: xr.Dataset) -> str:
    """What the robust accuracy of a network is of."""
    caution = ", see CAUTION" if bool(network["unreliable"]) else ""
    eps, seed = name(network)
    training = f"{facts['objective']} training at ε = {eps}, seed {seed}"
    return f"robust accuracy, {training}{caution}"


def percent(proportion: xr.DataArray) -> Interval:
    """A proportion and its ends in %."""
    return Interval(*(100 * float(value) for value in proportion))


def cautions(networks: list[xr.Dataset]) -> list[str]:
    """What speaks against a network's numbers, a line each."""
    return [
        "trained at ε = {}, seed {}: {}".format(*name(network), line)
        for network in networks
        for line in str(network["caveats"].values).splitlines()
    ]
