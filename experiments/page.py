"""The page of results as HTML, in one file that needs no network."""

import html
import os
import shlex
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from experiments import checks, markdown
from experiments.provenance import environment
from experiments.record import Environment, Figure, Record, Result

STYLE = Path(__file__).with_name("report.css")
MARK = '<meta name="generator" content="advjax report">'


class Refused(NamedTuple):
    """A run that is not shown: name and reason, in printable characters."""

    name: str
    reason: str


class Guide(NamedTuple):
    """A Markdown page that links to reports: its directory and its text."""

    folder: Path
    text: str

    def target(self, href: str) -> Path:
        """The directory with the file that a link leads to."""
        return Path(os.path.realpath(self.folder / href)).parent


class Section(NamedTuple):
    """A part of the page: a title, Markdown of the guide, and results."""

    title: str
    text: str
    results: list[Result]

    @property
    def anchor(self) -> str:
        """Where the page shows it."""
        return "section-" + "".join(c if c.isalnum() else "-" for c in self.title)


def sections(results: Iterable[Result], guide: Guide | None) -> list[Section]:
    """The guide's sections, each with the results that it links to first.

    Results that the guide does not mention, or all without one, are a section of their
    own, and so are texts that mention none.
    """
    left, found = {result.path: result for result in results}, []
    for title, text in markdown.parts(guide.text) if guide else ():
        linked = dict.fromkeys(map(guide.target, markdown.links(text)))
        mine = [left.pop(path) for path in linked if path in left]
        found.append(Section(title, text, mine))
    if left:
        title = "Other results" if found else "Results"
        found.append(Section(title, "", list(left.values())))
    return found


def whole(
    results: Sequence[Result],
    guide: Guide | None = None,
    refused: Sequence[Refused] = (),
) -> str:
    """The whole page.

    Raises:
        ConfigError: for a guide with images.
    """
    by_path = {result.path: result for result in results}
    parts = sections(results, guide)
    body = [
        _header(results),
        '<nav aria-label="Contents">',
        *map(_contents, parts),
        _REFUSED_LINK if refused else "",
        "</nav><main>",
        *(_section(part, guide, by_path) for part in parts),
        _refused(refused) if refused else "",
        "</main>",
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            MARK,
            "<title>advjax: results</title>",
            f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>",
            *(part for part in body if part),
            "</body>\n</html>\n",
        ]
    )


def _header(results: Sequence[Result]) -> str:
    commits = {commit for result in results for commit in result.record.commits}
    made = environment()
    return (
        "<header><h1>advjax: results</h1><p>\n"
        f"{len(results)} results of {len(commits)} commits, each with its command, \n"
        "configuration, versions and hardware. Collected by commit \n"
        f"<code>{html.escape(made['commit'])}</code>, "
        f"advjax {made['versions']['advjax']}.</p></header>"
    )


def _contents(part: Section) -> str:
    link = f'<a href="#{part.anchor}">{html.escape(part.title)}</a>'
    if not part.results:
        return f"<p>{link}</p>"
    names = "".join(
        f'<li><a href="#{result.anchor}">{html.escape(result.name)}</a></li>'
        for result in part.results
    )
    return f"<details><summary>{link}</summary><ul>{names}</ul></details>"


_REFUSED_LINK = '<p><a href="#not-shown">Not shown</a></p>'


def _refused(refused: Sequence[Refused]) -> str:
    items = "".join(
        f"<li><code>{html.escape(name)}</code>: {html.escape(reason)}</li>"
        for name, reason in refused
    )
    return f'<section id="not-shown"><h2>Not shown</h2><ul>{items}</ul></section>'


