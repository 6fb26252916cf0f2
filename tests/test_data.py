"""Simulated designs against their moments; data sets against what was written."""

import ast
import copy
import functools
import io
import json
import os
import shlex
import shutil
import socket
import struct
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import folders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from advjax import data
from advjax.types import Batch


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
    known = "cifar10, cifar100, diabetes, digits, mnist, svhn_cropped"
    choices = f"choose one of {known}, a prepared one, or a .npz file"
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
@pytest.mark.parametrize("name", folders.SHAPES)
def test_stored_data_sets_are_what_was_written(name, stored_as, tmp_path):
    written = {"train": folders.random(name, 7, 0), "test": folders.random(name, 4, 1)}
    FORMATS[stored_as](folders.prepare(tmp_path, name, written))
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
    written = [folders.random("mnist", 2, seed) for seed in range(3)]
    for place, batch in zip(places, written, strict=True):
        folders.prepare(place, "mnist", {"train": batch})
    monkeypatch.setenv("TFDS_DATA_DIR", str(places[1]))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = [data.load("mnist", split="train", data_dir=str(places[0]))]
    found.append(data.load("mnist", split="train"))
    monkeypatch.delenv("TFDS_DATA_DIR")
    found.append(data.load("mnist", split="train"))
    for batch, expected in zip(found, written, strict=True):
        np.testing.assert_array_equal(batch.x, expected.x)


def test_the_newest_version_is_read(tmp_path):
    written = [folders.random("mnist", 2, seed) for seed in range(2)]
    for batch, version in zip(written, ("9.0.0", "10.0.0"), strict=True):
        folders.prepare(tmp_path, "mnist", {"train": batch}, version)
    folders.prepare(tmp_path, "mnist", {"train": written[0]}, "11.0.0")
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
    description = tmp_path / "cifar10/3.0.2/dataset_info.json"
    refused("cifar10", tmp_path, f"{description} is damaged: it is not JSON")
    refused("cifar10", tmp_path, f"; delete {description.parent}. To prepare it: ")
    folders.prepare(
        tmp_path, "svhn_cropped", {"test": folders.random("svhn_cropped", 1, 0)}
    )
    refused("svhn_cropped", tmp_path, "its folder has no split 'train'")


def test_other_formats_are_refused(tmp_path):
    folder = folders.prepare(
        tmp_path, "mnist", {"train": folders.random("mnist", 1, 0)}
    )
    description = folder / "dataset_info.json"
    content = json.loads(description.read_text())
    description.write_text(json.dumps(content | {"fileFormat": "parquet"}))
    with pytest.raises(data.DataError, match="stored as parquet: prepare it as array_"):
        data.load("mnist", split="train", data_dir=tmp_path)


@pytest.mark.parametrize("module", ["tensorflow_datasets", "PIL", "array_record"])
def test_missing_packages_are_named(module, tmp_path, monkeypatch):
    folders.prepare(tmp_path, "mnist", {"train": folders.random("mnist", 1, 0)})
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
    folder = folders.prepare(
        tmp_path, "mnist", {"train": folders.random("mnist", 7, 0)}
    )
    FORMATS[stored_as](folder)
    path = folder / f"mnist-train.{stored_as}-00001"
    path.write_bytes(damage(path.read_bytes()))
    _refused_as_damaged(tmp_path, path)
    path.unlink()
    _refused_as_damaged(tmp_path, path)


def test_every_byte_of_a_tfrecord_counts(tmp_path):
    folder = folders.prepare(
        tmp_path, "mnist", {"train": folders.random("mnist", 2, 0)}
    )
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
        (content[:-1], "the file ends within record 1"),
        (first + b"!", "the file ends within record 1"),
        (first, "1 records where 2 were written"),
        (b"", "0 records where 2 were written"),
        (content + first, "3 records where 2 were written"),
        (content[:-1] + b"!", "the checksum of record 1 does not match"),
    ):
        path.write_bytes(file)
        _refused_as_damaged(tmp_path, path, cause)


@pytest.mark.parametrize("stored_as", FORMATS)
def test_images_that_cannot_be_decoded_are_named_by_their_row(stored_as, tmp_path):
    batch = folders.random("mnist", 7, 0)
    stored = {
        "text": b"no image",
        "cut": folders.png(batch.x[4])[:400],
        "small": folders.png(batch.x[4, :20]),
    }
    for label, content in stored.items():
        root = tmp_path / label
        folder = folders.prepare(root, "mnist", {"train": batch}, replaced={4: content})
        FORMATS[stored_as](folder)
        _refused_as_damaged(root, "row 4 of 'train'")


