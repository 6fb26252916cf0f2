"""Replicates, or the examples of a batch, spread over whatever devices there are."""

import contextlib
import math
import os
import warnings
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from advjax.data import cache
from advjax.train import Step
from experiments import checks


def prepare(config: ConfigDict) -> None:
    """Makes the devices that a study runs on; to be called before jax is first used.

    Simulations spread replicates over all cores, and so do networks that one program
    trains. Others want the cores as one device, or as many as the configuration says,
    and the devices of all hosts if it says so.
    """
    keep_programs()
    if "networks" in config:
        # One device measures trained networks, and decomposes many small matrices.
        widen_thread_pool()
        return
    if "num_devices" not in config:
        use_all_cores()
        widen_thread_pool()
        return
    if config.get("dispatch") == "scan" and config.num_devices == 0:
        # Many small networks at once: each core trains its share of them.
        use_all_cores()
        return
    if config.get("hosts"):
        join_hosts()
    elif config.num_devices > 1:
        if "JAX_NUM_CPU_DEVICES" not in os.environ:
            jax.config.update("jax_num_cpu_devices", config.num_devices)
        widen_thread_pool()


def use_all_cores() -> None:
    """Makes every CPU core a device; to be called before jax is first used.

    Batched small matrix products and element-wise loops run on one core a device, so
    replicates on two cores take about half the time that they take on one. The variable
    JAX_NUM_CPU_DEVICES sets another number; results do not depend on it.
    """
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", num_cores())


def keep_programs() -> None:
    """Has jax keep what takes long to compile; to be called before jax is first used.

    It is kept in the user's cache, at most 1 GiB, unless jax is told another place or
    there is no home.
    """
    if jax.config.jax_compilation_cache_dir:
        return
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_compilation_cache_dir", str(cache.place() / "programs"))
    jax.config.update("jax_compilation_cache_max_size", 2**30)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # Some processors refuse programs of a cache, and jax compiles them again.
    reading = "Error reading persistent compilation cache"
    warnings.filterwarnings("ignore", reading)


def widen_thread_pool() -> None:
    """Keeps CPU devices from hanging; to be called before jax is first used.

    Each batched decomposition of jaxlib, and each sum over devices, blocks a thread of
    the pool that all devices share, and waits for others to do its work. With as many
    threads as devices, which is the default, there may be no other. With more, BLAS
    must not start threads of its own below them: a batch of QR decompositions took 600
    times as long. The wider pool makes other programs up to 1.4 times as slow.
    """
    num_devices = max(num_cores(), jax.config.jax_num_cpu_devices)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in ("NPROC", "PJRT_NPROC"):
        os.environ.setdefault(name, str(4 * num_devices))


