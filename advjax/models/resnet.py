"""Residual networks for small images, with the activation after the addition."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from advjax.models.layers import (
    BatchNorm,
    Conv,
    Dense,
    kaiming_normal_fan_out,
    max_pool,
)
from advjax.models.network import Network
from advjax.types import Array


class BasicBlock(nn.Module):
    """Two 3×3 convolutions.

    Attributes:
        width: channels.
        stride: stride of the first convolution.
        activation: the non-linearity.
    """

    width: int
    stride: int
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """The block's output."""
        y = self.activation(_conv_bn(x, train, self.width, stride=self.stride))
        y = _conv_bn(y, train, self.width)
        return self.activation(y + _shortcut(x, y, train, self.stride))


class Bottleneck(nn.Module):
    """Convolutions 1×1, 3×3 and 1×1, the last of four times the width.

    Attributes:
        width: channels of the first two convolutions.
        stride: stride of the 3×3 convolution.
        activation: the non-linearity.
    """

    width: int
    stride: int
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """The block's output."""
        y = self.activation(_conv_bn(x, train, self.width, size=1))
        y = self.activation(_conv_bn(y, train, self.width, stride=self.stride))
        y = _conv_bn(y, train, 4 * self.width, size=1)
        return self.activation(y + _shortcut(x, y, train, self.stride))


class ResNet(Network, kw_only=True):
    """torchvision's residual networks of four stages, for small images.

    The stem is a 3×3 convolution of stride 1, without pooling.

    Attributes:
        depths: number of blocks in each stage.
        widths: channels in each stage, before the expansion of ``Bottleneck``.
        block: ``BasicBlock`` or ``Bottleneck``.
    """

    depths: Sequence[int] = (2, 2, 2, 2)
    widths: Sequence[int] = (64, 128, 256, 512)
    block: Callable[..., nn.Module] = BasicBlock

    def features(self, x, train):
        """Means over the positions of the last stage."""
        x = self.activation(_conv_bn(x, train, self.widths[0]))
        for stage, (depth, width) in enumerate(
            zip(self.depths, self.widths, strict=True)
        ):
            for i in range(depth):
                stride = 2 if i == 0 and stage > 0 else 1
                x = self.block(width, stride, self.activation)(x, train)
        return jnp.mean(x, (1, 2))


class ResNet9(Network, kw_only=True):
    """The network of David Page (cifar10-fast), of nine layers.

    Its last pooling takes the maximum over all positions, and its logits, without a
    bias, are multiplied by 1/8.

    Attributes:
        width: channels of the first layer; later ones have 2, 4 and 8 times as many.
    """

    width: int = 64

    def features(self, x, train):
        """``8 * width`` maxima."""
        x = self._layer(x, train, self.width)
        for factor, residual in ((2, True), (4, False), (8, True)):
            width = factor * self.width
            x = max_pool(self._layer(x, train, width))
            if residual:
                x += self._layer(self._layer(x, train, width), train, width)
        return jnp.max(x, (1, 2))

    def head(self, x):
        """The output layer."""
        return Dense(self.num_classes, use_bias=False)(x) / 8

    def _layer(self, x, train, width):
        conv = Conv(width, 3, padding=1, use_bias=False)
        return self.activation(BatchNorm()(conv(x), train=train))


def _conv_bn(x, train, width, *, size=3, stride=1):
    conv = Conv(
        width,
        size,
        stride=stride,
        padding=size // 2,
        use_bias=False,
        kernel_init=kaiming_normal_fan_out,
    )
    return BatchNorm()(conv(x), train=train)


def _shortcut(x, y, train, stride):
    if x.shape == y.shape:
        return x
    return _conv_bn(x, train, y.shape[-1], size=1, stride=stride)
