"""Simulated designs against their moments; data sets against what was written."""

import ast
import io
import json
import os
import shlex
import socket
import struct
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from advjax import data
from advjax.types import Batch

SHAPES = {
    "mnist": (28, 28, 1),
    "cifar10": (32, 32, 3),
    "cifar100": (32, 32, 3),
    "svhn_cropped": (32, 32, 3),
}


def test_gaussian_design_has_the_covariance_and_the_noise(key):
    cov = jnp.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.4]])
    theta0 = jnp.array([1.0, -2.0, 0.5])
    x, y = data.gaussian(key, 200_000, theta0, cov, 0.7)
    np.testing.assert_allclose(np.cov(x, rowvar=False), cov, atol=0.02)
    np.testing.assert_allclose(np.mean(x, axis=0), 0, atol=0.02)
    np.testing.assert_allclose(np.std(y - x @ theta0), 0.7, rtol=0.01)


def test_gaussian_design_without_covariance_is_the_identity(key):
    theta0 = jnp.ones(3)
    plain = data.gaussian(key, 50, theta0, None, 1.0)
    explicit = data.gaussian(key, 50, theta0, jnp.eye(3), 1.0)
    np.testing.assert_allclose(
        plain.x @ plain.x.T, explicit.x @ explicit.x.T, atol=1e-4
    )


def test_gaussian_design_of_a_singular_covariance(key):
    x, _ = data.gaussian(key, 100, jnp.ones(2), jnp.ones((2, 2)), 0.0)
    np.testing.assert_allclose(x[:, 0], x[:, 1], atol=1e-5)


def test_gaussian_design_of_an_indefinite_covariance_is_nan(key):
    for cov in (jnp.diag(jnp.array([1.0, -0.01])), jnp.array([[1.0, 2.0], [2.0, 1.0]])):
        x, y = data.gaussian(key, 10, jnp.ones(2), cov, 1.0)
        assert jnp.isnan(x).any(axis=1).all()
        assert jnp.isnan(y).all()


def test_gaussian_design_checks_the_shape_of_the_covariance(key):
    for cov in (jnp.ones(2), jnp.eye(3), jnp.ones((2, 3)), jnp.ones((1, 1))):
        with pytest.raises(ValueError, match=r"cov .*: give cov\[d, d\]"):
            data.gaussian(key, 10, jnp.ones(2), cov, 1.0)


@pytest.mark.parametrize("wrong", [np.ones(1), np.ones(10), np.ones((10, 1))])
def test_scales_and_coefficients_that_would_broadcast_are_refused(key, wrong):
    with pytest.raises(ValueError, match=r"sigma has shape"):
        data.gaussian(key, 10, jnp.ones(2), None, wrong)
    for name in ("small_share", "large", "small"):
        scales = {"small_share": 0.5, "large": 2.0, "small": 0.1, name: wrong}
        with pytest.raises(ValueError, match=f"{name} has shape"):
            data.separable(key, 10, jnp.array([1.0, 0.0]), **scales)
    with pytest.raises(ValueError, match="theta0 has shape"):
        data.gaussian(key, 10, wrong[None, None], None, 1.0)


def test_lists_and_integers_of_numpy_are_plain_input(key):
    x, y = data.gaussian(key, np.int64(5), [1, 2], [[1, 0], [0, 1]], 0)
    expected = data.gaussian(key, 5, jnp.array([1.0, 2.0]), jnp.eye(2), 0.0)
    np.testing.assert_array_equal(x, expected.x)
    np.testing.assert_array_equal(y, expected.y)
    coefficients = data.sparse_coefficients(np.int32(3), num_active=np.int8(1))
    np.testing.assert_array_equal(coefficients, [1, 0, 0])
    some = data.subset(Batch([[1], [2], [3]], [0, 1, 0]), np.int64(2), seed=0)
    assert some.x.shape == (2, 1)
    assert data.per_class(Batch([1, 2, 3], [0, 1, 0]), np.int64(1), seed=0).y.size == 2
    np.testing.assert_array_equal(data.as_float([0.5, 1.0]), [0.5, 1.0])


