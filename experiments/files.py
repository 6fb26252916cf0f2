"""Files that a run writes: whole or not at all, with digests, and never code."""

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np


class FileError(ValueError):
    """A file or a directory is not what it should be."""


class DiskError(FileError):
    """Nothing more can be written."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file beside ``path`` that takes its place when all is written."""
    part = path.with_name(path.name + ".part")
    try:
        part.unlink(missing_ok=True)
        with part.open("xb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def dumps(value: Any, **options: Any) -> str:
    """JSON of any numbers and arrays; nan and infinities become null."""
    return json.dumps(plain(value), allow_nan=False, **options)


def plain(value: Any) -> Any:
    """JSON's own types, numbers as Python's, nan and infinities as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        value = np.asarray(value)
        if value.dtype == np.float32:
            # The shortest digits that are this float32, not those of a double.
            digits = [float(str(x)) for x in value.ravel()]
            value = np.array(digits, float).reshape(value.shape)
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def local(path: str | Path, what: str) -> Path:
    """The path, if it is one of this machine's.

    Args:
        path: as a user gave it.
        what: what it is, for the message.

    Raises:
        FileError: for a cloud path.
    """
    # One slash is what is left of two in a ``Path``.
    if re.search(r"(^|/)[a-z][a-z0-9+.-]*:/", str(path), re.IGNORECASE):
        msg = f"{what} {path} is a cloud path: choose a local one, and copy it"
        raise FileError(msg)
    return Path(path)


def tuples(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration from JSON, which has no tuples, as configurations have no lists.

    Lists within lists are tuples as well.
    """
    return {name: _tuple(value) for name, value in config.items()}


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that a run has written.

    Raises:
        FileError: for a file that is missing or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, " ".join(str(error).split())) from error
    if not isinstance(content, dict):
        raise damaged(path, "it is no JSON object")
    return content


def signed(content: Mapping[str, Any]) -> str:
    """JSON of ``sign(content)``."""
    return json.dumps(sign(content), indent=2)


def sign(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` in JSON's own types, with the digest of everything in it."""
    there = json.loads(dumps(content))
    return there | {_DIGEST: _digest_of(there)}


def read_signed(path: Path) -> dict[str, Any]:
    """What ``signed`` made, without its digest.

    Raises:
        FileError: for a file that is missing, or has changed.
    """
    content = read_json(path)
    if not is_signed(content):
        raise damaged(path, "it has changed")
    return unsigned(content)


def is_signed(content: Any) -> bool:
    """Whether ``content`` is an object with the digest of everything else in it."""
    is_object = isinstance(content, dict)
    return is_object and content.get(_DIGEST) == _digest_of(unsigned(content))


def unsigned(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` without its digest."""
    return {name: value for name, value in content.items() if name != _DIGEST}


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


_DIGEST = "sha256"


def parsed(text: bytes) -> dict[str, Any] | None:
    """A JSON object, or None for anything else."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def damaged(path: Path, reason: str) -> FileError:
    """The error for a file of a run that cannot be used."""
    return FileError(
        f"{path} is damaged: {reason}; remove it, to make it again, or choose another "
        "workdir"
    )
