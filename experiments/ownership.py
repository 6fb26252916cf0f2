"""One owner of a work directory at a time.

The lock is the operating system's: it goes with the process that holds it, however that
ends, also on another host where the file system has locks for all hosts, as NFS and
Lustre have. ``.advjax-owner.json`` only says who it is.
"""

import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path

import filelock

from experiments import files


class HeldError(ValueError):
    """Another process works in the directory."""


class Owner:
    """The right to write into a directory, until ``release``."""

    def __init__(self, path: Path):
        """Takes it, and makes the directory if there is none.

        Raises:
            HeldError: if another process has it.
            OSError: if nothing can be written.
        """
        self.path = path
        self._made = [each for each in (path, *path.parents) if not each.exists()]
        path.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(path / LOCK)
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise HeldError(f"workdir {path} is in use by {_holder(path)}") from None
        with files.replacing(path / HOLDER) as part:
            part.write(json.dumps(_present()).encode())

    def release(self) -> None:
        """Gives it back; a directory with nothing else in it is removed again."""
        with contextlib.suppress(OSError):
            (self.path / HOLDER).unlink(missing_ok=True)
            if not {each.name for each in self.path.iterdir()} - {LOCK}:
                (self.path / LOCK).unlink()
                for made in self._made:
                    made.rmdir()
        self._lock.release()


LOCK = ".advjax-lock"
HOLDER = ".advjax-owner.json"
FILES = (LOCK, HOLDER)
"""What an owner leaves in the directory; a killed one leaves both."""


def _present() -> dict[str, str | int]:
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join(["advjax", *sys.argv[1:]]),
    }


def _holder(path: Path) -> str:
    for _ in range(20):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads((path / HOLDER).read_text(encoding="utf-8"))
            return (
                f"process {found['process']} on {found['host']} since "
                f"{found['since']}, {found['command']}"
            )
        time.sleep(0.05)  # it may just have taken the lock
    return "another process"