def _section(part: Section, guide: Guide | None, by_path: dict[Path, Result]) -> str:
    def link(href: str) -> tuple[str, str]:
        if href.startswith(("https://", "http://")):
            return href, ""
        result = by_path.get(guide.target(href)) if guide else None
        if result is None:
            return "", ""
        return f"#{result.anchor}", ", ".join(result.record.commits)

    text = markdown.rendered(part.text, 1, link, _no_image)
    return "\n".join(
        [
            f'<section id="{part.anchor}"><h2>{html.escape(part.title)}</h2>',
            f'<div class="gallery">{"".join(map(_thumbnail, part.results))}</div>',
            f'<div class="guide">{text}</div>',
            *map(_article, part.results),
            "</section>",
        ]
    )


def _no_link(_: str) -> tuple[str, str]:
    return "", ""


def _no_image(source: str) -> tuple[dict[str, str], str]:
    raise checks.ConfigError(f"the guide shows {source}: only reports have figures")


def _article(result: Result) -> str:
    summary = "".join(
        f"<li>{html.escape(line)}</li>"
        for line in result.record.summary
        if line not in result.report
    )
    text = markdown.rendered(result.report, 1, _no_link, partial(_figure, result))
    return (
        f'<article id="{result.anchor}"><p class="name">{html.escape(result.name)}</p>'
        f'{text}<ul class="summary">{summary}</ul>{_provenance(result.record)}'
        "</article>"
    )


def _figure(result: Result, source: str) -> tuple[dict[str, str], str]:
    """A figure of a report; several panels side by side are wide."""
    figure = result.figures[source]
    size = {"width": str(figure.width), "height": str(figure.height)}
    kind = {"class": "wide"} if figure.width > 1.8 * figure.height else {}
    attributes = {"src": figure.image, **size, "loading": "lazy", **kind}
    return attributes, f", {result.name}"


def _thumbnail(result: Result) -> str:
    """The first figure of the report, small."""
    if not result.figures:
        return ""
    figure: Figure = next(iter(result.figures.values()))
    name = html.escape(result.name)
    return (
        f'<a href="#{result.anchor}"><img src="{figure.thumbnail}" '
        f'alt="{html.escape(figure.alt)}, {name}" loading="lazy"><span>{name}</span>'
        "</a>"
    )


def _provenance(record: Record) -> str:
    seconds = sum(stage.seconds for stage in record.stages.values())
    time = f"{seconds:.0f} s of stages" if record.stages else "not recorded by stage"
    made = record.environments
    rows = {
        "command": _distinct(command(part.arguments) for part in made),
        "commit": _distinct(record.commits),
        "seed": record.config.get("seed", "none"),
        "hardware": _distinct(map(_hardware, made)),
        "time": time,
        "versions": _distinct(map(_versions, made)),
        "random generator": _distinct(part.generator for part in made),
    }
    terms = "".join(
        f"<dt>{name}</dt><dd>{html.escape(value)}</dd>" for name, value in rows.items()
    )
    details = _details("configuration", ["field", "value"], record.config.items())
    if record.stages:
        stages = (
            (name, f"{stage.seconds:.1f}", stage.commit, stage.device)
            for name, stage in record.stages.items()
        )
        header = ["stage", "seconds", "commit", "device"]
        details += _details("stages", header, stages)
    return f'<dl class="made">{terms}</dl>{details}'


def _distinct(values: Iterable[str]) -> str:
    """Each of them once: a run may have been resumed elsewhere."""
    return "; ".join(dict.fromkeys(values))


def _hardware(made: Environment) -> str:
    return f"{made.device} ({made.cores} CPU cores usable)"


def _versions(made: Environment) -> str:
    packages = (f"{name} {version}" for name, version in made.versions.items())
    return ", ".join([f"Python {made.python}", *packages])


def command(arguments: list[str]) -> str:
    """What to type for a run that was given these arguments."""
    if arguments and arguments[0] in ("run", "evaluate"):
        program = "advjax"
    elif any(argument.startswith("--config=") for argument in arguments):
        program = "python -m experiments.run"
    else:
        program = "python -m experiments.evaluate"
    return f"{program} {shlex.join(arguments)}"


def _details(title: str, header: list[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in header)
    return (
        f"<details><summary>{title}</summary>{markdown.SCROLL}<table>"
        f"<thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table></div></details>"
    )
