"""One page of all results in a directory: figures, tables, and what is behind them.

    advjax report runs --output=runs/report.html
    advjax report experiments/results --guide=experiments/README.md

The page is one file that needs no network. With a guide, a Markdown page that links to
the reports, its sections order them, and its tables of printed against obtained numbers
come first. Every result is shown with its command, commit, versions, hardware and full
configuration, and the times of its stages, as its ``results.json`` has them.
"""

import base64
import html
import io
import json
import re
import shlex
import sys
import urllib.parse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from experiments import checks
from experiments.run import exit_status
from experiments.workdir import environment, replacing

STYLE = Path(__file__).with_name("report.css")
_MARK = '<meta name="generator" content="advjax report">'
_MADE = ("commit", "python", "versions", "device", "cores", "arguments")


class Result(NamedTuple):
    """A finished run.

    Attributes:
        name: of its work directory, relative to the one that is collected.
        path: the work directory.
        content: what ``results.json`` holds.
    """

    name: str
    path: Path
    content: dict[str, Any]

    @property
    def anchor(self) -> str:
        """Where the page shows it: of letters, digits and marks that others lack."""
        return "result-" + urllib.parse.quote(self.name, safe="").replace("%", "_")

    @property
    def report(self) -> str:
        """What the run wrote about itself, Markdown."""
        return (self.path / "report.md").read_text(encoding="utf-8")


class Figure(NamedTuple):
    """An image within the page: its attributes, and the result that it is of."""

    attributes: dict[str, str]
    of: str


class Section(NamedTuple):
    """A part of the page: a title, Markdown of the guide, and results."""

    title: str
    text: str
    results: list[Result]

    @property
    def anchor(self) -> str:
        """Where the page shows it."""
        return "section-" + "".join(c if c.isalnum() else "-" for c in self.title)


def collect(directory: Path) -> list[Result]:
    """Every finished run below a directory, by name.

    Raises:
        ConfigError: for a directory without any, or a file that is not of a run.
    """
    found = []
    for file in sorted(directory.rglob("results.json")):
        name = file.parent.relative_to(directory).as_posix()
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            _ = content["results"]["summary"], content["config"], content["stages"]
            _ = [content["environment"][field] for field in _MADE]
        except (ValueError, KeyError, TypeError) as error:
            raise checks.ConfigError(f"{file} is not of a run: {error!r}") from error
        found.append(
            Result(file.parent.name if name == "." else name, file.parent, content)
        )
    if not found:
        raise checks.ConfigError(f"{directory} holds no results.json of a finished run")
    return found


def sections(results: list[Result], guide: Path | None) -> list[Section]:
    """The guide's sections, each with the results that it links to first.

    Results that the guide does not mention, or all without one, are a section of their
    own, and so are texts that mention none.
    """
    left, found = {result.path.resolve(): result for result in results}, []
    for title, text in _parts(guide) if guide else ():
        linked = [(guide.parent / href).resolve().parent for href in _hrefs(text)]
        mine = [left.pop(path) for path in dict.fromkeys(linked) if path in left]
        found.append(Section(title, text, mine))
    if left:
        title = "Other results" if found else "Results"
        found.append(Section(title, "", list(left.values())))
    return found


def page(results: list[Result], guide: Path | None = None) -> str:
    """The whole page as HTML.

    Raises:
        ConfigError: for a report without a figure that it shows.
    """
    by_path = {result.path.resolve(): result for result in results}
    parts = sections(results, guide)
    commits = {result.content["environment"]["commit"] for result in results}
    made = environment()
    version = made["versions"]["advjax"]
    body = [
        "<header><h1>advjax: results</h1><p>",
        f"{len(results)} results of {len(commits)} commits, each with its command, ",
        "configuration, versions and hardware. Collected by commit ",
        f"<code>{html.escape(made['commit'])}</code>, advjax {version}.</p></header>",
        '<nav aria-label="Contents">',
        *map(_contents, parts),
        "</nav><main>",
        *(_section(part, guide, by_path) for part in parts),
        "</main>",
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            _MARK,
            "<title>advjax: results</title>",
            f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>",
            *body,
            "</body>\n</html>\n",
        ]
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


