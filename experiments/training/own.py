"""A network of one's own, which ``--config.model=package.module:Name`` names.

    class Net(nn.Module):            # linen: Net(num_classes=10)
    class Net(nnx.Module):           # Net(num_classes=10, rngs=rngs)
    class Net(eqx.Module):           # Net(num_classes=10, key=key)
    def net(num_classes):            # anything else, as a types.Model

``num_classes`` is given where it is taken. Pixels in [0, 1] arrive: a network
normalises them itself. The module is looked for in the working directory as well.
"""

import contextlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from advjax import models, weights
from advjax.types import Model
from experiments import checks, files


def is_own(name: str) -> bool:
    """Whether a name is of this kind, and not one of ``advjax.models``."""
    return ":" in name


def digest(name: str) -> str:
    """The digest of the file that a network is written in; runs its code.

    Raises:
        ConfigError: for what is no network, or has no file.
    """
    try:
        return files.digest(Path(inspect.getfile(_found(name))))[:12]
    except (TypeError, OSError) as error:
        raise _wrong(name, f"its code is in no file: {error}") from error


def model(name: str, num_classes: int) -> Model:
    """The network of this name; runs its code.

    Args:
        name: such as "package.module:Name".
        num_classes: how many outputs it should have, if it takes that.

    Raises:
        ConfigError: for what is no network.
    """
    found = _found(name)
    given = {"num_classes": num_classes} if "num_classes" in _taken(name, found) else {}
    try:
        return _model(found, given)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise _wrong(name, reason) from error


def _model(found: Callable[..., Any], given: dict[str, Any]) -> Model:
    if _is_class(found, nn.Module):
        return models.from_linen(found(**given))
    if _is_class(found, *_base("flax.nnx", "Module")):
        return _in_dicts(models.from_nnx(lambda rngs: found(**given, rngs=rngs)))
    if _is_class(found, *_base("equinox", "Module")):
        return _in_dicts(models.from_equinox(lambda key: found(**given, key=key)))
    made = found(**given)
    if not isinstance(made, Model):
        msg = f"it returned a {type(made).__name__}: give a function that returns a "
        msg += "types.Model, as models.from_function does, or the class of a network"
        raise TypeError(msg)
    return _in_dicts(made)


def _in_dicts(model: Model) -> Model:
    """A model whose parameters are nested dicts, as files of parameters hold them.

    Names are the paths in the trees, such as "layers/0/weight".
    """

    def init(key, x):
        return tuple(_as_dict(tree) for tree in model.init(key, x))

    def apply(params, batch_stats, x, *, train, key=None):
        like = jax.eval_shape(model.init, jax.random.key(0), x)
        given = (params, batch_stats)
        trees = [_like(tree, own) for tree, own in zip(like, given, strict=True)]
        output, batch_stats = model.apply(*trees, x, train=train, key=key)
        return output, _as_dict(batch_stats)

    return Model(init, apply)


def _as_dict(tree: Any) -> dict[str, Any]:
    # A single array has a path without a name.
    leaves = {name or "array": leaf for name, leaf in weights.named(tree).items()}
    return unflatten_dict(leaves, sep="/")


def _like(tree: Any, own: dict[str, Any]) -> Any:
    """The leaves of ``own`` in the structure that ``tree`` has."""
    leaves = flatten_dict(own, sep="/")
    names = [name or "array" for name in weights.named(tree)]
    return jax.tree.structure(tree).unflatten([leaves[name] for name in names])


def _found(name: str) -> Callable[..., Any]:
    """What a name is of."""
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
        raise _wrong(name, "give package.module:Name")
    module, _, attribute = name.partition(":")
    try:
        with _from_here():
            there = importlib.import_module(module)
    except Exception as error:
        is_absent = isinstance(error, ModuleNotFoundError) and error.name == module
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        place = f"{Path.cwd()} and the environment have no module {module}"
        raise _wrong(name, place if is_absent else reason) from error
    found = getattr(there, attribute, None)
    if not callable(found):
        kinds = [each for each in vars(there) if callable(getattr(there, each))]
        raise _wrong(
            name, f"no {attribute} in {module}: {checks.choose(attribute, kinds)}"
        )
    return found


@contextlib.contextmanager
def _from_here() -> Iterator[None]:
    """With modules of the working directory, as ``python -m`` has them."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _taken(name: str, found: Callable[..., Any]) -> set[str]:
    """What it takes by name."""
    try:
        # Metaclasses of networks hide what a constructor takes.
        made = found.__init__ if isinstance(found, type) else found
        return {*inspect.signature(made).parameters}
    except (TypeError, ValueError) as error:
        raise _wrong(name, f"it cannot be called: {error}") from error


def _is_class(found: Any, *bases: type) -> bool:
    return isinstance(found, type) and issubclass(found, bases)


def _base(module: str, name: str) -> list[type]:
    """A class of a package that the network's own module has imported; or none."""
    return [getattr(sys.modules[module], name)] if module in sys.modules else []


def _wrong(name: str, reason: str) -> checks.ConfigError:
    return checks.ConfigError(f"config.model = {name!r}: {reason}")
