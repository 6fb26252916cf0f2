"""The page of results is whole, self-contained, safe, and readable at any width."""

import collections
import copy
import io
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from zlib import crc32

import pytest
from matplotlib import pyplot as plt
from ml_collections import ConfigDict
from PIL import Image

from experiments import (
    checks,
    command,
    findings,
    index,
    page,
    papers,
    record,
    redraw,
    report,
    run,
    writing,
)
from experiments.workdir import Workdir

ROOT = Path(__file__).parents[1]


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
    results, refused = report.collect(ROOT / "experiments" / "results")
    assert refused == []
    return results


@pytest.fixture(scope="module")
def text(stored):
    """The page of the results of the repository."""
    return page.whole(stored)


@pytest.fixture(scope="module")
def shown(text):
    """The same, parsed."""
    return Page(text)


ENVIRONMENT = {
    "commit": "abc",
    "python": "3",
    "versions": {"jax": "1"},
    "cores": 2,
    "device": "1 × cpu",
    "arguments": ["--config=a/b.py"],
}


def _content():
    """What results.json of a finished run holds."""
    content = {
        "config": {"seed": 7},
        "environment": ENVIRONMENT,
        "stages": {"train": {"seconds": 1.5, **ENVIRONMENT}},
        "results": {"summary": ["eps* = 1 ± 0"]},
    }
    return copy.deepcopy(content)


