"""Augmentations against NumPy's padding and pillow's rotation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from advjax import augmentation, types

ALL = {
    "crop": augmentation.crop(2, "reflect"),
    "flip": augmentation.flip(),
    "rotate": augmentation.rotate(30),
    "chain": augmentation.chain(
        augmentation.flip(), augmentation.crop(1, "constant"), augmentation.rotate(9)
    ),
}


def _images(num_examples, height, width, channels=3):
    shape = (num_examples, height, width, channels)
    return np.random.default_rng(0).integers(1, 256, shape, np.uint8)


def _offsets(image, padded):
    """The places of ``image`` in ``padded``; once, as images are random."""
    places = np.lib.stride_tricks.sliding_window_view(padded, image.shape)[:, :, 0]
    return np.argwhere((places == image).all(axis=(2, 3, 4)))


@pytest.mark.parametrize("mode", ["reflect", "constant"])
@pytest.mark.parametrize("pad", [0, 1, 2, 7])
def test_crops_are_windows_of_the_padded_image(pad, mode, key):
    x = _images(20, 5, 6)
    cropped = np.asarray(jax.jit(augmentation.crop(pad, mode))(key, x))
    sides = ((pad, pad), (pad, pad), (0, 0))
    for before, after in zip(x, cropped, strict=True):
        assert len(_offsets(after, np.pad(before, sides, mode))) >= 1


def test_crops_lie_anywhere_equally_often(key):
    x = _images(2500, 4, 4, 1)
    cropped = np.asarray(jax.jit(augmentation.crop(2, "constant"))(key, x))
    sides = ((2, 2), (2, 2), (0, 0))
    found = [
        _offsets(after, np.pad(before, sides))
        for before, after in zip(x, cropped, strict=True)
    ]
    assert all(len(places) == 1 for places in found)
    counts = np.zeros((5, 5))
    np.add.at(counts, tuple(np.concatenate(found).T), 1)
    # Four standard deviations of binomial counts.
    np.testing.assert_allclose(counts, np.full((5, 5), 100), atol=4 * 98**0.5)


def test_flips_mirror_left_and_right_half_of_the_time(key):
    x = _images(2000, 2, 3)
    flipped = np.asarray(jax.jit(augmentation.flip())(key, x))
    same = (flipped == x).all(axis=(1, 2, 3))
    mirrored = (flipped == x[:, :, ::-1]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(same, ~mirrored)
    assert abs(same.mean() - 0.5) < 4 * 0.5 / 2000**0.5


@pytest.mark.parametrize("size", [(16, 16), (15, 20)])
def test_rotations_are_those_of_pillow(size, key):
    x = _images(30, *size)
    rotated = np.asarray(jax.jit(augmentation.rotate(15))(key, x))
    grid = np.arange(-16, 16.01, 0.1)
    angles = []
    for before, after in zip(x, rotated, strict=True):
        pillow = Image.fromarray(before)
        wrong = [(np.asarray(pillow.rotate(a)) != after).mean() for a in grid]
        # Pixels change their neighbour at most angles between two of the grid.
        assert min(wrong) < 0.05
        angles.append(grid[np.argmin(wrong)])
    assert max(np.abs(angles)) <= 15
    assert min(angles) < -8
    assert max(angles) > 8
    assert abs(np.mean(angles)) < 4 * 15 / 3**0.5 / 30**0.5


def test_rotation_by_a_given_angle_is_exact():
    image = _images(1, 9, 12)[0]
    for degrees in (-170.3, -31.7, -4.9, 0.0, 0.3, 14.2, 77.7, 123.4):
        ours = augmentation._rotated(jnp.asarray(image), jnp.deg2rad(degrees))
        expected = np.asarray(Image.fromarray(image).rotate(degrees))
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("name", ALL)
def test_shapes_and_types_are_kept_and_jit_changes_nothing(name, key):
    augment = ALL[name]
    x = jnp.asarray(_images(8, 6, 7))
    for dtype in (jnp.uint8, jnp.float32, jnp.bfloat16):
        result = jax.eval_shape(augment, key, x.astype(dtype))
        assert (result.shape, result.dtype) == (x.shape, dtype)
    eager = augment(key, x.astype(jnp.float32))
    np.testing.assert_array_equal(jax.jit(augment)(key, x), eager)
    assert (eager != x).any()


@pytest.mark.parametrize("name", ALL)
def test_an_example_does_not_depend_on_its_batch(name, key):
    augment = jax.jit(ALL[name])
    x = jnp.asarray(_images(8, 6, 7))
    whole = augment(key, x)
    np.testing.assert_array_equal(augment(key, x[:4]), whole[:4])
    keys = types.example_keys(key, 8)
    np.testing.assert_array_equal(augment(keys[2:6], x[2:6]), whole[2:6])


def test_links_of_a_chain_are_independent(key):
    x = jnp.asarray(_images(2000, 1, 2, 1))
    chain = augmentation.chain(augmentation.flip(), augmentation.flip())
    twice = jax.jit(chain)(key, x)
    same = np.asarray(twice == x).all(axis=(1, 2, 3))
    assert abs(same.mean() - 0.5) < 4 * 0.5 / 2000**0.5


def test_an_empty_chain_is_the_identity(key):
    x = jnp.asarray(_images(3, 2, 2))
    for augment in (augmentation.chain(), augmentation.identity):
        np.testing.assert_array_equal(augment(key, x), x)


def test_standard_augmentations(key):
    x = _images(20, 32, 32)
    augmented = np.asarray(jax.jit(augmentation.standard("cifar10"))(key, x))
    sides = ((4, 4), (4, 4), (0, 0))
    mirrored = 0
    for before, after in zip(x, augmented, strict=True):
        padded = np.pad(before, sides, "reflect")
        mirrored += len(_offsets(after[:, ::-1], padded))
        assert len(_offsets(after, padded)) + len(_offsets(after[:, ::-1], padded)) == 1
    assert 0 < mirrored < 20
    rotated = np.asarray(jax.jit(augmentation.standard("cifar100"))(key, x))
    # Crops leave a border of zeros, and rotations cut their corners; pixels are not 0.
    empty = (rotated == 0).all(axis=3).mean(axis=(1, 2))
    assert 0.05 < empty.mean() < 0.3
    for name in ("svhn_cropped", "mnist", "digits"):
        np.testing.assert_array_equal(augmentation.standard(name)(key, x), x)


def test_mistakes_name_the_choices(key):
    with pytest.raises(ValueError, match="pad = -1: choose an integer of at least 0"):
        augmentation.crop(-1, "reflect")
    with pytest.raises(ValueError, match="mode = 'zero': choose 'reflect' or"):
        augmentation.crop(1, "zero")
    for degrees in (-1, 181, float("nan")):
        with pytest.raises(ValueError, match="choose from 0 to 180"):
            augmentation.rotate(degrees)
    with pytest.raises(ValueError, match="'iris': choose one of cifar10, cifar100"):
        augmentation.standard("iris")
    with pytest.raises(ValueError, match="give images"):
        augmentation.flip()(key, jnp.ones((2, 3, 4)))


@pytest.mark.parametrize("length", [1, 3])
def test_keys_and_images_that_would_broadcast_are_refused(length):
    keys = jax.random.split(jax.random.key(0), length)
    for augment in (
        augmentation.flip(),
        augmentation.rotate(10),
        augmentation.crop(np.int64(1), "reflect"),
        augmentation.chain(augmentation.flip()),
    ):
        with pytest.raises(ValueError, match=f"{length} keys for 2 examples"):
            augment(keys, jnp.ones((2, 4, 4, 1)))
        for x in (jnp.ones((4, 4, 1)), jnp.ones((4, 4)), jnp.ones((1, 2, 4, 4, 1))):
            with pytest.raises(ValueError, match="give images"):
                augment(jax.random.key(0), x)
    for pad in (1.0, True, -2):
        with pytest.raises(ValueError, match=r"pad = .*: choose an integer"):
            augmentation.crop(pad, "reflect")
