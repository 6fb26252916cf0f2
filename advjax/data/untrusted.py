"""Checks of files that may come from anybody."""

import os
import stat
from pathlib import Path

__all__ = ["ContentError", "DataError", "check_place", "line", "require"]


class DataError(RuntimeError):
    """A data set is not prepared, or damaged; one line that says what to do.

    Characters that do not print, such as those that steer a terminal, are replaced.
    """

    def __str__(self) -> str:
        return "".join(c if c.isprintable() else "\ufffd" for c in super().__str__())


class ContentError(ValueError):
    """What is wrong with a file, in words that need no name of an exception."""


def require(condition: bool, otherwise: str) -> None:
    """Raises ContentError unless ``condition`` holds."""
    if not condition:
        raise ContentError(otherwise)


def check_place(file: Path, folder: Path) -> os.stat_result:
    """The status of a file, which lies in ``folder`` and is no device or pipe."""
    status = file.stat()
    target = file.resolve()
    inside = target.is_relative_to(folder.resolve())
    require(inside, f"it is a link that leaves its folder, to {str(target)!r}")
    require(stat.S_ISREG(status.st_mode), "it is no regular file")
    return status


def line(error: Exception) -> str:
    """What an exception says, on one line."""
    kind = "" if isinstance(error, ContentError) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())[:300]
