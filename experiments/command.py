"""The command ``advjax``: experiments by their names.

    advjax list [NAME]            experiments, with their figures, sizes and times; with
                                  a name, its commands, its variants and what comes out
    advjax run NAME[:VARIANTS]    runs one, as in
                                  advjax run transition/scaling:smoke --config.seed=5
    advjax evaluate FILE.safetensors      attacks trained networks
    advjax report [DIRECTORY]     one page of what is in a directory of runs
    advjax redraw DIRECTORY ...   reports of finished runs, anew from their values

    advjax COMMAND --help         what a command takes
    advjax run NAME --help        an experiment, and all its fields with their defaults

Any field of an experiment is overridden by --config.FIELD=VALUE; --workdir=DIRECTORY
says where it writes. Run again, it resumes. Exit status: 0 done, 1 the loss diverged,
2 wrong input, 130 and 143 stopped by Ctrl-C and by SIGTERM.
"""

import ast
import difflib
import re
import sys
from importlib import metadata, util
from pathlib import Path

from experiments import interrupts, studies, usage
from experiments.checks import ConfigError, choose, printable

FOLDER = Path(__file__).parent


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand and returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in usage.HELP:
        print(__doc__)
        return 0 if argv else 2
    if argv == ["--version"]:
        print(f"advjax {metadata.version('advjax')}")
        return 0
    name, *rest = argv
    try:
        if name not in _COMMANDS:
            raise ConfigError(f"command {name!r}: {choose(name, _COMMANDS)}")
        status = _COMMANDS[name](rest)
        sys.stdout.flush()
        return status
    except ConfigError as error:
        print(f"advjax: error: {printable(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return interrupts.closed_pipe()


def experiments() -> dict[str, Path]:
    """The configuration file of every experiment, by name: ``transition/scaling``."""
    presets = {
        f"{file.parts[-3]}/{file.stem}": file for file in FOLDER.glob("*/configs/*.py")
    }
    return dict(sorted((presets | studies.files()).items()))


def find(name: str) -> Path:
    """The file of an experiment, by its name or by the last part of it.

    Raises:
        ConfigError: for an unknown name, or one that several experiments have.
    """
    known = experiments()
    matches = {full: file for full, file in known.items() if name in (full, file.stem)}
    if len(matches) > 1:
        raise ConfigError(f"experiment {name!r}: which one, {' or '.join(matches)}?")
    if not matches:
        stems = [file.stem for file in known.values()]
        close = difflib.get_close_matches(name, [*known, *stems], n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"experiment {name!r}: {hint}advjax list shows all")
    (file,) = matches.values()
    return file


def description(file: Path) -> tuple[str, str, str]:
    """What a configuration is of, its size and its time, from its docstring."""
    title, size, *_ = _docstring(file).split("\n\n")
    found = re.fullmatch(r"Size: (.*)\. Time: (.*)\.", " ".join(size.split()))
    if not found:
        msg = f"the second paragraph of {file} is not 'Size: …. Time: ….'"
        raise ValueError(msg)
    return title.rstrip("."), found[1].replace("``", ""), found[2].replace("``", "")


def _docstring(file: Path) -> str:
    # Parsed, not imported: a list should not wait for jax.
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def _list(argv: list[str]) -> int:
    if usage.HELP & {*argv}:
        print(_LIST)
        return 0
    if len(argv) > 1:
        raise ConfigError(f"one name at a time, not {' '.join(argv)}")
    folders = sorted({name.partition("/")[0] for name in experiments()})
    if argv and argv[0] not in folders:
        print(_docstring(find(argv[0].partition(":")[0])))
        return 0
    for folder in argv or folders:
        print(_docstring(FOLDER / folder / "__init__.py") + "\n")
        for name, file in experiments().items():
            if name.startswith(f"{folder}/"):
                title, size, time = description(file)
                print(
                    f"  {name}\n      {title}\n      Size: {size}\n      Time: {time}\n"
                )
    print("Times are of 2 CPU cores, or of one where it is said.")
    print("advjax list NAME shows commands, variants and what comes out.")
    return 0


def _run(argv: list[str]) -> int:
    wants_help = usage.HELP & {*argv}
    argv = [arg for arg in argv if arg not in usage.HELP]
    if not argv and not wants_help:
        raise ConfigError("run what? advjax list shows the experiments")
    if argv and not argv[0].startswith("-"):
        name, colon, variants = argv[0].partition(":")
        file = name if name.endswith(".py") else find(name)
        argv[0] = f"--config={file}{colon}{variants}"
    _require_extras()
    if wants_help:
        print(usage.help_on(argv) or _docstring(FOLDER / "run.py"))
        return 0
    from experiments import run

    return run.main(argv, own_process=True)


def _evaluate(argv: list[str]) -> int:
    if usage.HELP & {*argv}:
        print(usage.page(experiments()["training/evaluation"]))
        return 0
    _require_extras()
    from experiments.training import evaluation

    return evaluation.main(argv, own_process=True)


def _report(argv: list[str]) -> int:
    if usage.HELP & {*argv}:
        print(f"{_docstring(FOLDER / 'report.py')}\n\n{_REPORT_OPTIONS}")
        return 0
    _require_extras()
    from experiments import report

    return report.main(argv)


_LIST = """\
    advjax list                       every experiment: what it is of, its size and time
    advjax list transition            those of one folder
    advjax list transition/scaling    commands of an experiment, its variants, and what
                                      comes out; the last part of a name is enough where
                                      no other experiment has it

Its fields are listed by advjax run NAME --help."""
_REPORT_OPTIONS = """\
Options:

  DIRECTORY            shows all runs below it, by default those in runs/
  --output=FILE.html   the page, by default report.html in that directory

Exit status: 0 done, 2 wrong input."""


def _require_extras() -> None:
    """Before hours of computing, and not at its first figure."""
    missing = [name for name in _EXTRAS if util.find_spec(name) is None]
    if missing:
        packages = " ".join(_EXTRAS[name] for name in missing)
        raise ConfigError(f"{', '.join(missing)} not found: pip install {packages}")


_EXTRAS = {
    "PIL": "pillow",
    "filelock": "filelock",
    "markdown_it": "markdown-it-py",
    "matplotlib": "matplotlib",
    "orbax": "orbax-checkpoint",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "tqdm": "tqdm",
    "xarray": "xarray",
    "jinja2": "jinja2",
}


def _redraw(argv: list[str]) -> int:
    _require_extras()
    from experiments import redraw

    return redraw.main(argv)


_COMMANDS = {
    "evaluate": _evaluate,
    "list": _list,
    "redraw": _redraw,
    "report": _report,
    "run": _run,
}
