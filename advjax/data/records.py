"""Records of a file as TensorFlow Datasets stores them: array_record or tfrecord.

A file may come from anybody, and unpacks to a small multiple of its size. One thing is
taken on trust, the compressed index of an array_record file, by which the package
``array_record`` finds records and places them in memory. tfrecord has none.
"""

import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from advjax.data.untrusted import ContentError, check_place, require

__all__ = ["READERS", "check", "read"]


def check(path: Path, length: int, largest_record: int) -> os.stat_result:
    """The status of a file that may be read: of its folder, and no larger than it says.

    It has ``length`` records, none of more than ``largest_record`` bytes.

    Raises:
        ContentError: for another one.
    """
    status = check_place(path, path.parent)
    # An array_record has a few blocks of its own.
    largest = 4 * _BLOCK + length * largest_record
    too_large = f"it has {status.st_size} bytes for {length} records"
    require(status.st_size <= largest, too_large)
    return status


def read(path: Path, length: int, file_format: str, largest_record: int) -> list[bytes]:
    """The serialised examples of a file.

    Raises:
        ContentError: as ``check``, and for a file that is not as TFDS writes it.
    """
    check(path, length, largest_record)
    return READERS[file_format](path, length, largest_record)


def _check_length(found: int, length: int) -> None:
    require(found == length, f"{found} records where {length} were written")


def _array_records(path: Path, length: int, largest_record: int) -> list[bytes]:
    from array_record.python import array_record_module

    _check_chunks(path.read_bytes())
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        _check_length(reader.num_records(), length)
        found = reader.read_all()
    finally:
        reader.close()
    _check_largest(map(len, found), largest_record)
    return found


def _check_largest(sizes: Iterable[int], largest_record: int) -> None:
    largest = max(sizes)
    require(largest <= largest_record, f"a record has {largest} bytes")


# Blocks of a file of Riegeli, https://github.com/google/riegeli: their headers
# interrupt a sequence of chunks, which have headers and compressed data.
_BLOCK = 2**16
_BLOCK_HEADER = 24
_CHUNK_HEADER = struct.Struct("<8xQ8xQQ")


def _check_chunks(file: bytes) -> None:
    """Refuses what unpacks to far more than its size, as real images never do."""
    require(bool(file) and len(file) % _BLOCK == 0, "it has no whole number of blocks")
    blocks = np.frombuffer(file, np.uint8).reshape(-1, _BLOCK)
    chunks = blocks[:, _BLOCK_HEADER:].tobytes()
    at = unpacked = 0
    while at < len(chunks):
        size, kind, decoded = _CHUNK_HEADER.unpack_from(chunks, at)
        # Signature, padding and records, but not records that unpack by way of buffers.
        if kind & 0xFF not in b"spr" or kind >> 8 > size + _CHUNK_HEADER.size:
            msg = f"the chunk at {at} is not one that TFDS writes"
            raise ContentError(msg)
        unpacked += decoded
        at += _CHUNK_HEADER.size + size
    require(at == len(chunks), "the file ends within a chunk")
    found = f"its {len(file)} bytes would unpack to {unpacked}"
    require(unpacked <= 20 * len(file), found)


def _frames(path: Path, length: int, largest_record: int) -> list[bytes]:
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
    require(end <= len(content), within)
    _check_length(len(starts), length)
    # Checksums take as many steps as the longest record has bytes.
    _check_largest(sizes, largest_record)
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
            raise ContentError(msg)


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


READERS: dict[str, Callable[[Path, int, int], list[bytes]]] = {
    "array_record": _array_records,
    "tfrecord": _frames,
}
"""By format, ``(path, length, largest_record) -> records``."""
