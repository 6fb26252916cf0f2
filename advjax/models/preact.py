"""Residual networks whose blocks begin with batch normalisation and the activation.

By default they are those of Rice et al. (2020); ``form`` names other published ones,
which differ by what a shortcut sees, by padding, and by the last normalisation.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

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


class _Form(NamedTuple):
    """What published networks differ by.

    Attributes:
        shortcut_size: side of the kernels of shortcuts that change the shape.
        sees_input: whether these see the block's input, or its activated form.
        pads_after: whether 3×3 convolutions of stride 2 pad below and on the right
            only, as TensorFlow does, or on all sides.
        ends_with_norm: whether normalisation and activation follow the last block.
    """

    shortcut_size: int = 1
    sees_input: bool = False
    pads_after: bool = False
    ends_with_norm: bool = True


_FORMS = {
    "rice": _Form(),
    "plain": _Form(ends_with_norm=False),
    "wong": _Form(sees_input=True, ends_with_norm=False),
    "deepmind": _Form(shortcut_size=3, sees_input=True, pads_after=True),
}
_WIDE_FORMS = {"trades": _Form(), "deepmind": _Form(pads_after=True)}


class PreActResNet(Network, kw_only=True):
    """Pre-activation residual network, by default the one of 18 layers.

    Attributes:
        widths: channels in each stage; all but the first halve the sides.
        depth: number of blocks in each stage.
        form: "rice"; "plain", without normalisation after the last block; "wong", so,
            and with shortcuts of the input itself, as Wong et al. (2020); or
            "deepmind", with 3×3 shortcuts of the input, and padded as TensorFlow
            does, as Gowal et al. (2021).
    """

    widths: Sequence[int] = (64, 128, 256, 512)
    depth: int = 2
    form: str = "rice"

    def features(self, x, train):
        """Means over the positions of the last stage."""
        form = _choice(self.form, _FORMS)
        x = _conv(self.widths[0], torch_uniform)(x)
        return _stages(self, form, x, train, self.widths, self.depth, torch_uniform)


class WideResNet(Network, kw_only=True):
    """Wide residual network, without dropout.

    Attributes:
        depth: layers, four more than a multiple of six.
        width: channels in units of 16, 32 and 64 in the three stages.
        form: "trades", the network of Zhang et al. (2019) and Rice et al.; or
            "deepmind", padded as TensorFlow does, as Gowal et al. (2020).
    """

    depth: int = 34
    width: int = 10
    form: str = "trades"

    def features(self, x, train):
        """Means over the positions of the last stage.

        Raises:
            ValueError: for a depth that no such network has, and an unknown form.
        """
        form = _choice(self.form, _WIDE_FORMS)
        depth, rest = divmod(self.depth - 4, 6)
        if rest or depth < 1:
            msg = f"depth = {self.depth}: choose 10, 16, 22, 28, 34, …"
            raise ValueError(msg)
        x = _conv(16, kaiming_normal_fan_out)(x)
        widths = [self.width * units for units in (16, 32, 64)]
        return _stages(self, form, x, train, widths, depth, kaiming_normal_fan_out)

    def head(self, x):
        """The output layer."""
        return Dense(self.num_classes, bias_init=nn.initializers.zeros)(x)


class PreActBlock(nn.Module):
    """Normalisation, activation and 3×3 convolution, twice.

    Where the shape changes, the shortcut is a convolution; elsewhere it is the input
    itself.

    Attributes:
        width: channels.
        stride: stride of the first convolution.
        activation: the non-linearity.
        kernel_init: initialiser of the kernels.
        form: of the shortcut and of padding.
    """

    width: int
    stride: int
    activation: Callable[[Array], Array]
    kernel_init: Initializer
    form: _Form = _Form()

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """The block's output."""
        active = self.activation(BatchNorm()(x, train=train))
        y = self._strided(active, 3)
        y = self.activation(BatchNorm()(y, train=train))
        y = _conv(self.width, self.kernel_init)(y)
        if x.shape == y.shape:
            return y + x
        seen = x if self.form.sees_input else active
        return y + self._strided(seen, self.form.shortcut_size)

    def _strided(self, x, size):
        """A convolution with the block's stride."""
        options = {"size": size, "stride": self.stride}
        if self.form.pads_after and self.stride == 2 and size == 3:
            x = jnp.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])
            options["padding"] = 0
        return _conv(self.width, self.kernel_init, **options)(x)


def _choice(name, forms):
    if name not in forms:
        msg = f"form = {name!r}: choose from {', '.join(forms)}"
        raise ValueError(msg)
    return forms[name]


def _stages(network, form, x, train, widths, depth, kernel_init):
    for stage, width in enumerate(widths):
        for i in range(depth):
            stride = 2 if i == 0 and stage > 0 else 1
            x = PreActBlock(width, stride, network.activation, kernel_init, form)(
                x, train
            )
    if form.ends_with_norm:
        x = network.activation(BatchNorm()(x, train=train))
    return jnp.mean(x, (1, 2))


def _conv(width, kernel_init, *, size=3, stride=1, padding=None):
    padding = size // 2 if padding is None else padding
    options = {"use_bias": False, "kernel_init": kernel_init}
    return Conv(width, size, stride=stride, padding=padding, **options)