def test_equicorrelated_covariances_have_their_entries_and_are_positive_definite():
    for d, rho in ((1, -5.0), (4, 0.0), (4, 0.99), (4, -0.33), (30, 0.5), (2, -0.99)):
        cov = np.asarray(data.equicorrelated(d, rho))
        np.testing.assert_allclose(np.diag(cov), 1, rtol=1e-6)
        np.testing.assert_allclose(cov[~np.eye(d, dtype=bool)], rho, rtol=1e-6)
        assert np.linalg.eigvalsh(cov.astype(float)).min() > 0
    for d, rho in ((4, 1.0), (4, -1 / 3), (4, -0.5), (2, 1.5), (1, 1.0), (3, np.nan)):
        with pytest.raises(ValueError, match="choose above"):
            data.equicorrelated(d, rho)


def test_blocks_of_correlated_inputs_are_joined(key):
    blocks = data.equicorrelated(2, 0.8), data.equicorrelated(3, -0.4), jnp.eye(1)
    cov = jax.scipy.linalg.block_diag(*blocks)
    x, _ = data.gaussian(key, 200_000, jnp.ones(6), cov, 1.0)
    expected = np.zeros((6, 6))
    expected[:2, :2] = [[1, 0.8], [0.8, 1]]
    expected[2:5, 2:5] = [[1, -0.4, -0.4], [-0.4, 1, -0.4], [-0.4, -0.4, 1]]
    expected[5, 5] = 1
    # Five standard errors of a product of two standard normals.
    np.testing.assert_allclose(np.cov(x, rowvar=False), expected, atol=5 * 2**0.5 / 447)


def test_sparse_parameters_are_ones_and_zeros():
    np.testing.assert_array_equal(
        data.sparse_coefficients(5, num_active=2), [1, 1, 0, 0, 0]
    )
    np.testing.assert_array_equal(data.sparse_coefficients(3, num_active=3), [1, 1, 1])
    np.testing.assert_array_equal(data.sparse_coefficients(3, num_active=0), [0, 0, 0])
    for num_active in (-1, 4):
        with pytest.raises(ValueError, match=f"num_active = {num_active}: choose"):
            data.sparse_coefficients(3, num_active=num_active)


def test_gaussian_designs_map_over_replicates(key):
    keys = jax.random.split(key, 4)
    x, y = jax.vmap(lambda k: data.gaussian(k, 9, jnp.ones(2), None, 1.0))(keys)
    assert x.shape == (4, 9, 2)
    assert y.shape == (4, 9)


def test_digits_are_images_in_the_unit_range_with_a_stratified_split():
    train, test = (data.load("digits", split=split) for split in ("train", "test"))
    assert train.x.shape == (1437, 8, 8, 1)
    assert test.x.shape == (360, 8, 8, 1)
    for part in (train, test):
        assert part.x.dtype == np.float32
        assert part.y.dtype == np.int32
        assert part.x.min() == 0
        assert part.x.max() == 1
    whole = np.bincount(np.concatenate([train.y, test.y]))
    assert np.abs(np.bincount(test.y) - whole / 5).max() <= 1
    both = {row.tobytes() for row in train.x} & {row.tobytes() for row in test.x}
    assert not both