@pytest.mark.parametrize("path", ["gs://bucket/data", "s3://bucket", "file:///data"])
def test_cloud_paths_are_to_be_copied(path, monkeypatch):
    refused = f"{path}' is no local directory: copy it to one"
    with pytest.raises(data.DataError, match=f"^data_dir = '{refused}"):
        data.load("mnist", split="train", data_dir=path)
    with pytest.raises(data.DataError, match=r"^data_dir = '\w+:/\w.* copy it to one"):
        data.load("mnist", split="train", data_dir=Path(path))
    monkeypatch.setenv("TFDS_DATA_DIR", path)
    with pytest.raises(data.DataError, match=f"^TFDS_DATA_DIR = '{refused}"):
        data.load("mnist", split="train")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A valid folder of mnist: tfrecord shards of three examples and of one."""
    root = tmp_path_factory.mktemp("prepared")
    folder = folders.prepare(root, "mnist", {"train": folders.random("mnist", 4, 0)})
    _as_tfrecord(folder)
    return folder


@pytest.fixture
def folder(prepared, tmp_path):
    """A copy to be spoilt, in a directory of data sets."""
    return Path(shutil.copytree(prepared, tmp_path / "data/mnist/3.0.1"))


@pytest.fixture
def evil_modules(tmp_path, monkeypatch):
    """Modules that a folder may name, none of which may be imported."""
    (tmp_path / "modules").mkdir()
    for name in ("evilmod", "tensorflow_datasets_evil"):
        code = f"open({str(tmp_path / 'imported')!r}, 'w')"
        (tmp_path / "modules" / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield
    assert not (tmp_path / "imported").exists()
    assert not {"evilmod", "tensorflow_datasets_evil"} & set(sys.modules)


def _refused(folder, phrase, split="train"):
    """The load of a spoilt folder is one short line that a terminal can show."""
    with pytest.raises(data.DataError) as error:
        data.load(folder.parent.name, split=split, data_dir=folder.parents[1])
    message = str(error.value)
    assert phrase in message
    assert message.isprintable()
    assert len(message) < 2000


FEATURES = ("featuresDict", "features")
IMAGE = (*FEATURES, "image")
LABEL = (*FEATURES, "label")
SPLIT = ("splits", 0)
TFDS_CLASS = "tensorflow_datasets.core.features"
NO_CLASS = "'image' is of class"
NO_TEMPLATE = "is no name of files in its folder"

# What is put where in features.json, and what the error says; ... removes.
HOSTILE_FEATURES = [
    (("pythonClassName",), "evilmod.X", "the whole is of class 'evilmod.X'"),
    (("pythonClassName",), ["evilmod.X"], "the whole is of class ['evilmod.X']"),
    (("pythonClassName",), ..., "the whole is of class None, not FeaturesDict"),
    ((*IMAGE, "pythonClassName"), "evilmod.Image", f"{NO_CLASS} 'evilmod.Image'"),
    ((*IMAGE, "pythonClassName"), "Image", f"{NO_CLASS} 'Image', not Image"),
    ((*IMAGE, "pythonClassName"), "tensorflow_datasets_evil.Image", NO_CLASS),
    ((*IMAGE, "pythonClassName"), f"{TFDS_CLASS}.video_feature.Video", NO_CLASS),
    ((*IMAGE, "pythonClassName"), 7, f"{NO_CLASS} 7"),
    (IMAGE, {"type": "evilmod.Image", "content": {}}, f"{NO_CLASS} 'evilmod.Image'"),
    (IMAGE, ..., "'image' is None, and no JSON object"),
    (IMAGE, "x", "'image' is 'x', and no JSON object"),
    ((*LABEL, "pythonClassName"), "evilmod.ClassLabel", "'label' is of class 'evilmod"),
    ((*FEATURES, "id"), {"pythonClassName": "evilmod.Text"}, "'id' is of class 'evil"),
    ((*FEATURES, "\x1b[2J"), {}, "'\\x1b[2J' is of class None"),
    ((*IMAGE, "image"), [], "'image' is [], and no JSON object"),
    ((*IMAGE, "image"), "[", "it is not JSON"),
    ((*IMAGE, "image", "shape"), ..., "shape is None, and no array"),
    ((*IMAGE, "image", "shape"), ["28", "28"], "shape [28, 28, 1], not [28, 28]"),
    ((*IMAGE, "image", "shape"), [56, 14, 1], "shape [28, 28, 1], not [56, 14, 1]"),
    ((*IMAGE, "image", "shape"), ["99999"] * 3, "not [99999, 99999, 99999]"),
    (
        (*IMAGE, "image", "shape"),
        ["-1", "-1", "1"],
        "shape has '-1', which is no count",
    ),
    ((*IMAGE, "image", "shape"), ["9" * 99, 1, 1], "which is no count"),
    ((*IMAGE, "image", "dtype"), "uint16", "dtype 'uint8', not 'uint16'"),
    ((*IMAGE, "image", "encodingFormat"), "gif", "'png' or 'jpeg', not 'gif'"),
    ((*IMAGE, "image", "encodingFormat"), ["png"], "'png' or 'jpeg', not ['png']"),
    ((*LABEL, "classLabel", "numClasses"), "11", "mnist has 10 classes, not 11"),
    ((*LABEL, "classLabel", "numClasses"), 10.0, "numClasses has 10.0, which is no"),
    ((*LABEL, "classLabel", "numClasses"), True, "numClasses has True, which is no"),
    ((*LABEL, "classLabel"), {"num_classes": "\x1b[31m"}, "'\\x1b[31m', which is no"),
    (FEATURES, ["image"], "features is ['image'], and no JSON object"),
    (("featuresDict",), None, "the whole is None, and no JSON object"),
]

# The same in dataset_info.json.
HOSTILE_INFO = [
    (("name",), "../../etc", "it describes the data set '../../etc'"),
    (("name",), ["mnist"], "it describes the data set ['mnist']"),
    (("name",), "\x1b]0;title\x07", "it describes the data set '\\x1b]0;title\\x07'"),
    (("fileFormat",), 3, "fileFormat is 3, and no string"),
    (("fileFormat",), "\x1b[2J\nx", "is stored as \ufffd[2J\ufffdx: prepare it as"),
    (("fileFormat",), "../" * 999, "is stored as ../../../"),
    (("splits",), ..., "splits is None, and no array"),
    (("splits",), {"train": 1}, "splits is {'train': 1}, and no array"),
    (("splits",), [], "its folder has no split 'train'"),
    (SPLIT, "train", "a split is 'train', and no JSON object"),
    ((*SPLIT, "name"), 1, "the name of a split is 1, and no string"),
    ((*SPLIT, "name"), "../train", "'../train' is no name of a split"),
    ((*SPLIT, "name"), "/etc", "'/etc' is no name of a split"),
    ((*SPLIT, "name"), "train\x1b", "'train\\x1b' is no name of a split"),
    ((*SPLIT, "filepathTemplate"), 1, "filepathTemplate is 1, and no string"),
    ((*SPLIT, "filepathTemplate"), "../{SPLIT}", f"'../{{SPLIT}}' {NO_TEMPLATE}"),
    ((*SPLIT, "filepathTemplate"), "/etc/passwd", f"'/etc/passwd' {NO_TEMPLATE}"),
    ((*SPLIT, "filepathTemplate"), "gs://b/{SPLIT}", NO_TEMPLATE),
    ((*SPLIT, "filepathTemplate"), "{SPLIT.__class__}", NO_TEMPLATE),
    ((*SPLIT, "filepathTemplate"), "{SPLIT:>999999999}", NO_TEMPLATE),
    ((*SPLIT, "filepathTemplate"), "{SPLIT}\n", NO_TEMPLATE),
    ((*SPLIT, "filepathTemplate"), "{SPLIT}\x00", NO_TEMPLATE),
    ((*SPLIT, "filepathTemplate"), "{", NO_TEMPLATE),
    ((*SPLIT, "filepathTemplate"), "..", "2 shards are the same file"),
    ((*SPLIT, "filepathTemplate"), "a" * 999 + "{SHARD_INDEX}", "File name too long"),
    ((*SPLIT, "shardLengths"), ..., "shardLengths is None, and no array"),
    ((*SPLIT, "shardLengths"), "4", "shardLengths is '4', and no array"),
    ((*SPLIT, "shardLengths"), [], "shardLengths is [], and mnist has 60000 examples"),
    ((*SPLIT, "shardLengths"), ["4", "0"], "shardLengths is [4, 0], and mnist has"),
    ((*SPLIT, "shardLengths"), ["-4"], "shardLengths has '-4', which is no count"),
    ((*SPLIT, "shardLengths"), [4.0], "shardLengths has 4.0, which is no count"),
    ((*SPLIT, "shardLengths"), ["٤"], "which is no count"),
    ((*SPLIT, "shardLengths"), ["60001"], "shardLengths is [60001], and mnist has"),
    ((*SPLIT, "shardLengths"), ["9" * 4000], "which is no count"),
    ((*SPLIT, "shardLengths"), ["999999999"] * 9, "and mnist has 60000 examples"),
    ((*SPLIT, "shardLengths"), ["59999"], "3 records where 59999 were written"),
]

# Whole files instead of either.
NO_DESCRIPTION = {
    "empty": (b"", "it is not JSON"),
    "blank": (b" \n", "it is not JSON"),
    "list": (b"[]", "it is [], and no JSON object"),
    "null": (b"null", "it is None, and no JSON object"),
    "string": (b'"\\u001b[2J"', "it is '\\x1b[2J', and no JSON object"),
    "infinite": (b"-Infinity", "it is -inf, and no JSON object"),
    "object": (b"{}", "is damaged: "),
    "binary": (bytes(range(256)), "it is not JSON"),
    "utf16": ("\ufeff{".encode("utf-16"), "it is not JSON"),
    "deep lists": (b"[" * 10**6, "it is not JSON"),
    "deep objects": (b'{"a":' * 10**5, "it is not JSON"),
    "digits": (b"9" * 10**5, "it is not JSON"),
    "large": (b'{"a": "' + bytes(2**20), "it has more than 1048576 bytes"),
}


def _put(file, keys, value):
    """Replaces a value of a JSON file, or with ... removes it."""
    whole = [json.loads(file.read_text())]
    *parents, last = [0, *keys]
    place = functools.reduce(lambda table, key: table[key], parents, whole)
    if value is ...:
        del place[last]
    else:
        place[last] = value
    file.write_text(json.dumps(whole[0]))


@pytest.mark.usefixtures("evil_modules", "no_network")
@pytest.mark.parametrize(("keys", "value", "phrase"), HOSTILE_FEATURES)
def test_hostile_features_are_refused(keys, value, phrase, folder):
    _put(folder / "features.json", keys, value)
    _refused(folder, phrase)
    _refused(folder, f"{folder}/features.json is damaged: ")


@pytest.mark.usefixtures("evil_modules", "no_network")
@pytest.mark.parametrize(("keys", "value", "phrase"), HOSTILE_INFO)
def test_hostile_information_is_refused(keys, value, phrase, folder):
    _put(folder / "dataset_info.json", keys, value)
    _refused(folder, phrase)


@pytest.mark.usefixtures("evil_modules")
@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("content", NO_DESCRIPTION)
def test_files_that_describe_nothing_are_refused(content, name, folder):
    written, phrase = NO_DESCRIPTION[content]
    (folder / name).write_bytes(written)
    _refused(folder, phrase)
    _refused(folder, f"{folder / name} is damaged: ")


def _places(value, keys=()):
    """The keys of all values within a value."""
    yield keys
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in () if isinstance(value, str) else items:
        yield from _places(part, (*keys, key))


def _loaded_or_refused(folder):
    try:
        return data.load("mnist", split="train", data_dir=folder.parents[1])
    except data.DataError as error:
        return str(error)


JUNK = [
    ...,
    None,
    True,
    -1,
    1e400,
    2**70,
    "",
    "\x1b[2J",
    "../x",
    [],
    [[]],
    {},
    {"a": 1},
]


@pytest.mark.usefixtures("evil_modules")
@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
def test_any_value_anywhere_is_refused_or_ignored(name, folder):
    valid = (folder / name).read_text()
    expected = data.load("mnist", split="train", data_dir=folder.parents[1])
    for keys in list(_places(json.loads(valid)))[1:]:
        for value in JUNK:
            (folder / name).write_text(valid)
            _put(folder / name, keys, copy.deepcopy(value))
            found = _loaded_or_refused(folder)
            if isinstance(found, str):
                assert found.isprintable()
                continue
            # Without the length of the last shard the first one is what there is.
            n = 3 if len(keys) == 4 and value is ... else 4
            np.testing.assert_array_equal(found.x, expected.x[:n])
            np.testing.assert_array_equal(found.y, expected.y[:n])


@pytest.mark.usefixtures("evil_modules")
def test_what_is_not_needed_is_ignored(folder):
    expected = data.load("mnist", split="train", data_dir=folder.parents[1])
    _put(folder / "dataset_info.json", ("moduleName",), "evilmod")
    _put(folder / "dataset_info.json", ("description",), {"\x1b": [1]})
    for kind in ("text_feature.Text", "scalar.Scalar", "tensor_feature.Tensor"):
        ignored = {"pythonClassName": f"{TFDS_CLASS}.{kind}", "tensor": {"dtype": "x"}}
        _put(folder / "features.json", (*FEATURES, kind), ignored)
    coarse = {"pythonClassName": f"{TFDS_CLASS}.class_label_feature.ClassLabel"}
    _put(folder / "features.json", (*FEATURES, "coarse_label"), coarse)
    found = data.load("mnist", split="train", data_dir=folder.parents[1])
    np.testing.assert_array_equal(found.x, expected.x)


def test_features_are_read_as_older_versions_wrote_them(folder):
    expected = data.load("mnist", split="train", data_dir=folder.parents[1])
    path = folder / "features.json"
    described = json.loads(path.read_text())
    image = {"shape": [28, 28, 1], "dtype": "uint8", "encoding_format": "png"}
    fields = {
        "image": {"type": f"{TFDS_CLASS}.image_feature.Image", "content": image},
        "label": {
            "type": f"{TFDS_CLASS}.class_label_feature.ClassLabel",
            "content": {"num_classes": 10},
        },
    }
    whole = {"type": f"{TFDS_CLASS}.features_dict.FeaturesDict"}
    in_string = json.dumps(described["featuresDict"])
    for content in (fields, described["featuresDict"], in_string):
        path.write_text(json.dumps(whole | {"content": content}))
        found = data.load("mnist", split="train", data_dir=folder.parents[1])
        np.testing.assert_array_equal(found.x, expected.x)
        np.testing.assert_array_equal(found.y, expected.y)


def _moved_out(path):
    outside = path.parents[2] / path.name
    path.rename(outside)
    path.symlink_to(outside)


def _piped(path):
    path.unlink()
    os.mkfifo(path)


def _endless(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def _looped(path):
    path.unlink()
    path.symlink_to(path.name)


def _a_folder(path):
    path.unlink()
    path.mkdir()


def _repeated(path):
    path.unlink()
    path.symlink_to(path.name.replace("00001", "00000"))


def _hard_linked(path):
    path.unlink()
    path.hardlink_to(path.with_name(path.name.replace("00001", "00000")))


def _sparse(path):
    with path.open("r+b") as file:
        file.truncate(10**12)


@pytest.mark.parametrize(
    ("spoil", "phrase"),
    [
        (_moved_out, "it is a link that leaves its folder, to "),
        (_piped, "it is no regular file"),
        (_endless, "it is a link that leaves its folder, to '/dev/zero'"),
        (_looped, "is damaged: "),
        (_a_folder, "it is no regular file"),
        (_repeated, "it is the same file as another shard"),
        (_hard_linked, "it is the same file as another shard"),
        (_sparse, "it has 1000000000000 bytes for 1 records"),
    ],
)
def test_files_that_are_not_of_the_folder_are_refused(spoil, phrase, folder):
    path = folder / "mnist-train.tfrecord-00001"
    spoil(path)
    _refused(folder, phrase)
    _refused(folder, f"data set 'mnist', {path} is damaged: ")


@pytest.mark.parametrize("spoil", [_moved_out, _piped, _endless, _looped, _a_folder])
def test_descriptions_that_are_not_of_the_folder_are_refused(spoil, folder):
    spoil(folder / "features.json")
    _refused(folder, f"{folder}/features.json is damaged: ")


def test_links_that_stay_in_the_folder_and_links_to_it_are_followed(folder):
    expected = data.load("mnist", split="train", data_dir=folder.parents[1])
    path = folder / "mnist-train.tfrecord-00001"
    path.symlink_to(path.rename(folder / "blob").name)
    folder.symlink_to(folder.rename(folder.parents[2] / "elsewhere"))
    found = data.load("mnist", split="train", data_dir=folder.parents[1])
    np.testing.assert_array_equal(found.x, expected.x)


def _chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def _raw_png(height, width, bits, colour, row):
    """A file whose header says anything; ``colour`` 0 is grey, 2 is RGB."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * min(height, 28))
    parts = (b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _encoded(mode, file_format, size=(28, 28)):
    file = io.BytesIO()
    Image.new(mode, size).save(file, file_format)
    return file.getvalue()


HOSTILE_IMAGES = {
    "other shape": (_encoded("L", "PNG", (56, 14)), "a PNG of 14×56 in mode L, not"),
    "transposed": (_encoded("L", "PNG", (14, 28)), "a PNG of 28×14 in mode L, not"),
    "16 bits": (_raw_png(28, 28, 16, 0, bytes(56)), "a PNG of 28×28 in mode I;16B"),
    "4 bits": (_raw_png(28, 28, 4, 0, bytes(14)), "a PNG of 28×28 in mode L;4"),
    "1 bit": (_encoded("1", "PNG"), "a PNG of 28×28 in mode 1, not of 28×28 in mode L"),
    "palette": (_encoded("P", "PNG"), "a PNG of 28×28 in mode P"),
    "colours": (
        _encoded("RGB", "PNG"),
        "a PNG of 28×28 in mode RGB, not of 28×28 in mode L",
    ),
    "opacity": (_encoded("LA", "PNG"), "a PNG of 28×28 in mode LA"),
    "RGBA": (_encoded("RGBA", "PNG"), "a PNG of 28×28 in mode RGBA"),
    "CMYK": (_encoded("CMYK", "JPEG"), "a JPEG of 28×28 in mode CMYK"),
    "large": (_raw_png(9000, 9000, 8, 0, bytes(9000)), "a PNG of 9000×9000 in mode L"),
    "bomb": (_raw_png(60000, 60000, 8, 0, b""), "is damaged: DecompressionBombError"),
    "no pixels": (_raw_png(0, 0, 8, 0, b""), "is damaged: "),
    "GIF": (_encoded("L", "GIF"), "its image is no PNG or JPEG"),
    "BMP": (_encoded("L", "BMP"), "its image is no PNG or JPEG"),
    "TIFF": (_encoded("L", "TIFF"), "its image is no PNG or JPEG"),
    "only header": (_encoded("L", "PNG")[:33], "is damaged: "),
    "nothing": (b"", "its image is no PNG or JPEG"),
}


def _example(image, label):
    from tensorflow_datasets import proto

    example = proto.tf_example_pb2.Example()
    for name, values in (("image", image), ("label", label)):
        for value in values:
            kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}
            feature = example.features.feature[name]
            getattr(feature, kind[type(value)]).value.append(value)
    return example.SerializeToString()


