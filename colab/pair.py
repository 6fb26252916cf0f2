"""Writes the notebook beside each py:percent script, without outputs.

    python colab/pair.py        # or: make notebooks

The scripts are the source; ``tests/test_notebooks.py`` compares, and runs them.
"""

from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parent
SCRIPTS = sorted(FOLDER.glob("[0-9]*.py"))


def notebook(script: Path) -> str:
    """The text of the notebook of a script: the same for the same script."""
    content = jupytext.read(script, fmt="py:percent")
    for cell in content.cells:
        # Before format 4.5 cells have no identifiers, which are drawn at random.
        cell.pop("id", None)
    content.nbformat_minor = 4
    content.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python"}
        | {"name": "python3"},
        "language_info": {"name": "python"},
    }
    return nbformat.writes(content) + "\n"


if __name__ == "__main__":
    for script in SCRIPTS:
        script.with_suffix(".ipynb").write_text(notebook(script))
