"""Random transformations of training images, on the device.

Example ``i`` of a batch is transformed by ``fold_in(key, i)`` alone, whatever the size
of the batch; ``[n]`` keys, one per example, are taken as well. Shapes and dtypes are
kept. Attacks come after augmentation: ``eps`` bounds what is added to its result.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from advjax import arguments
from advjax.types import Array, Key, example_keys

__all__ = ["Augmentation", "chain", "crop", "flip", "identity", "rotate", "standard"]


class Augmentation(Protocol):
    """A random transformation of a batch of images."""

    def __call__(self, key: Key, x: Array, /) -> Array:
        """``(key, x[n, h, w, c]) -> x[n, h, w, c]``, in the same dtype.

        Raises:
            ValueError: for images of other axes, and for another number of keys than of
                images.
        """


def identity(key: Key, x: Array) -> Array:
    """The images as they are."""
    del key
    return x


def crop(pad: int, mode: str) -> Augmentation:
    """Pads each side by ``pad`` pixels and cuts the old size out at a random place.

    Args:
        pad: at 0 nothing changes.
        mode: "reflect" about the outermost pixels, which are not repeated; or
            "constant", zeros.

    Raises:
        ValueError: for a negative ``pad`` or an unknown mode.
    """
    pad = arguments.count("pad", pad, least=0)
    if mode not in ("reflect", "constant"):
        msg = f"mode = {mode!r}: choose 'reflect' or 'constant'"
        raise ValueError(msg)

    def one(key: Key, padded: Array) -> Array:
        row, column = jax.random.randint(key, (2,), 0, 2 * pad + 1)
        height, width, channels = padded.shape
        shape = (height - 2 * pad, width - 2 * pad, channels)
        return jax.lax.dynamic_slice(padded, (row, column, 0), shape)

    def augment(key: Key, x: Array) -> Array:
        keys = _keys(key, x)
        sides = (pad, pad)
        return jax.vmap(one)(keys, jnp.pad(x, ((0, 0), sides, sides, (0, 0)), mode))

    return augment


def flip() -> Augmentation:
    """Mirrors left and right with probability 1/2."""

    def augment(key: Key, x: Array) -> Array:
        mirrored = jax.vmap(jax.random.bernoulli)(_keys(key, x))
        return jnp.where(mirrored[:, None, None, None], x[:, :, ::-1], x)

    return augment


def rotate(max_degrees: float) -> Augmentation:
    """Rotates about the centre by an angle uniform within ±``max_degrees``.

    Each pixel takes the value of the nearest one, zero beyond the border, as
    ``RandomRotation`` of torchvision does by default.

    Raises:
        ValueError: unless 0 ≤ max_degrees ≤ 180.
    """
    if not 0 <= max_degrees <= 180:
        msg = f"max_degrees = {max_degrees}: choose from 0 to 180"
        raise ValueError(msg)

    def one(key: Key, image: Array) -> Array:
        bound = jnp.deg2rad(jnp.float32(max_degrees))
        angle = jax.random.uniform(key, (), jnp.float32, -bound, bound)
        return _rotated(image, angle)

    return lambda key, x: jax.vmap(one)(_keys(key, x), x)


def _rotated(image: Array, angle: Array) -> Array:
    """Counter-clockwise by ``angle`` radians; ``image[h, w, c]``."""
    size = image.shape[:2]
    down, right = (
        jnp.arange(length, dtype=angle.dtype) - (length - 1) / 2 for length in size
    )
    down, right = down[:, None], right[None, :]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    source = (cos * down + sin * right, cos * right - sin * down)
    # The image is surrounded by one ring of zeros, for everything beyond it.
    row, column = (
        jnp.clip(jnp.floor(at + length / 2).astype(jnp.int32) + 1, 0, length + 1)
        for at, length in zip(source, size, strict=True)
    )
    return jnp.pad(image, ((1, 1), (1, 1), (0, 0)))[row, column]


def chain(*augmentations: Augmentation) -> Augmentation:
    """Applies one augmentation after the other, with independent keys."""

    def augment(key: Key, x: Array) -> Array:
        keys = _keys(key, x)
        for index, augmentation in enumerate(augmentations):
            x = augmentation(jax.vmap(jax.random.fold_in, (0, None))(keys, index), x)
        return x

    return augment


def standard(dataset: str) -> Augmentation:
    """The literature's augmentation of a data set, by its name in ``data.load``.

    "cifar10": reflected crops of 4 pixels, flips. "cifar100": crops of 4 pixels with
    zeros, flips, rotations by up to 15°. "svhn_cropped", "mnist" and "digits": nothing.

    Raises:
        ValueError: for other data sets.

    Source: Rice, Wong & Kolter (2020), Overfitting in adversarially robust deep
    learning, and their code.
    """
    if dataset not in _STANDARD:
        msg = f"dataset = {dataset!r}: choose one of {', '.join(sorted(_STANDARD))}"
        raise ValueError(msg)
    return _STANDARD[dataset]


def _keys(key: Key, x: Array) -> Key:
    if np.ndim(x) != 4:
        msg = f"x has shape {np.shape(x)}: give images, [n, height, width, channels]"
        raise ValueError(msg)
    return example_keys(key, x.shape[0])


_STANDARD = {
    "cifar10": chain(crop(4, "reflect"), flip()),
    "cifar100": chain(crop(4, "constant"), flip(), rotate(15)),
    "svhn_cropped": identity,
    "mnist": identity,
    "digits": identity,
}