def test_diabetes_is_standardised_by_the_training_rows():
    train, test = (data.load("diabetes", split=split) for split in ("train", "test"))
    assert train.x.shape == (353, 10)
    assert test.y.shape == (89,)
    np.testing.assert_allclose(train.x.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(train.x.std(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose([train.y.mean(), train.y.std()], [0, 1], atol=1e-6)
    assert abs(test.x.mean(axis=0)).max() > 1e-3


def test_wrong_names_list_the_choices_and_the_closest():
    choices = "choose one of cifar10, cifar100, diabetes, digits, mnist, svhn_cropped"
    for name, close in (
        ("digit", "'digits'"),
        ("minst", "'mnist'"),
        ("svhn", "'svhn_cropped'"),
        ("CIFAR-10", "'cifar10'"),
        ("cifar", "'cifar10' or 'cifar100'"),
    ):
        with pytest.raises(ValueError, match=f"{choices}; did you mean {close}"):
            data.load(name, split="train")
    with pytest.raises(ValueError, match=f"data set = 'imagenet': {choices}$"):
        data.load("imagenet", split="train")
    with pytest.raises(ValueError, match=r"'val': choose one of train, test$"):
        data.load("digits", split="val")
    with pytest.raises(ValueError, match="test; did you mean 'train'"):
        data.load("mnist", split="trian")


def _random(name, num_examples, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (num_examples, *SHAPES[name]), np.uint8)
    return Batch(x, rng.integers(0, 10, num_examples).astype(np.int32))


def _png(image):
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "PNG")
    return file.getvalue()


def _prepare(root, name, splits, version="3.0.1", replaced=None):
    """Writes array_record files of at most three examples, through TFDS itself.

    ``replaced`` maps rows to what is stored there instead of their images.
    """
    import tensorflow_datasets as tfds

    folder = root / name / version
    folder.mkdir(parents=True)
    image = tfds.features.Image(shape=SHAPES[name])
    features = {"image": image, "label": tfds.features.ClassLabel(num_classes=10)}
    identity = tfds.core.DatasetIdentity(
        name=name, version=version, data_dir=str(folder), module_name=__name__
    )
    writer = tfds.core.SequentialWriter(
        tfds.core.DatasetInfo(
            builder=identity, features=tfds.features.FeaturesDict(features)
        ),
        max_examples_per_shard=3,
        file_format="array_record",
    )
    writer.initialize_splits(list(splits))
    for split, (x, y) in splits.items():
        images = dict(enumerate(map(_png, x))) | (replaced or {})
        examples = [
            {"image": io.BytesIO(images[row]), "label": int(label)}
            for row, label in enumerate(y)
        ]
        writer.add_examples({split: examples})
    writer.close_all()
    return folder


def _crc32c(content):
    """Castagnoli's checksum, masked, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def _frame(content):
    length = struct.pack("<Q", len(content))
    sums = [struct.pack("<I", _crc32c(part)) for part in (length, content)]
    return length + sums[0] + content + sums[1]


def _as_tfrecord(folder):
    """Rewrites a prepared data set in the format that TFDS prefers."""
    from array_record.python import array_record_module

    for path in folder.glob("*.array_record-*"):
        reader = array_record_module.ArrayRecordReader(str(path))
        frames = [_frame(record) for record in reader.read_all()]
        reader.close()
        other = path.with_name(path.name.replace("array_record", "tfrecord"))
        other.write_bytes(b"".join(frames))
        path.unlink()
    description = folder / "dataset_info.json"
    content = json.loads(description.read_text())
    description.write_text(json.dumps(content | {"fileFormat": "tfrecord"}))


FORMATS = {"array_record": lambda folder: None, "tfrecord": _as_tfrecord}


@pytest.mark.parametrize("stored_as", FORMATS)
@pytest.mark.parametrize("name", SHAPES)
def test_stored_data_sets_are_what_was_written(name, stored_as, tmp_path):
    written = {"train": _random(name, 7, 0), "test": _random(name, 4, 1)}
    FORMATS[stored_as](_prepare(tmp_path, name, written))
    for split, batch in written.items():
        x, y = data.load(name, split=split, data_dir=tmp_path)
        np.testing.assert_array_equal(x, batch.x)
        np.testing.assert_array_equal(y, batch.y)
        assert (x.dtype, y.dtype) == (np.uint8, np.int32)


def test_the_checksum_of_the_tests_is_the_published_one():
    crc = 0xE3069283
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32
    assert _crc32c(b"123456789") == masked


def test_the_directory_is_the_argument_then_the_environment_then_the_home(
    tmp_path, monkeypatch
):
    places = [tmp_path / place for place in ("a", "b", "home/tensorflow_datasets")]
    written = [_random("mnist", 2, seed) for seed in range(3)]
    for place, batch in zip(places, written, strict=True):
        _prepare(place, "mnist", {"train": batch})
    monkeypatch.setenv("TFDS_DATA_DIR", str(places[1]))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = [data.load("mnist", split="train", data_dir=str(places[0]))]
    found.append(data.load("mnist", split="train"))
    monkeypatch.delenv("TFDS_DATA_DIR")
    found.append(data.load("mnist", split="train"))
    for batch, expected in zip(found, written, strict=True):
        np.testing.assert_array_equal(batch.x, expected.x)


def test_the_newest_version_is_read(tmp_path):
    written = [_random("mnist", 2, seed) for seed in range(2)]
    for batch, version in zip(written, ("9.0.0", "10.0.0"), strict=True):
        _prepare(tmp_path, "mnist", {"train": batch}, version)
    _prepare(tmp_path, "mnist", {"train": written[0]}, "11.0.0")
    (tmp_path / "mnist/11.0.0").rename(tmp_path / "mnist/11.0.0.incomplete")
    found = data.load("mnist", split="train", data_dir=tmp_path)
    np.testing.assert_array_equal(found.x, written[1].x)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        pytest.fail("the network was asked")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)


def _one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.usefixtures("no_network")
def test_unprepared_data_sets_say_what_was_found_and_how_to_prepare(tmp_path):
    def refused(name, root, found):
        with pytest.raises(data.DataError) as error:
            data.load(name, split="train", data_dir=root)
        message = _one_line(error)
        assert message.startswith(f"data set '{name}' is not prepared in {root}: ")
        assert found in message
        *_, code = shlex.split(message.split("To prepare it: ")[1])
        ast.parse(code)
        assert f"tfds.builder('{name}', data_dir='{root}')" in code

    refused("mnist", tmp_path / "none", "the directory does not exist")
    refused("mnist", tmp_path, "it has nothing, and no folder mnist")
    (tmp_path / "cifar10/3.0.2.incomplete").mkdir(parents=True)
    refused("mnist", tmp_path, "it has cifar10, and no folder mnist")
    refused("cifar10", tmp_path, "has 3.0.2.incomplete, and no finished version")
    (tmp_path / "cifar10/3.0.2").mkdir()
    (tmp_path / "cifar10/3.0.2/dataset_info.json").write_text("{")
    refused("cifar10", tmp_path, f"cannot read {tmp_path}/cifar10/3.0.2")
    _prepare(tmp_path, "svhn_cropped", {"test": _random("svhn_cropped", 1, 0)})
    refused("svhn_cropped", tmp_path, "its folder has no split 'train'")


def test_other_formats_are_refused(tmp_path):
    folder = _prepare(tmp_path, "mnist", {"train": _random("mnist", 1, 0)})
    description = folder / "dataset_info.json"
    content = json.loads(description.read_text())
    description.write_text(json.dumps(content | {"fileFormat": "parquet"}))
    with pytest.raises(data.DataError, match="stored as parquet: prepare it as array_"):
        data.load("mnist", split="train", data_dir=tmp_path)


@pytest.mark.parametrize("module", ["tensorflow_datasets", "PIL", "array_record"])
def test_missing_packages_are_named(module, tmp_path, monkeypatch):
    _prepare(tmp_path, "mnist", {"train": _random("mnist", 1, 0)})
    for name in list(sys.modules):
        if name.split(".")[0] == module:
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ImportError,
        match=f"without {module}.*: pip install --upgrade tensorflow-datasets",
    ) as error:
        data.load("mnist", split="train", data_dir=tmp_path)
    assert _one_line(error).endswith("importlib_resources pillow")


def _truncated(content):
    return content[: len(content) // 2]


def _flipped(content):
    # An array_record of three small images is 64 KiB, most of it filled up.
    return content[:1500] + bytes(b ^ 0xFF for b in content[1500:1510]) + content[1510:]


def _refused_as_damaged(root, place, cause=""):
    with pytest.raises(data.DataError) as error:
        data.load("mnist", split="train", data_dir=root)
    assert "data set 'mnist', " in _one_line(error)
    assert f"{place} is damaged: {cause}" in str(error.value)
    assert error.value.__cause__ is not None


@pytest.mark.parametrize("damage", [_truncated, _flipped, lambda content: b""])
@pytest.mark.parametrize("stored_as", FORMATS)
def test_damaged_files_are_named(stored_as, damage, tmp_path):
    folder = _prepare(tmp_path, "mnist", {"train": _random("mnist", 7, 0)})
    FORMATS[stored_as](folder)
    path = folder / f"mnist-train.{stored_as}-00001"
    path.write_bytes(damage(path.read_bytes()))
    _refused_as_damaged(tmp_path, path)
    path.unlink()
    _refused_as_damaged(tmp_path, path)


def test_every_byte_of_a_tfrecord_counts(tmp_path):
    folder = _prepare(tmp_path, "mnist", {"train": _random("mnist", 2, 0)})
    _as_tfrecord(folder)
    path = folder / "mnist-train.tfrecord-00000"
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    first = content[: length + 16]
    end = len(first)
    for at in [*range(30), *range(30, end, 97), *range(end - 4, end)]:
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        _refused_as_damaged(tmp_path, path)
    for file, cause in (
        (content[:-1], "ValueError: the file ends within record 1"),
        (first + b"!", "ValueError: the file ends within record 1"),
        (first, "ValueError: 1 records where 2 were written"),
        (b"", "ValueError: 0 records where 2 were written"),
        (content + first, "ValueError: 3 records where 2 were written"),
        (content[:-1] + b"!", "ValueError: the checksum of record 1 does not match"),
    ):
        path.write_bytes(file)
        _refused_as_damaged(tmp_path, path, cause)


@pytest.mark.parametrize("stored_as", FORMATS)
def test_images_that_cannot_be_decoded_are_named_by_their_row(stored_as, tmp_path):
    batch = _random("mnist", 7, 0)
    stored = {
        "text": b"no image",
        "cut": _png(batch.x[4])[:400],
        "small": _png(batch.x[4, :20]),
    }
    for label, content in stored.items():
        root = tmp_path / label
        folder = _prepare(root, "mnist", {"train": batch}, replaced={4: content})
        FORMATS[stored_as](folder)
        _refused_as_damaged(root, "row 4 of 'train'")


def _stored(name):
    root = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    reason = f"{name} is not prepared in {root}"
    return pytest.mark.skipif(not (root / name).is_dir(), reason=reason)


@_stored("mnist")
@pytest.mark.usefixtures("no_network")
def test_the_real_mnist_has_its_published_counts_and_is_read_as_tfds_reads_it():
    import tensorflow_datasets as tfds

    x, y = data.load("mnist", split="test")
    assert x.shape == (10_000, 28, 28, 1)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(np.bincount(y), counts)
    # The mean and the standard deviation that are commonly used to normalise it.
    np.testing.assert_allclose([x.mean() / 255, x.std() / 255], [0.1325, 0.3105], 1e-3)
    source = tfds.data_source("mnist", split="test", download=False)
    for row in range(0, 10_000, 500):
        np.testing.assert_array_equal(x[row], source[row]["image"])
        assert y[row] == source[row]["label"]


@_stored("cifar10")
@pytest.mark.usefixtures("no_network")
def test_the_real_cifar10_has_its_published_counts():
    x, y = data.load("cifar10", split="test")
    assert x.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(y), [1000] * 10)
    # Published for the training split; a twentieth of a standard deviation apart.
    mean = x.mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=0.0125)


def _numbered(labels):
    """A batch whose inputs are their row numbers."""
    y = np.asarray(labels, np.int32)
    return Batch(np.arange(y.size)[:, None], y)


def test_subsets_are_the_same_everywhere_and_nested():
    batch = _numbered(np.arange(100) % 7)
    x, y = data.subset(batch, 5, seed=0)
    np.testing.assert_array_equal(x[:, 0], [3, 11, 13, 20, 92])
    np.testing.assert_array_equal(y, x[:, 0] % 7)
    larger = data.subset(batch, 50, seed=0)
    assert set(x[:, 0]) < set(larger.x[:, 0])
    assert (np.diff(larger.x[:, 0]) > 0).all()
    np.testing.assert_array_equal(data.subset(batch, 100, seed=3).x, batch.x)


def test_subsets_are_uniform():
    batch = _numbered(range(6))
    rows = [data.subset(batch, 2, seed=seed).x[:, 0] for seed in range(3000)]
    pairs = np.unique(np.stack(rows), axis=0, return_counts=True)[1]
    # Four standard deviations of binomial counts.
    np.testing.assert_allclose(pairs, [200] * 15, atol=4 * (3000 / 15 * 14 / 15) ** 0.5)


def test_balanced_subsets_have_as_many_of_each_class():
    rng = np.random.default_rng(0)
    batch = _numbered(rng.choice([2, 5, 7], 300, p=[0.2, 0.5, 0.3]))
    previous = set()
    for size in (1, 10, 40):
        x, y = data.per_class(batch, size, seed=1)
        np.testing.assert_array_equal(np.unique(y, return_counts=True)[1], [size] * 3)
        np.testing.assert_array_equal(y, batch.y[x[:, 0]])
        assert previous < set(x[:, 0])
        assert (np.diff(x[:, 0]) > 0).all()
        previous = set(x[:, 0])
    assert set(data.per_class(batch, 40, seed=2).x[:, 0]) != previous


def test_classes_are_picked_and_relabelled_in_the_order_given():
    batch = _numbered([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    x, y = data.of_classes(batch, (5, 3))
    np.testing.assert_array_equal(x[:, 0], [0, 4, 8, 9])
    np.testing.assert_array_equal(y, [1, 0, 0, 1])
    assert y.dtype == np.int32
    on_device = data.of_classes(jax.tree.map(jnp.asarray, batch), (5, 3))
    np.testing.assert_array_equal(on_device.x, x)
    np.testing.assert_array_equal(on_device.y, y)


def test_a_binary_task_keeps_all_examples():
    batch = _numbered([3, 1, 4, 1, 5])
    x, y = data.binary(batch, (1, 5))
    np.testing.assert_array_equal(x, batch.x)
    np.testing.assert_array_equal(y, [0, 1, 0, 1, 1])
    assert y.dtype == np.int32
    for positive in ((2,), (1, 1), ()):
        with pytest.raises(ValueError, match="choose distinct ones of 1, 3, 4, 5"):
            data.binary(batch, positive)
    with pytest.raises(ValueError, match="leave a class for label 0"):
        data.binary(batch, (1, 3, 4, 5))


def test_impossible_subsets_name_the_choices():
    batch = _numbered([0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="size = 6: choose from 1 to n = 5"):
        data.subset(batch, 6, seed=0)
    with pytest.raises(ValueError, match=r"num_per_class = 3: .* 1 to 2, the"):
        data.per_class(batch, 3, seed=0)
    for size in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match=f"size = {size}: choose an integer"):
            data.subset(batch, size, seed=0)
        with pytest.raises(ValueError, match=f"class = {size}: choose an integer"):
            data.per_class(batch, size, seed=0)
    for classes in ((0, 2), (0, 0), (), 1):
        with pytest.raises(ValueError, match="choose distinct ones of 0, 1"):
            data.of_classes(batch, classes)
    targets = Batch(batch.x, batch.y.astype(np.float32))
    for select in (
        lambda: data.of_classes(targets, (0,)),
        lambda: data.per_class(targets, 1, seed=0),
    ):
        with pytest.raises(ValueError, match=r"y of float32, .* choose integer labels"):
            select()


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray, list])
@pytest.mark.parametrize("length", [1, 4, 6])
def test_subsets_of_unequal_lengths_are_refused(convert, length):
    batch = Batch(convert(np.zeros(length)), convert(np.array([0, 1, 0, 1, 0])))
    for select in (
        lambda: data.subset(batch, 1, seed=0),
        lambda: data.per_class(batch, 1, seed=0),
        lambda: data.of_classes(batch, (0,)),
        lambda: data.binary(batch, (0,)),
    ):
        with pytest.raises(ValueError, match=rf"x \({length},\), y \(5,\)"):
            select()


def test_pixels_become_floats_with_the_same_bits_everywhere():
    pixels = np.arange(256, dtype=np.uint8)
    on_host = data.as_float(pixels)
    assert isinstance(on_host, np.ndarray)
    assert on_host.dtype == np.float32
    np.testing.assert_allclose(on_host, np.arange(256) / 255, rtol=2**-23)
    assert on_host[[0, 255]].tolist() == [0, 1]
    for convert in (data.as_float, jax.jit(data.as_float)):
        on_device = convert(jnp.asarray(pixels))
        assert on_device.dtype == jnp.float32
        np.testing.assert_array_equal(on_device, on_host)


def test_floats_stay_as_they_are_and_other_types_are_refused():
    for x in (np.ones(2), jnp.ones(2, jnp.bfloat16), np.ones(2, np.float16)):
        assert data.as_float(x) is x
    with pytest.raises(ValueError, match="dtype = int32: choose uint8 or floating"):
        data.as_float(np.ones(2, np.int32))
