"""NNX modules as a ``types.Model``; ``flax.nnx`` is imported at the first use."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from advjax.models import constructors, modes, outputs
from advjax.types import Key, Model, Params

__all__ = ["from_nnx", "nnx_state"]


def from_nnx(
    constructor: Callable[[Any], Any],
    *,
    mode: str | None = "auto",
    seeded: bool = True,
) -> Model:
    """A model from a constructor of NNX modules, ``lambda rngs: Net(rngs)``.

    ``init`` constructs a module from ``nnx.Rngs(key)``, also under ``jit`` and
    ``vmap``, so that every key has its own network; it uses ``x`` for checks alone.
    ``params`` are all ``nnx.Param``. ``batch_stats`` are all other variables but random
    streams, and change in training only, within their dtypes. A training pass seeds all
    streams anew from its ``key``: the same arguments give the same output, and another
    key gives another one.

    In training every layer is in the mode it was constructed in, so that one with
    ``use_running_average=True`` or ``deterministic=True`` stays frozen; in evaluation
    ``module.eval()`` is called first, on a copy.

    Args:
        constructor: ``nnx.Rngs -> module``, where ``module(x[n, ...]) -> output``.
        mode: the argument of ``module.__call__`` that switches layers in addition, as
            in ``from_linen``.
        seeded: whether parameters must depend on the key; False for networks that all
            start from the same ones, such as pretrained ones.

    Returns:
        A model whose ``apply`` raises ``ValueError`` where a layer draws in training
        and no ``key`` is given, and where the output is not one array.

    Raises:
        ValueError: for a module instead of its constructor: one network cannot stand
            for several seeds. ``nnx_state`` takes the parameters of a trained one.
            ``init`` raises it for layers that draw or change statistics in evaluation,
            and, if ``mode`` is "auto", for layers that are live as constructed and yet
            do nothing in training.
    """
    from flax import nnx

    constructors.check(constructor, nnx.Module, "rngs", "from_nnx")
    network = _Network(constructor, mode, seeded)
    return Model(network.init, network.apply)


def nnx_state(module: Any) -> tuple[Params, Params]:
    """``(params, batch_stats)`` of a trained NNX module, as of ``from_nnx``.

    Copies, so that nothing done with them reaches the module. They fit a model from a
    constructor of the same architecture.

    Raises:
        ValueError: for what is no NNX module.
    """
    from flax import nnx

    if not isinstance(module, nnx.Module):
        msg = f"{module!r} is no NNX module"
        raise ValueError(msg)
    _, params, _, batch_stats = _split(module)
    return jax.tree.map(jnp.copy, (params, batch_stats))


@dataclasses.dataclass(frozen=True, eq=False)
class _Network:
    """A constructor, and what is static of the modules that it makes."""

    constructor: Callable[[Any], Any]
    mode: str | None
    seeded: bool

    def init(self, key, x):
        """See ``types.Init``."""
        _check(self, x)

        def construct(key):
            _, params, _, batch_stats = _split(_construct(self.constructor, key))
            return params, batch_stats

        if self.seeded:
            constructors.check_seeds(lambda key: construct(key)[0], "from_nnx")
        return jax.jit(construct)(key)

    def apply(self, params, batch_stats, x, *, train, key=None):
        """See ``types.Apply``."""
        with _explained(train):
            output, new = _call(self, params, batch_stats, x, train, key)
        return output, outputs.like(new, batch_stats) if train else batch_stats

    @functools.cached_property
    def structure(self):
        """See ``_Structure``."""
        found = []

        def construct(key):
            module = _construct(self.constructor, key)
            graph, *states = _split(module)
            switch = modes.find(module.__call__, self.mode)
            found.extend([graph, switch, *_live_layers(module)])
            return states

        states = jax.eval_shape(construct, jax.random.key(0))
        return _Structure(*found, *states)


class _Structure(NamedTuple):
    """The properties that all modules of a constructor share.

    Attributes:
        graph: the ``nnx.GraphDef``.
        switch: the argument of the mode.
        averaging: names of layers that keep statistics, unless they are frozen.
        drawing: names of layers that draw random numbers, unless they are frozen.
        params: shapes of the parameters.
        streams: shapes of the random streams.
        batch_stats: shapes of all other variables.
    """

    graph: Any
    switch: modes.Switch | None
    averaging: list[str]
    drawing: list[str]
    params: Params
    streams: Params
    batch_stats: Params


def _call(network, params, batch_stats, x, train, key):
    """``(output, statistics afterwards)``; without a key, drawing is a _DrawnError."""
    from flax import nnx

    graph, switch = network.structure.graph, network.structure.switch
    seed = jax.random.key(0) if key is None else key
    seeded = _seeded(network.structure.streams, seed)
    # A merged module shares its variables with the states it was made from, and
    # batch statistics may not change from inside a gradient: merge a copy.
    states = jax.tree.map(lambda leaf: leaf, (params, seeded, batch_stats))
    module = nnx.merge(graph, *states)
    if not train:
        module.eval()
    if not train or key is None:
        _refuse_draws(module)
    options = {switch.name: switch.value(train)} if switch else {}
    output = outputs.single(module(x, **options))
    return output, _split(module)[-1]


def _construct(constructor, key):
    from flax import nnx

    module = constructor(nnx.Rngs(key))
    if not isinstance(module, nnx.Module):
        msg = f"constructor(rngs) gives {module!r}, which is no NNX module"
        raise ValueError(msg)
    return module


def _split(module):
    """``(graph, params, streams, batch_stats)``; what a pass has sown is dropped."""
    from flax import nnx

    filters = (nnx.Param, nnx.RngState, nnx.Intermediate, ...)
    graph, *states = nnx.split(module, *filters)
    params, streams, _, batch_stats = states
    return graph, params, streams, batch_stats


# --- random streams ---


class _DrawnError(Exception):
    """A stream was drawn from that must not be."""


@functools.cache
def _refusing_stream():
    from flax import nnx

    class RefusingStream(nnx.RngStream):
        def __call__(self) -> Key:
            raise _DrawnError

    return RefusingStream


@contextlib.contextmanager
def _explained(train):
    try:
        yield
    except _DrawnError as error:
        msg = "the network draws random numbers in training: give apply a key"
        if not train:
            msg = (
                "the network draws random numbers in evaluation: let module.eval() or "
                "an argument of __call__, as in mode='is_train', switch its layers"
            )
        raise ValueError(msg) from error


def _refuse_draws(module):
    from flax import nnx

    for _, node in nnx.iter_graph(module):
        if type(node) is nnx.RngStream:
            node.__class__ = _refusing_stream()


def _seeded(streams, key):
    """The state of all streams at their first draw, each from a part of ``key``."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    leaves, tree = jax.tree.flatten(streams)
    keys = jax.random.split(key, max(1, len(leaves)))

    def fresh(leaf, key):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.split(key, leaf.shape) if leaf.shape else key
        return jnp.zeros(leaf.shape, leaf.dtype)

    pairs = zip(leaves, keys, strict=False)
    return jax.tree.unflatten(tree, [fresh(leaf, key) for leaf, key in pairs])


