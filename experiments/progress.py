"""Progress of a loop: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from typing import Any

from experiments import interrupts


def steps(total: int, label: str, *, first: int = 0) -> Iterator[int]:
    """Yields first … total - 1 and shows how far the loop is.

    Without a terminal a line appears every ten seconds and at the end, so that a log
    file stays short.
    """
    for i in _shown(total, label, first):
        yield i
        interrupts.check()


class Meter:
    """Shows how far something is that says so itself, of a total that may shrink."""

    def __init__(self, label: str):
        """Shows nothing yet."""
        self._label = label
        self._begin = self._last = time.monotonic()
        self._bar: Any = None

    def show(self, done: int, total: int, note: str) -> None:
        """``done`` of ``total``, and what else there is to say.

        On a terminal a bar; elsewhere a line every ten seconds and at the end.
        """
        interrupts.check()
        if sys.stderr.isatty():
            self._show_bar(done, total, note)
            return
        now = time.monotonic()
        if now - self._last > 10 or done == total:
            self._last, spent = now, now - self._begin
            left = spent * (total / done - 1)
            text = f"{done}/{total} in {spent:.0f} s, at most {left:.0f} s left"
            print(f"{self._label}: {text}; {note}", flush=True)

    def _show_bar(self, done: int, total: int, note: str) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(desc=self._label)
        self._bar.total, self._bar.n = total, done
        self._bar.set_postfix_str(note)
        if done == total:
            self._bar.close()


def _shown(total: int, label: str, first: int) -> Iterator[int]:
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(range(first, total), desc=label, initial=first, total=total)
        return
    begin = last = time.monotonic()
    for i in range(first, total):
        yield i
        now = time.monotonic()
        if now - last > 10 or i == total - 1:
            last = now
            print(f"{label}: {i + 1}/{total} in {now - begin:.0f} s", flush=True)