def _made(path, name="one"):
    """A finished run."""
    folder = path / name
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(_content()))
    (folder / "report.md").write_text(
        "## Title\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    )
    return folder


def _page_of(path):
    """The page of a directory, parsed."""
    return Page(page.whole(*_collected(path)))


def _collected(path):
    return report.collect(path)


def test_every_result_is_there_with_what_is_behind_it(stored, shown):
    assert len(stored) == len(
        list((ROOT / "experiments/results").glob("*/results.json"))
    )
    words = " ".join(shown.text.split())
    for result in stored:
        content = json.loads((result.path / "results.json").read_text())
        made = content["environment"]
        for finding in result.record.findings:
            for cell in finding:
                assert " ".join(cell.split()) in words, (result.name, cell)
        for part in (made["commit"], made["device"]):
            assert part in words, result.name
        assert " ".join(page.command(made["arguments"]).split()) in words
        for field, value in content["config"].items():
            assert field in words
            assert " ".join(json.dumps(value).split()) in words, (result.name, field)


def test_contents_lead_to_sections_and_results(stored, shown):
    ids = [attributes["id"] for _, attributes in shown.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for a in shown.all("a") if a["href"].startswith("#")}
    assert targets == set(ids)
    assert {result.anchor for result in stored} <= targets


def test_the_page_opens_with_verdicts_by_paper(stored, shown):
    titles = [part.title for part in page.sections(stored)]
    assert titles == [*papers.PAPERS.values()]
    found = [finding for result in stored for finding in result.record.findings]
    assert len(found) > 150
    counts = collections.Counter(finding.verdict for finding in found)
    by_page = {
        verdict: sum(part.count(verdict) for part in page.sections(stored))
        for verdict in findings.VERDICTS
    }
    assert by_page == {verdict: counts[verdict] for verdict in findings.VERDICTS}
    assert shown.all("section")[0] == {"id": "found"}


def test_cells_of_findings_are_short(stored):
    for result in stored:
        for finding in result.record.findings:
            assert max(map(len, finding)) <= findings.LONGEST, (result.name, finding)


def test_committed_reports_are_what_the_code_makes_of_their_values(stored):
    """Texts, numbers and figures; nothing is computed but what a report computes."""
    for result in stored:
        again = redraw.report(result.path)
        assert writing.markdown(again) == result.report, result.name
        content = json.loads((result.path / "results.json").read_text())["results"]
        made = writing.results(again)
        assert made == {name: content[name] for name in made}, result.name
        for drawn in again.figures:
            assert (result.path / f"{drawn.name}.png").exists()
        plt.close("all")


def test_the_index_is_made_of_the_findings():
    assert (ROOT / "experiments" / "README.md").read_text() == index.text()


def test_nothing_is_loaded_from_elsewhere(text, shown):
    assert "url(" not in text
    assert "@import" not in text
    for tag, attributes in shown.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        assert attributes.get("src", "data:").startswith("data:")
        assert "onerror" not in attributes


def test_images_have_alternative_texts(shown):
    assert len(shown.all("img")) > 100
    texts = [image["alt"] for image in shown.all("img")]
    assert all(re.fullmatch(r".+, [\w-]+", text) for text in texts), texts


def test_printed_numbers_stand_beside_ours(shown):
    for number in ("26.1/255", "48.0/255"):
        assert number in shown.text
    labels = {cell.get("data-label") for cell in shown.all("td")}
    assert {"claim", "printed", "ours", "interval", "size", "verdict"} <= labels


def test_markup_in_results_stays_text(tmp_path):
    folder = _made(tmp_path)
    content = _content() | {"results": {"summary": ["<script>alert(1)</script>"]}}
    (folder / "results.json").write_text(json.dumps(content))
    (folder / "report.md").write_text(
        "## <img src=x onerror=alert(1)>\n\n[a](javascript:1) <http://b.c> [d](//e)"
    )
    shown = _page_of(tmp_path)
    assert not shown.all("script")
    assert not shown.all("img")
    assert "<script>alert(1)</script>" in shown.text
    assert all(a["href"].startswith("#") for a in shown.all("a"))


def test_commands_of_the_page_can_be_typed(stored):
    for result in stored:
        typed = shlex.split(page.command(result.record.environments[-1].arguments))
        assert typed[0] == "advjax"
        if result.name.endswith(("evaluation", "autoattack")):
            assert typed[1] == "evaluate"
            continue
        kind, name, *overrides = typed[1:]
        assert kind == "run"
        file = command.find(name.partition(":")[0])
        given = [word for word in overrides if "=runs/" not in word]
        config = f"--config={file}:{name.partition(':')[2]}".removesuffix(":")
        assert run.parse(["run", config, *given])[0].experiment
    mine = ["run", "transition/scaling:smoke", "--config.models=('mlp',)"]
    assert shlex.split(page.command(mine)) == ["advjax", *mine]


def test_runs_below_runs(tmp_path):
    _made(tmp_path, "demo/one")
    _made(tmp_path, "demo-one")
    _made(tmp_path, "two")
    found, _ = report.collect(tmp_path)
    assert [result.name for result in found] == ["demo/one", "demo-one", "two"]
    assert len({result.anchor for result in found}) == 3
    assert [part.title for part in page.sections(found)] == [page.OTHERS]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere holds no results.json of a finished run"),
        (["a", "b"], "one directory at a time, not 2"),
        (["--outptu=x"], "--outptu: did you mean --output?"),
        (["gs://bucket/runs"], "report of gs://bucket/runs is a cloud path"),
        (["--output"], "write it as --output=FILE"),
    ],
)
def test_wrong_use_is_one_line(arguments, words, capsys):
    assert report.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_foreign_files_are_left_alone(tmp_path, capsys):
    _made(tmp_path / "runs")
    output = tmp_path / "runs" / "report.html"
    for _ in range(2):  # an earlier report is replaced
        assert report.main([str(tmp_path / "runs")]) == 0
    assert "Title" in output.read_text()
    output.write_text("my thesis")
    assert report.main([str(tmp_path / "runs")]) == 2
    assert "is no report of advjax" in capsys.readouterr().err
    assert output.read_text() == "my thesis"
    os.mkfifo(tmp_path / "pipe")
    assert report.main([str(tmp_path / "runs"), f"--output={tmp_path}/pipe"]) == 2
    assert "is no report of advjax" in capsys.readouterr().err


# Runs that cannot be shown: what is wrong with the directory of one, and the reason.


def _json(change):
    """``change`` alters the content of results.json."""

    def spoil(folder):
        content = _content()
        change(content)
        (folder / "results.json").write_text(json.dumps(content))

    return spoil


