"""Image data sets as TensorFlow Datasets stores them, read without TensorFlow.

That package describes the files and parses their records; images are decoded by
pillow. Its own ways to a data set are not used: where one is not prepared they try the
network, for minutes and in silence.
"""

import contextlib
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from advjax.types import Batch

__all__ = ["DataError", "read"]

_PACKAGES = "tensorflow-datasets array_record importlib_resources pillow"


class DataError(RuntimeError):
    """A data set is not prepared, or damaged; one line that says what to do."""


def read(name: str, split: str, data_dir: str | os.PathLike | None) -> Batch:
    """A split in the order it is stored: uint8 ``x[n, h, w, c]``, int32 ``y[n]``.

    ``data_dir`` and errors are those of ``data.load``.
    """
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    root = Path(data_dir or default).expanduser()
    try:
        # Deprecations among the packages below are not for the caller to mend.
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            info = _info(name, root)
            if split not in info.splits:
                raise _unprepared(name, root, f"its folder has no split {split!r}")
            return _decoded(name, split, info.features, _records(name, info, split))
    except ImportError as error:
        packages = f"pip install --upgrade {_PACKAGES}"
        msg = f"data set {name!r} cannot be read without {error.name}: {packages}"
        raise ImportError(msg) from error


def _info(name: str, root: Path) -> Any:
    """The description by TFDS of the newest version in ``root``."""
    try:
        folder = _newest(name, root)
    except OSError as error:
        raise _unprepared(name, root, _line(error)) from error
    # By name: the import of a broken package succeeds, and leaves it without names.
    from tensorflow_datasets import __version__, builder_from_directory

    try:
        return builder_from_directory(folder).info
    except ImportError:
        raise
    except Exception as error:
        found = f"tensorflow_datasets {__version__} cannot read {folder}"
        raise _unprepared(name, root, f"{found}, {_line(error)}") from error


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


def _records(name: str, info: Any, split: str) -> list[bytes]:
    """The serialised examples of all files of a split."""
    stored_as = info.file_format.value
    if stored_as not in _READERS:
        choices = " or ".join(_READERS)
        msg = f"data set {name!r} is stored as {stored_as}: prepare it as {choices}"
        raise DataError(msg)
    paths, lengths = info.splits[split].filepaths, info.splits[split].shard_lengths
    records = []
    for path, length in zip(paths, lengths, strict=True):
        with _damage(f"data set {name!r}, {path}"):
            found = _READERS[stored_as](Path(path))
            if len(found) != length:
                msg = f"{len(found)} records where {length} were written"
                raise ValueError(msg)
            records += found
    return records


def _array_records(path: Path) -> list[bytes]:
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        return reader.read_all()
    finally:
        reader.close()


def _frames(path: Path) -> list[bytes]:
    """The frames of a tfrecord file: length, its checksum, data, their checksum."""
    content = path.read_bytes()
    starts, lengths = [], []
    end = 0
    while end < len(content):
        length = int.from_bytes(content[end : end + 8], "little")
        starts.append(end + 12)
        lengths.append(length)
        end += length + 16
    if end > len(content):
        msg = f"the file ends within record {len(starts) - 1}"
        raise ValueError(msg)
    _check_sums(content, np.array(starts, int), np.array(lengths, int))
    return [content[at : at + n] for at, n in zip(starts, lengths, strict=True)]


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
            raise ValueError(msg)


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


_READERS: dict[str, Callable[[Path], list[bytes]]] = {
    "array_record": _array_records,
    "tfrecord": _frames,
}


def _decoded(name: str, split: str, features: Any, records: list[bytes]) -> Batch:
    from PIL import Image
    from tensorflow_datasets import decode

    # TFDS decodes as well, in twice the time.
    decoders = {"image": decode.SkipDecoding()}
    x = np.empty((len(records), *features["image"].shape), np.uint8)
    y = np.empty(len(records), np.int32)
    for row, record in enumerate(records):
        with _damage(f"data set {name!r}, row {row} of {split!r}"):
            example = features.deserialize_example_np(record, decoders=decoders)
            pixels = np.asarray(Image.open(io.BytesIO(example["image"])))
            x[row] = pixels.reshape(x.shape[1:])
            y[row] = example["label"]
    return Batch(x, y)


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
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
