"""Convolutional networks without batch normalisation or shortcuts.

An activation directly before a pooling is applied after it, to a quarter as many
entries: activations do not decrease, so the result is the same.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from advjax.models.layers import (
    Conv,
    Dense,
    kaiming_normal,
    kaiming_normal_fan_out,
    max_pool,
)
from advjax.models.network import Network


class WongCNN(Network, kw_only=True):
    """The MNIST network of Wong et al. (2020): two strided convolutions, one layer.

    Attributes:
        width: units of the hidden layer after the convolutions.
    """

    width: int = 100

    def features(self, x, train):
        """``width`` units."""
        del train
        for width in (16, 32):
            x = self.activation(Conv(width, 4, stride=2, padding=1)(x))
        return _dense_layers(self, x, (self.width,))


class LeNet5(Network, kw_only=True):
    """AdverTorch's MNIST network: 3×3 convolutions and pooling, twice, and one layer.

    Attributes:
        width: units of the hidden layer after the convolutions.
    """

    width: int = 200

    def features(self, x, train):
        """``width`` units."""
        del train
        for width in (32, 64):
            x = self.activation(max_pool(Conv(width, 3, padding=1)(x)))
        return _dense_layers(self, x, (self.width,))


class ClassicLeNet5(Network):
    """LeNet-5 of LeCun et al. (1998) as used today, with ReLU and max-pooling."""

    def features(self, x, train):
        """84 units."""
        del train
        for width, padding in ((6, 2), (16, 0)):
            x = self.activation(max_pool(Conv(width, 5, padding=padding)(x)))
        return _dense_layers(self, x, (120, 84))


class PlainCNN(Network, kw_only=True):
    """3×3 convolutions, the first two of stride 2, and a linear layer; no biases.

    Without pooling it is linear in the input while the gates of its ReLUs are fixed.

    Attributes:
        widths: channels of the convolutions.
    """

    widths: Sequence[int] = (16, 32)

    def features(self, x, train):
        """The last convolution, flattened."""
        del train
        for i, width in enumerate(self.widths):
            x = self.activation(_free_conv(width, stride=2 if i < 2 else 1)(x))
        return _flat(x)

    def head(self, x):
        """The output layer."""
        return _free_dense(self.num_classes)(x)


class ResCNN(Network, kw_only=True):
    """A 3×3 convolution of stride 2, blocks activation(conv(x) + x), a linear layer.

    All convolutions have 32 channels; there are no biases.

    Attributes:
        num_blocks: number of blocks; the network has two more layers.
    """

    num_blocks: int = 1

    def features(self, x, train):
        """The last block, flattened."""
        del train
        x = self.activation(_free_conv(32, stride=2)(x))
        for _ in range(self.num_blocks):
            x = self.activation(_free_conv(32)(x) + x)
        return _flat(x)

    def head(self, x):
        """The output layer."""
        return _free_dense(self.num_classes)(x)


class AlexNet(Network, kw_only=True):
    """torchvision's AlexNet for images of 32×32, without dropout.

    Its first convolution, 11×11 of stride 4, is 3×3 of stride 2 here, and pooling is
    2×2 instead of 3×3, always of stride 2. Sides are 32, 16, 8, 4, 2.

    Attributes:
        hidden: widths of the hidden layers after the convolutions.
    """

    hidden: Sequence[int] = (4096, 4096)
    min_size: int = 32

    def features(self, x, train):
        """The last hidden layer."""
        del train
        x = self.activation(max_pool(Conv(64, 3, stride=2, padding=1)(x)))
        x = self.activation(max_pool(Conv(192, 5, padding=2)(x)))
        for width in (384, 256, 256):
            x = self.activation(Conv(width, 3, padding=1)(x))
        return _dense_layers(self, max_pool(x), self.hidden)


class VGG11(Network, kw_only=True):
    """torchvision's VGG-11 for images of 32×32, without dropout or normalisation.

    The convolutions are as they were and end at 1×1, so that 512 inputs instead of
    25088 reach the hidden layers. These start from N(0, 2/fan_in): torchvision's
    standard deviation 0.01, right for 25088, would leave no signal to learn from.

    Attributes:
        hidden: widths of the hidden layers after the convolutions.
    """

    hidden: Sequence[int] = (4096, 4096)
    min_size: int = 32

    def features(self, x, train):
        """The last hidden layer."""
        del train
        for widths in ((64,), (128,), (256, 256), (512, 512), (512, 512)):
            for width in widths:
                x = self.activation(Conv(width, 3, padding=1, **_VGG_CONV)(x))
            x = max_pool(x)
        return _dense_layers(self, x, self.hidden, **_VGG_DENSE)

    def head(self, x):
        """The output layer."""
        return Dense(self.num_classes, **_VGG_DENSE)(x)


_ZERO_BIAS = nn.initializers.zeros
_VGG_CONV: dict[str, Any] = {
    "kernel_init": kaiming_normal_fan_out,
    "bias_init": _ZERO_BIAS,
}
_VGG_DENSE: dict[str, Any] = {"kernel_init": kaiming_normal, "bias_init": _ZERO_BIAS}


def _free_conv(width, stride=1):
    options: dict[str, Any] = {"use_bias": False, "kernel_init": kaiming_normal}
    return Conv(width, 3, stride=stride, padding=1, **options)


def _free_dense(width):
    return Dense(width, use_bias=False, kernel_init=kaiming_normal)


def _flat(x):
    return jnp.reshape(x, (x.shape[0], -1))


def _dense_layers(network, x, widths, **options):
    x = _flat(x)
    for width in widths:
        x = network.activation(Dense(width, **options)(x))
    return x
