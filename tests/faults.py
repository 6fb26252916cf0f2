"""Faults injected into runs, and what becomes of them.

    python tests/faults.py 200 [SEED [CASES]]
    python tests/faults.py pairs 20

Every fault is followed by the same command, twice. The run then *survived*, with the
results and parameters of an undisturbed one, or was *refused* by one line and status 2.
Anything else is a defect: *different* results without a word, or a *crash*.

Processes are forked from one that has imported everything and computed nothing.
"""

import collections
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import matplotlib.pyplot as plt  # noqa: E402, F401
import orbax.checkpoint  # noqa: E402, F401
import safetensors.numpy  # noqa: E402

from experiments import run  # noqa: E402

_FOLDER = ROOT / "experiments"
_TRAINING = "training/configs/digits.py:smoke"
CASES: dict[str, list[str]] = {
    "training": [
        f"--config={_FOLDER}/{_TRAINING}",
        *("--config.num_seeds=1", "--config.eps=(0.1,)", "--config.checkpoint_steps=3"),
    ],
    "grid": [f"--config={_FOLDER}/transition/classifier_grid.py:digits,smoke"],
    "simulation": [f"--config={_FOLDER}/transition/moments.py:smoke"],
    "study": [
        f"--config={_FOLDER}/transition/fine_tuning.py:digits,smoke",
        "--config.grid=GRID",
    ],
}


class Ended(NamedTuple):
    """How a process ended."""

    status: int
    output: str


def forked(arguments: list[str], workdir: Path, fault: Callable[[], None]) -> Ended:
    """Runs an experiment in a process of its own, after ``fault()``."""
    return _waited(*_forked(arguments, workdir, workdir.with_suffix(".log"), fault))


def _waited(pid: int, log: Path) -> Ended:
    _, waited = os.waitpid(pid, 0)
    return Ended(os.waitstatus_to_exitcode(waited), log.read_text(errors="replace"))


def _forked(arguments, workdir: Path, log: Path, fault) -> tuple[int, Path]:
    pid = os.fork()
    if pid == 0:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = 99
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the error alone
        try:
            fault()
            status = run.main([*arguments, f"--workdir={workdir}"], own_process=True)
        except BaseException:  # noqa: BLE001, a defect that is to be counted
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return pid, log


def at_event(workdir: Path, number: float, action: Callable[[], None]) -> list[int]:
    """Calls ``action`` at the ``number``-th change of files in a directory.

    Returns the list that holds how many there have been.
    """
    count, place = [0], str(workdir)

    def hook(event, arguments):
        writes = event == "open" and isinstance(arguments[1], str)
        writes = writes and any(letter in arguments[1] for letter in "wax+")
        changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
        if (writes or changes) and str(arguments[0]).startswith(place):
            count[0] += 1
            if count[0] == number:
                action()

    sys.addaudithook(hook)
    return count


def kill() -> None:
    """As the kernel does where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk() -> None:
    """From now on no file grows beyond 300 bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))


def flip(path: Path, generator: np.random.Generator) -> str:
    """Flips one bit of one file below ``path``."""
    file = _some_file(path, generator)
    content = bytearray(file.read_bytes())
    at = int(generator.integers(len(content)))
    content[at] ^= 1 << int(generator.integers(8))
    file.write_bytes(content)
    return f"{file.relative_to(path)}, byte {at}"


def truncate(path: Path, generator: np.random.Generator) -> str:
    """Cuts one file below ``path`` short."""
    file = _some_file(path, generator)
    size = int(generator.integers(file.stat().st_size))
    os.truncate(file, size)
    return f"{file.relative_to(path)} to {size} bytes"


def _some_file(path: Path, generator: np.random.Generator) -> Path:
    """Kinds of files are equally likely, however many files are of a kind."""
    kinds = collections.defaultdict(list)
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.stat().st_size:
            parent = re.sub(r"\d+", "N", str(file.parent.relative_to(path)))
            kinds[parent, file.suffix].append(file)
    files = kinds[sorted(kinds)[generator.integers(len(kinds))]]
    return files[generator.integers(len(files))]


def outcome(path: Path) -> dict:
    """What must be the same: results, and the bytes of all parameters."""
    results = _timeless(json.loads((path / "results.json").read_text())["results"])
    parameters = {
        file.name: {
            name: array.tobytes()
            for name, array in safetensors.numpy.load_file(file).items()
        }
        for file in path.glob("*.safetensors")
    }
    return {"results": results, "parameters": parameters}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k != "images_per_second"}
    return value


