"""Residual networks whose blocks begin with batch normalisation and the activation.

Both are those of Rice et al. (2020).
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from advjax.models.layers import (
    BatchNorm,
    Conv,
    Dense,
    Initializer,
    kaiming_normal_fan_out,
    torch_uniform,
)
from advjax.models.network import Network
from advjax.types import Array


class PreActResNet(Network, kw_only=True):
    """Pre-activation residual network, by default the one of 18 layers.

    Attributes:
        widths: channels in each stage; all but the first halve the sides.
        depth: number of blocks in each stage.
    """

    widths: Sequence[int] = (64, 128, 256, 512)
    depth: int = 2

    def features(self, x, train):
        """Means over the positions of the last stage."""
        x = _conv(self.widths[0], torch_uniform)(x)
        return _stages(self, x, train, self.widths, self.depth, torch_uniform)


class WideResNet34(Network, kw_only=True):
    """Wide residual network of 34 layers, without dropout.

    Attributes:
        width: channels in units of 16, 32 and 64 in the three stages.
    """

    width: int = 10

    def features(self, x, train):
        """Means over the positions of the last stage."""
        x = _conv(16, kaiming_normal_fan_out)(x)
        widths = [self.width * units for units in (16, 32, 64)]
        return _stages(self, x, train, widths, 5, kaiming_normal_fan_out)

    def head(self, x):
        """The output layer."""
        return Dense(self.num_classes, bias_init=nn.initializers.zeros)(x)


class PreActBlock(nn.Module):
    """Normalisation, activation and 3×3 convolution, twice.

    Where the shape changes, the shortcut is a 1×1 convolution of the activated input;
    elsewhere it is the input itself.

    Attributes:
        width: channels.
        stride: stride of the first convolution.
        activation: the non-linearity.
        kernel_init: initialiser of the kernels.
    """

    width: int
    stride: int
    activation: Callable[[Array], Array]
    kernel_init: Initializer

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """The block's output."""
        active = self.activation(BatchNorm()(x, train=train))
        y = _conv(self.width, self.kernel_init, stride=self.stride)(active)
        y = self.activation(BatchNorm()(y, train=train))
        y = _conv(self.width, self.kernel_init)(y)
        if x.shape == y.shape:
            return y + x
        shortcut = _conv(self.width, self.kernel_init, size=1, stride=self.stride)
        return y + shortcut(active)


def _stages(network, x, train, widths, depth, kernel_init):
    for stage, width in enumerate(widths):
        for i in range(depth):
            stride = 2 if i == 0 and stage > 0 else 1
            x = PreActBlock(width, stride, network.activation, kernel_init)(x, train)
    x = network.activation(BatchNorm()(x, train=train))
    return jnp.mean(x, (1, 2))


def _conv(width, kernel_init, *, size=3, stride=1):
    options = {"use_bias": False, "kernel_init": kernel_init}
    return Conv(width, size, stride=stride, padding=size // 2, **options)
