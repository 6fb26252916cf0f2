"""Image data sets as TensorFlow Datasets stores them, read without TensorFlow.

A folder may come from anybody. Its descriptions are read as data, and only the few
fields that are needed: TFDS's own ways to a data set import whatever class a folder
names, and where nothing is prepared they try the network, for minutes and in silence.
What a folder says has to be what the data set is known to be, it leads to no file
outside, and it unpacks to a small multiple of its size.

One thing is taken on trust, the compressed index of an array_record file, by which the
package ``array_record`` finds records and places them in memory. tfrecord has none.
"""

import contextlib
import io
import json
import os
import re
import reprlib
import stat
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from advjax.types import Batch

__all__ = ["DATA_SETS", "DataError", "DataSet", "read"]

_PACKAGES = "tensorflow-datasets array_record importlib_resources pillow"

# In bytes; real descriptions have 1500, and images up to 3072 before compression.
_LARGEST_DESCRIPTION = 2**20
_LARGEST_RECORD = 2**14


class DataError(RuntimeError):
    """A data set is not prepared, or damaged; one line that says what to do.

    Characters that do not print, such as those that steer a terminal, are replaced.
    """

    def __str__(self) -> str:
        return "".join(c if c.isprintable() else "\ufffd" for c in super().__str__())


class _ContentError(ValueError):
    """What is wrong with a file, in words that need no name of an exception."""


class DataSet(NamedTuple):
    """What a data set is known to be; a split may be stored in part."""

    shape: tuple[int, int, int]
    num_classes: int
    num_examples: dict[str, int]


DATA_SETS = {
    "mnist": DataSet((28, 28, 1), 10, {"train": 60_000, "test": 10_000}),
    "cifar10": DataSet((32, 32, 3), 10, {"train": 50_000, "test": 10_000}),
    "cifar100": DataSet((32, 32, 3), 100, {"train": 50_000, "test": 10_000}),
    "svhn_cropped": DataSet((32, 32, 3), 10, {"train": 73_257, "test": 26_032}),
}


class _Stored(NamedTuple):
    """How a split is stored: the lengths of its files by their names, and formats."""

    folder: Path
    shards: dict[str, int]
    file_format: str
    image_formats: list[str]


def read(name: str, split: str, data_dir: str | os.PathLike | None) -> Batch:
    """A split in the order it is stored: uint8 ``x[n, h, w, c]``, int32 ``y[n]``.

    ``name`` is one of ``DATA_SETS``; ``data_dir`` and errors are those of
    ``data.load``.
    """
    root = _root(data_dir)
    try:
        # What the packages below warn of is not for the caller to mend.
        with warnings.catch_warnings(action="ignore"):
            stored = _stored(name, split, root)
            return _decoded(name, split, stored.image_formats, _records(name, stored))
    except ImportError as error:
        packages = f"pip install --upgrade {_PACKAGES}"
        msg = f"data set {name!r} cannot be read without {error.name}: {packages}"
        raise ImportError(msg) from error


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
    try:
        folder = _newest(name, root)
    except OSError as error:
        raise _unprepared(name, root, _line(error)) from error
    with _refusal(name, root, folder / "dataset_info.json") as file:
        info = _description(file)
        splits = _splits(name, info)
        if split not in splits:
            raise _unprepared(name, root, f"its folder has no split {split!r}")
        file_format = _text("fileFormat", info.get("fileFormat", "tfrecord"))
        if file_format not in _READERS:
            choices = " or ".join(_READERS)
            stored_as = f"stored as {file_format[:30]}: prepare it as {choices}"
            raise DataError(f"data set {name!r} is {stored_as}")
        shards = _shards(name, split, splits[split], file_format)
    with _refusal(name, root, folder / "features.json") as file:
        image_formats = _image_formats(name, _description(file))
    return _Stored(folder, shards, file_format, image_formats)


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
        found = f"{file} is damaged: {_line(error)}; delete {file.parent}"
        raise _unprepared(name, root, found) from error


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _ContentError(otherwise)