def _section(part: Section, guide: Path | None, by_path: dict[Path, Result]) -> str:
    def link(href: str) -> tuple[str, str]:
        if href.startswith(("https://", "http://")):
            return href, ""
        result = by_path.get((guide.parent / href).resolve().parent) if guide else None
        if result is None:
            return "", ""
        return f"#{result.anchor}", result.content["environment"]["commit"]

    return "\n".join(
        [
            f'<section id="{part.anchor}"><h2>{html.escape(part.title)}</h2>',
            f'<div class="gallery">{"".join(map(_thumbnail, part.results))}</div>',
            f'<div class="guide">{rendered(part.text, 1, link, _no_figure)}</div>',
            *map(_article, part.results),
            "</section>",
        ]
    )


def _no_link(_: str) -> tuple[str, str]:
    return "", ""


def _no_figure(name: str) -> Figure:
    raise checks.ConfigError(f"the guide shows {name}: only reports have figures")


def _article(result: Result) -> str:
    report = result.report
    summary = "".join(
        f"<li>{html.escape(line)}</li>"
        for line in result.content["results"]["summary"]
        if line not in report
    )
    text = rendered(report, 1, _no_link, partial(_figure, result))
    return (
        f'<article id="{result.anchor}"><p class="name">{html.escape(result.name)}</p>'
        f'{text}<ul class="summary">{summary}</ul>{_provenance(result)}</article>'
    )


def _provenance(result: Result) -> str:
    content = result.content
    made, config, stages = content["environment"], content["config"], content["stages"]
    seconds = sum(stage["seconds"] for stage in stages.values())
    versions = ", ".join(f"{k} {v}" for k, v in made["versions"].items())
    rows = {
        "command": command(made["arguments"]),
        "commit": made["commit"],
        "seed": config.get("seed", "none"),
        "hardware": f"{made['device']} ({made['cores']} CPU cores usable)",
        "time": f"{seconds:.0f} s of stages" if stages else "not recorded by stage",
        "versions": f"Python {made['python']}, {versions}",
        # Results from before it was recorded are all of jax's default.
        "random generator": made.get("generator", "threefry2x32"),
    }
    stage_rows = [
        [name, f"{stage['seconds']:.1f}", stage["commit"], stage["device"]]
        for name, stage in stages.items()
    ]
    terms = "".join(
        f"<dt>{name}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in rows.items()
    )
    fields = [[name, json.dumps(value)] for name, value in config.items()]
    details = _details("configuration", ["field", "value"], fields)
    if stages:
        header = ["stage", "seconds", "commit", "device"]
        details += _details("stages", header, stage_rows)
    return f'<dl class="made">{terms}</dl>{details}'


def command(arguments: list[str]) -> str:
    """What to type for a run that was given these arguments."""
    if arguments and arguments[0] in ("run", "evaluate"):
        program = "advjax"
    elif any(argument.startswith("--config=") for argument in arguments):
        program = "python -m experiments.run"
    else:
        program = "python -m experiments.evaluate"
    return f"{program} {shlex.join(arguments)}"


def _details(title: str, header: list[str], rows: Iterable[list[str]]) -> str:
    cells = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in header)
    return (
        f"<details><summary>{title}</summary>{_SCROLL}<table><thead><tr>{heads}</tr>"
        f"</thead><tbody>{cells}</tbody></table></div></details>"
    )


_SCROLL = '<div class="scroll" tabindex="0" role="region" aria-label="table">'


def _image(result: Result, name: str) -> Any:
    from PIL import Image

    path = result.path / name
    if path.parent != result.path or not path.is_file():
        raise checks.ConfigError(f"{result.path}/report.md shows {name}, no file there")
    with Image.open(path) as image:
        return image.convert("RGB")


def _uri(image: Any, **options: Any) -> str:
    """An image within the page; WebP without loss has half the size of PNG."""
    file = io.BytesIO()
    image.save(file, "WEBP", **options)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _figure(result: Result, name: str) -> Figure:
    """A figure of a report; several panels side by side are wide."""
    image = _image(result, name)
    width, height = image.size
    size = {"width": str(width), "height": str(height), "loading": "lazy"}
    kind = {"class": "wide"} if width > 1.8 * height else {}
    return Figure({"src": _uri(image, lossless=True), **size, **kind}, result.name)


