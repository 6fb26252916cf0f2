"""Networks attacked over a whole test set, on one or many devices."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from advjax import data, evaluate, losses
from advjax.evaluate import Outcome
from advjax.types import Attack, Batch, Key, Model, Params
from experiments import devices

Test = Callable[[tuple[Params, Params], Key, float], Outcome]
"""``((params, batch_stats), key, eps) -> Outcome`` of one network, ``[n]``."""


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

    def outcome(network, eps, key, x, y):
        x, y = devices.divided((data.as_float(x), y), mesh)

        def predict(x):
            return model.predict(*network, x)

        return evaluate.outcome(key, predict, losses.cross_entropy, attack, x, y, eps)

    compiled = jax.jit(outcome, out_shardings=devices.whole(mesh))

    def run(network, key, eps):
        def one_batch(key, x, y):
            return compiled(network, eps, key, x, y)

        return evaluate.in_batches(one_batch, key, *test, batch_size=batch_size)

    return run


def networks(params: Params, batch_stats: Params) -> list[tuple[Any, Any]]:
    """Networks in a leading axis of ``r``, one by one."""
    trees = (params, batch_stats)
    r = jax.tree.leaves(params)[0].shape[0]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], trees) for i in range(r)]
