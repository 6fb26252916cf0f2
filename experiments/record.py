"""What a finished run left in its directory, read as something of unknown origin.

``results.json``, ``report.md`` and figures may come from anywhere and be anything. Only
regular files within the directory are opened, up to a size, and all that a page shows
is checked here, so that whoever shows it can rely on it.
"""

import base64
import io
import json
import os
import urllib.parse
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from experiments import files, findings, markdown, papers, workdir
from experiments.findings import Finding

_MOST_JSON = 64 * 2**20
# Parsed in Python, which takes seconds at this size.
_MOST_MARKDOWN = 2**18
_MOST_PNG = 16 * 2**20
_MOST_FIGURES = 50
# Of all figures of a run: WebP takes up to two seconds for a million.
_MOST_PIXELS = 50_000_000
_MOST_SIDE = 16_383  # that WebP has
# Entries of a list, fields of an object, characters of a text.
_MOST_SHOWN = 10_000


class UnreadableError(Exception):
    """Something cannot be shown; the message is the reason."""


class Environment(NamedTuple):
    """What a number depends on beside its configuration, as a run recorded it."""

    commit: str
    python: str
    versions: dict[str, str]
    device: str
    cores: int
    generator: str
    arguments: list[str]


class Stage(NamedTuple):
    """A part of a run that was computed at once."""

    seconds: float
    commit: str
    device: str


class Record(NamedTuple):
    """What of ``results.json`` a page shows.

    Attributes:
        config: value of each field, as JSON.
        environments: all that had a part in the run, in order, some of them equal.
        stages: by name.
        summary: lines.
        findings: what was found; earlier runs have none.
    """

    config: dict[str, str]
    environments: list[Environment]
    stages: dict[str, Stage]
    summary: list[str]
    findings: list[Finding]

    @property
    def paper(self) -> str:
        """The folder of the paper's studies, empty for others."""
        return papers.of(self.config.get("experiment", "").strip('"'))

    @property
    def commits(self) -> list[str]:
        """Every commit that had a part, once."""
        return list(dict.fromkeys(made.commit for made in self.environments))


class Figure(NamedTuple):
    """A figure of a report, with its two images as URIs that hold them.

    Attributes:
        alt: the text that the report has for it.
        image: without loss.
        thumbnail: small.
        width: of the image, in pixels.
        height: of the image, in pixels.
    """

    alt: str
    image: str
    thumbnail: str
    width: int
    height: int


class Result(NamedTuple):
    """A finished run.

    Attributes:
        name: of its work directory, relative to the one that is collected.
        path: the work directory, without links.
        record: what ``results.json`` holds.
        report: what the run wrote about itself, Markdown.
        figures: those of the report, by the source that it gives for them.
    """

    name: str
    path: Path
    record: Record
    report: str
    figures: dict[str, Figure]

    @property
    def anchor(self) -> str:
        """Where the page shows it: of letters, digits and marks that others lack."""
        quoted = urllib.parse.quote(self.name, safe="").replace("_", "_5F")
        return "result-" + quoted.replace("%", "_")


def result(folder: Path, name: str) -> Result:
    """The run that finished in a directory.

    Raises:
        UnreadableError: for whatever is missing, damaged, too large or elsewhere.
    """
    record = finished(folder)
    report = _text(_within(folder, "report.md", _MOST_MARKDOWN), "report.md")
    figures = _figures(folder, markdown.images(report))
    return Result(name, Path(os.path.realpath(folder)), record, report, figures)


def finished(folder: Path) -> Record:
    """What the run that finished in a directory found, without report and figures.

    Raises:
        UnreadableError: as ``result``.
    """
    record = _record(_within(folder, "results.json", _MOST_JSON))
    _check_digests(folder)
    return record


def _check_digests(folder: Path) -> None:
    """Refuses a run whose files have changed since it was complete.

    Results that state no digests, as those of earlier versions, are taken as they are.
    """
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if not isinstance(content.get("files"), dict):
        return
    try:
        workdir.complete(folder)
    except files.FileError as error:
        raise UnreadableError(str(error)) from error


def _within(folder: Path, name: str, most: int) -> bytes:
    """The content of a file of a directory, from which neither name nor link leads."""
    # Path.resolve raises for links that go round, in some versions of Python.
    root = Path(os.path.realpath(folder))
    try:
        path = Path(os.path.realpath(root / name))
    except ValueError as error:
        raise UnreadableError(f"{name} is no name of a file") from error
    if not path.is_relative_to(root):
        raise UnreadableError(f"{name} is outside the run's directory")
    return _content(path, name, most)


def _content(path: Path, name: str, most: int) -> bytes:
    try:
        if not path.is_file():
            reason = "is not a regular file" if os.path.lexists(path) else "is missing"
            raise UnreadableError(f"{name} {reason}")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise UnreadableError(f"{name} cannot be read: {error.strerror}") from error
    if len(content) > most:
        raise UnreadableError(f"{name} has more than {most:,} bytes")
    return content


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{name} is not UTF-8: {error}") from error


