"""Replicates spread over whatever devices there are: accelerators, or CPU cores."""

import math
import os
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def use_all_cores() -> None:
    """Makes every CPU core a device; to be called before jax is first used.

    Batched small matrix products and element-wise loops run on one core a device, so
    replicates on two cores take about half the time that they take on one.
    """
    usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    jax.config.update("jax_num_cpu_devices", len(usable(0)))


def spread(tree: Any, *sizes: int) -> Any:
    """Puts arrays on the devices, divided along one of their leading axes.

    Args:
        tree: arrays whose leading axes have these sizes.
        sizes: the axes to choose from; that which divides over most devices is taken.
    """
    shares = [math.gcd(size, jax.device_count()) for size in sizes]
    num_devices = max(shares)
    axis = shares.index(num_devices)
    # Axes are explicit by default since jax 0.8.1, which ordinary code is not made for.
    mesh = jax.make_mesh(
        (num_devices,),
        ("runs",),
        axis_types=(AxisType.Auto,),
        devices=jax.devices()[:num_devices],
    )
    spec = PartitionSpec(*[None] * axis, "runs")
    return jax.device_put(tree, NamedSharding(mesh, spec))
