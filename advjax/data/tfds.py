"""Image data sets as TensorFlow Datasets stores them, read without TensorFlow.

A folder may come from anybody. Its descriptions are read as data, and only the few
fields that are needed: TFDS's own ways to a data set import whatever class a folder
names, and where nothing is prepared they try the network, for minutes and in silence.
What a folder says of a data set in ``DATA_SETS`` has to be what that is known to be; it
leads to no file outside, and unpacks to a small multiple of its size.
"""

import contextlib
import io
import math
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from advjax.data import cache, descriptions, records
from advjax.data.descriptions import DATA_SETS
from advjax.data.untrusted import ContentError, DataError, line, require
from advjax.types import Batch

__all__ = ["DATA_SETS", "is_prepared", "num_classes", "place", "read"]

_PACKAGES = "tensorflow-datasets array_record importlib_resources pillow"


class _Stored(NamedTuple):
    """How a split is stored: the lengths of its files by their names, and images."""

    folder: Path
    shards: dict[str, int]
    file_format: str
    images: descriptions.Images


def read(name: str, split: str, data_dir: str | os.PathLike | None) -> Batch:
    """A split in the order it is stored: uint8 ``x[n, h, w, c]``, int32 ``y[n]``.

    ``data_dir`` and errors are those of ``data.load``.
    """
    root = _root(data_dir)
    try:
        # What the packages below warn of is not for the caller to mend.
        with warnings.catch_warnings(action="ignore"):
            stored = _stored(name, split, root)
            return cache.kept(
                lambda: _digest(name, split, stored),
                lambda: _decoded(name, split, stored.images, _records(name, stored)),
            )
    except ImportError as error:
        packages = f"pip install --upgrade {_PACKAGES}"
        msg = f"data set {name!r} cannot be read without {error.name}: {packages}"
        raise ImportError(msg) from error


def num_classes(name: str, data_dir: str | os.PathLike | None) -> int:
    """What a data set says of its classes; raises DataError as ``read``."""
    if name in DATA_SETS:
        return DATA_SETS[name].num_classes
    root = _root(data_dir)
    return _images(name, root, _folder(name, root)).num_classes


def is_prepared(name: str, data_dir: str | os.PathLike | None) -> bool:
    """Whether there is a folder of this name, such as "emnist/letters"."""
    return bool(_NAME.fullmatch(name)) and (_root(data_dir) / name).is_dir()


def place(name: str, data_dir: str | os.PathLike | None) -> Path:
    """The folder of the newest version; raises DataError without one."""
    return _folder(name, _root(data_dir))


# Of a data set, and of a variant.
_NAME = re.compile(r"[a-z]\w*(/\w[\w.-]*)?", re.ASCII)