def _bytes(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def _instead(name, make):
    """``make(path)`` makes something else in the place of a file."""

    def spoil(folder):
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return spoil


def _large(name, size):
    return _instead(name, lambda path: path.touch() or os.truncate(path, size))


def _link(target):
    return lambda path: path.symlink_to(target)


def _shows(source, make=lambda path: None, name="a.png"):
    """report.md shows a figure of this source, and ``make(path)`` makes it."""

    def spoil(folder):
        (folder / "report.md").write_text(f"![a]({source})")
        make(folder / name)

    return spoil


def _png(width=4, height=3, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, kind)
    return file.getvalue()


def _writes(content):
    return lambda path: path.write_bytes(content)


def _of_size(width, height):
    """A PNG image that claims this size, and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")
    parts = (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _secret(path):
    """A figure outside the run's directory, which a name could reach."""
    (path.parent.parent / "secret.png").write_bytes(_png())


PASSWORDS = "/etc/passwd"
IS_LIST = "is a list, not an object"
IS_OBJECT = "findings is an object, not a list"


def _forged(folder):
    """A run that was complete, and whose report somebody changed."""
    shutil.rmtree(folder)
    with Workdir(folder, ConfigDict({"seed": 7})) as workdir:
        workdir.write_text("report.md", "fine")
        workdir.finish(summary=[])
    (folder / "report.md").write_text("forged")


ODD = {
    "empty": (_bytes("results.json", b""), "results.json is not JSON"),
    "half": (_bytes("results.json", b'{"config": {'), "results.json is not JSON"),
    "list": (_bytes("results.json", b"[]"), f"results.json {IS_LIST}"),
    "null": (_bytes("results.json", b"null"), "results.json is null, not an object"),
    "number": (_bytes("results.json", b"1" * 5000), "results.json is not JSON"),
    "latin": (_bytes("results.json", b'{"config": "\xe4"}'), "is not UTF-8"),
    "utf16": (_bytes("results.json", "{}".encode("utf-16")), "is not UTF-8"),
    "deep": (_bytes("results.json", b"[" * 200_000), "is nested too deep"),
    "huge": (_large("results.json", 2**26 + 1), "has more than 67,108,864 bytes"),
    "pipe": (_instead("results.json", os.mkfifo), "results.json is not a regular file"),
    "folder": (_instead("results.json", Path.mkdir), "is not a regular file"),
    "zero": (_instead("results.json", _link("/dev/zero")), "outside the run's"),
    "loop": (_instead("results.json", _link("results.json")), "is not a regular file"),
    "nowhere": (_instead("results.json", _link("gone")), "results.json is missing"),
    "object": (_bytes("results.json", b"{}"), "results.json has no config"),
    "config": (_json(lambda c: c.update(config=[])), f"config {IS_LIST}"),
    "long": (_json(lambda c: c.update(config={"eps": "1" * 10**5})), "eps is too long"),
    "environment": (_json(lambda c: c.pop("environment")), "has no environment"),
    "versions": (_json(lambda c: c["environment"].update(versions=[])), IS_LIST),
    "version": (
        _json(lambda c: c["environment"]["versions"].update(jax=1)),
        "version of jax is an integer, not text",
    ),
    "cores": (
        _json(lambda c: c["environment"].update(cores=True)),
        "cores is true or false, not an integer",
    ),
    "generator": (
        _json(lambda c: c["environment"].update(generator=None)),
        "generator is null, not text",
    ),
    "arguments": (
        _json(lambda c: c["environment"].update(arguments=[1])),
        "entry of arguments is an integer, not text",
    ),
    "environments": (
        _json(lambda c: c.update(environments={})),
        "environments is an object, not a list",
    ),
    "one-of-environments": (
        _json(lambda c: c.update(environments=[ENVIRONMENT, {"commit": "a"}])),
        "environment has no versions",
    ),
    "stages": (_json(lambda c: c.update(stages=[])), f"stages {IS_LIST}"),
    "stage": (_json(lambda c: c["stages"].update(train=[])), f"stage train {IS_LIST}"),
    "seconds": (
        _json(lambda c: c["stages"]["train"].pop("seconds")),
        "stage train has no seconds",
    ),
    "text-seconds": (
        _json(lambda c: c["stages"]["train"].update(seconds="1")),
        "seconds is text, not a number",
    ),
    "nan-seconds": (
        _json(lambda c: c["stages"]["train"].update(seconds=float("nan"))),
        "seconds is nan",
    ),
    "endless-seconds": (
        _json(lambda c: c["stages"]["train"].update(seconds=10**400)),
        "seconds is 1000",
    ),
    "escapes": (
        _json(lambda c: c["stages"].update({"\x1b[31m\x07\n\u202e\x9b": {}})),
        "stage ?[31m? ?? has no seconds",
    ),
    "half-pair": (
        _json(lambda c: c["stages"].update({"\ud800": {}})),
        "stage ? has no seconds",
    ),
    "summary": (
        _json(lambda c: c["results"].update(summary="a")),
        "summary is text, not a list",
    ),
    "lines": (
        _json(lambda c: c["results"].update(summary=[["a"]])),
        "entry of summary is a list, not text",
    ),
    "findings": (_json(lambda c: c["results"].update(findings={})), IS_OBJECT),
    "finding": (
        _json(lambda c: c["results"].update(findings=[{"claim": "a"}])),
        "no finding: {'claim': 'a'}",
    ),
    "forged": (_forged, "report.md has changed since the run was complete"),
    "no-report": (_instead("report.md", lambda path: None), "report.md is missing"),
    "pipe-report": (_instead("report.md", os.mkfifo), "is not a regular file"),
    "folder-report": (_instead("report.md", Path.mkdir), "is not a regular file"),
    "latin-report": (_bytes("report.md", b"\xe4"), "report.md is not UTF-8"),
    "huge-report": (_large("report.md", 2**18 + 1), "has more than 262,144 bytes"),
    "secret-report": (_instead("report.md", _link(PASSWORDS)), "outside the run's"),
    "many": (_bytes("report.md", b"![a](a.png) " * 51), "more than 50 figures"),
    "no-figure": (_shows("a.png"), "a.png is missing"),
    "no-name": (_shows(""), ". is not a regular file"),
    "zero-byte": (_shows("a%00.png"), "a?.png is no name of a file"),
    "long-name": (_shows("a" * 5000), "cannot be read: File name too long"),
    "remote": (_shows("https://a.b/c.png"), "https://a.b/c.png is missing"),
    "protocol": (_shows("//a.b/c.png"), "//a.b/c.png is outside the run's directory"),
    "data": (_shows("data:image/png;base64,AAAA"), "is missing"),
    "absolute": (_shows(PASSWORDS), "/etc/passwd is outside the run's directory"),
    "above": (_shows("../secret.png", _secret), "../secret.png is outside"),
    "quoted": (_shows("%2e%2e/secret.png", _secret), "../secret.png is outside"),
    "linked": (_shows("a.png", _link(PASSWORDS)), "a.png is outside"),
    "loop-figure": (_shows("a.png", _link("a.png")), "is not a regular file"),
    "pipe-figure": (_shows("a.png", os.mkfifo), "a.png is not a regular file"),
    "text-figure": (_shows("results.json"), "results.json is not a whole PNG image"),
    "jpeg": (_shows("a.png", _writes(_png(kind="JPEG"))), "not a whole PNG image"),
    "half-figure": (_shows("a.png", _writes(_png()[:-30])), "not a whole PNG image"),
    "large-figure": (
        _shows("a.png", lambda path: path.touch() or os.truncate(path, 2**24 + 1)),
        "a.png has more than 16,777,216 bytes",
    ),
    "pixels": (_shows("a.png", _writes(_of_size(9000, 9000))), "too many pixels"),
    "bomb": (_shows("a.png", _writes(_of_size(10_000, 10_000))), "too many pixels"),
    "bombs": (_shows("a.png", _writes(_of_size(10**5, 10**5))), "too many pixels"),
    "wide": (_shows("a.png", _writes(_png(16_384, 1))), "too many pixels"),
    "escape\x1b]0;a\x07\nname": (_bytes("results.json", b""), "is not JSON"),
    os.fsdecode(b"bytes-\xff"): (_bytes("results.json", b""), "is not JSON"),
    "<b>markup": (_json(lambda c: c["stages"].update({"<i>": {}})), "<i> has no"),
}


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_an_odd_run_is_named_and_the_others_are_shown(name, tmp_path, capsys):
    spoil, reason = ODD[name]
    _made(tmp_path, "good")
    spoil(_made(tmp_path, name))
    assert report.main([str(tmp_path)]) == 0
    output, error = capsys.readouterr()
    assert output[:-1].isprintable()
    assert error[:-1].isprintable()
    assert error[-1] == "\n"
    line = error[:-1].removeprefix("advjax: not shown: ")
    assert line.startswith(f"{checks.printable(name)}: ")
    assert reason in line
    shown = Page((tmp_path / "report.html").read_text())
    assert [article["id"] for article in shown.all("article")] == ["result-good"]
    assert "Title" in shown.text
    assert f"Not shown{line}" in shown.text
    assert not {"i", "b", "img"} & {tag for tag, _ in shown.tags}


def test_all_odd_runs_at_once(tmp_path, capsys):
    for name, (spoil, _) in ODD.items():
        spoil(_made(tmp_path, name))
    assert report.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"nothing in {tmp_path} can be shown: <b>markup: results.json" in error
    assert f"and {len(ODD) - 1} more" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "report.html").exists()

    _made(tmp_path, "good")
    assert report.main([str(tmp_path)]) == 0
    assert capsys.readouterr().err.count("\n") == len(ODD)
    shown = Page((tmp_path / "report.html").read_text())
    assert len(shown.all("article")) == 1
    assert {"href": "#not-shown"} in shown.all("a")


