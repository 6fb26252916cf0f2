"""Progress of a loop: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator

from experiments import interrupts


def steps(total: int, label: str, *, first: int = 0) -> Iterator[int]:
    """Yields first … total - 1 and shows how far the loop is.

    Without a terminal a line appears every ten seconds and at the end, so that a log
    file stays short.
    """
    for i in _shown(total, label, first):
        yield i
        interrupts.check()


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
