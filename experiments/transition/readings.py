"""What is read off a grid of networks, and a finished grid for other studies."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy.interpolate import PchipInterpolator

from advjax import transition
from experiments import checks
from experiments.training import finished, recipe
from experiments.training.finished import Finished

SIZES = ("paper", "gpu", "smoke")
"""Of grids, which the studies of a grid take as variants too."""

RULES = ("after the first drop", "among all epochs")
CLEAN = "clean-best.safetensors"
ATTACKED = "attacked-best.safetensors"


class Reading(NamedTuple):
    """eps* by one rule.

    Attributes:
        rule: of ``RULES``.
        epoch: ``[k, r]`` selected epochs of ``k`` radii and ``r`` seeds.
        threshold: ``[r]``, the clean test loss of clean training.
        loss: ``[k, r]`` training losses, of the objective.
        eps_star: ``[r]``, nan where there is no crossing.
        status: ``[r]``, names of ``transition.Status``.
        eps_star_cubic: ``[r]``, with a monotone cubic through the losses for the chord
            between two, the paper's rule. Where losses are convex in the radius the
            chord lies above them, and crosses too early.
        eps_star_robust: ``[r]``, as ``eps_star``, with the cross-entropy at the
            attacked training inputs for the loss; the same unless the objective is
            TRADES or MART.
    """

    rule: str
    epoch: np.ndarray
    threshold: np.ndarray
    loss: np.ndarray
    eps_star: np.ndarray
    status: list[str]
    eps_star_cubic: np.ndarray
    eps_star_robust: np.ndarray


def read_off(config: ConfigDict, curves: dict, rule: str) -> Reading:
    """Reads eps* off the curves ``[epoch, k, r]``."""
    first = recipe.first_selectable(config) if rule == RULES[0] else 0
    epoch = first + np.argmin(curves["test_robust_loss"][first:], axis=0)
    threshold = at(curves, "test_loss", epoch)[0]
    loss, robust_loss = (at(curves, name, epoch) for name in ("loss", "robust_loss"))
    eps_star, status = crossings(config.eps, loss, threshold)
    return Reading(
        *(rule, epoch, threshold, loss, eps_star, status),
        cubic_crossings(config.eps, loss, threshold),
        crossings(config.eps, robust_loss, threshold)[0],
    )


def at(curves: dict[str, np.ndarray], name: str, epoch: np.ndarray) -> np.ndarray:
    """A metric ``[epoch, ...]`` at the epoch ``[...]`` of each run."""
    return np.take_along_axis(curves[name], epoch[None], axis=0)[0]


def crossings(radii, losses, threshold, method=transition.crossing):
    """eps* of each seed, from ``losses[k, r]``, ``threshold[r]``, and its status."""
    over_seeds = jax.jit(jax.vmap(method, (None, 1, 0)))
    found = over_seeds(*map(jnp.asarray, (radii, losses, threshold)))
    statuses = [transition.Status(int(status)).name for status in found.status]
    return np.asarray(found.eps_star, float), statuses


def cubic_crossings(radii, losses, threshold) -> np.ndarray:
    """As ``crossings``, on the monotone cubic (PCHIP) through each seed's losses."""
    linear, _ = crossings(radii, losses, threshold)
    found = np.full(len(linear), np.nan)
    for i in np.flatnonzero(np.isfinite(linear)):
        cubic = PchipInterpolator(radii, losses[:, i])
        roots = cubic.solve(threshold[i], extrapolate=False)
        found[i] = np.nanmax(roots)
    return found


def num_gradients(config: ConfigDict, num_train: int, num_test: int) -> int:
    """Per-example gradients that training one network takes, its tests included.

    An attack takes one a step, and one more if it has a surrogate, an update one for
    each forward pass in training mode, and a test those of PGD and of FGSM.
    """
    attack = config.num_steps + (config.xi > 0)
    update = {
        "standard": 1,
        "adversarial": attack + 1,
        "trades": attack + 2,
        "mart": attack + 2,
    }[config.objective]
    test = config.test_num_steps + 1
    return config.num_epochs * (num_train * update + num_test * test)


