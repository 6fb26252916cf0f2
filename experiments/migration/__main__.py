"""Moves the committed results to labelled arrays and findings, in place.

python -m experiments.migration            # moves
python -m experiments.migration COMMIT     # compares all numbers with those there
"""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from ml_collections import FrozenConfigDict

from experiments import arrays, files, redraw, studies, workdir, writing

RESULTS = Path(__file__).parents[1] / "results"
RENAMED = {"evaluate": "training.evaluation"}


def move(folder: Path) -> None:
    """Writes one result in the new form, whose report is drawn anew."""
    old = json.loads((folder / "results.json").read_text())
    if "findings" in old["results"]:
        return
    experiment = old["config"]["experiment"]
    name = RENAMED.get(experiment, experiment)
    module = importlib.import_module(f"experiments.migration.{name.replace('.', '_')}")
    values = module.migrated(old, (folder / "report.md").read_text())
    values = arrays.restored(json.loads(files.dumps(arrays.plain(values))))
    config = {**old["config"], "experiment": name}
    report = studies.find(name).report(FrozenConfigDict(files.tuples(config)), values)
    drawn = {f"{each.name}.png" for each in report.figures}
    for each in report.figures:
        if each.figure is not None:
            with files.replacing(folder / f"{each.name}.png") as part:
                each.figure.savefig(part, format="png")
    for file in folder.glob("*.png"):
        if file.name not in drawn:
            print(f"{folder.name}: {file.name} is no longer shown")
            file.unlink()
    (folder / "report.md").write_text(writing.markdown(report))
    results = {**writing.results(report), **arrays.plain(values)}
    content = {**old, "config": config, "results": results}
    content.setdefault("environments", [old["environment"]])
    (folder / "results.json").write_text(
        files.signed(workdir.resigned(folder, content))
    )
    workdir.complete(folder)


def numbers(value, path=""):
    if isinstance(value, dict):
        for key, each in value.items():
            yield from numbers(each, f"{path}/{key}")
    elif isinstance(value, list):
        for i, each in enumerate(value):
            yield from numbers(each, f"{path}[{i}]")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, float(value)


def compare(commit: str) -> int:
    """Numbers of the old results that the new ones lack, to six digits."""
    total = missing = 0
    for folder in sorted(RESULTS.iterdir()):
        where = f"{commit}:experiments/results/{folder.name}/results.json"
        done = subprocess.run(["git", "show", where], capture_output=True, text=True)
        if done.returncode or not folder.is_dir():
            continue
        old = json.loads(done.stdout)["results"]
        new = json.loads((folder / "results.json").read_text())
        old.pop("summary")
        have = {**new["results"], "config": new["config"]}
        have = np.sort([0.0, *(v for _, v in numbers(have))])
        for path, v in numbers(old):
            total += 1
            i = np.searchsorted(have, v)
            near = have[max(0, i - 1) : i + 1]
            if not np.any(np.abs(near - v) <= 2e-6 * max(abs(v), 1e-12)):
                missing += 1
                print(folder.name, re.sub(r"\[\d+\]", "[]", path), v)
    print(f"{total} numbers, {missing} of them missing")
    return missing > 0


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(compare(sys.argv[1]))
    for each in sorted(RESULTS.iterdir()):
        if each.is_dir() and not each.name.startswith("digits"):
            move(each)
