"""Decoded images are kept, and believed only if they are what was written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from advjax.data import cache
from advjax.types import Batch

IMAGES = Batch(
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1), np.array([3, 1], np.int32)
)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _kept(digest, decode):
    return cache.kept(lambda: digest, decode)


def _never():
    pytest.fail("decoded again")


def _assert_equal(found):
    for a, b in zip(found, IMAGES, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
        assert a.flags.writeable


def test_images_are_decoded_once(place):
    _assert_equal(_kept("a", lambda: IMAGES))
    _assert_equal(_kept("a", _never))
    assert [path.name for path in place.iterdir()] == ["a.safetensors"]
    with pytest.raises(ZeroDivisionError):
        _kept("b", lambda: 1 / 0)


def test_what_changes_while_it_is_decoded_is_not_kept(place):
    digests = iter("ab")
    _assert_equal(cache.kept(lambda: next(digests), lambda: IMAGES))
    assert not place.exists()


@pytest.mark.parametrize("fault", ["cut", "bit", "empty", "text", "another", "folder"])
def test_what_is_damaged_is_decoded_again(place, fault):
    _kept("a", lambda: IMAGES)
    (file,) = place.iterdir()
    content = bytearray(file.read_bytes())
    if fault == "folder":
        file.unlink()
        file.mkdir()
    elif fault == "another":
        _kept("b", lambda: IMAGES._replace(y=IMAGES.y + 1))
        (place / "b.safetensors").replace(file)
    else:
        content[-1] ^= fault == "bit"
        damaged = {"cut": content[:-5], "empty": b"", "text": b"no images"}
        file.write_bytes(damaged.get(fault, content))
    _assert_equal(_kept("a", lambda: IMAGES))
    if fault != "folder":
        _assert_equal(_kept("a", _never))


def test_nothing_is_kept_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ADVJAX_CACHE", str(tmp_path / "file" / "cache"))
    _assert_equal(_kept("a", lambda: IMAGES))


def test_nothing_is_kept_without_a_home(monkeypatch):
    monkeypatch.delenv("ADVJAX_CACHE")
    monkeypatch.setattr(
        cache, "place", lambda: Path("~nobody-of-this-name").expanduser()
    )
    _assert_equal(_kept("a", lambda: IMAGES))


_KEEP = """
import numpy as np
from advjax.data import cache
from advjax.types import Batch
x = np.arange(10**6).astype(np.uint8)
for i in range(30):
    if i % 5 == 0:
        (cache.place() / f"{i % 2}.safetensors").unlink(missing_ok=True)
    found = cache.kept(lambda: f"{i % 2}", lambda: Batch(x, x[:1]))
    assert (found.x == x).all()
"""


def test_processes_do_not_disturb_each_other(place):
    command = [sys.executable, "-c", _KEEP]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert sorted(path.name for path in place.iterdir()) == [
        "0.safetensors",
        "1.safetensors",
    ]


def test_digests_are_of_content_and_of_its_division(tmp_path):
    (tmp_path / "file").write_bytes(b"ab")
    parts = [[b"ab"], [b"a", b"b"], [b"ab", b""], [b"ba"]]
    assert len({cache.digest(each) for each in parts}) == len(parts)
    assert cache.digest([tmp_path / "file"]) == cache.digest([b"ab"])
    (tmp_path / "file").write_bytes(b"abc")
    assert cache.digest([tmp_path / "file"]) != cache.digest([b"ab"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"ADVJAX_CACHE": "/a"}, "/a"),
        ({"ADVJAX_CACHE": "~/a", "HOME": "/h"}, "/h/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/advjax"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/advjax"),
        ({"HOME": "/h"}, "/h/.cache/advjax"),
    ],
)
def test_the_place_is_that_of_the_user(monkeypatch, given, expected):
    for name in ("ADVJAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert os.fspath(cache.place()) == expected
