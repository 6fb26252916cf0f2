"""The base of all networks: normalisation of the input, dtype and output layer."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from advjax import arguments
from advjax.models.layers import Dense, channels
from advjax.types import Array


class Network(nn.Module, kw_only=True):
    """Base of the networks: ``x[n, ...] -> logits[n, num_classes]``.

    A network defines ``features``, and ``head`` if its output layer is not a plain
    ``Dense``. Logits, and the arithmetic of the output layer, are at least float32.

    Attributes:
        num_classes: width of the output.
        activation: the non-linearity, entry by entry.
        dtype: dtype of the computation; None for that of the input, at least float32.
            Parameters are always float32.
        mean: mean of each input channel, subtracted first.
        std: standard deviation of each input channel, which divides the difference.
        min_size: side to which smaller images are padded with zeros, equally on all
            sides and before the normalisation.
    """

    num_classes: int
    activation: Callable[[Array], Array] = nn.relu
    dtype: Any = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    min_size: int = 0

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """The logits.

        Raises:
            ValueError: if ``mean`` or ``std`` does not have one entry per channel.
        """
        x = self._normalised(_padded(arguments.single(x), self.min_size))
        features = self.features(x.astype(self.dtype or x.dtype), train)
        return self.head(arguments.single(features))

    def features(self, x: Array, train: bool) -> Array:
        """``[n, d]``, the input of the output layer."""
        raise NotImplementedError

    def head(self, x: Array) -> Array:
        """The output layer."""
        return Dense(self.num_classes)(x)

    def _normalised(self, x):
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != x.shape[-1]:
                msg = f"{name} = {values}: the input has {x.shape[-1]} channels"
                raise ValueError(msg)
        if self.mean is not None:
            x -= channels(jnp.asarray(self.mean), x)
        if self.std is not None:
            x /= channels(jnp.asarray(self.std), x)
        return x


def _padded(x, min_size):
    if min(x.shape[1:3], default=min_size) >= min_size:
        return x
    missing = [max(0, min_size - side) for side in x.shape[1:3]]
    both = [(size // 2, size - size // 2) for size in missing]
    return jnp.pad(x, [(0, 0), *both, (0, 0)])
