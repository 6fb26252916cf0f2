"""Reasons to distrust what an attack or a search found, example by example.

    found = margins.boundary(attack, norm)(key, margin, x, y, eps)
    found.flags.caveats()                      # a line for each reason; () for none

An attack fails silently: without a gradient it goes nowhere, and the model looks
robust. So the flags travel with every number that rests on an attack.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from advjax.types import Array, AttackInfo

__all__ = ["Flags", "of", "of_probabilities", "raised"]


class Flags(NamedTuple):
    """``[n]`` each, or ``[t, n]`` over radii. Fields that are None are unknown.

    Attributes:
        zero_grad: the gradient vanished before the attack had succeeded.
        undefined: something was not a number: a gradient, a point or its value.
        outside: the input itself is not within the attack's bounds.
    """

    zero_grad: Array
    undefined: Array | None
    outside: Array | None

    def caveats(self) -> tuple[str, ...]:
        """A line for each flag that some example raises, with their number."""
        n = np.size(self.zero_grad)
        lines = {
            "gradients vanished: there the attack had no direction, and the model may "
            "only look robust": self.zero_grad,
            "examples had a gradient, output or attacked input that is not a number": (
                self.undefined
            ),
            "inputs lie outside of the bounds: are these the units of the data?": (
                self.outside
            ),
        }
        return tuple(
            f"{raised(flag)} of {n} {line}"
            for line, flag in lines.items()
            if raised(flag)
        )


def of(info: AttackInfo, *, undefined: Array | None = None) -> Flags:
    """The flags of an attack; ``undefined[n]`` are the caller's own reasons."""
    reasons = [each for each in (info.undefined_grad, undefined) if each is not None]
    is_undefined = jnp.any(jnp.stack(reasons), axis=0) if reasons else None
    return Flags(info.zero_grad, is_undefined, info.outside)


def of_probabilities(seen: Any, undefined: Any = None) -> tuple[str, ...]:
    """A line if the outputs of all defined examples are ``criteria.probabilities``.

    Args:
        seen: ``[n]``, or None where nothing is known.
        undefined: ``[n]``, examples that do not count; or None.
    """
    if seen is None:
        return ()
    n, seen = np.size(seen), np.asarray(seen)
    if undefined is not None:
        seen = seen[~np.asarray(undefined)]
    # Logits of a single example may look like probabilities by chance.
    if not seen.size or not seen.all():
        return ()
    line = "outputs are probabilities, not logits: losses and gradients are flat"
    return (f"{seen.size} of {n} {line}",)


def raised(flag: Any) -> int:
    """How many entries are raised; 0 where nothing is known."""
    return 0 if flag is None else int(np.sum(np.asarray(flag)))