def _with_last_row(folder, record):
    path = folder / "mnist-train.tfrecord-00001"
    path.write_bytes(_frame(record))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("image", HOSTILE_IMAGES)
def test_images_that_are_not_as_declared_are_refused_with_their_row(image, folder):
    file, phrase = HOSTILE_IMAGES[image]
    _with_last_row(folder, _example([file], [3]))
    _refused(folder, phrase)
    _refused(folder, "data set 'mnist', row 3 of 'train' is damaged: ")


def test_images_have_the_declared_format(folder):
    for declared, other in (("png", "JPEG"), ("jpeg", "PNG")):
        _put(folder / "features.json", (*IMAGE, "image", "encodingFormat"), declared)
        _with_last_row(folder, _example([_encoded("L", other)], [3]))
        _refused(folder, f"its image is no {declared.upper()}")


def test_sixteen_bits_of_a_colour_are_refused(tmp_path):
    png = _raw_png(32, 32, 16, 2, bytes(192))
    batch = folders.random("cifar10", 2, 0)
    _refused(
        folders.prepare(tmp_path, "cifar10", {"train": batch}, replaced={1: png}),
        "RGB;16B, not",
    )


HOSTILE_ROWS = {
    "label 10": (([b""], [10]), "its label is 10, and classes are 0 to 9"),
    "label -1": (([b""], [-1]), "its label is -1, and classes are 0 to 9"),
    "large label": (([b""], [2**40 + 3]), "its label is 1099511627779, and classes"),
    "fraction": (([b""], [3.7]), "it has 0 integer labels where one belongs"),
    "text": (([b""], [b"3"]), "it has 0 integer labels where one belongs"),
    "two labels": (([b""], [3, 3]), "it has 2 integer labels where one belongs"),
    "no label": (([b""], []), "it has 0 integer labels where one belongs"),
    "no image": (([], [3]), "it has 0 images where one belongs"),
    "two images": (([b"", b""], [3]), "it has 2 images where one belongs"),
    "numbers": (([0] * 784, [3]), "it has 0 images where one belongs"),
}


