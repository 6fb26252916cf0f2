"""Networks attacked over a whole test set, on one or many devices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from advjax import data, evaluate, losses
from advjax.evaluate import Outcome
from advjax.types import Attack, Batch, Key, Model, Params
from experiments import devices
from experiments.devices import Placement
from experiments.training import parameters

Test = Callable[[tuple[Params, Params], Key, float], Outcome]
"""``((params, batch_stats), key, eps) -> Outcome`` of one network, ``[n]``."""

Tests = Callable[[tuple[Params, Params], Key, np.ndarray], list[Outcome]]
"""``((params, batch_stats)[r], key, eps[r])``: an outcome for each network."""


def tester(
    model: Model, attack: Attack, test: Batch, mesh: Mesh, batch_size: int
) -> Test:
    """A test that compiles once for all networks and radii.

    Args:
        model: tested in evaluation mode, by cross-entropy.
        attack: the attack.
        test: all of the test data, on the host; pixels may be uint8.
        mesh: devices that share a batch, which is rounded up to their number.
        batch_size: examples attacked at once; the result does not depend on it.
    """
    batch_size = -(-batch_size // mesh.size) * mesh.size
    whole = devices.whole(mesh)
    placement = devices.Placement(mesh, shares_runs=False)
    compiled = jax.jit(_outcome(model, attack, placement), out_shardings=whole)

    def run(network, key, eps):
        def one_batch(key, x, y):
            return compiled(network, eps, key, x, y)

        return evaluate.in_batches(one_batch, key, *test, batch_size=batch_size)

    return run


def testers(
    model: Model,
    attack: Attack,
    test: Batch,
    placement: Placement,
    batch_size: int,
    *,
    together: bool,
) -> Tests:
    """A test of many networks.

    Args:
        model: as ``tester``, and so are the others.
        attack: the attack.
        test: the data.
        placement: the devices, and what they share.
        batch_size: examples attacked at once.
        together: whether all networks are attacked by one program, which is faster for
            small ones, or one after the other.
    """
    if not together:
        one = tester(model, attack, test, placement.mesh, batch_size)
        return lambda trees, key, eps: [
            one(network, key, radius)
            for network, radius in zip(networks(*trees), eps, strict=True)
        ]
    share = 1 if placement.shares_runs else placement.mesh.size
    batch_size = -(-batch_size // share) * share
    outcome = _outcome(model, attack, placement)

    def of_all(trees, eps, key, x, y):
        over_networks = jax.vmap(outcome, (0, 0, None, None, None), out_axes=1)
        # No ``Outcome``, which is of one run; examples stay the first axis.
        return over_networks(trees, eps, key, x, y)._asdict()

    compiled = jax.jit(of_all, out_shardings=devices.whole(placement.mesh))

    def run(trees, key, eps):
        def one_batch(key, x, y):
            return compiled(trees, eps, key, x, y)

        found = evaluate.in_batches(one_batch, key, *test, batch_size=batch_size)
        found = jax.device_get(found)
        return [
            Outcome(**jax.tree.map(lambda leaf, i=i: leaf[:, i], found))
            for i in range(len(eps))
        ]

    return run


def _outcome(
    model: Model, attack: Attack, placement: Placement
) -> Callable[..., Outcome]:
    def outcome(network, eps, key, x, y):
        x, y = placement.divided((data.as_float(x), y))

        def predict(x):
            return model.predict(*network, x)

        return evaluate.outcome(key, predict, losses.cross_entropy, attack, x, y, eps)

    return outcome


def released(path: Path, part: str, name: str = "last") -> list[tuple[Any, Any]]:
    """The networks that a run in ``path`` released, one by one.

    Args:
        path: its work directory.
        part: of its training, or empty.
        name: "last", "best", or "epoch-5" for one that was kept.

    Raises:
        FileError: if there are none, or they are damaged.
    """
    found = parameters.read(parameters.file(path, part, name))
    return networks(found.params, found.batch_stats)


def networks(params: Params, batch_stats: Params) -> list[tuple[Any, Any]]:
    """Networks in a leading axis of ``r``, one by one."""
    trees = (params, batch_stats)
    r = jax.tree.leaves(params)[0].shape[0]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], trees) for i in range(r)]
