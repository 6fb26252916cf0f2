"""One page of all results in a directory: figures, tables, and what is behind them.

    advjax report runs --output=runs/report.html

The page is one file that needs no network. It opens with what was found, a table over
papers and verdicts. Every result is shown with its findings and figures; tables, size,
command, commit, versions, hardware, full configuration and times are folded. A run that
cannot be shown, or has changed since it was complete, is named with the reason.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from experiments import checks, files, page, record
from experiments.run import exit_status

_LONGEST_REASON = 300  # characters


def collect(directory: Path) -> tuple[list[record.Result], list[page.Refused]]:
    """Every finished run below a directory by name, and those that cannot be shown.

    Raises:
        ConfigError: for a directory with nothing to show.
    """
    results, refused = [], []
    for folder in sorted(_finished(directory)):
        relative = folder.relative_to(directory).as_posix()
        name = checks.printable(folder.name if relative == "." else relative)
        try:
            results.append(record.result(folder, name))
        except record.UnreadableError as error:
            refused.append(page.Refused(name, checks.printable(_shortened(str(error)))))
    if not results:
        raise checks.ConfigError(_nothing(directory, refused))
    return results, refused


def _finished(directory: Path) -> Iterator[Path]:
    """Directories with something named results.json; links are not followed."""
    left = [directory]
    while left:
        folder = left.pop()
        try:
            with os.scandir(folder) as entries:
                left += [
                    folder / entry.name
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False)
                ]
        except OSError:
            continue
        if os.path.lexists(folder / "results.json"):
            yield folder


def _shortened(reason: str) -> str:
    """Without its middle, where a name from a file may be of any length."""
    if len(reason) <= _LONGEST_REASON:
        return reason
    half = _LONGEST_REASON // 2
    return f"{reason[:half]} … {reason[-half:]}"


def _nothing(directory: Path, refused: list[page.Refused]) -> str:
    if not refused:
        return f"{directory} holds no results.json of a finished run"
    (name, reason), *others = refused
    more = f", and {len(others)} more" if others else ""
    return f"nothing in {directory} can be shown: {name}: {reason}{more}"


def write(path: Path, text: str) -> None:
    """Writes the page, over an earlier one only.

    Raises:
        ConfigError: for a file that is something else.
    """
    if path.exists() and not _is_page(path):
        raise checks.ConfigError(f"{path} is no report of advjax; choose another")
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as file:
        # Halves of pairs, which JSON may hold, are no characters of UTF-8.
        file.write(text.encode(errors="replace"))


def _is_page(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return page.MARK.encode() in file.read(1000)


def main(argv: list[str]) -> int:
    """``report [DIRECTORY] [--output=FILE.html]``."""
    if {"-h", "--help"} & {*argv}:
        print(__doc__)
        return 0
    return exit_status(lambda: _main(argv))


def _main(argv: list[str]) -> None:
    directory, output = _arguments(argv)
    results, refused = collect(directory)
    for name, reason in refused:
        print(f"advjax: not shown: {name}: {reason}", file=sys.stderr)
    output = Path(output or directory / "report.html")
    write(output, page.whole(results, refused))
    size = output.stat().st_size / 1e6
    print(f"{len(results)} results → {output} ({size:.1f} MB)")


def _arguments(argv: list[str]) -> tuple[Path, str]:
    """The directory, and the file, empty where none is given."""
    options = {"--output": ""}
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
    return files.local(*directories or ["runs"], "report of"), options["--output"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