@pytest.mark.parametrize("row", HOSTILE_ROWS)
def test_rows_that_are_no_image_and_its_class_are_refused(row, folder):
    (images, labels), phrase = HOSTILE_ROWS[row]
    images = [_encoded("L", "PNG") if image == b"" else image for image in images]
    _with_last_row(folder, _example(images, labels))
    _refused(folder, phrase)
    _refused(folder, "data set 'mnist', row 3 of 'train' is damaged: ")


def test_records_that_are_no_examples_are_refused(folder):
    for record in (b"\xff" * 9, b"\n\x7f", bytes(range(256))):
        _with_last_row(folder, record)
        _refused(folder, "row 3 of 'train' is damaged: ")


def _array_record(path, records, options="group_size:1"):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()


def _as_array_record(folder, records, options="group_size:1"):
    """The folder with one shard of these records."""
    for path in folder.glob("*.tfrecord-*"):
        path.unlink()
    _array_record(folder / "mnist-train.array_record-00000", records, options)
    _put(folder / "dataset_info.json", ("fileFormat",), "array_record")
    _put(folder / "dataset_info.json", (*SPLIT, "shardLengths"), [len(records)])


def test_records_unpack_to_a_small_multiple_of_their_file(folder):
    record = _example([_encoded("L", "PNG")], [3])
    _as_array_record(folder, [record, record + bytes(10**7)])
    _refused(folder, "bytes would unpack to 1000")
    _as_array_record(folder, [record] * 50_000, "group_size:50000")
    _refused(folder, "the chunk at 40 is not one that TFDS writes")
    _as_array_record(folder, [record], "group_size:1,transpose")
    _refused(folder, "the chunk at 40 is not one that TFDS writes")


