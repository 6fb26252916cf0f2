"""Labelled arrays of a study, to its stages and to ``results.json`` and back.

A study measures an ``xarray.Dataset``: arrays whose axes have names, such as ``seed``
or ``eps``, and coordinates where those mean something.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import xarray as xr


def dataset(
    values: Mapping[str, tuple[tuple[str, ...], Any]],
    coords: Mapping[str, Any] | None = None,
    **attrs: Any,
) -> xr.Dataset:
    """``{name: (axes, array)}`` with coordinates of axes, and facts about the whole."""
    arrays = {name: (axes, np.asarray(array)) for name, (axes, array) in values.items()}
    coords = {name: np.asarray(values) for name, values in (coords or {}).items()}
    return xr.Dataset(arrays, coords, attrs)


Data = TypeVar("Data", xr.Dataset, xr.DataArray)


def stacked(parts: Mapping[Any, Data], axis: str, *, is_ragged: bool = False) -> Data:
    """Arrays along a new axis, whose coordinates are the names of the parts.

    Args:
        parts: arrays by name.
        axis: the new axis.
        is_ragged: whether coordinates of another axis may differ; values are nan then
            where a part lacks some.

    Raises:
        ValueError: for coordinates that differ, unless they may.
    """
    joined = xr.concat(
        list(parts.values()),
        dim=axis,
        join="outer" if is_ragged else "exact",
        combine_attrs="drop_conflicts",
    )
    return joined.assign_coords({axis: list(parts)})


def moments(values: xr.DataArray) -> xr.DataArray:
    """Mean and standard deviation over replicates, along a last axis ``moment``.

    What is kept where the values themselves would be too many; nan if one of them is.
    """
    over = {"dim": "replicate", "skipna": False}
    parts = {"mean": values.mean(**over), "sd": values.std(ddof=1, **over)}
    return stacked(parts, "moment").transpose(..., "moment")


def packed(data: xr.Dataset) -> dict[str, Any]:
    """A dataset as nested dicts of arrays, for a stage."""
    return {
        "values": {str(name): each.values for name, each in data.data_vars.items()},
        "axes": {
            str(name): np.array(each.dims, dtype=str)
            for name, each in data.data_vars.items()
        },
        "coords": {str(name): each.values for name, each in data.coords.items()},
        "attrs": {str(name): np.asarray(value) for name, value in data.attrs.items()},
    }


def unpacked(stored: Mapping[str, Any]) -> xr.Dataset:
    """The dataset that ``packed`` was given."""
    values = {
        name: (tuple(map(str, stored["axes"][name])), array)
        for name, array in stored.get("values", {}).items()
    }
    attrs = {name: array.tolist() for name, array in stored.get("attrs", {}).items()}
    return dataset(values, stored.get("coords"), **attrs)


def plain(data: xr.Dataset) -> dict[str, Any]:
    """A dataset as what JSON has: coordinates, facts, and axes and values by name."""
    return {
        "coords": {str(name): each.values for name, each in data.coords.items()},
        "attrs": dict(data.attrs),
        "values": {
            str(name): {
                "axes": list(each.dims),
                "shape": list(each.shape),
                "values": each.values,
            }
            for name, each in data.data_vars.items()
        },
    }


def restored(content: Mapping[str, Any]) -> xr.Dataset:
    """The dataset in parsed JSON, whose null is nan.

    Raises:
        ValueError: for what ``plain`` did not write.
    """
    try:
        values = {
            # The lists of an array without entries do not say its shape.
            name: (tuple(each["axes"]), _array(each["values"]).reshape(each["shape"]))
            for name, each in content["values"].items()
        }
        coords = {name: _array(each) for name, each in content["coords"].items()}
        return dataset(values, coords, **content["attrs"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no labelled arrays: {error!r}") from error


def _array(values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype != object:
        return array
    return np.asarray(values, float)  # None becomes nan