def _root(data_dir: str | os.PathLike | None) -> Path:
    """The directory of all data sets, which is a local one."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    given = os.fspath(data_dir or default)
    root = Path(given).expanduser()
    # One slash is enough: a Path has lost the other.
    if re.match(r"[A-Za-z][\w+.-]+:/", given) and not root.is_dir():
        argument = "data_dir" if data_dir else "TFDS_DATA_DIR"
        msg = f"{argument} = {given!r} is no local directory: copy it to one"
        raise DataError(msg)
    return root


def _stored(name: str, split: str, root: Path) -> _Stored:
    """What the newest version in ``root`` says about a split."""
    folder = _folder(name, root)
    with _refusal(name, root, folder / "dataset_info.json") as file:
        info = descriptions.read(file)
        splits = descriptions.splits(name, info)
        if split not in splits:
            found = f"its folder has no split {split!r}, but {', '.join(splits)}"
            raise _unprepared(name, root, found)
        file_format = descriptions.text(
            "fileFormat", info.get("fileFormat", "tfrecord")
        )
        if file_format not in records.READERS:
            choices = " or ".join(records.READERS)
            stored_as = f"stored as {file_format[:30]}: prepare it as {choices}"
            raise DataError(f"data set {name!r} is {stored_as}")
        shards = descriptions.shards(name, split, splits[split], file_format)
    return _Stored(folder, shards, file_format, _images(name, root, folder))


def _images(name: str, root: Path, folder: Path) -> descriptions.Images:
    with _refusal(name, root, folder / "features.json") as file:
        return descriptions.images(name, descriptions.read(file))


def _folder(name: str, root: Path) -> Path:
    try:
        return _newest(name, root)
    except OSError as error:
        raise _unprepared(name, root, line(error)) from error


def _newest(name: str, root: Path) -> Path:
    """The folder of the newest version that is finished."""
    folder = root / name
    if not root.is_dir():
        raise _unprepared(name, root, "the directory does not exist")
    if not folder.is_dir():
        raise _unprepared(name, root, f"it has {_content(root)}, and no folder {name}")
    versions = [
        path
        for path in folder.iterdir()
        if re.fullmatch(r"\d+\.\d+\.\d+", path.name)
        and (path / "dataset_info.json").is_file()
    ]
    if not versions:
        found = f"its folder {name} has {_content(folder)}, and no finished version"
        raise _unprepared(name, root, found)
    return max(versions, key=lambda path: [int(part) for part in path.name.split(".")])


def _content(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:5] + ["…"] * (len(names) > 5)) or "nothing"


def _unprepared(name: str, root: Path, found: str) -> DataError:
    builder = f"tfds.builder({name!r}, data_dir={str(root)!r})"
    return DataError(
        f"data set {name!r} is not prepared in {root}: {found}. To prepare it: "
        f"pip install tensorflow {_PACKAGES} && python -c "
        f'"import tensorflow_datasets as tfds; {builder}'
        ".download_and_prepare(file_format='array_record')\""
    )


@contextlib.contextmanager
def _refusal(name: str, root: Path, file: Path) -> Iterator[Path]:
    """Turns whatever is wrong with a description into one line that names its file."""
    try:
        yield file
    except (ImportError, DataError):
        raise
    except Exception as error:
        # TFDS would take the folder for prepared, and read it in its own way.
        found = f"{file} is damaged: {line(error)}; delete {file.parent}"
        raise _unprepared(name, root, found) from error


def _digest(name: str, split: str, stored: _Stored) -> str:
    """Of all that a split is decoded from, and by which decoder.

    Raises:
        DataError: for files that may not be read.
    """
    from PIL import __version__ as decoder

    parts: list[bytes | Path] = [repr((split, decoder, *stored[1:])).encode()]
    seen = set()
    for file, length in stored.shards.items():
        path = stored.folder / file
        with _damage(f"data set {name!r}, {path}"):
            status = records.check(path, length, _largest_record(stored))
            identity = status.st_dev, status.st_ino
            require(identity not in seen, "it is the same file as another shard")
            seen.add(identity)
            parts.append(path)
    with _damage(f"data set {name!r}, {split!r}"):
        return cache.digest(parts)


def _records(name: str, stored: _Stored) -> list[bytes]:
    """The serialised examples of all files of a split."""
    found: list[bytes] = []
    limit = _largest_record(stored)
    for file, length in stored.shards.items():
        path = stored.folder / file
        with _damage(f"data set {name!r}, {path}"):
            found += records.read(path, length, stored.file_format, limit)
    return found


def _largest_record(stored: _Stored) -> int:
    """In bytes."""
    return max(_SMALLEST_LIMIT, 2 * math.prod(stored.images.shape))


# In bytes: of a record, and of all pixels over all records.
_SMALLEST_LIMIT, _LARGEST_MULTIPLE = 2**14, 100


def _decoded(
    name: str, split: str, images: descriptions.Images, examples: list[bytes]
) -> Batch:
    from tensorflow_datasets import proto

    # TFDS reads examples as well, in more time, and cuts labels to integers.
    parse = proto.tf_example_pb2.Example.FromString
    shape, num_classes, formats = images
    with _damage(f"data set {name!r}, {split!r}"):
        size, pixels = sum(map(len, examples)), len(examples) * math.prod(shape)
        unpacked = f"its {size} bytes would unpack to {pixels}"
        require(pixels <= _LARGEST_MULTIPLE * size, unpacked)
    x = np.empty((len(examples), *shape), np.uint8)
    y = np.empty(len(examples), np.int32)
    for row, record in enumerate(examples):
        with _damage(f"data set {name!r}, row {row} of {split!r}"):
            fields = parse(record).features.feature
            image = _only("images", fields["image"].bytes_list.value)
            label = _only("integer labels", fields["label"].int64_list.value)
            x[row] = _pixels(image, formats, shape)
            if not 0 <= label < num_classes:
                msg = f"its label is {label}, and classes are 0 to {num_classes - 1}"
                raise ContentError(msg)
            y[row] = label
    return Batch(x, y)


def _only(what: str, values: Any) -> Any:
    if len(values) != 1:
        msg = f"it has {len(values)} {what} where one belongs"
        raise ContentError(msg)
    return values[0]


def _pixels(file: bytes, formats: list[str], shape: tuple[int, int, int]) -> np.ndarray:
    """The pixels of an image, decoded only if its header is as it should be."""
    from PIL import Image, UnidentifiedImageError

    height, width, channels = shape
    mode = "L" if channels == 1 else "RGB"
    try:
        image = Image.open(io.BytesIO(file), formats=formats)
    except UnidentifiedImageError as error:
        msg = f"its image is no {' or '.join(formats)}"
        raise ContentError(msg) from error
    stored = _stored_mode(image)
    expected = (width, height), mode, mode
    if (image.size, image.mode, stored) != expected or image.format not in formats:
        found = f"{image.format} of {image.height}×{image.width} in mode {stored}"
        msg = f"its image is a {found}, not of {height}×{width} in mode {mode}"
        raise ContentError(msg)
    return np.frombuffer(image.tobytes(), np.uint8).reshape(shape)


def _stored_mode(image: Any) -> str:
    """Pillow's mode of the pixels in the file, whose bits it names where not 8.

    The mode of an image is that after decoding, which keeps 8 bits of 16.
    """
    mode = image.tile[0][3] if image.tile else "none"
    return mode if isinstance(mode, str) else mode[0]


@contextlib.contextmanager
def _damage(place: str) -> Iterator[None]:
    """Turns whatever a reader raises into one line that names the place."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        msg = f"{place} is damaged: {line(error)}"
        raise DataError(msg) from error
