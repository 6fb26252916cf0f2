"""The index of results, ``experiments/README.md``, made from their findings.

    python -m experiments.index

Sentences are those of ``index.md.j2``; numbers come from the results alone.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from experiments import files, findings, record, writing
from experiments.papers import PAPERS
from experiments.transition import classifier_grid

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"


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
    return template.render(papers=PAPERS, rows=rows, reports=reports, not_run=not_run())


def rows(wanted: Mapping[str, int]) -> list[list[str]]:
    """The first findings of results, so many of each, with a link to the report.

    Raises:
        UnreadableError: for a result that is not there.
    """
    found = []
    for name, number in wanted.items():
        for finding in record.finished(RESULTS / name).findings[:number]:
            claim, *cells = writing.cells(finding)
            found.append([f"[{claim}](results/{name}/report.md)", *cells])
    return found


def not_run() -> list[list[str]]:
    """The printed eps* of networks whose configurations have not been run."""
    found = []
    stored = (files.read_signed(path) for path in RESULTS.glob("*/results.json"))
    have = {content["results"]["attrs"].get("row") for content in stored}
    for row in classifier_grid.ROWS:
        value = classifier_grid.published_eps_star(row)
        if value and row not in have:
            claim = f"ε* of `transition/classifier_grid:{row}`"
            found.append([claim, f"{value}/255", "–", "–", "–", findings.NOT_RUN])
    return found


def reports(paper: str) -> str:
    """Links to all reports of a paper."""
    return ", ".join(
        f"[{each.name}](results/{each.name}/report.md)"
        for each in sorted(RESULTS.iterdir())
        if record.finished(each).paper == paper
    )


def main() -> int:
    """Writes the index."""
    with files.replacing(FOLDER / "README.md") as file:
        file.write(text().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
