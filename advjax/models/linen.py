"""Linen modules as a ``types.Model``."""

import contextlib
import dataclasses
import functools
import inspect
import secrets
import warnings
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import errors

from advjax.models import modes, outputs
from advjax.types import Model

__all__ = ["from_linen"]


def from_linen(
    module: nn.Module | Callable[..., Any],
    *,
    mode: str | None = "auto",
    rngs: tuple[str, ...] = ("dropout",),
) -> Model:
    """A model from a linen module.

    The mode reaches ``module(x, ...)`` as a static argument, also through ``nn.remat``,
    ``nn.vmap`` and an ``nn.jit`` to which it is static. ``batch_stats`` is the
    collection of that name; if the module has further collections, such as constants,
    it is a dict of all collections but ``params``, by name. It changes in training
    only, and keeps its dtypes.

    Args:
        module: an instance, or ``functools.partial`` of one, whose arguments are passed
            at every call. Layers that it freezes itself stay frozen.
        mode: the argument of ``module.__call__`` that switches dropout and statistics.
            deterministic, use_running_average, inference and eval receive
            ``not train``, all other names ``train``. "auto" takes the only one of these
            four and of train, training and is_training that the signature has; an
            argument of ``**kwargs`` must be named. None says that nothing is to be
            switched.
        rngs: names of the random streams that layers draw from in training. One stream
            receives the key of ``apply`` itself, several receive parts of it.

    Returns:
        A model whose ``apply`` raises ``ValueError`` where a layer draws in training
        and no ``key`` is given, and where the output is not one array.

    Raises:
        ValueError: for what is no instance, and for a mode that ``__call__`` cannot
            take. ``init`` raises it for statistics or dropout that the mode does not
            switch: unless ``mode`` is None or named, those that are always frozen, and
            in any case those that are always live.
    """
    network = _Network.of(module, mode, rngs)
    return Model(network.init, network.apply)


@dataclasses.dataclass(frozen=True, eq=False)
class _Network:
    """A module with its mode; ``eq=False``, since modules need not be hashable."""

    module: nn.Module
    args: tuple[Any, ...]
    keywords: dict[str, Any]
    mode: str | None
    switch: modes.Switch | None
    rngs: tuple[str, ...]

    @classmethod
    def of(cls, module, mode, rngs):
        bound = module if isinstance(module, functools.partial) else None
        module, args, keywords = (
            (bound.func, bound.args, bound.keywords) if bound else (module, (), {})
        )
        if not isinstance(module, nn.Module):
            msg = f"{module!r} is no linen module: give an instance, such as Net()"
            raise ValueError(msg)
        if isinstance(rngs, str) or not all(isinstance(name, str) for name in rngs):
            msg = f"rngs = {rngs!r}: give a tuple of names, such as ('dropout',)"
            raise ValueError(msg)
        call = functools.partial(module.__call__, *args, **keywords)
        switch = modes.find(call, mode)
        return cls(module, args, dict(keywords), mode, switch, tuple(rngs))

    def init(self, key, x):
        """See ``types.Init``."""
        way = _checked(self, x)
        # Compiled, because the eager form compiles every small operation by itself.
        method = functools.partial(_called, self, way, self.module.init, train=False)
        variables = dict(jax.jit(method)(key, x))
        params = variables.pop("params", {})
        if set(variables) <= {_STATS}:
            return params, variables.get(_STATS, {})
        return params, {_STATS: {}, **variables}

    def apply(self, params, batch_stats, x, *, train, key=None):
        """See ``types.Apply``."""
        collections = _collections(batch_stats)
        if self.switch is None and self.mode == "auto" and collections.get(_STATS):
            raise ValueError(_unswitched(self, "batch statistics"))
        options = {"train": train}
        if train and key is not None:
            options["rngs"] = _streams(self.rngs, key)
        if train and collections:
            options["mutable"] = list(collections)
        variables = {"params": params, **collections}
        with _explained(self, train, key):
            way = _way(self, x)
            output = _called(self, way, self.module.apply, variables, x, **options)
        if "mutable" not in options:
            return outputs.single(output), batch_stats
        output, changed = output
        new = {name: changed.get(name, old) for name, old in collections.items()}
        new = outputs.like(new, collections)
        return outputs.single(output), new if _STATS in batch_stats else new[_STATS]


# --- handing over the mode ---