def _description(file: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    _check_place(file, file.parent)
    with file.open("rb") as stream:
        content = stream.read(_LARGEST_DESCRIPTION + 1)
    too_large = f"it has more than {_LARGEST_DESCRIPTION} bytes"
    _require(len(content) <= _LARGEST_DESCRIPTION, too_large)
    return _parsed(content)


def _parsed(content: bytes | str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        msg = f"it is not JSON, {error}"
        raise _ContentError(msg) from error
    return _object("it", found)


def _object(what: str, value: Any) -> dict[str, Any]:
    _require(isinstance(value, dict), f"{what} is {_short(value)}, and no JSON object")
    return value


def _text(what: str, value: Any) -> str:
    _require(isinstance(value, str), f"{what} is {_short(value)}, and no string")
    return value


def _array(what: str, value: Any) -> list[Any]:
    _require(isinstance(value, list), f"{what} is {_short(value)}, and no array")
    return value


def _counts(what: str, values: Any) -> list[int]:
    """Counts, which protobuf writes as strings."""
    for value in _array(what, values):
        is_count = type(value) in (str, int) and re.fullmatch("[0-9]{1,9}", str(value))
        _require(bool(is_count), f"{what} has {_short(value)}, which is no count")
    return [int(value) for value in values]


_short = reprlib.repr


def _check_place(file: Path, folder: Path) -> os.stat_result:
    """The status of a file, which lies in ``folder`` and is no device or pipe."""
    status = file.stat()
    target = file.resolve()
    inside = target.is_relative_to(folder.resolve())
    _require(inside, f"it is a link that leaves its folder, to {str(target)!r}")
    _require(stat.S_ISREG(status.st_mode), "it is no regular file")
    return status


def _image_formats(name: str, described: dict[str, Any]) -> list[str]:
    """The formats of the images, after a check of all features."""
    content = _feature("the whole", described, ["FeaturesDict"])
    features = dict(_object("features", content.get("features", content)))
    image = _feature("'image'", features.pop("image", None), ["Image"])
    label = _feature("'label'", features.pop("label", None), ["ClassLabel"])
    for field, ignored in features.items():
        _feature(_short(field), ignored, ["ClassLabel", "Scalar", "Tensor", "Text"])
    declared = label.get("numClasses", label.get("num_classes"))
    (found,) = _counts("numClasses", [declared])
    num_classes = DATA_SETS[name].num_classes
    _require(found == num_classes, f"{name} has {num_classes} classes, not {found}")
    return _checked_formats(name, image)


def _checked_formats(name: str, image: dict[str, Any]) -> list[str]:
    shape = DATA_SETS[name].shape
    declared = image.get("shape")
    sizes = declared.get("dimensions") if isinstance(declared, dict) else declared
    found = _counts("shape", sizes)
    _require(found == [*shape], f"images of {name} have shape {[*shape]}, not {found}")
    dtype = image.get("dtype")
    _require(dtype == "uint8", f"images have dtype 'uint8', not {_short(dtype)}")
    encoding = image.get("encodingFormat", image.get("encoding_format"))
    choices = f"images are stored as 'png' or 'jpeg', not {_short(encoding)}"
    _require(encoding in [None, "png", "jpeg"], choices)
    return [encoding.upper()] if encoding else ["PNG", "JPEG"]


# By class, where the content of a feature is.
_CONTENTS = {
    "FeaturesDict": "featuresDict",
    "Image": "image",
    "ClassLabel": "classLabel",
    "Scalar": "tensor",
    "Tensor": "tensor",
    "Text": "text",
}


def _feature(what: str, described: Any, choices: list[str]) -> dict[str, Any]:
    """The content of a feature of one of the classes; no class is imported."""
    feature = _object(what, described)
    # TFDS once wrote "type" and "content" instead, the latter as JSON in a string too.
    class_name = feature.get("pythonClassName", feature.get("type"))
    package, _, kind = str(class_name).rpartition(".")
    known = f"{package}.".startswith("tensorflow_datasets.core.features.")
    refused = f"{what} is of class {_short(class_name)}, not {' or '.join(choices)}"
    _require(known and kind in choices, refused)
    content = feature.get(_CONTENTS[kind], feature.get("content", {}))
    return _parsed(content) if isinstance(content, str) else _object(what, content)


def _splits(name: str, info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The descriptions of all splits by their names."""
    found = info.get("name")
    _require(found == name, f"it describes the data set {_short(found)}")
    splits: dict[str, dict[str, Any]] = {}
    for described in _array("splits", info.get("splits")):
        split = _text("the name of a split", _object("a split", described).get("name"))
        plain = re.fullmatch(r"\w[\w.-]*", split, re.ASCII)
        _require(bool(plain), f"{_short(split)} is no name of a split")
        _require(split not in splits, f"it describes the split {_short(split)} twice")
        splits[split] = described
    return splits


# A name without folders; TFDS replaces what is in braces.
_TEMPLATE = re.compile(
    r"([\w.-]|{(DATASET|SPLIT|FILEFORMAT|SHARD_INDEX|NUM_SHARDS|SHARD_X_OF_Y)})*",
    re.ASCII,
)


def _shards(
    name: str, split: str, described: dict[str, Any], file_format: str
) -> dict[str, int]:
    """How many records each file of a split declares, by the name of the file."""
    from tensorflow_datasets import core

    # It becomes a format string, which could follow attributes and pad to any width.
    template = _text("filepathTemplate", described.get("filepathTemplate", ""))
    refused = f"filepathTemplate {_short(template)} is no name of files in its folder"
    _require(bool(_TEMPLATE.fullmatch(template)), refused)
    lengths = _counts("shardLengths", described.get("shardLengths"))
    largest = DATA_SETS[name].num_examples[split]
    found = f"shardLengths is {_short(lengths)}, and {name} has {largest} examples"
    _require(0 < sum(lengths) <= largest and 0 not in lengths, found)
    naming = core.ShardedFileTemplate(
        data_dir="",
        template=template,
        dataset_name=name,
        split=split,
        filetype_suffix=file_format,
    )
    num_shards = len(lengths)
    names = [
        naming.relative_filepath(shard_index=index, num_shards=num_shards)
        for index in range(num_shards)
    ]
    shards = dict(zip(names, lengths, strict=True))
    _require(len(shards) == num_shards, f"{num_shards} shards are the same file")
    return shards


def _records(name: str, stored: _Stored) -> list[bytes]:
    """The serialised examples of all files of a split."""
    records: list[bytes] = []
    seen = set()
    for file, length in stored.shards.items():
        path = stored.folder / file
        with _damage(f"data set {name!r}, {path}"):
            status = _check_place(path, stored.folder)
            identity = status.st_dev, status.st_ino
            _require(identity not in seen, "it is the same file as another shard")
            seen.add(identity)
            # An array_record has a few blocks of its own.
            largest = 4 * _BLOCK + length * _LARGEST_RECORD
            too_large = f"it has {status.st_size} bytes for {length} records"
            _require(status.st_size <= largest, too_large)
            records += _READERS[stored.file_format](path, length)
    return records


def _check_length(found: int, length: int) -> None:
    _require(found == length, f"{found} records where {length} were written")


def _array_records(path: Path, length: int) -> list[bytes]:
    from array_record.python import array_record_module

    _check_chunks(path.read_bytes())
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        _check_length(reader.num_records(), length)
        return reader.read_all()
    finally:
        reader.close()


# Blocks of a file of Riegeli, https://github.com/google/riegeli: their headers
# interrupt a sequence of chunks, which have headers and compressed data.
_BLOCK = 2**16
_BLOCK_HEADER = 24
_CHUNK_HEADER = struct.Struct("<8xQ8xQQ")


def _check_chunks(file: bytes) -> None:
    """Refuses what unpacks to far more than its size, as real images never do."""
    _require(bool(file) and len(file) % _BLOCK == 0, "it has no whole number of blocks")
    blocks = np.frombuffer(file, np.uint8).reshape(-1, _BLOCK)
    chunks = blocks[:, _BLOCK_HEADER:].tobytes()
    at = unpacked = 0
    while at < len(chunks):
        size, kind, decoded = _CHUNK_HEADER.unpack_from(chunks, at)
        # Signature, padding and records, but not records that unpack by way of buffers.
        if kind & 0xFF not in b"spr" or kind >> 8 > size + _CHUNK_HEADER.size:
            msg = f"the chunk at {at} is not one that TFDS writes"
            raise _ContentError(msg)
        unpacked += decoded
        at += _CHUNK_HEADER.size + size
    _require(at == len(chunks), "the file ends within a chunk")
    found = f"its {len(file)} bytes would unpack to {unpacked}"
    _require(unpacked <= 20 * len(file), found)


def _frames(path: Path, length: int) -> list[bytes]:
    """The frames of a tfrecord file: length, its checksum, data, their checksum."""
    content = path.read_bytes()
    starts, sizes = [], []
    end = 0
    while end < len(content):
        size = int.from_bytes(content[end : end + 8], "little")
        starts.append(end + 12)
        sizes.append(size)
        end += size + 16
    within = f"the file ends within record {len(starts) - 1}"
    _require(end <= len(content), within)
    _check_length(len(starts), length)
    # Checksums take as many steps as the longest record has bytes.
    too_large = f"a record has {max(sizes)} bytes"
    _require(max(sizes) <= _LARGEST_RECORD, too_large)
    _check_sums(content, np.array(starts, int), np.array(sizes, int))
    return [content[at : at + n] for at, n in zip(starts, sizes, strict=True)]


def _check_sums(file: bytes, starts: np.ndarray, lengths: np.ndarray) -> None:
    content = np.frombuffer(file, np.uint8)
    checked = ((starts - 12, np.full_like(lengths, 8)), (starts, lengths))
    for begins, sizes in checked:
        crc = _crc32c(content, begins, sizes)
        masked = ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)
        stored = content[(begins + sizes)[:, None] + np.arange(4)[None]].view("<u4")
        wrong = np.flatnonzero(masked != stored[:, 0])
        if wrong.size:
            msg = f"the checksum of record {wrong[0]} does not match"
            raise _ContentError(msg)


def _crc32c(content: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Castagnoli's checksums of slices, advancing all of them byte by byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    longest_first = np.argsort(-lengths, kind="stable")
    starts, lengths = starts[longest_first], lengths[longest_first]
    crc = np.full(starts.size, 0xFFFFFFFF, np.uint32)
    for offset in range(lengths.max(initial=0)):
        active = crc[: np.searchsorted(-lengths, -offset)]
        byte = content[starts[: active.size] + offset]
        active[:] = table[(active ^ byte) & 0xFF] ^ (active >> 8)
    return ~crc[np.argsort(longest_first)]


_READERS: dict[str, Callable[[Path, int], list[bytes]]] = {
    "array_record": _array_records,
    "tfrecord": _frames,
}


def _decoded(
    name: str, split: str, image_formats: list[str], records: list[bytes]
) -> Batch:
    from tensorflow_datasets import proto

    # TFDS reads examples as well, in more time, and cuts labels to integers.
    parse = proto.tf_example_pb2.Example.FromString
    shape, num_classes, _ = DATA_SETS[name]
    x = np.empty((len(records), *shape), np.uint8)
    y = np.empty(len(records), np.int32)
    for row, record in enumerate(records):
        with _damage(f"data set {name!r}, row {row} of {split!r}"):
            fields = parse(record).features.feature
            image = _only("images", fields["image"].bytes_list.value)
            label = _only("integer labels", fields["label"].int64_list.value)
            x[row] = _pixels(image, image_formats, shape)
            if not 0 <= label < num_classes:
                msg = f"its label is {label}, and classes are 0 to {num_classes - 1}"
                raise _ContentError(msg)
            y[row] = label
    return Batch(x, y)


def _only(what: str, values: Any) -> Any:
    if len(values) != 1:
        msg = f"it has {len(values)} {what} where one belongs"
        raise _ContentError(msg)
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
        raise _ContentError(msg) from error
    stored = _stored_mode(image)
    expected = (width, height), mode, mode
    if (image.size, image.mode, stored) != expected or image.format not in formats:
        found = f"{image.format} of {image.height}×{image.width} in mode {stored}"
        msg = f"its image is a {found}, not of {height}×{width} in mode {mode}"
        raise _ContentError(msg)
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
        msg = f"{place} is damaged: {_line(error)}"
        raise DataError(msg) from error


def _line(error: Exception) -> str:
    kind = "" if isinstance(error, _ContentError) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())[:300]