def double_precision() -> contextlib.AbstractContextManager:
    """A context in which arrays are of double precision."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64

    return enable_x64()


def num_cores() -> int:
    """Cores that this process may use."""
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
    spec = PartitionSpec(*[None] * axis, _AXIS)
    return jax.device_put(tree, NamedSharding(mesh(num_devices), spec))


_AXIS = "data"


def number(wanted: int, batch_sizes: Collection[int], *, hosts: bool) -> int:
    """How many devices share batches of these sizes.

    Args:
        wanted: 0 for one CPU device, or as many accelerators as divide the batches.
        batch_sizes: examples in a batch.
        hosts: whether the devices of all hosts take part.

    Raises:
        ConfigError: if there are fewer than wanted, or a batch does not divide into
            them; or for a part of the devices of several hosts.
    """
    available = jax.device_count()
    if not 0 <= wanted <= available:
        raise checks.ConfigError(
            f"config.num_devices = {wanted}: choose numbers at least 0 and at most "
            f"{available}"
        )
    if not (wanted or hosts):
        most = 1 if jax.default_backend() == "cpu" else available
        choices = range(1, most + 1)
        return max(n for n in choices if all(size % n == 0 for size in batch_sizes))
    number = wanted or available
    if hosts and number != available:
        raise checks.ConfigError(
            f"config.num_devices = {number}: with config.hosts all {available} devices "
            "take part; give 0"
        )
    for size in batch_sizes:
        if size % number:
            raise checks.ConfigError(
                f"a batch of {size} examples does not divide into {number} devices; "
                "change config.batch_size, config.num_devices, or set "
                "config.keep_remainder=False"
            )
    return number


class Placement(NamedTuple):
    """Which devices train, and what they share.

    Attributes:
        mesh: the devices.
        shares_runs: whether they divide the runs among them, which is faster for many
            small networks, or the examples of each batch.
    """

    mesh: Mesh
    shares_runs: bool

    @property
    def over_runs(self) -> NamedSharding:
        """The sharding of arrays ``[r, ...]``."""
        return NamedSharding(self.mesh, PartitionSpec(*[_AXIS] * self.shares_runs))

    def placed(self, tree: Any) -> Any:
        """Arrays ``[r, ...]`` that every host has, on the devices."""
        if self.shares_runs:
            return jax.device_put(tree, self.over_runs)
        return replicated(tree, self.mesh)

    def parallel(self, step: Step) -> Step:
        """``step`` of one run, with its batch divided if that is shared."""
        return step if self.shares_runs else data_parallel(step, self.mesh)

    def divided(self, tree: Any) -> Any:
        """Examples in the first axis, divided if they are shared; inside a program."""
        return tree if self.shares_runs else divided(tree, self.mesh)


def placement(
    wanted: int,
    batch_sizes: Collection[int],
    *,
    num_runs: int,
    hosts: bool,
    together: bool,
) -> Placement:
    """The placement of a training.

    Args:
        wanted: number of devices, 0 for any, as ``number``.
        batch_sizes: examples in a batch.
        num_runs: networks.
        hosts: whether the devices of all hosts take part.
        together: whether one program trains all networks.

    Raises:
        ConfigError: as ``number``.
    """
    shared = math.gcd(num_runs, jax.device_count())
    if together and not wanted and not hosts and shared > 1:
        return Placement(mesh(shared), shares_runs=True)
    return Placement(mesh(number(wanted, batch_sizes, hosts=hosts)), shares_runs=False)


def mesh(num_devices: int) -> Mesh:
    """The first ``num_devices`` devices, of all hosts, in a row."""
    # Axes are explicit by default since jax 0.8.1, which ordinary code is not made for.
    return jax.make_mesh(
        (num_devices,),
        (_AXIS,),
        axis_types=(AxisType.Auto,),
        devices=jax.devices()[:num_devices],
    )


def join_hosts() -> None:
    """Makes the devices of all hosts visible; to be called before jax is first used.

    On Cloud TPU, Slurm and the like jax finds the other hosts by itself. Elsewhere
    start one process a host with JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES
    and JAX_PROCESS_ID. All hosts need the same work directory on a shared file system.

    Raises:
        ConfigError: if the others are not known or not reached.
    """
    names = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
    try:
        given = {
            key: int(os.environ[name])
            for key, name in names.items()
            if name in os.environ
        }
        jax.distributed.initialize(**given)
    except (ValueError, RuntimeError) as error:
        msg = f"config.hosts: {error}; see experiments/devices.py, join_hosts"
        raise checks.ConfigError(msg) from error


def whole(mesh: Mesh) -> NamedSharding:
    """Every device holds all of an array."""
    return NamedSharding(mesh, PartitionSpec())


def replicated(tree: Any, mesh: Mesh) -> Any:
    """Arrays that every host has, as arrays that every device of all hosts has."""

    def replicate(leaf):
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, whole(mesh), lambda i: leaf[i])

    return jax.tree.map(replicate, tree)


def data_parallel(step: Step, mesh: Mesh) -> Step:
    """``step`` with the examples of its batch divided over the devices.

    The result is that of one device up to rounding: means over the batch, and the
    statistics of its normalisation layers, are over the whole batch.
    """

    def parallel_step(state, batch, eps):
        batch = divided(batch, mesh)
        state, metrics = step(state, batch, eps)
        return jax.lax.with_sharding_constraint((state, metrics), whole(mesh))

    return parallel_step


def divided(tree: Any, mesh: Mesh) -> Any:
    """Arrays divided along their first axis; inside a compiled program."""
    along = NamedSharding(mesh, PartitionSpec(_AXIS))
    return jax.lax.with_sharding_constraint(tree, along)
