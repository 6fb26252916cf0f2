"""The README's Python runs as it stands there."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_snippets_of_the_readme_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)  # noqa: S102
    assert len(blocks) == 2
    assert capsys.readouterr().out.endswith(" 0\n")
    assert namespace["metrics"]["loss"].shape == (5, 3, 4)


def test_every_file_that_the_readme_names_exists():
    root = README.parent
    text = README.read_text()
    for name in re.findall(r"--config=(\S+?\.py)", text):
        assert (root / name).exists(), name
    for name in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (root / name).exists(), name
