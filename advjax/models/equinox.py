"""Equinox modules as a ``types.Model``; ``equinox`` is imported at the first use."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from advjax.models import constructors, modes, outputs
from advjax.types import Model, Params, example_keys

__all__ = ["equinox_state", "from_equinox"]


def from_equinox(
    constructor: Callable[[Any], Any],
    *,
    mode: str | None = "auto",
    frozen: Callable[[Any], Any] | None = None,
    seeded: bool = True,
) -> Model:
    """A model from a constructor of Equinox modules, ``lambda key: Net(key)``.

    The modules map one example; ``apply`` maps them over a batch. ``params`` are all
    floating-point arrays that are not frozen, ``batch_stats`` all other arrays, which
    never change. Evaluation is ``eqx.nn.inference_mode``; in training every layer is in
    the mode it was constructed in. Dropout of example ``i`` draws from
    ``fold_in(key, i)``, if ``module.__call__`` takes ``key``.

    Args:
        constructor: ``key -> module``, where ``module(x[...]) -> output[...]``.
        mode: an argument of ``module.__call__`` that switches layers in addition, as in
            ``from_linen``.
        frozen: ``module -> layers`` that are not trained, such as
            ``lambda net: net.encoder``; see ``eqx.tree_at``.
        seeded: whether parameters must depend on the key; False for networks that all
            start from the same ones, such as pretrained ones.

    Returns:
        A model whose ``apply`` raises ``ValueError`` where dropout is live in training
        and no ``key`` is given, and where the output is not one array.

    Raises:
        ValueError: for a module instead of its constructor, whose trained parameters
            ``equinox_state`` takes. ``init`` raises it for layers with an
            ``eqx.nn.State``, such as batch normalisation, which are not supported.
    """
    import equinox as eqx

    constructors.check(constructor, eqx.Module, "key", "from_equinox")
    if frozen is not None and not callable(frozen):
        msg = f"frozen = {frozen!r}: give a function, such as lambda net: net.encoder"
        raise ValueError(msg)
    network = _Network(constructor, mode, frozen, seeded)
    return Model(network.init, network.apply)


def equinox_state(
    module: Any, *, frozen: Callable[[Any], Any] | None = None
) -> tuple[Params, Params]:
    """``(params, batch_stats)`` of a trained Equinox module, as of ``from_equinox``.

    Copies, so that nothing done with them reaches the module.

    Raises:
        ValueError: as ``init`` of ``from_equinox``.
    """
    params, batch_stats, _ = _split(module, frozen)
    return jax.tree.map(jnp.copy, (params, batch_stats))


@dataclasses.dataclass(frozen=True, eq=False)
class _Network:
    """A constructor, and what is static of the modules that it makes."""

    constructor: Callable[[Any], Any]
    mode: str | None
    frozen: Callable[[Any], Any] | None
    seeded: bool

    def init(self, key, x):
        """See ``types.Init``."""

        def construct(key):
            return _split(self.constructor(key), self.frozen)[:2]

        if self.seeded:
            constructors.check_seeds(lambda key: construct(key)[0], "from_equinox")
        variables = jax.jit(construct)(key)
        x = jax.ShapeDtypeStruct(x.shape, jnp.result_type(x))
        for train in (False, True):
            apply = functools.partial(self.apply, train=train, key=jax.random.key(0))
            jax.eval_shape(apply, *variables, x)
        return variables

    def apply(self, params, batch_stats, x, *, train, key=None):
        """See ``types.Apply``."""
        import equinox as eqx

        module = eqx.combine(params, batch_stats, self.static)
        module = module if train else eqx.nn.inference_mode(module)
        takes_key = modes.takes(module.__call__, "key")
        key = key if train and takes_key else None
        if key is None and _has_dropout(module):
            msg = (
                f"{type(module).__name__} has dropout: give apply a key in training, "
                "and let __call__(x, *, key=None) hand it on"
            )
            raise ValueError(msg)
        call = _switched(module, self.mode, train, takes_key)
        if key is None:
            return outputs.single(jax.vmap(call)(x)), batch_stats
        keys = example_keys(key, len(x))
        output = jax.vmap(lambda x, key: call(x, key=key))(x, keys)
        return outputs.single(output), batch_stats

    @functools.cached_property
    def static(self):
        """The modules of ``constructor`` without their arrays."""
        found = []

        def construct(key):
            *arrays, static = _split(self.constructor(key), self.frozen)
            found.append(static)
            return arrays

        jax.eval_shape(construct, jax.random.key(0))
        return found[0]


def _split(module, frozen):
    """``(params, batch_stats, static)``: trained arrays, other ones, and the rest."""
    import equinox as eqx

    if _instances(module, eqx.nn.StateIndex):
        msg = "layers with an eqx.nn.State, such as BatchNorm, are not supported"
        raise ValueError(msg)
    if not isinstance(module, eqx.Module):
        msg = f"constructor(key) gives {module!r}, which is no Equinox module"
        raise ValueError(msg)
    spec = jax.tree.map(eqx.is_inexact_array, module)
    if frozen is not None:
        none = functools.partial(jax.tree.map, lambda _: False)
        spec = eqx.tree_at(frozen, spec, replace_fn=none)
    params, rest = eqx.partition(module, spec)
    return params, *eqx.partition(rest, eqx.is_array)


def _switched(module, mode, train, takes_key):
    """``module.__call__`` with its mode bound, and without a key until it is given."""
    call = module.__call__
    if takes_key:
        call = functools.partial(call, key=None)
    switch = modes.find(call, mode)
    if switch is None:
        return call
    return functools.partial(call, **{switch.name: switch.value(train)})


def _has_dropout(module):
    """Whether some dropout is live."""
    import equinox as eqx

    layers = _instances(module, eqx.nn.Dropout)
    return any(not layer.inference and not _is_zero(layer.p) for layer in layers)


def _is_zero(rate):
    return isinstance(rate, int | float) and rate == 0


def _instances(module, kind):
    leaves = jax.tree.leaves(module, is_leaf=lambda node: isinstance(node, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]