def clean_part(config: ConfigDict) -> ConfigDict:
    """The grid's first radius: training without attack, unless the objective has one.

    MART at radius 0 is not cross-entropy, and its row of Table B.5 is of its objective.
    """
    part = _with_radii(config, config.eps[:1])
    part.test_num_steps = 1  # within a ball of radius 0
    if config.objective == "adversarial":
        part.objective, part.xi = "standard", 0.0
    return part


def attacked_part(config: ConfigDict) -> ConfigDict:
    """The other radii."""
    return _with_radii(config, config.eps[1:])


def _with_radii(config: ConfigDict, radii: tuple[float, ...]) -> ConfigDict:
    part = ConfigDict(config.to_dict())
    part.eps = tuple(radii)
    return part


class Grid(Finished):
    """A finished grid."""

    __slots__ = ()

    @property
    def setting(self) -> str:
        """As ``setting``."""
        return setting(self.config, self.results["num_train"])

    def reading(self, rule: str = RULES[0]) -> Reading:
        """What was read off by a rule."""
        stored = self.results["readings"][RULES.index(rule)]
        arrays = {
            name: value if name in ("rule", "status") else np.array(value, float)
            for name, value in stored.items()
        }
        return Reading(**arrays)

    def row(self, eps: float) -> int:
        """The index of a radius.

        Raises:
            ConfigError: if the grid does not have it.
        """
        radii = np.array(self.config.eps)
        if not np.isclose(radii, eps, rtol=1e-6, atol=0).any():
            raise checks.ConfigError(
                f"eps = {eps:.4g} is not in the grid of {self.path}: choose from "
                f"{', '.join(f'{radius:.4g}' for radius in radii)}"
            )
        return int(np.argmin(np.abs(radii - eps)))


GRID_FIELDS = {
    "grid": "",
    "grid_digest": "",
    "data_dir": "",
    "num_devices": 0,
    "hosts": False,
}
"""Fields of a study of one grid: its work directory, what was found there, and the
machine that the study runs on."""


def read_grid(config: ConfigDict) -> Grid:
    """The grid that a study starts from, by ``config.grid``.

    Sets ``config.grid_digest``, so that another grid under the same name does not meet
    the results of this one.

    Raises:
        ConfigError: unless the directory holds a finished one, of that digest if one is
            given, and of the data set and norm that the study's radii are for.
    """
    grid = read_directory(config.grid)
    finished.set_digest(config, "grid_digest", grid.digest)
    for field in ("dataset", "norm"):
        if config.get(field, grid.config[field]) != grid.config[field]:
            raise checks.ConfigError(
                f"config.{field} = {config[field]!r}: the grid {grid.path} has "
                f"{grid.config[field]!r}; choose the variant for it"
            )
    grid.config.data_dir = config.data_dir or grid.config.data_dir
    grid.config.num_devices = config.num_devices
    grid.config.hosts = config.hosts
    return grid


def read_directory(path: str) -> Grid:
    """A finished grid.

    Raises:
        ConfigError: if the directory holds something else.
    """
    wanted = "a finished grid, see experiments/transition/configs/classifier_grid.py"
    return Grid(*finished.read("grid", path, "transition.classifier_grid", wanted))


def setting(config: ConfigDict, num_train: int) -> str:
    """Data, network, size, training and norm, in words."""
    width = f" (width {config.width})" if config.width else ""
    usual = recipe.defaults()
    unusual = [
        shown
        for field, shown in (
            ("optimiser", config.optimiser),
            ("batch_size", f"batches of {config.batch_size}"),
        )
        if config[field] != usual[field]
    ]
    return ", ".join(
        [
            config.dataset,
            config.model + width,
            f"n = {num_train}",
            f"{config.num_epochs} epochs",
            *unusual,
            config.objective,
            config.norm,
        ]
    )


def centre(values: np.ndarray) -> float | None:
    """The mean over the seeds that have a value; None if none has."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None
