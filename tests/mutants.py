"""Mutants of the pure modules: small faults of the code, and those no test notices.

    python tests/mutants.py [NUMBER [SEED [MODULES]]]

In each module so many places are drawn, and one fault is put into each, by operators of
cosmic-ray or the two below. The module's own tests run, the quickest first, until one
fails. Those listed in ``mutants.toml`` compute the same, for the reason given there.
Anything else that survives is printed, and the status is 1.

Processes are forked from one that has imported what takes long and computed nothing.
"""

import ast
import concurrent.futures
import contextlib
import difflib
import functools
import itertools
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cosmic_ray.ast
import cosmic_ray.mutating
import cosmic_ray.plugins
import coverage
import jax
import parso
import pytest
from cosmic_ray.operators.operator import Operator

NO_END = -1  # of tests that are stopped, or of a process that dies
ROOT = Path(__file__).parents[1]
COMPILED = ROOT / "build/mutants"
JOBS = int(os.environ.get("JOBS", "2"))
IMPORTED = ("flax.linen", "optax", "orbax.checkpoint", "scipy.stats", "xarray")

# Those that take longest come first. The tables of contracts test many modules at once.
TESTS = {
    "attacks/projected": ["attacks", "contracts", "hostile_input"],
    "attacks/surrogate": ["attacks", "contracts"],
    "attacks/restarts": ["attacks", "contracts", "hostile_input"],
    "attacks/auto": ["auto_attack"],
    "attacks/boundary": ["auto_attack"],
    "attacks/squares": ["auto_attack"],
    "attacks/components": ["auto_attack"],
    "attacks/survivors": ["auto_attack"],
    "attacks/projections": ["projections"],
    "evaluate": ["evaluate"],
    "objectives": ["objectives", "contracts"],
    "train": ["train"],
    "linear": ["linear"],
    "flatness": ["flatness"],
    "margins": ["margins"],
    "curves": ["curves"],
    "norms": ["norms"],
    "losses": ["losses"],
    "inference": ["inference"],
    "penalties": ["penalties"],
    "transition": ["transition"],
}

# Bits and shifts of floats raise errors, whatever the tests.
_SUMS, _BITS = "(Add|Sub|Mul|Div|FloorDiv|Pow)", "Bit(Or|And|Xor)"
_ORDER = "(Eq|NotEq|Lt|LtE|Gt|GtE)"
KINDS = re.compile(
    f"core/(ReplaceBinaryOperator_({_SUMS}_{_SUMS}|{_BITS}_{_BITS})"
    f"|ReplaceComparisonOperator_({_ORDER}_{_ORDER}|Is_IsNot|IsNot_Is)"
    "|ReplaceUnaryOperator_Delete_.*|Replace(True|False|And|Or)With.*|AddNot"
    "|NumberReplacer|ZeroIterationForLoop|RemoveDecorator|ExceptionReplacer)"
)


class DropOperand(Operator):
    """``a + b`` becomes ``a``, or ``b``."""

    types = ("arith_expr", "term", "expr", "and_expr", "and_test", "or_test")

    def mutation_positions(self, node):
        if node.type in self.types:
            yield from ((part.start_pos, part.end_pos) for part in node.children[::2])

    def mutate(self, node, index):
        parts = list(node.children)
        first = max(2 * index - 1, 0)
        del parts[first : first + 2]
        return _parsed("".join(part.get_code() for part in parts))

    @classmethod
    def examples(cls):
        return ()


class Unwrap(Operator):
    """``f(a, b)`` becomes ``a``, or ``b``, and ``x.method(a)`` becomes ``x``."""

    def mutation_positions(self, node):
        yield from ((node.start_pos, node.end_pos) for _ in _inner(node))

    def mutate(self, node, index):
        return _parsed(_inner(node)[index])

    @classmethod
    def examples(cls):
        return ()


def _parsed(code: str) -> Any:
    return parso.parse(f" ({code.strip()})")


def _inner(node: Any) -> list[str]:
    """What is called, if it is an array, or else the positional arguments."""
    if node.type != "atom_expr" or node.children[-1].children[0].value != "(":
        return []
    *callee, last, call = node.children
    if callee and last.get_code().startswith(".") and not _is_module(callee[0]):
        return ["".join(part.get_code() for part in callee)]
    if "".join(part.get_code() for part in (*callee, last)).strip() == "jax.jit":
        return []  # nothing but faster
    given = call.children[1:-1]
    if given and given[0].type == "arglist":
        given = given[0].children
    return [a.get_code() for a in given if a.type not in ("argument", "operator")]


