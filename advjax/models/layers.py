"""Layers with PyTorch's conventions, on channels-last arrays.

Every layer computes in the dtype of its input and keeps its parameters in float32.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from advjax import arguments
from advjax.types import Array

Initializer = Callable[..., Array]
"""``(key, shape, dtype) -> array``, as in ``jax.nn.initializers``."""

torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""U(±1/√fan_in), PyTorch's default for kernels."""

kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""N(0, 2/fan_in), not truncated, as PyTorch's."""

kaiming_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""N(0, 2/fan_out), not truncated, as PyTorch's."""


def convolution(x: Array, kernel: Array, *, stride: int, padding: int) -> Array:
    """Cross-correlation of ``x[n, h, w, c]`` with ``kernel[i, j, c, features]``.

    All convolutions of the library go through this function. ``padding`` zeros are put
    on each of the four sides.
    """
    if all(1 <= side <= 2 for side in _output_side(x, kernel, stride, padding)):
        return _by_patches(x, kernel, stride, padding)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _output_side(x, kernel, stride, padding):
    sides = zip(x.shape[1:3], kernel.shape[:2], strict=True)
    return [(side + 2 * padding - width) // stride + 1 for side, width in sides]


def _by_patches(x, kernel, stride, padding):
    """One matrix product over patches.

    For outputs of at most 2×2, for which XLA's convolution on CPU is 70 times slower.
    On other devices nothing is lost, since so small an output is a matrix product there
    too.
    """
    h, w = _output_side(x, kernel, stride, padding)
    x = jnp.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    rows, columns, _, features = kernel.shape
    windows = [
        x[:, i : i + stride * h : stride, j : j + stride * w : stride]
        for i in range(rows)
        for j in range(columns)
    ]
    patches = jnp.concatenate(windows, axis=-1)
    return patches @ jnp.reshape(kernel, (-1, features))


def max_pool(x: Array, size: int = 2) -> Array:
    """Maxima over windows ``[size, size]`` with stride ``size``, as PyTorch's.

    Rows and columns that do not fill a window are dropped. The gradient of a tied
    maximum is divided among the entries that attain it, equally if all four do.
    """
    n, h, w, c = x.shape
    x = x[:, : h // size * size, : w // size * size]
    x = jnp.reshape(x, (n, h // size, size, w // size, size, c))
    # The gradient of lax.reduce_window scatters: slow on CPU, not deterministic on GPU.
    x = functools.reduce(jnp.maximum, (x[:, :, i] for i in range(size)))
    return functools.reduce(jnp.maximum, (x[:, :, :, j] for j in range(size)))


def relu_softplus(x: Array) -> Array:
    """max(x, 0), with the derivative sigmoid(10 x) of log(1 + exp(10 x))/10.

    The hybrid of Xie et al. (2020): ReLU in the forward pass, softplus in the backward
    pass. Higher derivatives are those of the sigmoid.
    """
    return _relu_softplus(x)


_relu_softplus = jax.custom_jvp(nn.relu)
_relu_softplus.defjvps(lambda tangent, _, x: jax.nn.sigmoid(10 * x) * tangent)


class Conv(nn.Module):
    """Convolution of ``x[n, h, w, c]`` with a square kernel.

    Attributes:
        features: channels of the output.
        kernel_size: side of the kernel.
        stride: step of the kernel.
        padding: zeros on each of the four sides.
        use_bias: whether to add a bias.
        kernel_init: initialiser of the kernel.
        bias_init: initialiser of the bias; None for PyTorch's, U(±1/√fan_in).
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = True
    kernel_init: Initializer = torch_uniform
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x):
        """``[n, h', w', features]``."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = convolution(
            x, kernel.astype(x.dtype), stride=self.stride, padding=self.padding
        )
        return _add_bias(self, y, shape) if self.use_bias else y


class Dense(nn.Module):
    """Affine map of ``x[n, d]``; attributes as in ``Conv``."""

    features: int
    use_bias: bool = True
    kernel_init: Initializer = torch_uniform
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x):
        """``[n, features]``."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = x @ kernel.astype(x.dtype)
        return _add_bias(self, y, shape) if self.use_bias else y


def _add_bias(layer, y, kernel_shape):
    limit = 1 / math.sqrt(math.prod(kernel_shape[:-1]))
    init = layer.bias_init or functools.partial(_uniform, limit=limit)
    return y + channels(layer.param("bias", init, kernel_shape[-1:], jnp.float32), y)


def _uniform(key, shape, dtype, *, limit):
    return jax.random.uniform(key, shape, dtype, -limit, limit)


class BatchNorm(nn.Module):
    """Batch normalisation as ``torch.nn.BatchNorm2d``, over all axes but the last.

    In training ``x`` is standardised by its mean and biased variance, and the running
    ``mean`` and ``var`` in ``batch_stats`` become 0.9 · old + 0.1 · batch, with the
    unbiased variance; otherwise the running ones standardise. Both are float32.

    Attributes:
        momentum: weight of the batch in the running statistics.
        epsilon: added to the variance.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """``x`` standardised, scaled and shifted.

        Raises:
            ValueError: in training, where a channel has one entry only.
        """
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, width, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, width, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, width, jnp.float32)
        wide = arguments.single(x)
        center, spread = mean.value, var.value
        if train:
            center, spread = self._updated(mean, var, wide)
            scale, bias = scale.astype(center.dtype), bias.astype(center.dtype)
        # One multiply-add per entry: in attacks on a trained network this is hot.
        factor = scale * lax.rsqrt(spread + self.epsilon)
        shift = bias - center * factor
        return (wide * channels(factor, wide) + channels(shift, wide)).astype(x.dtype)

    def _updated(self, mean, var, x):
        count = x.size // x.shape[-1]
        if count < 2:
            msg = f"x.shape = {x.shape}: training needs two entries per channel"
            raise ValueError(msg)
        axes = tuple(range(x.ndim - 1))
        batch_mean, batch_var = jnp.mean(x, axes), jnp.var(x, axes)
        if not self.is_initializing():
            unbiased = batch_var * (count / (count - 1))
            for running, batch in ((mean, batch_mean), (var, unbiased)):
                step = batch.astype(running.value.dtype) - running.value
                running.value += self.momentum * step
        return batch_mean, batch_var


def channels(v: Array, x: Array) -> Array:
    """``v[c]`` in the dtype of ``x[..., c]``, and shaped to broadcast against it."""
    return jnp.expand_dims(v, range(x.ndim - 1)).astype(x.dtype)