def test_the_figures_of_a_run_share_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "_MOST_PIXELS", 20)
    folder = _made(tmp_path)
    for name in "ab":
        (folder / f"{name}.png").write_bytes(_png(4, 3))
    (folder / "report.md").write_text("![a](a.png) ![a](a.png)")
    assert report.collect(tmp_path)[1] == []
    (folder / "report.md").write_text("![a](a.png) ![b](b.png)")
    with pytest.raises(checks.ConfigError, match=r"b\.png has too many pixels"):
        report.collect(tmp_path)


def test_characters_that_a_file_cannot_hold_do_not_stop_the_page(tmp_path):
    content = _content() | {"config": {"\ud800": "\ud800\x1b\0"}}
    content["results"]["summary"] = ["half of a pair: \ud800"]
    (_made(tmp_path) / "results.json").write_text(json.dumps(content))
    assert report.main([str(tmp_path)]) == 0
    assert "half of a pair: ?" in (tmp_path / "report.html").read_text()


def test_links_between_directories_are_not_followed(tmp_path):
    (_made(tmp_path) / "again").symlink_to(tmp_path)
    (tmp_path / "two").symlink_to(tmp_path / "one")
    assert [result.name for result in report.collect(tmp_path)[0]] == ["one"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ('![a curve](a.png "with a title")', 1),
        ("`![a](b.png)` is how figures are written: ![a](a.png)", 1),
        ("```\n![a](b.png)\n```", 0),
        ("![a][curve]\n\n[curve]: a.png", 1),
        ("![a](a.png) ![b](a.png) ![c](with%20space.png)", 3),
        ("![a](<with space.png>)", 1),
        ("![![x](http://b.c/d.png)](a.png)", 1),
        ("[![a](a.png)](http://b.c)", 1),
        ("![a](below/a.png)", 1),
        ("![a](link.png)", 1),
        ("![a](palette.png)", 1),
        ("![a](high.png)", 1),
        ('<img src="a.png">', 0),
        ("![](javascript:alert(1)) ![](file:///etc/passwd)", 0),
    ],
)
def test_figures_however_they_are_written(text, number, tmp_path):
    folder = _made(tmp_path)
    (folder / "below").mkdir()
    for name in ("a.png", "with space.png", "below/a.png"):
        (folder / name).write_bytes(_png())
    (folder / "link.png").symlink_to("a.png")
    Image.new("P", (4, 3)).save(folder / "palette.png", transparency=b"\1\2\3")
    Image.new("I;16", (4, 3)).save(folder / "high.png")
    (folder / "report.md").write_text(text)
    images = _page_of(tmp_path).all("img")
    assert len(images) == number + bool(number)  # and the small one
    assert all(image["src"].startswith("data:image/webp;") for image in images)
    assert all(image["alt"].endswith(", one") for image in images)


