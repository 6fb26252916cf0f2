"""Adapters that turn networks of other makes into a ``types.Model``."""

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from advjax.types import Array, Key, Model, Params


def from_function(
    init: Callable[[Key, Array], Params], predict: Callable[[Params, Array], Array]
) -> Model:
    """A model from ``init(key, x) -> params`` and ``predict(params, x) -> logits``.

    Haiku, Equinox and hand-written networks without batch statistics fit this form.
    """

    def apply(params, batch_stats, x, *, train):
        del train
        return predict(params, x), batch_stats

    return Model(lambda key, x: (init(key, x), {}), apply)


def from_linen(module: nn.Module) -> Model:
    """A model from a linen module.

    A module whose ``__call__`` takes ``train`` receives it. Statistics live in the
    collection ``batch_stats`` and change only with ``train=True``. ``apply`` passes no
    random keys, so dropout is not supported.
    """
    takes_train = "train" in inspect.signature(module.__call__).parameters

    def init(key, x):
        # Compiled, because the eager form compiles every small operation by itself.
        options = {"train": False} if takes_train else {}
        variables = dict(jax.jit(lambda key, x: module.init(key, x, **options))(key, x))
        return variables["params"], variables.get("batch_stats", {})

    def apply(params, batch_stats, x, *, train):
        options = {"train": train} if takes_train else {}
        variables = {"params": params, "batch_stats": batch_stats}
        if not train or not batch_stats:
            return module.apply(variables, x, **options), batch_stats
        logits, changed = module.apply(variables, x, mutable=["batch_stats"], **options)
        return logits, changed["batch_stats"]

    return Model(init, apply)


def from_nnx(module: Any) -> Model:
    """A model from an NNX module, whose present parameters ``init`` returns.

    ``init`` ignores its key: an NNX module is initialised where it is made. All state
    that is not an ``nnx.Param`` (batch statistics, dropout counters) is in
    ``batch_stats`` and changes only with ``train=True``; ``train`` also chooses
    ``module.train()`` or ``module.eval()``. flax.nnx is imported at the first use.
    """
    from flax import nnx

    def split(module, train):
        (module.train if train else module.eval)()
        return nnx.split(module, nnx.Param, ...)

    module = nnx.clone(module)  # the caller's stays in its mode
    train_graph, *_ = split(module, train=True)
    eval_graph, params, rest = split(module, train=False)

    def apply(params, batch_stats, x, *, train):
        # A merged module shares its variables with the states it was made from, and
        # batch statistics may not change from inside a gradient: merge a copy.
        states = jax.tree.map(lambda leaf: leaf, (params, batch_stats))
        merged = nnx.merge(train_graph if train else eval_graph, *states)
        logits = merged(x)
        return logits, nnx.split(merged, nnx.Param, ...)[2] if train else batch_stats

    def init(key, x):
        del key, x
        return params, rest

    return Model(init, apply)
