"""Multi-layer perceptrons."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from advjax.models.layers import Dense, Initializer
from advjax.models.network import Network


class MLP(Network, kw_only=True):
    """Network on flattened inputs: ``x[n, ...] -> logits[n, num_classes]``.

    Attributes:
        hidden: widths of the hidden layers.
        use_bias: whether layers have biases.
        kernel_init: initialiser of the kernels.
        bias_init: that of the biases; None is PyTorch's.
    """

    hidden: Sequence[int] = (128,)
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer | None = nn.initializers.zeros

    def features(self, x, train):
        """The last hidden layer."""
        del train
        x = jnp.reshape(x, (x.shape[0], -1))
        for width in self.hidden:
            x = self.activation(self._dense(width)(x))
        return x

    def head(self, x):
        """The output layer."""
        return self._dense(self.num_classes)(x)

    def _dense(self, width):
        return Dense(width, self.use_bias, self.kernel_init, self.bias_init)