def _thumbnail(result: Result) -> str:
    """The first figure of the report, small."""
    found = re.search(r"!\[([^]]*)\]\(([^)]*)\)", result.report)
    if not found:
        return ""
    image = _image(result, found[2])
    image.thumbnail((360, 360))
    name = html.escape(result.name)
    return (
        f'<a href="#{result.anchor}"><img src="{_uri(image, quality=80)}" '
        f'alt="{html.escape(found[1])}, {name}" loading="lazy"><span>{name}</span></a>'
    )


def rendered(
    text: str,
    shift: int,
    link: Callable[[str], tuple[str, str]],
    figure: Callable[[str], Figure],
) -> str:
    """Markdown as HTML, whose own tags stay text.

    Args:
        text: Markdown with tables.
        shift: by which headings are deeper.
        link: from a target to the page's and a note behind it; no target, no link.
        figure: from a name to what is shown for it.
    """
    parser = _parser()
    tokens = list(_blocks(parser.parse(text), shift))
    for token in tokens:
        if token.children:
            token.children = list(_inline(token.children, link, figure))
    return parser.renderer.render(tokens, parser.options, {})


def _blocks(tokens, shift):
    """Headings deeper, tables that scroll by themselves, cells with their column."""
    for i, token in enumerate(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + shift)}"
        elif token.type == "table_open":
            yield _token("html_inline", _SCROLL)
            labels = []
        elif token.type == "tr_open":
            column = iter(labels)
        elif token.type == "th_open":
            token.attrSet("scope", "col")
            labels.append(tokens[i + 1].content)
        elif token.type == "td_open":
            token.attrSet("data-label", next(column))
        yield token
        if token.type == "table_close":
            yield _token("html_inline", "</div>")


def _inline(tokens, link, figure):
    for token in tokens:
        note = ""
        if token.type == "link_open":
            target, behind = link(str(token.attrGet("href")))
            token.attrs = {"href": target} if target else {}
            token.tag = tag = "a" if target else "span"
        elif token.type == "link_close":
            token.tag, note = tag, behind
        elif token.type == "image":
            shown = figure(str(token.attrGet("src")))
            token.attrs |= shown.attributes
            token.children.append(_token("text", f", {shown.of}"))
        yield token
        if note:
            small = f' <small class="commit">{html.escape(note)}</small>'
            yield _token("html_inline", small)


def _token(kind: str, content: str):
    from markdown_it.token import Token

    return Token(kind, "", 0, content=content)


def _parser():
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _parts(guide: Path) -> Iterable[tuple[str, str]]:
    """Titles and texts of the sections of a Markdown page."""
    for part in guide.read_text(encoding="utf-8").split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        yield title, text


def _hrefs(text: str) -> list[str]:
    return [
        str(token.attrGet("href"))
        for block in _parser().parse(text)
        for token in block.children or ()
        if token.type == "link_open"
    ]


def write(path: Path, text: str) -> None:
    """Writes the page, over an earlier one only.

    Raises:
        ConfigError: for a file that is something else.
    """
    if path.exists() and _MARK.encode() not in path.read_bytes():
        raise checks.ConfigError(f"{path} is no report of advjax; choose another")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text.encode())


def main(argv: list[str]) -> int:
    """``report [DIRECTORY] [--guide=FILE.md] [--output=FILE.html]``."""
    if {"-h", "--help"} & {*argv}:
        print(__doc__)
        return 0
    return exit_status(lambda: _main(argv))


def _main(argv: list[str]) -> None:
    options = {"--guide": "", "--output": ""}
    directories = []
    for argument in argv:
        name, _, value = argument.partition("=")
        if not argument.startswith("-"):
            directories.append(argument)
        elif name not in options:
            raise checks.ConfigError(f"{name}: {checks.choose(name, options)}")
        elif not value:
            raise checks.ConfigError(f"{name}: write it as {name}=FILE")
        else:
            options[name] = value
    if len(directories) > 1:
        raise checks.ConfigError(f"one directory at a time, not {len(directories)}")
    directory = Path(*directories or ["runs"])
    guide = Path(options["--guide"]) if options["--guide"] else None
    output = Path(options["--output"] or directory / "report.html")
    results = collect(directory)
    write(output, page(results, guide))
    size = output.stat().st_size / 1e6
    print(f"{len(results)} results → {output} ({size:.1f} MB)")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