def _is_module(node: Any) -> bool:
    return node.get_code().strip() in _imported(node.get_root_node())


@functools.cache
def _imported(root: Any) -> set[str]:
    return {name.value for i in root.iter_imports() for name in i.get_defined_names()}


class Mutant(NamedTuple):
    """A module, the lines of a statement, the text with a fault, and its change."""

    module: str
    statement: range
    code: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.module}.py:{self.statement[0]}\n- {self.old}\n+ {self.new}"


def _sample(module: str, number: int, seed: int) -> list[Mutant]:
    """Faults at places drawn at random, one at each."""
    source = (ROOT / f"advjax/{module}.py").read_text()
    sites: dict[Any, list] = {}
    skipped = list(_skipped(source))
    nodes = list(cosmic_ray.ast.ast_nodes(cosmic_ray.ast.get_ast(source)))
    for operator in _operators():
        places = (place for n in nodes for place in operator.mutation_positions(n))
        for occurrence, place in enumerate(places):
            if not any(first <= place[0] < last for first, last in skipped):
                sites.setdefault(place, []).append((operator, occurrence))
    draw = random.Random(f"{module} {seed}")  # noqa: S311
    drawn = (
        _mutant(module, source, *draw.choice(sites[place]))
        for place in draw.sample(sorted(sites), len(sites))
    )
    return list(itertools.islice(filter(None, drawn), number))


def _operators() -> list[Operator]:
    names = filter(KINDS.fullmatch, cosmic_ray.plugins.operator_names())
    return [
        *(cosmic_ray.plugins.get_operator(name)() for name in names),
        *(DropOperand(), Unwrap()),
    ]


