"""The networks that the other studies of this folder measure, and their accuracy.

One architecture is trained adversarially and clean, and released after some epochs. The
table at the end is the paper's Table 1 for these networks: clean and robust accuracy on
training and on test images. Studies that take ``--config.networks=`` and this work
directory read the networks.
"""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from advjax import data, evaluate
from advjax.types import Batch, Params
from experiments import checks, devices, figures
from experiments.training import finished, parameters, recipe, testing
from experiments.training.classifier import train_networks
from experiments.training.finished import Finished
from experiments.workdir import Workdir

TRAININGS = ("adversarial", "standard")
CELLS = ("robust test", "robust train", "clean test", "clean train")
"""Rows of Table 1."""


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is wrong."""
    checks.tuples(config, "eps")
    if len(config.eps) > 1:
        raise checks.ConfigError(f"config.eps = {config.eps!r}: give one radius")
    checks.numbers(config, "eps", above=0)
    checks.increasing(config, "kept_epochs")
    checks.integers(config, "kept_epochs", most=config.num_epochs)
    checks.single(config, "num_measured", "measured_steps")
    checks.integers(config, "num_measured", "measured_steps")
    for training in TRAININGS:
        recipe.validate(_part(config, training))


def run(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """Trains all networks, and measures clean and robust accuracy on both parts."""
    _sizes(config)
    curves, cells = {}, {}
    for training in TRAININGS:
        part = _part(config, training)
        trained = train_networks(
            part, workdir, training, kept_epochs=config.kept_epochs
        )
        curves[training] = {k: np.float32(v) for k, v in trained.curves.items()}
        cells[training] = workdir.stage(
            f"accuracy-{training}", _accuracies, part, training, workdir
        )
    rows = [
        [
            cell,
            *(figures.plus_minus(cells[training][cell], 1) for training in TRAININGS),
        ]
        for cell in CELLS
    ]
    sizes = _sizes(config)
    attack = f"PGD-{config.measured_steps}"
    workdir.write_text(
        "report.md",
        f"## Clean and robust accuracy: {setting(config)}\n\n"
        f"In %, after {config.num_epochs} epochs on {sizes['train']} images, by "
        f"{config.num_measured} of them and {sizes['test']} test images; robust "
        f"under {attack} at ε = {config.eps[0]:.4g} (linf); mean ± sd over "
        f"{config.num_seeds} seeds.\n\n"
        + figures.table(["", "adversarial training", "clean training"], rows),
    )
    return {
        "summary": [
            f"{setting(config)}, {training} training: "
            + ", ".join(
                f"{cell} {figures.plus_minus(cells[training][cell], 1)} %"
                for cell in CELLS
            )
            for training in TRAININGS
        ],
        "sizes": sizes,
        "accuracies": cells,
        "curves": curves,
    }


def setting(config: ConfigDict) -> str:
    """Network, data and training, in words."""
    width = f" (width {config.width})" if config.width else ""
    attack = f"PGD-{config.num_steps} at eps = {config.eps[0]:.4g}"
    return f"{config.model}{width} on {config.dataset}, {attack}"


def _part(config: ConfigDict, training: str) -> ConfigDict:
    part = ConfigDict(config.to_dict())
    part.objective = training
    return part


def _sizes(config: ConfigDict) -> dict[str, int]:
    sizes = {split: recipe.read(config, split).y.size for split in ("train", "test")}
    checks.integers(config, "num_measured", most=sizes["train"])
    return sizes


def _accuracies(
    config: ConfigDict, training: str, workdir: Workdir
) -> dict[str, np.ndarray]:
    """The cells of Table 1, ``[seed]`` each, in %."""
    parts = {split: recipe.read(config, split) for split in ("train", "test")}
    parts["train"] = data.subset(
        parts["train"], config.num_measured, seed=config.subset_seed
    )
    released = parameters.read(workdir.path / f"{training}-last.safetensors")
    networks = testing.networks(released.params, released.batch_stats)
    attack = recipe.pgd(
        config.norm, config.measured_steps, 2.5 / config.measured_steps, "in_ball"
    )
    mesh = devices.mesh(1)
    cells = {}
    for split, part in parts.items():
        test = testing.tester(
            recipe.network(config), attack, part, mesh, config.test_batch_size
        )
        found = [
            evaluate.summary(test(network, jax.random.key(config.seed), config.eps[0]))
            for network in networks
        ]
        cells[f"clean {split}"] = [each.accuracy.value for each in found]
        cells[f"robust {split}"] = [each.robust_accuracy.value for each in found]
    return {cell: 100 * np.array(values) for cell, values in cells.items()}


FIELDS = {
    "networks": "",
    "networks_digest": "",
    "data_dir": "",
    "num_images": 0,
    "subset_seed": 0,
    "num_devices": 0,
}
"""Fields of a study of trained networks: their work directory, what was found there,
how many random images of each part to take (all if 0), and where and on what to do so.
"""


class Networks(Finished):
    """Networks of one architecture, trained adversarially and clean."""

    __slots__ = ()

    @property
    def eps(self) -> float:
        """The radius of training."""
        return self.config.eps[0]

    @property
    def setting(self) -> str:
        """As ``setting``."""
        return setting(self.config)

    def of(
        self, training: str, epoch: int | None = None
    ) -> list[tuple[Params, Params]]:
        """Parameters and batch statistics, seed by seed; of the end, or of an epoch."""
        name = "last" if epoch is None else f"epoch-{epoch}"
        found = parameters.read(self.path / f"{training}-{name}.safetensors")
        return testing.networks(found.params, found.batch_stats)

    def images(self, split: str, number: int = 0, seed: int = 0) -> Batch:
        """Images of a part, so many of them if not 0, with pixels in [0, 1].

        Of the training part those that the networks were trained on.

        Raises:
            ConfigError: if there are not so many.
            DataError: if they cannot be read.
        """
        part = recipe.read(self.config, split)
        if number:
            try:
                part = data.subset(part, number, seed=seed)
            except ValueError as error:
                msg = f"config.num_images = {number}: {error}"
                raise checks.ConfigError(msg) from None
        return Batch(np.asarray(data.as_float(part.x)), part.y)


def read(config: ConfigDict) -> Networks:
    """The networks that a study starts from, by ``config.networks``.

    Sets ``config.networks_digest``, so that other networks under the same name do not
    meet the results of these.

    Raises:
        ConfigError: unless the directory holds finished networks, of that digest if one
            is given.
    """
    wanted = "trained networks, see experiments/memorization/configs/networks.py"
    found = finished.read("networks", config.networks, "memorization.networks", wanted)
    networks = Networks(*found)
    finished.set_digest(config, "networks_digest", networks.digest)
    networks.config.data_dir = config.data_dir or networks.config.data_dir
    checks.integers(config, "num_images", "subset_seed", least=0)
    checks.single(config, "num_images", "subset_seed")
    return networks
