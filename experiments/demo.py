"""The first command of the README: six studies at demonstration size.

    make demo            # or: python -m experiments.demo [directory]

Ends with the figures' paths, a report that shows them with their tables, and one line
for each finding. Interrupted, it resumes; finished, it shows its results again.
"""

import sys
import time
from pathlib import Path

from experiments import devices
from experiments.files import replacing
from experiments.run import exit_status, parse, run
from experiments.workdir import WorkdirError

FOLDER = Path(__file__).parent / "transition"
STUDIES = {
    "digits-linf": ("classifier_grid.py:digits,demo",),
    "digits-linf-tuned": ("fine_tuning.py:digits,high", "--config.grid=digits-linf"),
    "digits-l2": ("classifier_grid.py:digits_l2,demo",),
    "digits-l2-tuned": ("fine_tuning.py:digits_l2,high", "--config.grid=digits-l2"),
    "linear-paths": ("linear_paths.py",),
    "p-values": ("p_values.py",),
}
"""Configuration and overrides of each; a grid lies in the same directory."""


def main(root: Path) -> None:
    """Runs the studies in subdirectories of ``root`` and joins their reports.

    Raises:
        WorkdirError: if ``root`` is the directory of something else.
    """
    begin = time.monotonic()
    page = root / "report.md"
    if (root / "config.json").exists() or (page.exists() and not _is_ours(page)):
        raise WorkdirError(f"{root} holds files of something else; choose another")
    summary, sections, figures = [], [], []
    for name, (file, *overrides) in STUDIES.items():
        given = [each.replace("grid=", f"grid={root}/") for each in overrides]
        config, _ = parse(["demo", f"--config={FOLDER / file}", *given])
        content = run(config, root / name)
        summary += content["results"]["summary"]
        section = (root / name / "report.md").read_text(encoding="utf-8")
        sections.append(section.replace("](", f"]({name}/"))
        figures += sorted((root / name).glob("*.png"))
    lines = "\n".join(f"- {line}" for line in summary)
    with replacing(page) as part:
        part.write("\n".join([_TITLE, lines, "", *sections]).encode())
    print(f"\nfinished in {time.monotonic() - begin:.0f} s\n")
    print("\n".join([*map(str, figures), str(page), "", *summary]))


_TITLE = "# The phase transition, at demonstration size\n"


def _is_ours(page: Path) -> bool:
    return page.read_text(encoding="utf-8", errors="replace").startswith(_TITLE)


if __name__ == "__main__":
    if {"-h", "--help"} & {*sys.argv}:
        print(__doc__)
        sys.exit(0)
    devices.keep_programs()
    devices.use_all_cores()
    devices.widen_thread_pool()
    directory = Path(*sys.argv[1:2] or ["runs/demo"])
    sys.exit(exit_status(lambda: main(directory), own_process=True))
