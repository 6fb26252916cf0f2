"""What is read off a grid of networks, and a finished grid for other studies."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from ml_collections import ConfigDict
from scipy.interpolate import PchipInterpolator

from advjax import transition
from experiments import checks, figures, finished
from experiments.fields import text
from experiments.finished import Finished, Need, Networks
from experiments.study import Config
from experiments.training import recipe, trainer
from experiments.training.parts import Training

RULES = ("after the first drop", "among all epochs")
CLEAN, ATTACKED = "clean", "attacked"
"""Parts of a grid: its first radius, and the others."""


def read_off(trained: xr.Dataset, rule: str, first: int) -> xr.Dataset:
    """eps* by one rule.

    Args:
        trained: curves over ``epoch``, ``eps`` and ``seed``.
        rule: one of ``RULES``.
        first: the first epoch that the first rule may choose.

    Returns:
        selected_epoch: of smallest adversarial test loss.
        threshold: the clean test loss of clean training.
        selected_loss: the training loss, of the objective.
        eps_star: nan where there is no crossing, with ``status``, the names of
            ``transition.Status``.
        eps_star_cubic: with a monotone cubic through the losses for the chord between
            two, the paper's rule. Where losses are convex in the radius the chord lies
            above them, and crosses too early.
        eps_star_robust: as ``eps_star``, with the cross-entropy at the attacked
            training inputs for the loss; the same unless the objective is TRADES or
            MART.
    """
    robust = trained["test_robust_loss"].isel(
        epoch=slice(first if rule == RULES[0] else 0, None)
    )
    epoch = robust["epoch"].isel(epoch=robust.argmin("epoch")).drop_vars("epoch")
    loss, robust_loss, test_loss = (
        trainer.at(trained, name, epoch)
        for name in ("loss", "robust_loss", "test_loss")
    )
    threshold = test_loss.isel(eps=0, drop=True)
    eps_star, status = crossings(loss, threshold)
    return xr.Dataset(
        {
            "selected_epoch": epoch,
            "threshold": threshold,
            "selected_loss": loss,
            "eps_star": eps_star,
            "status": status,
            "eps_star_cubic": cubic_crossings(loss, threshold),
            "eps_star_robust": crossings(robust_loss, threshold)[0],
        }
    )


def crossings(
    losses: xr.DataArray, threshold: xr.DataArray, method=transition.crossing
) -> tuple[xr.DataArray, xr.DataArray]:
    """eps* of each seed from losses over ``eps`` and ``seed``, and its status."""
    over_seeds = jax.jit(jax.vmap(method, (None, 1, 0)))
    radii, losses = losses["eps"].values, losses.transpose("eps", "seed")
    found = over_seeds(*map(jnp.asarray, (radii, losses.values, threshold.values)))
    names = [transition.Status(int(status)).name for status in found.status]
    return (
        threshold.copy(data=np.asarray(found.eps_star, float)),
        threshold.copy(data=np.array(names)),
    )


def cubic_crossings(losses: xr.DataArray, threshold: xr.DataArray) -> xr.DataArray:
    """As ``crossings``, on the monotone cubic (PCHIP) through each seed's losses."""
    found = crossings(losses, threshold)[0].copy(deep=True)
    for i in np.flatnonzero(np.isfinite(found)):
        cubic = PchipInterpolator(losses["eps"], losses.isel(seed=i))
        found[i] = np.nanmax(cubic.solve(float(threshold[i]), extrapolate=False))
    return found


def trainings(config: Config | ConfigDict) -> dict[str, Training]:
    """The two parts of a grid."""
    # MART at radius 0 is not cross-entropy, and its row of Table B.5 is of its
    # objective.
    is_plain = config.objective == "adversarial"
    changes = {"objective": "standard", "xi": 0.0} if is_plain else {}
    # A test within a ball of radius 0 needs one step.
    clean = recipe.changed(config, eps=config.eps[:1], test_num_steps=1, **changes)
    attacked = recipe.changed(config, eps=config.eps[1:])
    return recipe.trainings({CLEAN: clean, ATTACKED: attacked})


ROW_FIELDS = {
    **finished.FIELDS,
    "dataset": text("digits", "that of the grid; another one is refused"),
    "norm": text("linf", "that of the grid; another one is refused"),
}
"""Fields of a study whose radii are for a data set and a norm, as ``row`` has them."""


def row(dataset: str, norm: str, eps: tuple[float, ...]) -> dict[str, Any]:
    """What a variant for a data set changes."""
    return {"dataset": dataset, "norm": norm, "eps": eps}


@dataclasses.dataclass(frozen=True)
class Grid(Networks):
    """The networks of a finished ``classifier_grid``, and eps* of each seed."""

    @classmethod
    def of(cls, run: Finished, config: ConfigDict) -> "Grid":
        """The grid of a run, on the machine of ``config``.

        Raises:
            ConfigError: if the study's radii are for another data set or norm.
        """
        for field in ("dataset", "norm"):
            if config.get(field, run.config[field]) != run.config[field]:
                raise checks.ConfigError(
                    f"config.{field} = {config[field]!r}: the grid {run.path} has "
                    f"{run.config[field]!r}; choose the variant for it"
                )
        return super().of(run, config)

    @property
    def setting(self) -> str:
        """As ``setting``."""
        return setting(self.config, self.values.attrs["num_train"])

    @property
    def reading(self) -> xr.Dataset:
        """What was read off by the first rule."""
        return self.values[[*READ]].isel(rule=0, drop=True)

    def trainings(self) -> dict[str, Training]:
        """What the grid trained."""
        return trainings(self.config)

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


READ = (
    *("selected_epoch", "threshold", "selected_loss", "eps_star", "status"),
    *("eps_star_cubic", "eps_star_robust"),
)
GRID = Need(
    "transition.classifier_grid",
    Grid.of,
    holds=(*READ, "test_robust_loss", "robust_loss", "num_train", "row"),
)
GRIDS = GRID._replace(many=True)


def setting(config: Config | ConfigDict, num_train: int) -> str:
    """Data, network, size, training and norm, in words."""
    unusual = [
        shown
        for field, shown in (
            ("optimiser", config.optimiser),
            ("batch_size", f"batches of {config.batch_size}"),
        )
        if config[field] != recipe.FIELDS[field].default
    ]
    return ", ".join(
        [
            config.dataset,
            recipe.named(config),
            f"n = {num_train}",
            f"{config.num_epochs} epochs",
            *unusual,
            config.objective,
            config.norm,
        ]
    )


def centre(values: xr.DataArray) -> float | None:
    """The mean over the seeds that have a value; None if none has."""
    there = np.asarray(values)[np.isfinite(values)]
    return float(there.mean()) if there.size else None


def radius(eps: float) -> str:
    """A radius of pixels in [0, 1], and in 1/255."""
    return f"{eps:.4g} ({255 * eps:.3g}/255)"


def rows(columns: Mapping[str, xr.DataArray]) -> list[list[str]]:
    """As ``figures.rows``, with each ``radius`` in both units."""
    radii = next(iter(columns.values()))["eps"].values
    every = zip(radii, figures.rows(columns), strict=True)
    return [[radius(eps), *cells] for eps, (_, *cells) in every]