def _called(network, way, method, first, x, *, train, **options):
    """``method(first, *args, x, ...)``, of ``module.init`` or ``module.apply``."""
    after, keywords, context = way(network, train)
    with context:
        return method(first, *network.args, x, *after, **keywords, **options)


def _by_keyword(network, train):
    given = {network.switch.name: network.switch.value(train)} if network.switch else {}
    return (), {**network.keywords, **given}, contextlib.nullcontext()


def _by_position(network, train):
    """After all arguments that stand between ``x`` and the mode.

    For ``nn.vmap``, which ignores keywords, and for ``static_argnums``.
    """
    call = functools.partial(network.module.__call__, *network.args)
    names = list(inspect.signature(call).parameters)
    between = names[1 : names.index(network.switch.name)]
    values = {**_defaults(call), **network.keywords}
    after = [*(values[name] for name in between), network.switch.value(train)]
    keywords = {k: v for k, v in network.keywords.items() if k not in between}
    return after, keywords, contextlib.nullcontext()


def _by_interception(network, train):
    """Inside of the transformation, which would trace or map it otherwise."""
    return (), network.keywords, _intercepted(network.switch, train)


@contextlib.contextmanager
def _intercepted(switch, train):
    given: list[str] = []

    def interceptor(call, args, keywords, context):
        is_root = context.method_name == "__call__" and not context.module.scope.path
        if is_root and not given:
            given.append(switch.name)
            keywords = {**keywords, switch.name: switch.value(train)}
        return call(*args, **keywords)

    with nn.intercept_methods(interceptor):
        yield
    if not given:
        msg = "a compiled program was reused, whatever the mode"
        raise ValueError(msg)


def _defaults(call):
    parameters = inspect.signature(call).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _way(network, x):
    """The first way for the mode to reach the call that works in both modes."""
    if network.switch is None or not _is_transformed(network.module):
        return _by_keyword
    failures = []
    for way in (_by_keyword, _by_position, _by_interception):
        try:
            _try_init(network, way, x)
        except _MISFITS as error:
            failures.append(error)
        else:
            return way
    name = network.switch.name
    msg = (
        f"{name} does not reach {_named(network)} as a static argument "
        f"({str(failures[0]).splitlines()[0]}): with nn.jit, give "
        f"static_argnames={name!r}"
    )
    raise ValueError(msg) from failures[0]


def _is_transformed(module):
    """Whether ``__call__`` is wrapped once more than flax wraps every method."""
    call, depth = type(module).__call__, 0
    while hasattr(call, "__wrapped__"):
        call, depth = call.__wrapped__, depth + 1
    return depth > 1


