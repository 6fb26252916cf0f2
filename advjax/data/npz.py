"""A data set of one's own: an ``.npz`` file of four arrays.

    np.savez("mine.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    train = data.load("mine.npz", split="train")

Nothing in it is unpickled.
"""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from advjax.data.untrusted import ContentError, DataError, check_place, line, require
from advjax.types import Batch

__all__ = ["SUFFIX", "num_classes", "place", "read"]

SUFFIX = ".npz"
_SPLITS = "train", "test"


def place(name: str, data_dir: str | os.PathLike | None) -> Path:
    """Where a file is: in ``data_dir``, if that is given and the name is relative."""
    return Path(data_dir or "", name).expanduser()


def read(path: Path, split: str) -> Batch:
    """A split: ``x[n, h, w, c]`` as uint8 or float32, int32 ``y[n]``.

    Raises:
        DataError: for a file that is absent, or whose arrays are not as
            ``data.load`` describes.
    """
    return _read(path, lambda arrays: _split(arrays, split))


def num_classes(path: Path) -> int:
    """One more than the largest label for training.

    Raises:
        DataError: as ``read``.
    """
    return _read(path, lambda arrays: _num_classes(_labels(arrays, "y_train")))


def _read(path: Path, taken: Callable[[Any], Any]) -> Any:
    try:
        check_place(path, path.parent)
        if not zipfile.is_zipfile(path):
            msg = "it is no .npz file: write it by np.savez"
            raise ContentError(msg)
        with np.load(path, allow_pickle=False) as arrays:
            return taken(arrays)
    except FileNotFoundError as error:
        msg = f"data set {str(path)!r}: there is no such file"
        raise DataError(msg) from error
    except Exception as error:  # whatever zip files and NumPy raise
        msg = f"data set {str(path)!r}: {line(error)}"
        raise DataError(msg) from error


def _split(arrays: Any, split: str) -> Batch:
    x, y = _images(arrays, f"x_{split}"), _labels(arrays, f"y_{split}")
    lengths = f"x_{split} has {len(x)} images, and y_{split} {len(y)} labels"
    require(len(x) == len(y), lengths)
    k = _num_classes(_labels(arrays, "y_train"))
    if split == "test":
        most = y.max()
        require(most < k, f"y_test has the class {most}, and y_train only 0 to {k - 1}")
        shapes = [x.shape[1:], _images(arrays, "x_train").shape[1:]]
        differ = f"images of x_test have shape {shapes[0]}, of x_train {shapes[1]}"
        require(shapes[0] == shapes[1], differ)
    return Batch(x, y)


def _array(arrays: Any, name: str) -> np.ndarray:
    wanted = "x_train, y_train, x_test and y_test"
    found = ", ".join(map(str, arrays)) or "nothing"
    require(name in arrays, f"{name} is missing: it has {found}; give {wanted}")
    array = arrays[name]
    require(array.size > 0, f"{name} is empty")
    return array


def _images(arrays: Any, name: str) -> np.ndarray:
    x = _array(arrays, name)
    wanted = f"{name} has shape {x.shape}: give [n, height, width, channels]"
    require(x.ndim != 3, f"{wanted}, such as {name}[..., None]")
    require(x.ndim == 4, wanted)
    is_first = x.shape[1] in (1, 3) and x.shape[3] > 4
    require(not is_first, f"{wanted}, such as {name}.transpose(0, 2, 3, 1)")
    if x.dtype == np.uint8:
        small = f"{name} has entries up to {x.max()} only: uint8 is for 0 to 255; give "
        require(x.max() > _DARKEST, f"{small}numbers in [0, 1]")
        return x
    is_float = np.issubdtype(x.dtype, np.floating)
    require(is_float, f"{name} is of {x.dtype}: give uint8, or numbers in [0, 1]")
    low, high = x.min(), x.max()
    require(
        low >= 0 and high <= 1,
        f"{name} has entries from {low:.4g} to {high:.4g}: give pixels in [0, 1], for "
        "eps is in their units; networks can normalise them",
    )
    require(high > _DARKEST / 255, f"{name} has entries up to {high:.3g} only, of 1")
    return x.astype(np.float32)


_DARKEST = 16
"""Of 255: images whose brightest pixel is not above have another unit."""


def _labels(arrays: Any, name: str) -> np.ndarray:
    y = _array(arrays, name)
    is_integer = np.issubdtype(y.dtype, np.integer)
    require(is_integer, f"{name} is of {y.dtype}: give classes as integers")
    hint = ""
    if y.ndim == 2:
        hint = f", such as {name}" + ("[:, 0]" if y.shape[1] == 1 else ".argmax(1)")
    require(y.ndim == 1, f"{name} has shape {y.shape}: give [n] classes{hint}")
    low, high = int(y.min()), int(y.max())
    require(low >= 0, f"{name} has the label {low}: classes count from 0")
    require(high < _MOST_CLASSES, f"{name} has the label {high}: classes count from 0")
    return y.astype(np.int32)


_MOST_CLASSES = 2**16


def _num_classes(y: np.ndarray) -> int:
    """The number of classes, none of which is without examples."""
    counts = np.bincount(y)
    empty = np.flatnonzero(counts == 0)
    missing = ", ".join(map(str, empty[:5])) + (", …" if empty.size > 5 else "")
    found = f"y_train has labels up to {y.max()}, and no example of {missing}"
    require(not empty.size, f"{found}: number the classes from 0, as np.unique does")
    require(counts.size > 1, "y_train has one class only")
    return counts.size
