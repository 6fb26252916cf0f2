"""Results of the first form as labelled arrays; gone again once they are moved."""

import json
import subprocess
from pathlib import Path

BEFORE = "d76e00b"
"""The last commit with results of the first form."""


def old_text(name, file="results.json"):
    """A file of a committed result, as it was."""
    where = f"{BEFORE}:experiments/results/{name}/{file}"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        ["git", "show", where], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout


def old(name):
    """``results.json`` of a committed result, as it was."""
    return json.loads(old_text(name))
