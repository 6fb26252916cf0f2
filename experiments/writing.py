"""What a study writes about itself: findings, figures and tables, as ``report.md``."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.findings import Finding


class Drawn(NamedTuple):
    """A figure of matplotlib, the name of its file, and what it shows.

    The figure is None where it was drawn from arrays that are no longer there.
    """

    name: str
    figure: Any
    alt: str


class Table(NamedTuple):
    """A table with its title; cells are Markdown."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Report(NamedTuple):
    """A study's report.

    Attributes:
        title: of the report.
        question: what was asked, in a sentence.
        findings: what was found.
        figures: the most telling one first.
        tables: the numbers behind them.
        notes: how to read them, and sizes; Markdown.
        cautions: what speaks against the numbers, a line each.
    """

    title: str
    question: str
    findings: Sequence[Finding]
    figures: Sequence[Drawn] = ()
    tables: Sequence[Table] = ()
    notes: str = ""
    cautions: Sequence[str] = ()


def markdown(report: Report) -> str:
    """The report as Markdown."""
    parts = [f"## {report.title}", report.question]
    parts += [f"**Caution:** {each}" for each in report.cautions]
    if report.findings:
        parts.append(table(COLUMNS, [cells(each) for each in report.findings]))
    parts += [f"![{each.alt}]({each.name}.png)" for each in report.figures]
    for each in report.tables:
        parts += [f"### {each.title}", table(each.header, each.rows)]
    if report.notes:
        parts += ["### Size and method", report.notes]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def results(report: Report) -> dict[str, Any]:
    """What ``results.json`` has of a report: title, a line and a record a finding."""
    return {
        "title": report.title,
        "summary": [
            *map(line, report.findings),
            *(f"CAUTION: {each}" for each in report.cautions),
        ],
        "findings": [finding._asdict() for finding in report.findings],
        "cautions": [*report.cautions],
    }


COLUMNS = ("claim", "printed", "ours", "interval", "size", "verdict")


def cells(finding: Finding) -> list[str]:
    """The row of a finding in a table."""
    return [value or "–" for value in finding]


def line(finding: Finding) -> str:
    """A finding on one line, for a terminal."""
    interval = f" {finding.interval}" if finding.interval else ""
    printed = f"; printed {finding.printed}" if finding.printed else ""
    return f"{finding.claim}: {finding.ours}{interval}{printed} ({finding.verdict})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
