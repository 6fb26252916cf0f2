"""The index of results, ``experiments/README.md``, made from their findings.

    python -m experiments.index

Sentences are those of ``index.md.j2``; numbers come from the results alone.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from experiments import record, writing
from experiments.files import replacing
from experiments.papers import PAPERS

FOLDER = Path(__file__).parent


def text() -> str:
    """The index as Markdown."""
    import jinja2

    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701, Markdown
    ).get_template("index.md.j2")
    return template.render(papers=PAPERS, rows=rows, reports=reports)


def rows(wanted: Mapping[str, int]) -> list[list[str]]:
    """The first findings of results, so many of each, with a link to the report.

    Raises:
        UnreadableError: for a result that is not there.
    """
    found = []
    for name, number in wanted.items():
        result = record.result(FOLDER / "results" / name, name)
        for finding in result.record.findings[:number]:
            claim, *cells = writing.cells(finding)
            found.append([f"[{claim}](results/{name}/report.md)", *cells])
    return found


def reports(paper: str) -> str:
    """Links to all reports of a paper."""
    folders = sorted((FOLDER / "results").iterdir())
    found = [record.result(each, each.name) for each in folders if each.is_dir()]
    return ", ".join(
        f"[{each.name}](results/{each.name}/report.md)"
        for each in found
        if each.record.paper == paper
    )


def main() -> int:
    """Writes the index."""
    with replacing(FOLDER / "README.md") as file:
        file.write(text().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
