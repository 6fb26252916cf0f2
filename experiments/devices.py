"""Replicates spread over whatever devices there are: accelerators, or CPU cores."""

import os
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def use_all_cores() -> None:
    """Makes every CPU core a device; to be called before jax is first used.

    Batched small matrix products and element-wise loops run on one core a device, so
    replicates on two cores take about half the time that they take on one.
    """
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def spread(tree: Any, *sizes: int) -> Any:
    """Puts arrays on the devices, divided along one of their leading axes.

    Args:
        tree: arrays whose leading axes have these sizes.
        sizes: ``len(sizes)`` candidates; the first that all devices divide is chosen.
            If there is none the arrays stay as they are.
    """
    devices = jax.device_count()
    for axis, size in enumerate(sizes):
        if devices > 1 and size % devices == 0:
            # Axes are explicit by default since jax 0.8.1, which ordinary code is not
            # written for.
            mesh = jax.make_mesh((devices,), ("runs",), axis_types=(AxisType.Auto,))
            spec = PartitionSpec(*[None] * axis, "runs")
            return jax.device_put(tree, NamedSharding(mesh, spec))
    return tree
