"""Ctrl-C and termination, so that a run stops where nothing is lost.

    with interrupts.handled():
        ...
            with interrupts.deferred():          # a signal waits for the end of it
                state = step(state)

The first signal raises ``Interrupted`` at once, or at the end of what defers it; a
second one ends the process. Without ``handled``, as in notebooks, nothing changes.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run.

    Attributes:
        signum: its number.
        kept: what is on the disk, for the user.
    """

    def __init__(self, signum: int, kept: str = ""):
        """Both are read again by whoever tells the user."""
        super().__init__(signum, kept)
        self.signum, self.kept = signum, kept

    @property
    def name(self) -> str:
        """Such as SIGINT."""
        return signal.Signals(self.signum).name

    @property
    def status(self) -> int:
        """The exit status, 130 or 143."""
        return 128 + self.signum


class _Signals:
    """What has come, and whether it must wait."""

    def __init__(self):
        self.come: int | None = None
        self.num_deferring = 0

    def __call__(self, signum, frame):
        if frame is not None and frame.f_code.co_name == "_xla_gc_callback":
            # Python ignores what is raised there.
            threading.Timer(0.05, os.kill, (os.getpid(), signum)).start()
            return
        if self.come is not None:
            os._exit(128 + signum)
        self.come = signum
        if self.num_deferring:
            # Not print, whose buffer may be in use.
            os.write(2, b"\nadvjax: finishing the step; once more stops at once\n")
        else:
            raise Interrupted(signum)


_SIGNALS = _Signals()


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Handles SIGINT and SIGTERM; in threads other than the main one, nothing.

    Within another ``handled`` it also raises what came, and some import swallowed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if signal.getsignal(signal.SIGINT) is _SIGNALS:
        check()
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    _SIGNALS.come = None
    before = [signal.signal(number, _SIGNALS) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Lets a signal wait for the end of the block, which then raises it."""
    _SIGNALS.num_deferring += 1
    try:
        yield
    finally:
        _SIGNALS.num_deferring -= 1
    check()


def check() -> None:
    """Raises ``Interrupted`` for a signal that waits, unless it is deferred."""
    if _SIGNALS.come is not None and not _SIGNALS.num_deferring:
        raise Interrupted(_SIGNALS.come)


def is_pending() -> bool:
    """Whether a signal waits; a loop inside ``deferred`` should end then."""
    return _SIGNALS.come is not None


def closed_pipe() -> int:
    """The exit status where nobody reads what is printed, such as after ``head``."""
    # Or Python would complain when it flushes at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def leave(status: int) -> NoReturn:
    """Ends the process at once, and with it all threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
