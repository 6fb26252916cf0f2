"""The first command of the README: four studies at demonstration size.

    make demo            # or: python -m experiments.demo [directory]

Ends with the figures' paths, a report that shows them with their tables, and one line
per setting. Interrupted, it resumes; finished, it shows its results again.
"""

import sys
import time
from pathlib import Path

from experiments import devices
from experiments.files import replacing
from experiments.run import exit_status, parse, run

STUDIES = {
    "digits-linf": "digits.py:demo,linf",
    "digits-l2": "digits.py:demo,l2",
    "linear-paths": "linear_paths.py",
    "p-values": "p_values.py",
}


def main(root: Path) -> None:
    """Runs the studies in subdirectories of ``root`` and joins their reports."""
    begin = time.monotonic()
    configs = Path(__file__).parent / "transition" / "configs"
    summary, sections, figures = [], [], []
    for name, file in STUDIES.items():
        config, _ = parse(["demo", f"--config={configs / file}"])
        content = run(config, root / name)
        summary += content["results"]["summary"]
        section = (root / name / "report.md").read_text()
        sections.append(section.replace("](", f"]({name}/"))
        figures += sorted((root / name).glob("*.png"))
    lines = "\n".join(f"- {line}" for line in summary)
    title = f"# The phase transition, at demonstration size\n\n{lines}\n"
    with replacing(root / "report.md") as file:
        file.write("\n".join([title, *sections]).encode())
    print(f"\nfinished in {time.monotonic() - begin:.0f} s\n")
    print("\n".join([*map(str, figures), str(root / "report.md"), "", *summary]))


if __name__ == "__main__":
    devices.use_all_cores()
    devices.widen_thread_pool()
    root = Path(*sys.argv[1:2] or ["runs/demo"])
    sys.exit(exit_status(lambda: main(root), own_process=True))