# --- what the modes must switch ---


def _check(network, x):
    x = jax.ShapeDtypeStruct((max(2, len(x)), *x.shape[1:]), jnp.result_type(x))
    with _explained(False):
        moves = _moves(network, x, False)
    if moves:
        msg = (
            "the network changes statistics in evaluation: let module.eval() or an "
            "argument of __call__, as in mode='is_train', switch its layers"
        )
        raise ValueError(msg)
    if network.mode == "auto":
        _check_live(network, x)


def _check_live(network, x):
    """Layers that are live as constructed must do something in training."""
    averaging, drawing = network.structure.averaging, network.structure.drawing
    idle = []
    try:
        if drawing and not _draws(network, x):
            idle += drawing
        if averaging and not _moves(network, x, True):
            idle += averaging
    except NameError:  # of an axis that is mapped in training only
        return
    if idle:
        msg = (
            f"{', '.join(idle)}: live as constructed, but without effect in training: "
            "name the argument of __call__ that switches them, as in mode='is_train', "
            "or give mode=None if nothing is to be switched"
        )
        raise ValueError(msg)


def _live_layers(module):
    """Names of the layers that keep statistics, and of those that draw."""
    from flax import nnx

    averaging, drawing = [], []
    for _, node in nnx.iter_graph(module):
        fields = vars(node) if isinstance(node, nnx.Module) else {}
        if fields.get("use_running_average", True) is not True:
            averaging.append(type(node).__name__)
        rate = fields.get("rate", fields.get("dropout_rate", 1))
        if fields.get("deterministic", True) is not True and rate != 0:
            drawing.append(type(node).__name__)
    return averaging, drawing


def _draws(network, x):
    def output(x, params, stats):
        return _call(network, params, stats, x, True, None)[0]

    try:
        jax.eval_shape(output, x, *_variables(network))
    except _DrawnError:
        return True
    return False


def _variables(network):
    return network.structure.params, network.structure.batch_stats


def _moves(network, x, train):
    """Whether statistics after a pass depend on ``x``."""

    def after(x, params, stats, key):
        key = key if train else None
        return jax.tree.leaves(_call(network, params, stats, x, train, key)[1])

    jaxpr = jax.make_jaxpr(after)(x, *_variables(network), jax.random.key(0)).jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return used[0]