@pytest.mark.parametrize("packing", ["zstd", "uncompressed", "brotli", "snappy"])
@pytest.mark.parametrize("size", [1, 7])
def test_records_may_be_grouped_and_packed_in_any_way(packing, size, folder):
    batch = folders.random("mnist", 300, 0)
    pairs = zip(batch.x, batch.y, strict=True)
    records = [_example([folders.png(image)], [int(label)]) for image, label in pairs]
    _as_array_record(folder, records, f"group_size:{size},{packing}")
    x, y = data.load("mnist", split="train", data_dir=folder.parents[1])
    np.testing.assert_array_equal(x, batch.x)
    np.testing.assert_array_equal(y, batch.y)


def test_long_records_are_refused(folder):
    _with_last_row(folder, bytes(2**14 + 1))
    _refused(folder, "a record has 16385 bytes")


def test_what_is_declared_allocates_nothing(folder):
    """Sixty thousand images of mnist are 47 MB."""
    _put(folder / "dataset_info.json", (*SPLIT, "shardLengths"), ["59999", "1"])
    data_dir = folder.parents[1]
    _refused(folder, "3 records where 59999 were written")
    tracemalloc.start()
    with pytest.raises(data.DataError):
        data.load("mnist", split="train", data_dir=data_dir)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**21


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


