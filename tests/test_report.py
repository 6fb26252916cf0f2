"""The page of results is whole, self-contained, safe, and readable at any width."""

import itertools
import json
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from experiments import report, run

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "experiments" / "README.md"


class Page(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, text):
        """Reads the page."""
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def stored():
    """The results of the repository."""
    return report.collect(ROOT / "experiments" / "results")


@pytest.fixture(scope="module")
def text(stored):
    """The page of the results of the repository."""
    return report.page(stored, GUIDE)


@pytest.fixture(scope="module")
def page(text):
    """The same, parsed."""
    return Page(text)


def _made(path, name="one", **content):
    """A finished run with a figure."""
    folder = path / name
    folder.mkdir(parents=True)
    environment = {"commit": "abc", "python": "3", "versions": {"jax": "1"}}
    environment |= {"device": "1 × cpu", "cores": 2, "arguments": ["--config=a.py"]}
    results = {"summary": ["eps* = 1 ± 0"]} | content
    text = {"config": {"seed": 7}, "environment": environment, "stages": {}}
    (folder / "results.json").write_text(json.dumps(text | {"results": results}))
    (folder / "report.md").write_text(
        "## Title\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    )
    return folder


def test_every_result_is_there_with_what_is_behind_it(stored, page):
    assert len(stored) == len(
        list((ROOT / "experiments/results").glob("*/results.json"))
    )
    words = " ".join(page.text.split())
    for result in stored:
        made = result.content["environment"]
        for line in result.content["results"]["summary"]:
            assert " ".join(line.split()) in words.replace("\\", ""), (
                result.name,
                line,
            )
        for part in (made["commit"], made["device"]):
            assert part in words, result.name
        assert " ".join(report.command(made["arguments"]).split()) in words
        for field, value in result.content["config"].items():
            assert field in words
            assert " ".join(json.dumps(value).split()) in words, (result.name, field)


def test_contents_lead_to_sections_and_results(stored, page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")}
    assert targets == set(ids)
    assert {result.anchor for result in stored} <= targets


def test_the_guide_names_all_results_of_the_repository(stored):
    titles = [part.title for part in report.sections(stored, GUIDE)]
    assert titles[0].startswith("Phase transition")
    assert "Other results" not in titles


def test_nothing_is_loaded_from_elsewhere(text, page):
    assert "url(" not in text
    assert "@import" not in text
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        assert attributes.get("src", "data:").startswith("data:")
        assert "onerror" not in attributes


def test_images_have_alternative_texts(page):
    assert len(page.all("img")) > 100
    texts = [image["alt"] for image in page.all("img")]
    assert all(re.fullmatch(r".+, [\w-]+", text) for text in texts), texts


def test_printed_numbers_stand_beside_ours(page):
    for number in ("26.1/255", "48.0/255", "33.637 (0.724) and 17.806 (0.241) %"):
        assert number in page.text
    labels = {cell.get("data-label") for cell in page.all("td")}
    assert {"printed", "here", "size and hardware", "report"} <= labels


def test_markup_in_results_stays_text(tmp_path):
    folder = _made(tmp_path, summary=["<script>alert(1)</script>"])
    (folder / "report.md").write_text(
        "## <img src=x onerror=alert(1)>\n\n[a](javascript:1)"
    )
    page = Page(report.page(report.collect(tmp_path)))
    assert not page.all("script")
    assert not page.all("img")
    assert "<script>alert(1)</script>" in page.text
    assert all(a["href"].startswith("#") for a in page.all("a"))


def test_commands_of_the_page_can_be_typed(stored):
    for result in stored:
        typed = shlex.split(report.command(result.content["environment"]["arguments"]))
        program = [*itertools.takewhile(lambda word: word[:2] != "--", typed)]
        if "evaluate" in result.name or result.name.endswith("evaluation"):
            assert program[:3] == ["python", "-m", "experiments.evaluate"]
        else:
            assert program == ["python", "-m", "experiments.run"]
            arguments = [word for word in typed[3:] if "=runs/" not in word]
            assert run.parse(["run", *arguments])[0].experiment
    mine = ["run", "transition/digits:l2", "--config.models=('mlp',)"]
    assert shlex.split(report.command(mine)) == ["advjax", *mine]


def test_runs_below_runs_and_without_a_guide(tmp_path):
    _made(tmp_path, "demo/one")
    _made(tmp_path, "demo-one")
    _made(tmp_path, "two")
    found = report.collect(tmp_path)
    assert [result.name for result in found] == ["demo/one", "demo-one", "two"]
    assert len({result.anchor for result in found}) == 3
    assert [part.title for part in report.sections(found, None)] == ["Results"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere holds no results.json of a finished run"),
        (["a", "b"], "one directory at a time, not 2"),
        (["--gide=x"], "--gide: did you mean --guide?"),
        (["--output"], "write it as --output=FILE"),
    ],
)
def test_wrong_use_is_one_line(arguments, words, capsys):
    assert report.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_damage_is_named_and_foreign_files_are_left_alone(tmp_path, capsys):
    folder = _made(tmp_path / "runs")
    output = tmp_path / "runs" / "report.html"
    for _ in range(2):  # an earlier report is replaced
        assert report.main([str(tmp_path / "runs")]) == 0
    assert "Title" in output.read_text()
    output.write_text("my thesis")
    assert report.main([str(tmp_path / "runs")]) == 2
    assert "is no report of advjax" in capsys.readouterr().err
    assert output.read_text() == "my thesis"

    (folder / "report.md").write_text("![curve](../curve.png)")
    assert report.main([str(tmp_path / "runs")]) == 2
    assert "shows ../curve.png, no file there" in capsys.readouterr().err
    (folder / "results.json").write_text("{}")
    assert report.main([str(tmp_path / "runs")]) == 2
    assert "results.json is not of a run" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium")
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
def test_a_browser_has_nothing_to_complain_of(text, width, scheme, tmp_path):
    """No console message, no horizontal scroll, images decoded, colours of both."""
    (tmp_path / "report.html").write_text(text.replace('loading="lazy"', ""))
    # A frame, since the windows of headless Chromium are not narrower than 500 pixels.
    measure = """<iframe id=f src=report.html height=900 style="border:0"></iframe>
        <script>f.width = WIDTH
        f.onload = () => {
            const page = f.contentDocument, images = [...page.images]
            document.title = JSON.stringify({
                overflow: page.documentElement.scrollWidth
                    - page.documentElement.clientWidth,
                broken: images.filter(image => !image.naturalWidth).length,
                images: images.length,
                background: f.contentWindow.getComputedStyle(page.body).backgroundColor,
            })
        }</script>"""
    (tmp_path / "frame.html").write_text(measure.replace("WIDTH", str(width)))
    done = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu"),
            *("--disable-quic", "--no-first-run", "--disable-background-networking"),
            *(
                "--disable-component-update",
                "--disable-sync",
                "--enable-logging=stderr",
            ),
            f"--user-data-dir={tmp_path}/profile",
            f"--blink-settings=preferredColorScheme={scheme}",
            "--allow-file-access-from-files",
            "--window-size=1400,900",
            "--virtual-time-budget=60000",
            "--dump-dom",
            f"file://{tmp_path}/frame.html",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    found = json.loads(title)
    assert found["overflow"] <= 0
    assert found["broken"] == 0
    assert found["images"] == text.count("<img ")
    assert found["background"] == ("rgb(14, 17, 22)", "rgb(255, 255, 255)")[scheme]