def _try_init(network, way, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # nn.vmap ignores keywords
        stream = secrets.token_hex(8)  # the same, for nn.jit to reuse what it will
        for train in (False, True):
            _abstract_variables(network, way, x, train, stream)


_MISFITS = (
    IndexError,
    KeyError,
    RuntimeWarning,
    TypeError,
    ValueError,
    jax.errors.JAXTypeError,
)


# --- what the mode must switch ---


def _checked(network, x):
    """The way of handing over the mode, if it switches what there is to switch."""
    x = jax.ShapeDtypeStruct((max(2, len(x)), *x.shape[1:]), jnp.result_type(x))
    way = _way(network, x)
    with _refused_keyword(network):
        variables = _abstract_variables(network, way, x, False, secrets.token_hex(8))
    layers: list[tuple[str, bool]] = []
    with nn.intercept_methods(_watching(layers)), _explained(network, False, None):
        _probed(network, way, variables, x, False)
    has_stats = bool(jax.tree.leaves(variables.get(_STATS, {})))
    is_random = any(is_random for _, is_random in layers)
    if network.mode == "auto" and network.switch is None and (has_stats or layers):
        found = ", ".join(name for name, _ in layers) or "batch statistics"
        raise ValueError(_unswitched(network, found))
    if network.mode != "auto":
        return way
    frozen = []
    if has_stats and not _changes(network, way, variables, x):
        frozen.append("batch statistics")
    if is_random and not _draws(network, way, variables, x):
        frozen.append("dropout")
    if frozen:
        name = network.switch.name
        msg = (
            f"{name} of {_named(network)} does not switch {' and '.join(frozen)}: name "
            f"the argument that does, or name this one, mode={name!r}, if they are "
            "frozen deliberately"
        )
        raise ValueError(msg)
    return way


def _abstract_variables(network, way, x, train, stream):
    def init(key, x):
        first = {"params": key, stream: key}
        return _called(network, way, network.module.init, first, x, train=train)

    return jax.eval_shape(init, jax.random.key(0), x)


def _probed(network, way, variables, x, train, *, streams=(), mutable=()):
    """The output's shape, or flax's error where something is drawn or changed.

    A stream of a name of its own keeps ``nn.jit`` from reusing a program, inside of
    which nothing would be seen.
    """

    def apply(variables, key, x):
        names = (*streams, secrets.token_hex(8))
        options = {"train": train, "rngs": dict.fromkeys(names, key)}
        method, mutable_ = network.module.apply, list(mutable)
        output, _ = _called(
            network, way, method, variables, x, mutable=mutable_, **options
        )
        return outputs.single(output)

    return jax.eval_shape(apply, variables, jax.random.key(0), x)


def _changes(network, way, variables, x):
    """Whether statistics change in training."""
    try:
        others = set(variables) - {"params", _STATS}
        options = {"streams": network.rngs, "mutable": others}
        _probed(network, way, variables, x, True, **options)
    except (errors.ModifyScopeVariableError, *_UNSEEN):
        return True
    return False


def _draws(network, way, variables, x):
    """Whether something is drawn in training."""
    try:
        _probed(network, way, variables, x, True, mutable=set(variables) - {"params"})
    except (errors.InvalidRngError, *_UNSEEN):
        return True
    return False


# An axis that is mapped in training only, or a stream that is not in rngs: ``apply``
# says what is wrong.
_UNSEEN = (NameError, errors.InvalidRngError)


def _watching(layers):
    """Lists ``(name, is_random)`` of all layers, below the root, that have a mode."""
    num_children = [0]

    def interceptor(call, args, keywords, context):
        if context.method_name != "__call__":
            return call(*args, **keywords)
        num_children[-1] += 1
        num_children.append(0)
        output = call(*args, **keywords)
        module, is_leaf = context.module, num_children.pop() == 0
        random = _is_random(module)
        if module.scope.path and (random or (is_leaf and _has_mode(module))):
            layers.append((module.name or type(module).__name__, random))
        return output

    return interceptor


def _is_random(module):
    rate = getattr(module, "dropout_rate", 0)
    if isinstance(module, nn.Dropout):
        rate = module.rate
    return not (isinstance(rate, int | float) and rate == 0)


def _has_mode(module):
    if isinstance(module, nn.Dropout):
        return False  # of rate 0
    fields = {field.name for field in dataclasses.fields(module)}
    return modes.modal(module.__call__) or not fields.isdisjoint(modes.NAMES)


# --- collections, streams and words ---

_STATS = "batch_stats"


def _collections(batch_stats):
    """Collections by name; linen calls no layer ``batch_stats`` by itself."""
    if _STATS in batch_stats:
        return dict(batch_stats)
    return {_STATS: batch_stats} if batch_stats else {}


def _streams(names, key):
    if len(names) < 2:
        return dict.fromkeys(names, key)
    return dict(zip(names, jax.random.split(key, len(names)), strict=True))


@contextlib.contextmanager
def _explained(network, train, key):
    try:
        yield
    except errors.InvalidRngError as error:
        if not train:
            advice = "no layer may draw in evaluation: let the mode switch it"
        elif key is None:
            advice = "it draws in training: give apply a key"
        else:
            advice = f"name the stream in rngs = {network.rngs!r}"
        raise ValueError(_refusal(network, advice, error)) from error
    except errors.ModifyScopeVariableError as error:
        advice = "no statistics may change in evaluation: let the mode switch them"
        if train:
            advice = "it changes what is not in batch_stats"
        raise ValueError(_refusal(network, advice, error)) from error


@contextlib.contextmanager
def _refused_keyword(network):
    """For a mode that ``**kwargs`` took and handed on."""
    try:
        yield
    except TypeError as error:
        if network.switch is None or f"'{network.switch.name}'" not in str(error):
            raise
        msg = f"mode = {network.mode!r} of {_named(network)}: {error}"
        raise ValueError(msg) from error


def _refusal(network, advice, error):
    return f"{_named(network)}: {advice} ({str(error).split(' (http')[0]})"


def _unswitched(network, found):
    return (
        f"{_named(network)}: no argument is known to switch {found}: name the one that "
        "does, as in mode='is_train', or give mode=None if nothing is to be switched"
    )


def _named(network):
    name = type(network.module).__name__
    return f"{name}.__call__{inspect.signature(network.module.__call__)}"
