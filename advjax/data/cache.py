"""Decoded images, kept in the user's cache so that they are decoded once.

The name of a file is the digest of what it was decoded from, so that what changes is
decoded again, and it holds that of its images, so that what is damaged is not believed.
It may be deleted at any time, and processes do not disturb each other. Where nothing
can be written, nothing is kept.
"""

import contextlib
import hashlib
import io
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from advjax.types import Batch

__all__ = ["digest", "kept", "place"]

_DECODER = b"advjax images 1"
"""Another way to decode needs another number."""


def place() -> Path:
    """``$ADVJAX_CACHE``, or else ``advjax`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if given := os.environ.get("ADVJAX_CACHE"):
        return Path(given).expanduser()
    root = os.environ.get("XDG_CACHE_HOME", "")
    # The standard has relative ones ignored.
    return (
        Path(root if Path(root).is_absolute() else "~/.cache").expanduser() / "advjax"
    )


def digest(parts: Iterable[bytes | Path]) -> str:
    """Of texts and of the content of files, as hexadecimal digits."""
    total = hashlib.sha256(_DECODER)
    for part in parts:
        with part.open("rb") if isinstance(part, Path) else io.BytesIO(part) as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def kept(digest: Callable[[], str], decode: Callable[[], Batch]) -> Batch:
    """The images of a digest: those of the cache, or else decoded, and kept.

    They are kept only if the digest is the same after as before.
    """
    name = digest()
    try:
        path = place() / f"{name}.safetensors"
    except RuntimeError:  # there is no home
        return decode()
    found = _read(path)
    if found is None:
        found = decode()
        if digest() == name:
            _write(path, found)
    return found


def _read(path: Path) -> Batch | None:
    """What a file holds; None if there is none, or not what was written."""
    try:
        with safetensors.safe_open(path, "np") as file:
            found = Batch(*(file.get_tensor(field) for field in Batch._fields))
            stated = (file.metadata() or {}).get("digest")
    except (OSError, safetensors.SafetensorError, AttributeError):
        return None  # AttributeError for types that NumPy has not
    return found if stated == _content(path, found) else None


def _write(path: Path, found: Batch) -> None:
    """At once, or not at all."""
    part = path.with_suffix(f".{uuid.uuid4().hex}.part")
    with contextlib.suppress(OSError, safetensors.SafetensorError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            about = {"digest": _content(path, found)}
            safetensors.numpy.save_file(found._asdict(), part, about)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _content(path: Path, found: Batch) -> str:
    """Of the images, and of the name that they are kept under."""
    total = hashlib.sha256(
        repr([path.name, *((a.dtype.str, a.shape) for a in found)]).encode()
    )
    for array in found:
        total.update(np.asarray(array).tobytes())
    return total.hexdigest()