# --- data sets of one's own ---


def test_variants_and_class_counts_of_any_prepared_data_set(tmp_path):
    written = {"train": folders.random("garments", 5, 0)}
    folder = folders.prepare(tmp_path, "garments", written)
    moved = tmp_path / "garments" / "winter" / "1.0.0"
    moved.parent.mkdir()
    folder.rename(moved)
    _put(moved / "dataset_info.json", ("configName",), "winter")
    x, _ = data.load("garments/winter", split="train", data_dir=tmp_path)
    np.testing.assert_array_equal(x, written["train"].x)
    assert data.num_classes("garments/winter", tmp_path) == 3
    assert data.place("garments/winter", tmp_path) == moved
    with pytest.raises(data.DataError, match=r"no split 'test', but train\."):
        data.load("garments/winter", split="test", data_dir=tmp_path)
    _put(moved / "dataset_info.json", ("configName",), "summer")
    with pytest.raises(data.DataError, match="describes the variant 'summer'"):
        data.load("garments/winter", split="train", data_dir=tmp_path)
    for name in ("../garments", "/garments", "garments/../garments", "Garments"):
        with pytest.raises(ValueError, match="a prepared one, or a"):
            data.load(name, split="train", data_dir=tmp_path)


OWN_FEATURES = [
    (("image", "image", "shape", "dimensions"), ["12", "10"], "have shape [12, 10]"),
    (("image", "image", "shape", "dimensions"), ["12", "10", "2"], "1 or 3] is read"),
    (("image", "image", "shape", "dimensions"), ["0", "10", "1"], "[0, 10, 1]"),
    (("image", "image", "shape", "dimensions"), ["99999", "99999", "3"], "unpack to"),
    (("label", "classLabel", "numClasses"), "1", "it has 1 classes"),
]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("keys", "value", "phrase"), OWN_FEATURES)
def test_hostile_features_of_unknown_data_sets(keys, value, phrase, tmp_path):
    folder = folders.prepare(
        tmp_path, "garments", {"train": folders.random("garments", 5, 0)}
    )
    keys = ("featuresDict", "features", *keys)
    _put(folder / "features.json", keys, value)
    _refused(folder, phrase)


