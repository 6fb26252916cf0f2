"""The page of results as HTML, in one file that needs no network."""

import collections
import re
import shlex
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from experiments import findings, markdown
from experiments.papers import PAPERS
from experiments.provenance import environment
from experiments.record import Environment, Record, Result, Stage

FOLDER = Path(__file__).parent
MARK = '<meta name="generator" content="advjax report">'
OTHERS = "Other results"


class Refused(NamedTuple):
    """A run that is not shown: name and reason, in printable characters."""

    name: str
    reason: str


class Shown(NamedTuple):
    """A result as the page shows it; ``text`` and ``folds`` are HTML."""

    name: str
    anchor: str
    figures: dict[str, Any]
    text: Any
    folds: list[tuple[str, Any]]
    summary: list[str]
    facts: dict[str, str]
    config: dict[str, str]
    stages: dict[str, Stage]
    verdicts: collections.Counter


class Section(NamedTuple):
    """The results of a paper."""

    title: str
    results: list[Shown]

    @property
    def anchor(self) -> str:
        """Where the page shows it."""
        return "section-" + "".join(c if c.isalnum() else "-" for c in self.title)

    def count(self, verdict: str) -> int:
        """The number of its findings with a verdict."""
        return sum(result.verdicts[verdict] for result in self.results)


def sections(results: Iterable[Result]) -> list[Section]:
    """The papers that have results, and the others."""
    by_paper: dict[str, list[Shown]] = {name: [] for name in (*PAPERS, "")}
    for result in results:
        by_paper[result.record.paper].append(_shown(result))
    return [
        Section(PAPERS.get(name, OTHERS), shown)
        for name, shown in by_paper.items()
        if shown
    ]


def whole(results: Sequence[Result], refused: Sequence[Refused] = ()) -> str:
    """The whole page."""
    import jinja2
    from markupsafe import Markup

    made = environment()
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    ).get_template("page.html.j2")
    style = (FOLDER / "report.css").read_text(encoding="utf-8")
    return template.render(
        mark=Markup(MARK),  # noqa: S704, it is ours
        style=Markup(style),  # noqa: S704, it is ours
        number=len(results),
        num_commits=len({c for result in results for c in result.record.commits}),
        commit=made["commit"],
        version=made["versions"]["advjax"],
        verdicts=findings.VERDICTS,
        sections=sections(results),
        refused=refused,
    )


def _shown(result: Result) -> Shown:
    """A result; sections of its report below the first are folded."""
    from markupsafe import Markup

    def rendered(text: str) -> Any:
        figure = partial(_figure, result)
        html = markdown.rendered(text, 1, lambda _: ("", ""), figure)
        return Markup(html)  # noqa: S704, tags of reports are text there

    head, folds = markdown.folded(result.report)
    record = result.record
    return Shown(
        result.name,
        result.anchor,
        result.figures,
        rendered(head),
        [(title, rendered(text)) for title, text in folds],
        [] if record.findings else record.summary,
        _facts(record),
        record.config,
        record.stages,
        collections.Counter(finding.verdict for finding in record.findings),
    )


def _figure(result: Result, source: str) -> tuple[dict[str, str], str]:
    """A figure of a report; several panels side by side are wide."""
    figure = result.figures[source]
    size = {"width": str(figure.width), "height": str(figure.height)}
    kind = {"class": "wide"} if figure.width > 1.8 * figure.height else {}
    attributes = {"src": figure.image, **size, "loading": "lazy", **kind}
    return attributes, f", {result.name}"


def _facts(record: Record) -> dict[str, str]:
    """What a result depends on beside its configuration."""
    seconds = sum(stage.seconds for stage in record.stages.values())
    made = record.environments
    return {
        "command": _distinct(command(part.arguments) for part in made),
        "commit": _distinct(record.commits),
        "seed": record.config.get("seed", "none"),
        "hardware": _distinct(map(_hardware, made)),
        "time": f"{seconds:.0f} s of stages" if record.stages else "not recorded",
        "versions": _distinct(map(_versions, made)),
        "random generator": _distinct(part.generator for part in made),
    }


def _distinct(values: Iterable[str]) -> str:
    """Each of them once: a run may have been resumed elsewhere."""
    return "; ".join(dict.fromkeys(values))


def _hardware(made: Environment) -> str:
    return f"{made.device} ({made.cores} CPU cores usable)"


def _versions(made: Environment) -> str:
    packages = (f"{name} {version}" for name, version in made.versions.items())
    return ", ".join([f"Python {made.python}", *packages])


def command(arguments: list[str]) -> str:
    """What to type for a run that was given these arguments.

    Earlier runs named the file of their configuration, which has moved since.
    """
    if arguments and arguments[0] in ("run", "evaluate"):
        return f"advjax {shlex.join(arguments)}"
    own = [_CONFIG.fullmatch(argument) for argument in arguments]
    names = [f"{m['folder']}/{m['name']}{m['variants'] or ''}" for m in own if m]
    others = [a for a, m in zip(arguments, own, strict=True) if not m]
    kind = ["run", *names] if names else ["evaluate"]
    return f"advjax {shlex.join([*kind, *others])}"


_CONFIG = re.compile(
    r"--config=(.*/)?(?P<folder>(?!configs/)\w+)/(configs/)?"
    r"(?P<name>\w+)\.py(?P<variants>:.*)?"
)
