"""Hundreds of thousands of replicates of one function, in chunks, over all devices.

    fits = replicates.sharded_vmap(fit, chunk_size=1000)   # fit(key, eps) -> arrays
    losses = fits(jax.random.split(key, 100_000), eps)

``sharded_vmap`` is for functions that are run to the end in one call. The devices are
those that jax has: ``CUDA_VISIBLE_DEVICES`` or, on CPU, ``JAX_NUM_CPU_DEVICES`` sets
them. With several CPU devices set ``PJRT_NPROC`` to four times their number as well,
and ``OPENBLAS_NUM_THREADS`` to 1: batched decompositions (``eigh``, ``qr``, ``solve``)
of jaxlib block threads of a pool that all devices share, and can hang where it has no
more than one for each device.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from advjax import arguments

__all__ = ["OfReplicate", "OfReplicates", "sharded_vmap"]


class OfReplicate(Protocol):
    """A function of one replicate."""

    def __call__(self, replicate: Any, /, *shared: Any) -> Any:
        """``(replicate, *shared) -> arrays``, any pytrees; pure."""


class OfReplicates(Protocol):
    """A function of many replicates."""

    def __call__(self, replicates: Any, /, *shared: Any) -> Any:
        """``(replicates, *shared) -> results``, NumPy arrays with a leading axis ``r``.

        Arrays of ``replicates``, such as keys, have ``r`` as leading axis; ``shared``
        goes to every replicate.

        Raises:
            ValueError: if there are no replicates, their arrays differ in number, an
                integer is too large for jax, or the function draws from keys of another
                generator than threefry.
        """


def sharded_vmap(
    function: OfReplicate,
    *,
    chunk_size: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> OfReplicates:
    """``function`` of each replicate, as NumPy arrays with a leading axis ``r``.

    The result is that of ``jax.vmap`` over the first argument, on any number of devices
    and in chunks of any size, up to the rounding of another order of operations. A
    replicate sees no other one. Memory on the devices is that of one chunk, and any
    number of replicates in chunks of one size is one compiled program. Arrays of keys
    are of jax's threefry generator: what ``vmap`` draws from others, such as rbg on
    TPU, depends on the chunk.

    Args:
        function: pure, ``(replicate, *shared) -> arrays``, any pytrees.
        chunk_size: replicates at once on all devices together, rounded up to a
            multiple of their number; fewer cost as much as a chunk. None for all of
            them, compiled anew for every number of replicates.
        devices: all that jax has if None.

    Returns:
        ``(replicates, *shared) -> results``.

    Raises:
        ValueError: for a chunk size below 1.
    """
    if chunk_size is not None:
        chunk_size = arguments.count("chunk_size", chunk_size)
    devices = jax.devices() if devices is None else list(devices)
    # Axes are explicit by default since jax 0.8.1, which ordinary code is not made for.
    mesh = jax.make_mesh(
        (len(devices),), ("r",), axis_types=(AxisType.Auto,), devices=devices
    )
    split, whole = PartitionSpec("r"), PartitionSpec()

    @functools.partial(jax.jit, static_argnums=(2, 3))
    def program(leaves, shared, key_impls, structure):
        leaves = [_wrapped(*pair) for pair in zip(leaves, key_impls, strict=True)]
        batch = jax.tree.unflatten(structure, leaves)

        def on_one_device(batch, shared):
            return jax.vmap(lambda replicate: function(replicate, *shared))(batch)

        return jax.shard_map(
            on_one_device,
            mesh=mesh,
            in_specs=(split, whole),
            out_specs=split,
            check_vma=False,
        )(batch, shared)

    def call(batch, *shared):
        number = _number(batch)
        size = number if chunk_size is None else chunk_size
        size = -(-size // len(devices)) * len(devices)
        # Rows are taken on the host, where another number of them compiles nothing.
        leaves, structure = jax.tree.flatten(batch)
        key_impls = tuple(_key_impl(leaf) for leaf in leaves)
        leaves = [_unwrapped(leaf) for leaf in leaves]
        for leaf in jax.tree.leaves(shared):
            _check_integers(leaf)
        shared = jax.device_put(shared, NamedSharding(mesh, whole))
        parts = []
        for first in range(0, number, size):
            # The last chunk is filled up with replicates from the beginning.
            rows = np.arange(first, first + size) % number
            chunk = [leaf[rows] for leaf in leaves]
            chunk = jax.device_put(chunk, NamedSharding(mesh, split))
            if first == 0:
                # The trace is kept, so that the program is not traced again.
                traced = program.trace(chunk, shared, key_impls, structure)
                _check_generators(traced.jaxpr)
            parts.append(jax.device_get(program(chunk, shared, key_impls, structure)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:number], *parts)

    return call


def _number(batch: Any) -> int:
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batch)]
    numbers = {shape[0] if shape else 0 for shape in shapes}
    if len(numbers) != 1 or 0 in numbers:
        msg = f"replicates have shapes {shapes}: give one leading axis, of at least 1"
        raise ValueError(msg)
    return numbers.pop()


def _key_impl(leaf: Any) -> str:
    """The name of a key array's generator, or nothing for other arrays."""
    is_key = jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)
    return str(jax.random.key_impl(leaf)) if is_key else ""


def _unwrapped(leaf: Any) -> np.ndarray:
    leaf = np.asarray(jax.random.key_data(leaf) if _key_impl(leaf) else leaf)
    _check_integers(leaf)
    return leaf


def _check_integers(leaf: Any) -> None:
    if isinstance(leaf, jax.Array) or np.asarray(leaf).dtype.kind not in "iu":
        return
    leaf = np.asarray(leaf)
    dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
    if (leaf.astype(dtype) != leaf).any():
        msg = f"numbers of {leaf.dtype} do not fit into {dtype}: turn on x64"
        raise ValueError(msg)


def _wrapped(leaf: jax.Array, impl: str) -> jax.Array:
    return jax.random.wrap_key_data(leaf, impl=impl) if impl else leaf


def _check_generators(program: Any) -> None:
    """Refuses arrays of keys from which ``vmap`` draws by the size of the array."""
    threefry = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32")).dtype
    for value in _values(program):
        is_key = jax.dtypes.issubdtype(
            getattr(value, "dtype", None), jax.dtypes.prng_key
        )
        if is_key and value.ndim and value.dtype != threefry:
            msg = (
                f"the function draws from keys of {value.dtype}, and its numbers would "
                "depend on the chunk: make keys by "
                'jax.random.key(seed, impl="threefry2x32")'
            )
            raise ValueError(msg)


def _values(program: Any) -> Iterator[Any]:
    """The types of all arrays in a program, those of its parts included."""
    program = getattr(program, "jaxpr", program)
    variables = [*program.invars, *program.constvars]
    for equation in program.eqns:
        variables += equation.outvars
        for part in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda part: hasattr(part, "eqns")
        ):
            if hasattr(part, "eqns"):
                yield from _values(part)
    yield from (variable.aval for variable in variables)