def _record(content: bytes) -> Record:
    text = _text(content, "results.json")
    try:
        return checked(json.loads(text))
    except RecursionError as error:
        raise UnreadableError("results.json is nested too deep") from error
    except ValueError as error:
        raise UnreadableError(f"results.json is not JSON: {error}") from error


def checked(content: Any) -> Record:
    """The record in the parsed ``results.json``.

    Raises:
        UnreadableError: naming the first part that is not as runs write it.
    """
    where = "results.json"
    _is(dict, content, where)
    config = _field(dict, content, "config", where)
    stages = _field(dict, content, "stages", where)
    results = _field(dict, content, "results", where)
    environments = [_field(dict, content, "environment", where)]
    if "environments" in content:
        environments = _field(list, content, "environments", where) + environments
    return Record(
        {
            name: _is(str, json.dumps(value), f"{where}: config: {name}")
            for name, value in config.items()
        },
        [_environment(made, f"{where}: environment") for made in environments],
        {
            name: _stage(stage, f"{where}: stage {name}")
            for name, stage in stages.items()
        },
        _texts(results, "summary", f"{where}: results"),
        _findings(results, f"{where}: results"),
    )


def _findings(results: dict, where: str) -> list[Finding]:
    if "findings" not in results:
        return []
    try:
        every = _field(list, results, "findings", where)
        return [findings.from_json(each) for each in every]
    except ValueError as error:
        raise UnreadableError(f"{where}: {error}") from error


def _environment(made: Any, where: str) -> Environment:
    _is(dict, made, where)
    versions = _field(dict, made, "versions", where)
    for name, version in versions.items():
        _is(str, version, f"{where}: version of {name}")
    # Results from before it was recorded are all of jax's default.
    made = {"generator": "threefry2x32", **made}
    return Environment(
        _field(str, made, "commit", where),
        _field(str, made, "python", where),
        versions,
        _field(str, made, "device", where),
        _field(int, made, "cores", where),
        _field(str, made, "generator", where),
        _texts(made, "arguments", where),
    )


def _stage(stage: Any, where: str) -> Stage:
    _is(dict, stage, where)
    seconds = _field(float, stage, "seconds", where)
    if not 0 <= seconds < 1e12:
        raise UnreadableError(f"{where}: seconds is {seconds}")
    commit = _field(str, stage, "commit", where)
    return Stage(seconds, commit, _field(str, stage, "device", where))


def _texts(holder: dict, name: str, where: str) -> list[str]:
    texts = _field(list, holder, name, where)
    return [_is(str, text, f"{where}: entry of {name}") for text in texts]


def _field(kind: type, holder: dict, name: str, where: str) -> Any:
    if name not in holder:
        raise UnreadableError(f"{where} has no {name}")
    return _is(kind, holder[name], f"{where}: {name}")


_KINDS = {
    dict: "an object",
    list: "a list",
    str: "text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _is(kind: type, value: Any, where: str) -> Any:
    """The value, if it is of the kind and can be shown."""
    # Not isinstance, to which True is an integer.
    if type(value) not in ((int, float) if kind is float else (kind,)):
        reason = f"is {_KINDS[type(value)]}, not {_KINDS[kind]}"
        raise UnreadableError(f"{where} {reason}")
    if kind in (dict, list, str) and len(value) > _MOST_SHOWN:
        raise UnreadableError(f"{where} is too long to be shown")
    return value


def _figures(folder: Path, images: list[tuple[str, str]]) -> dict[str, Figure]:
    """The figures of a report by source, of sources and alternative texts."""
    if len(images) > _MOST_FIGURES:
        raise UnreadableError(f"report.md shows more than {_MOST_FIGURES} figures")
    figures: dict[str, Figure] = {}
    pixels = _MOST_PIXELS
    for source, alt in images:
        if source not in figures:
            figures[source] = figure = _figure(folder, source, alt, pixels)
            pixels -= figure.width * figure.height
    return figures


def _figure(folder: Path, source: str, alt: str, pixels: int) -> Figure:
    name = urllib.parse.unquote(source) or "."
    image = _image(_within(folder, name, _MOST_PNG), name, pixels)
    width, height = image.size
    whole = _uri(image, lossless=True)
    # Of panels side by side the first one, since all of them could not be read.
    image = image.crop((0, 0, min(width, round(1.4 * height)), height))
    image.thumbnail((360, 360))
    return Figure(alt, whole, _uri(image, quality=80), width, height)


def _image(content: bytes, name: str, pixels: int) -> Any:
    from PIL import Image

    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                if image.width * image.height > pixels or max(image.size) > _MOST_SIDE:
                    raise UnreadableError(f"{name} has too many pixels")
                # Pillow warns of some palettes when they become RGB at once.
                return image.convert("RGBA").convert("RGB")
    except bombs as error:
        raise UnreadableError(f"{name} has too many pixels") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UnreadableError(f"{name} is not a whole PNG image") from error


def _uri(image: Any, **options: Any) -> str:
    """An image within the page; WebP without loss has half the size of PNG."""
    file = io.BytesIO()
    image.save(file, "WEBP", **options)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
