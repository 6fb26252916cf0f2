"""Replicates spread over whatever devices there are: accelerators, or CPU cores."""

import math
import os
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def use_all_cores() -> None:
    """Makes every CPU core a device; to be called before jax is first used.

    Batched small matrix products and element-wise loops run on one core a device, so
    replicates on two cores take about half the time that they take on one. The variable
    JAX_NUM_CPU_DEVICES sets another number; results do not depend on it.
    """
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", _num_cores())


def widen_thread_pool() -> None:
    """Keeps decompositions from hanging on CPU; to be called before jax is first used.

    Each batched decomposition of jaxlib blocks a thread of the pool that all devices
    share, and waits for others to do its work. With as many threads as devices, which
    is the default, there may be no other. With more, BLAS must not start threads of its
    own below them: a batch of QR decompositions took 600 times as long. The wider pool
    makes programs without decompositions up to 1.4 times as slow.
    """
    num_devices = max(_num_cores(), jax.config.jax_num_cpu_devices)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in ("NPROC", "PJRT_NPROC"):
        os.environ.setdefault(name, str(4 * num_devices))


def _num_cores() -> int:
    usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    return len(usable(0))


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
