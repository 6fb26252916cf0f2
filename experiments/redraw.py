"""Reports of finished runs, made anew from their values; nothing is computed.

    advjax redraw runs/mine
    advjax redraw runs/mine --to=experiments/results

Figures, ``report.md`` and findings become those of the present code. Figures of arrays
that a run did not keep stay as they are. With ``--to`` report, figures and results are
written to ``DIRECTORY/mine``, without configuration file, log, stages and networks.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import FrozenConfigDict

from experiments import arrays, checks, files, ownership, studies, usage, writing
from experiments.run import exit_status
from experiments.workdir import complete, resigned
from experiments.writing import Report


def report(path: Path) -> Report:
    """The report of a finished run, by the present code.

    Raises:
        FileError: for a directory with something else, or a damaged file.
        ConfigError: for a run of an unknown study.
    """
    content = complete(path)
    config = files.tuples(content["config"])
    study = studies.of(config)
    try:
        values = arrays.restored(content["results"])
        return study.report(FrozenConfigDict(config), values)
    except (ValueError, KeyError, AttributeError) as error:
        msg = f"{path} holds no values of {study.name}: {error}"
        raise files.FileError(msg) from error


def redraw(path: Path, to: Path | None = None) -> Path:
    """Writes the report of a finished run anew, and returns the directory.

    Args:
        path: the directory of the run.
        to: another one, which receives the report, figures and results alone.

    Raises:
        Exception: what ``report`` raises.
    """
    to = to or path
    _check_place(to, complete(path)["config"])
    try:
        owner = ownership.Owner(to)
    except ownership.HeldError as error:
        raise files.FileError(str(error)) from None
    try:
        _write(report(path), path, to)
    finally:
        owner.release()
    return to


def _check_place(to: Path, config: Mapping[str, Any]) -> None:
    """Raises FileError for a directory that holds anything but this study's results."""
    if not to.exists():
        return
    names = {file.name for file in to.iterdir()} - {*ownership.FILES}
    if names and "results.json" not in names:
        raise files.FileError(f"{to} holds files of something else; choose another")
    there = complete(to)["config"].get("experiment") if names else None
    if there not in (None, config["experiment"]):
        raise files.FileError(f"{to} holds results of {there}; choose another")


def _write(made: Report, path: Path, to: Path) -> None:
    """Writes figures, report, and last the results, whose digests are of these."""
    import matplotlib.pyplot as plt

    content = complete(path)
    for drawn in made.figures:
        with files.replacing(to / f"{drawn.name}.png") as part:
            if drawn.figure is None:
                part.write((path / f"{drawn.name}.png").read_bytes())
            else:
                drawn.figure.savefig(part, format="png")
                plt.close(drawn.figure)
    with files.replacing(to / "report.md") as part:
        part.write(writing.markdown(made).encode())
    content["results"] |= writing.results(made)
    with files.replacing(to / "results.json") as part:
        part.write(files.signed(resigned(to, content)).encode())


def main(argv: list[str]) -> int:
    """``redraw DIRECTORY … [--to=DIRECTORY]``."""
    if usage.HELP & {*argv}:
        print(__doc__)
        return 0
    to = [arg.removeprefix("--to=") for arg in argv if arg.startswith("--to=")]
    runs = [arg for arg in argv if not arg.startswith("--")]

    def action() -> None:
        if not runs or len(to) + len(runs) < len(argv):
            raise checks.ConfigError("redraw what? give the directories of runs")
        for path in map(Path, runs):
            # Published results have the names of their runs.
            where = Path(to[-1]) / path.name if to else None
            print(f"→ {redraw(path, where)}/report.md")

    return exit_status(action)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
