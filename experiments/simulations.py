"""What simulations share: fields, replicates, and a check of their descent."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import xarray as xr

from advjax import replicates
from advjax.types import Array, Key
from experiments import arrays, checks
from experiments.fields import Field, count, number, numbers, seed, some
from experiments.study import Config

FIELDS = {
    "seed": seed(),
    "num_replicates": count(100, "simulated data sets, with a run for each", least=2),
    "chunk_size": count(20, "replicates at once"),
    "num_steps": count(100, "steps of gradient descent"),
    "d": count(10, "dimension of the inputs"),
    "n": count(1000, "training examples"),
    "num_active": count(10, "coefficients of theta0 that are not 0"),
    "theta0_norm": number(1, "length of theta0, the true coefficients", above=0),
    "sigma": number(1, "standard deviation of the noise", above=0),
    "eps": numbers((0.0,), "radii of the l2 attack, increasing", increasing=True),
    "xi": number(0, "smoothing of the attack in training; 0 for the attack itself"),
    "step_size": number(0.01, "step size of gradient descent", above=0),
}


def fields(**defaults: Any) -> dict[str, Field]:
    """``seed``, and those of ``FIELDS`` that are named, with these defaults."""
    return some(FIELDS, "seed", **defaults)


def replicated(
    config: Config,
    function: Callable[..., Mapping[str, Any]],
    *shared: Any,
    axes: tuple[str, ...] = (),
    coords: Mapping[str, Any] | None = None,
    key: Key | None = None,
    chunk_size: int | None = None,
) -> xr.Dataset:
    """``function(key, *shared)`` of each replicate.

    Args:
        config: with the seed and the number of replicates.
        function: ``(key, *shared) -> {name: array}``.
        shared: what all replicates take.
        axes: of the arrays; one with fewer axes has the first of these.
        coords: of the axes.
        key: of all replicates; that of ``config.seed`` by default.
        chunk_size: replicates at once; that of ``config`` by default, or all.

    Returns:
        The arrays, with a first axis ``replicate``.
    """
    key = jax.random.key(config.seed) if key is None else key
    keys = jax.random.split(key, config.num_replicates)
    chunk_size = chunk_size or config.get("chunk_size")
    found = replicates.sharded_vmap(function, chunk_size=chunk_size)(keys, *shared)
    names = ("replicate", *axes)
    return arrays.dataset(
        {name: (names[: each.ndim], each) for name, each in found.items()}, coords
    )


ORDER_WITHIN = 0.1
"""Of an exponent that a theorem states as an order."""


def design_key(config: Config, n: int, d: int) -> Key:
    """A key for each design of a study."""
    return jax.random.fold_in(jax.random.key(config.seed), n * 10_000 + d)


def dense(norm: float, d: int) -> Array:
    """Coefficients of this length that are all the same, ``[d]``."""
    return jnp.full(d, norm / d**0.5)


def null_risk(config: Config) -> float:
    """The risk of θ = 0 where θ0 has ``num_active`` ones: v²."""
    return config.num_active + config.sigma**2


def check_descent(
    losses: xr.DataArray, setting: str = "", *, over: str = "step", most: float = 1.1
) -> None:
    """As ``checks.descended``, over an axis; other axes name the run.

    Raises:
        DivergedError: for losses that are not finite, or end in a rise.
    """
    runs = losses.transpose(over, ...)
    axes = runs.dims[1:]

    def name(*indices: int) -> str:
        words = [_at(runs, *each) for each in zip(axes, indices, strict=True)]
        return ", ".join([*([setting] if setting else []), *words])

    checks.descended(runs.values, name, most=most)


def _at(runs: xr.DataArray, axis: str, index: int) -> str:
    """``replicate 3``; ``eps = 0.1`` or a word where the axis has coordinates."""
    if axis not in runs.coords:
        return f"{axis} {index}"
    value = runs[axis].values[index]
    return str(value) if isinstance(value, str) else f"{axis} = {value:g}"
