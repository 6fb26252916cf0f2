"""Functions of parameters and inputs as a ``types.Model``."""

import functools
from collections.abc import Callable

from advjax.models import modes, outputs
from advjax.types import Array, Key, Model, Params

__all__ = ["from_function"]


def from_function(
    init: Callable[[Key, Array], Params], predict: Callable[[Params, Array], Array]
) -> Model:
    """A model from two functions, the same in training and evaluation.

    Haiku and hand-written networks without statistics and dropout fit this form.

    Args:
        init: ``(key, x[n, ...]) -> params``.
        predict: ``(params, x[n, ...]) -> output[n, ...]``. A function that is told
            whether it is trained, by an argument named as in ``from_linen``, is
            refused, since it would always be called with the default.

    Raises:
        ValueError: for such a ``predict``; in ``apply``, unless it returns one array.
    """
    switch = modes.find(functools.partial(predict, None), "auto")
    if switch is not None:
        msg = (
            f"predict takes {switch.name}, which from_function never passes: bind it, "
            f"functools.partial(predict, {switch.name}=...), or write a Model"
        )
        raise ValueError(msg)

    def apply(params, batch_stats, x, *, train, key=None):
        del train, key
        return outputs.single(predict(params, x)), batch_stats

    return Model(lambda key, x: (init(key, x), {}), apply)