def test_environments_that_had_a_part_are_shown_once_each(tmp_path):
    other = {"commit": "def", "python": "4", "versions": {"jax": "2"}}
    other |= {"device": "8 × TPU", "cores": 96, "generator": "rbg"}
    other["arguments"] = ["--config=a/b.py", "--config.hosts=8"]
    content = _content()
    content["environments"] = [ENVIRONMENT | other, ENVIRONMENT, ENVIRONMENT]
    folder = _made(tmp_path)
    (folder / "results.json").write_text(json.dumps(content))
    text = _page_of(tmp_path).text
    assert "1 results of 2 commits" in text
    program = "advjax run a/b"
    for part in (
        f"command{program} --config.hosts=8; {program}commit",
        "commitdef; abcseed",
        "hardware8 × TPU (96 CPU cores usable); 1 × cpu (2 CPU cores usable)time",
        "versionsPython 4, jax 2; Python 3, jax 1random",
        "generatorrbg; threefry2x32",
    ):
        assert part in text


def test_an_earlier_result_has_one_environment():
    (made,) = record.checked(_content()).environments
    assert made == record.Environment(**ENVIRONMENT, generator="threefry2x32")


def test_a_long_label_is_not_repeated_in_full_in_every_row(tmp_path):
    folder = _made(tmp_path)
    rows = "| a |\n" * 10_000
    (folder / "report.md").write_text(f"| {'b' * 100_000} |\n| --- |\n{rows}")
    assert len(page.whole(*_collected(tmp_path))) < 5_000_000


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