def _skipped(source: str) -> Iterator[tuple]:
    """Where annotations, types and the words of errors are."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            yield _extent(node.annotation)
        elif isinstance(node, ast.FunctionDef) and node.returns:
            yield _extent(node.returns)
        elif isinstance(node, ast.Raise) or _is_words(node):
            yield _extent(node)


def _is_words(node: ast.AST) -> bool:
    if not isinstance(node, ast.Assign):
        return False
    name = ast.unparse(node.targets[0])
    # The names of types have a capital, and those of constants several.
    return name == "msg" or bool(re.fullmatch("_?[A-Z][a-z]\\w*", name))


def _extent(node: Any) -> tuple:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _mutant(module: str, source: str, operator: Operator, place: int) -> Mutant | None:
    """None for what is no Python or the same: a bare star is no product."""
    code = cosmic_ray.mutating.mutate_code(source, operator, place)
    try:
        if _essence(code) == _essence(source) or _keywords(code) != _keywords(source):
            return None
    except SyntaxError:
        return None
    old, new = source.splitlines(), code.splitlines()
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    changes = [c for c in matcher.get_opcodes() if c[0] != "equal"]
    (_, first, _, start, _), (_, _, last, _, end) = changes[0], changes[-1]
    texts = _words(old[first:last]), _words(new[start:end])
    return Mutant(module, _statement(source, first + 1), code, *texts)


def _essence(code: str) -> str:
    return ast.dump(ast.parse(code))


def _keywords(code: str) -> list[list[str]]:
    nodes = ast.walk(ast.parse(code))
    return [
        [a.arg for a in n.kwonlyargs] for n in nodes if isinstance(n, ast.arguments)
    ]


def _words(lines: list[str]) -> str:
    return re.sub(r"([(\[]) ", r"\1", " ".join(" ".join(lines).split()))


def _statement(source: str, line: int) -> range:
    found = [
        range(node.lineno, node.end_lineno + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.stmt) and node.lineno <= line <= node.end_lineno
    ]
    return min(found, key=len, default=range(line, line + 1))  # a decorator's


class _Tests:
    """The tests of a module: what each took, and which ran each line.

    With ``chosen``, these alone run, the quickest first.
    """

    def __init__(self, module: str, chosen: list[str] | None) -> None:
        self.module, self.chosen = module, chosen
        self.times: dict[str, float] = {}
        include = [f"*/advjax/{module}.py"]
        self.trace = coverage.Coverage(data_file=None, include=include)

    def pytest_sessionstart(self):
        jax.config.update("jax_compilation_cache_dir", str(COMPILED / self.module))

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        if self.chosen is None:
            self.trace.start()
        else:
            named = {item.nodeid: item for item in items}
            # A fault that renames tests runs them all.
            if named.keys() >= set(self.chosen):
                items[:] = [named[name] for name in self.chosen]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item):
        if self.chosen is None:
            self.trace.switch_context(item.nodeid)

    def pytest_runtest_logreport(self, report):
        self.times[report.nodeid] = self.times.get(report.nodeid, 0) + report.duration

    def of_lines(self) -> dict[int, list[str]]:
        """By line, the tests that run it."""
        if self.chosen is not None:
            return {}
        self.trace.stop()
        data = self.trace.get_data()
        return data.contexts_by_lineno(*data.measured_files())


class _Ended(NamedTuple):
    """The status of pytest, and what the tests took and ran."""

    status: int
    times: dict[str, float]
    of_lines: dict[int, list[str]]


def _run(module: str, code: str | None, chosen: list[str] | None, output: Any) -> None:
    """The tests of a module with other code, in a process of its own."""
    with tempfile.TemporaryDirectory() as place, Path(os.devnull).open("w") as nowhere:
        shutil.copytree(ROOT / "advjax", f"{place}/advjax")
        if code is not None:
            Path(f"{place}/advjax/{module}.py").write_text(code)
        sys.path[:0] = [place, str(ROOT)]
        os.chdir(ROOT)
        paths = [f"tests/test_{name}.py" for name in TESTS[module]]
        tests = _Tests(module, chosen)
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            status = pytest.main(["-xp", "no:cacheprovider", *paths], [tests])
        output.send(_Ended(int(status), tests.times, tests.of_lines()))


def _tested(
    module: str, code: str | None, chosen: list[str] | None, limit: float | None
) -> _Ended:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *IMPORTED])
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(module, code, chosen, theirs))
    process.start()
    theirs.close()
    ended = _Ended(NO_END, {}, {})
    with contextlib.suppress(EOFError):
        if ours.poll(limit):
            ended = ours.recv()
    process.kill()
    process.join()
    return ended


def _judged(mutants: list[Mutant]) -> list[int]:
    """For each of one module, the status of the tests that run its statement."""
    module = mutants[0].module
    ended = _tested(module, None, None, None)
    if ended.status:
        msg = f"the tests of {module} fail without a fault: status {ended.status}"
        raise RuntimeError(msg)
    found = []
    for mutant in mutants:
        chosen = _chosen(mutant, ended)
        # A fault may have to compile what the tests have compiled before.
        limit = 60 + 3 * sum(ended.times[name] for name in chosen)
        found.append(_tested(module, mutant.code, chosen, limit).status)
    return found


def _chosen(mutant: Mutant, ended: _Ended) -> list[str]:
    """The tests of a mutant, the quickest first: all, where it changes the import."""
    names: set[str] = set()
    for line in mutant.statement:
        names.update(ended.of_lines.get(line, ()))
    return sorted(names - {""} or ended.times, key=ended.times.__getitem__)


def main(number: int, seed: int, modules: list[str]) -> int:
    """Prints what survives of each module, and how many were killed."""
    listed = tomllib.loads((ROOT / "tests/mutants.toml").read_text())["equivalent"]
    known = {(each["module"], each["old"], each["new"]) for each in listed}
    # Python 3.11 does not parse in several threads at once.
    samples = [_sample(module, number, seed) for module in modules]
    counts, num_left = [], 0
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        for mutants, found in zip(samples, pool.map(_judged, samples), strict=True):
            alive = [m for m, status in zip(mutants, found, strict=True) if not status]
            left = [m for m in alive if (m.module, m.old, m.new) not in known]
            num_left += len(left)
            counts.append(
                f"{mutants[0].module}: {len(found) - len(alive)} of {len(found)} "
                f"killed, {found.count(NO_END)} without an end, "
                f"{len(alive) - len(left)} equivalent, {len(left)} survived"
            )
            print(*left, counts[-1], sep="\n", flush=True)  # noqa: T201
    print("", *counts, sep="\n")  # noqa: T201
    return bool(num_left)


if __name__ == "__main__":
    defaults = ("17", "1", ",".join(TESTS))
    given, seed, names = *sys.argv[1:], *defaults[len(sys.argv) - 1 :]
    sys.exit(main(int(given), int(seed), names.split(",")))