class Harness:
    """Reference runs of the cases, and faults in copies of them."""

    def __init__(self, place: Path, generator: np.random.Generator, cases: list[str]):
        """Makes undisturbed runs."""
        self.place, self.generator, self.cases = place, generator, cases
        self.tally: dict[str, collections.Counter] = collections.defaultdict(
            collections.Counter
        )
        self.defects: list[str] = []
        self.num_events: dict[str, int] = {}
        for case in CASES if "study" in cases else cases:
            whole, events = place / f"{case}-whole", place / f"{case}-events"
            ended = forked(
                self._arguments(case),
                whole,
                lambda w=whole, e=events: self._counting(w, e),
            )
            assert ended.status == 0, ended.output
            self.num_events[case] = int(events.read_text())

    def _arguments(self, case: str) -> list[str]:
        return [
            each.replace("GRID", f"{self.place}/grid-whole") for each in CASES[case]
        ]

    @staticmethod
    def _counting(workdir: Path, events: Path) -> None:
        count = at_event(workdir, np.inf, lambda: None)
        ending = os._exit

        def exiting(status):
            events.write_text(str(count[0]))
            ending(status)

        os._exit = exiting

    def inject(self, kind: str, case: str) -> None:
        """One fault of a kind into a run of a case, and what becomes of it."""
        path = self.place / "faulty"
        shutil.rmtree(path, ignore_errors=True)
        number = int(self.generator.integers(1, self.num_events[case] + 1))
        arguments, what = self._arguments(case), f"at event {number}"
        ended = None
        if kind in ("kill", "full disk"):
            action = kill if kind == "kill" else fill_disk
            ended = forked(arguments, path, lambda: at_event(path, number, action))
        else:
            if kind.endswith("unfinished"):
                forked(arguments, path, lambda: at_event(path, number, kill))
            else:
                shutil.copytree(self.place / f"{case}-whole", path)
            if any(file.is_file() and file.stat().st_size for file in path.rglob("*")):
                damage = flip if kind.startswith("flip") else truncate
                what = damage(path, self.generator)
        self._judge(
            kind, f"{kind}, {case}, {what}", self._after(ended, arguments, path)
        )

    def pair(self, case: str) -> None:
        """Two processes that start in one directory at the same time."""
        path, (read, write) = self.place / "faulty", os.pipe()
        shutil.rmtree(path, ignore_errors=True)
        started = [
            _forked(
                self._arguments(case),
                path,
                self.place / f"{i}.log",
                lambda: (os.close(write), os.read(read, 1)),
            )
            for i in range(2)
        ]
        os.close(write)  # lets both go
        os.close(read)
        first, second = sorted((_waited(*each) for each in started), key=lambda e: e[0])
        is_told = second.status == 2 and "is in use by process" in second.output
        verdict = "survived" if is_told else f"crash: {second}"
        if first.status != 0 or len(second.output.strip().splitlines()) != 1:
            verdict = f"crash: {first} {second}"
        elif outcome(path) != outcome(self.place / f"{case}-whole"):
            verdict = "different"
        self._judge("pair", f"pair, {case}", verdict)

    def _after(self, ended: Ended | None, arguments: list[str], path: Path) -> str:
        """The verdict: survived, refused, different or a crash."""
        ends = [] if ended is None or ended.status == -signal.SIGKILL else [ended]
        ends += [forked(arguments, path, lambda: None) for _ in range(2)]
        for each in ends:
            lines = [
                line for line in each.output.splitlines() if "advjax: error" in line
            ]
            if "Traceback" in each.output or each.status not in (0, 2):
                return f"crash: status {each.status}\n{each.output[-3000:]}"
            if each.status == 2 and len(lines) != 1:
                return f"crash: {len(lines)} lines\n{each.output[-3000:]}"
        if ends[-1].status == 2:
            return "refused"
        case = next(c for c in CASES if self._arguments(c) == arguments)
        whole = outcome(self.place / f"{case}-whole")
        return "survived" if outcome(path) == whole else "different"

    def _judge(self, kind: str, what: str, verdict: str) -> None:
        word = verdict.split(":")[0]
        self.tally[kind][word] += 1
        if word not in ("survived", "refused"):
            self.defects.append(f"{what}: {verdict}")
        print(f"{what}: {verdict}", flush=True)


KINDS = (
    *("kill", "full disk", "flip, unfinished", "flip, complete"),
    *("truncation, unfinished", "truncation, complete"),
)


def main(number: int, num_pairs: int, seed: int, cases: list[str]) -> int:
    """Injects so many faults, and prints how many ended how."""
    generator = np.random.default_rng(seed)
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        jax.config.update("jax_compilation_cache_dir", str(place / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        harness = Harness(place, generator, cases)
        for i in range(num_pairs):
            harness.pair(cases[i % len(cases)])
        for i in range(number):
            harness.inject(KINDS[i % len(KINDS)], cases[i // len(KINDS) % len(cases)])
    for kind, counts in harness.tally.items():
        print(f"{kind}: {', '.join(f'{n} {word}' for word, n in counts.items())}")
    print("\n".join(harness.defects) or "no defect")
    return bool(harness.defects)


if __name__ == "__main__":
    first, *rest = sys.argv[1:]
    if first == "pairs":
        sys.exit(main(0, int(rest[0]), 0, ["training", "simulation"]))
    chosen = rest[1].split(",") if rest[1:] else list(CASES)
    sys.exit(main(int(first), 1, int(rest[0]) if rest else 0, chosen))