def test_few_bytes_do_not_unpack_to_many_images(tmp_path):
    blank = Batch(
        np.zeros((5, *folders.SHAPES["skies"]), np.uint8), np.zeros(5, np.int32)
    )
    folder = folders.prepare(tmp_path, "skies", {"train": blank})
    _refused(folder, "bytes would unpack to 900000")


def test_the_number_of_classes_is_known_without_the_images():
    assert data.num_classes("digits") == data.num_classes("mnist", "nowhere") == 10
    assert data.num_classes("cifar100") == 100
    with pytest.raises(ValueError, match="'diabetes' is a regression"):
        data.num_classes("diabetes")
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        data.num_classes("minst")
    assert data.place("digits") is None


def _own(**changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (6, 5, 4, 3), np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": rng.integers(0, 256, (2, 5, 4, 3), np.uint8),
        "y_test": np.array([2, 0], np.uint8),
    }
    arrays |= {k: v(arrays[k]) if callable(v) else v for k, v in changes.items()}
    return {name: array for name, array in arrays.items() if array is not None}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_files_of_arrays_are_what_was_written(save, tmp_path, monkeypatch):
    arrays = _own()
    save(tmp_path / "mine.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    places = (("mine.npz", None), ("mine.npz", tmp_path), (tmp_path / "mine.npz", "."))
    for name, data_dir in places:
        for split in ("train", "test"):
            x, y = data.load(name, split=split, data_dir=data_dir)
            np.testing.assert_array_equal(x, arrays[f"x_{split}"])
            np.testing.assert_array_equal(y, arrays[f"y_{split}"])
            assert (x.dtype, y.dtype) == (np.uint8, np.int32)
        assert data.num_classes(name, data_dir) == 3
        assert data.place(name, data_dir).samefile(tmp_path / "mine.npz")
    floats = _own(x_train=lambda x: x / 255, x_test=lambda x: x / 255)
    save(tmp_path / "floats.npz", **floats)
    x, _ = data.load("floats.npz", split="train")
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, arrays["x_train"] / 255, rtol=1e-6)


