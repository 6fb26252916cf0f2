"""Multi-layer perceptrons."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp


class MLP(nn.Module):
    """ReLU network on flattened inputs: ``x[n, ...] -> logits[n, num_classes]``.

    Attributes:
        num_classes: width of the output.
        hidden: widths of the hidden layers.
    """

    num_classes: int
    hidden: Sequence[int] = (128,)

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        """The logits; ``train`` changes nothing here."""
        del train
        x = jnp.reshape(x, (x.shape[0], -1))
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.num_classes)(x)