WRONG_ARRAYS = {
    "no test": ({"x_test": None}, "x_test is missing: it has x_train, y_train, y_test"),
    "lengths": ({"y_train": lambda y: y[:5]}, "x_train has 6 images, and y_train 5"),
    "test lengths": ({"y_test": [0, 1, 2]}, "x_test has 2 images, and y_test 3 labels"),
    "no axis": ({"x_train": lambda x: x[..., 0]}, "such as x_train[..., None]"),
    "rows": ({"x_train": lambda x: x.reshape(6, -1)}, "give [n, height, width, chann"),
    "channels first": (
        {"x_train": lambda x: np.zeros((6, 3, 32, 32), np.uint8)},
        "such as x_train.transpose(0, 2, 3, 1)",
    ),
    "0 to 255": (
        {"x_train": lambda x: x.astype(np.float32)},
        "give pixels in [0, 1], for eps is in their units",
    ),
    "below 0": ({"x_test": lambda x: x / 255 - 0.5}, "x_test has entries from -0.5"),
    "dark": ({"x_train": lambda x: x // 16}, "up to 15 only: uint8 is for 0 to 255"),
    "divided twice": ({"x_test": lambda x: x / 255**2}, "up to 0.00"),
    "nan": ({"x_train": lambda x: x * np.nan}, "has entries from nan to nan"),
    "int64": ({"x_train": lambda x: x.astype(np.int64)}, "is of int64: give uint8"),
    "shapes": ({"x_test": lambda x: x[:, :4]}, "of x_test have shape (4, 4, 3), of x_"),
    "one-hot": ({"y_train": lambda y: np.eye(3, dtype=int)[y]}, "y_train.argmax(1)"),
    "a column": ({"y_train": lambda y: y[:, None]}, "such as y_train[:, 0]"),
    "floats": ({"y_test": lambda y: y / 2}, "y_test is of float64: give classes"),
    "from 1": ({"y_train": lambda y: y + 1}, "no example of 0: number the classes"),
    "signs": ({"y_train": lambda y: y - 1}, "has the label -1: classes count from 0"),
    "a gap": ({"y_train": lambda y: 5 * y}, "no example of 1, 2, 3, 4, 6, …"),
    "huge": ({"y_train": lambda y: y + 2**40}, "has the label 1099511627778"),
    "one class": ({"y_train": lambda y: 0 * y}, "has one class only"),
    "more in test": ({"y_test": [0, 3]}, "y_test has the class 3, and y_train only 0"),
    "nothing": ({"x_test": lambda x: x[:0]}, "x_test is empty"),
    "objects": ({"y_train": lambda y: y.astype(object)}, "Object arrays cannot be"),
}


@pytest.mark.parametrize("name", WRONG_ARRAYS)
def test_wrong_files_of_arrays_are_one_line(name, tmp_path):
    changes, phrase = WRONG_ARRAYS[name]
    np.savez(tmp_path / "mine.npz", **_own(**changes))
    is_of_test = any(name.endswith("test") for name in changes)
    _refuses_file(tmp_path, phrase, split="test" if is_of_test else "train")


NO_ARRAYS = {
    "absent": (None, "there is no such file"),
    "nothing": (b"", "it is no .npz file: write it by np.savez"),
    "text": (b"hello", "it is no .npz file"),
    "half": (lambda whole: whole[:400], "it is no .npz file"),
    "a flipped bit": (
        lambda whole: whole[:250] + bytes([whole[250] ^ 1]) + whole[251:],
        "Bad CRC-32 for file 'x_train.npy'",
    ),
    "an array": (lambda whole: _array_file(), "it is no .npz file"),
    "no arrays": (lambda whole: _zip({}), "x_train is missing: it has nothing"),
    "a giant": (lambda whole: _zip({"x_train.npy": _giant()}), "Unable to allocate"),
    "a pickle": (lambda whole: b"\x80\x04\x95\x0c\x00\x00\x00.", "it is no .npz"),
}


def _giant():
    """The header of an array of a hundred TB."""
    file = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**7, 10**7)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def _array_file():
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def _zip(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize("name", NO_ARRAYS)
def test_files_that_hold_no_arrays_are_one_line(name, tmp_path):
    content, phrase = NO_ARRAYS[name]
    np.savez(tmp_path / "mine.npz", **_own())
    if callable(content):
        content = content((tmp_path / "mine.npz").read_bytes())
    if content is None:
        (tmp_path / "mine.npz").unlink()
    else:
        (tmp_path / "mine.npz").write_bytes(content)
    _refuses_file(tmp_path, phrase, "train")


def test_pipes_and_links_out_are_no_files_of_arrays(tmp_path):
    os.mkfifo(tmp_path / "mine.npz")
    _refuses_file(tmp_path, "it is no regular file")


def _refuses_file(folder, phrase, split="test"):
    with pytest.raises(data.DataError) as error:
        data.load("mine.npz", split=split, data_dir=folder)
    message = str(error.value)
    assert phrase in message
    assert message.startswith(f"data set '{folder}/mine.npz': ")
    assert message.isprintable()


# --- subsets ---


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


def test_a_split_is_a_subset_and_the_rest():
    batch = _numbered(range(10))
    rest, held = data.split(batch, 3, seed=1)
    np.testing.assert_array_equal(held.x, data.subset(batch, 3, seed=1).x)
    together = np.sort(np.concatenate([rest.y, held.y]))
    np.testing.assert_array_equal(together, batch.y)
    for size in (0, 10):
        with pytest.raises(ValueError, match=f"size = {size}: choose"):
            data.split(batch, size, seed=1)


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
