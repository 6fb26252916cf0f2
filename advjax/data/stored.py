"""Real data sets as NumPy arrays: of scikit-learn, of TFDS, and of one's own files."""

import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from advjax.data import npz, tfds
from advjax.types import Batch

__all__ = ["as_float", "load", "num_classes", "place"]


def load(
    name: str | os.PathLike, *, split: str, data_dir: str | os.PathLike | None = None
) -> Batch:
    """A real data set as NumPy arrays; nothing is downloaded.

        "digits"        1797 handwritten digits, 8×8×1 in [0, 1], 10 classes; 1437
                        for training and 360 for testing, split stratified by class
        "diabetes"      442 patients, 10 measurements and the disease's progression,
                        353 and 89; each column and the target standardised by the
                        training rows
        "mnist"         handwritten digits, 28×28×1, 10 classes; 60 000 and 10 000
        "cifar10"       photographs, 32×32×3, 10 classes; 50 000 and 10 000
        "cifar100"      photographs, 32×32×3, 100 classes; 50 000 and 10 000
        "svhn_cropped"  house numbers, 32×32×3, 10 classes; 73 257 and 26 032
        "fashion_mnist", "emnist/letters", …   any other images with one class each
                        that TensorFlow Datasets has prepared
        "mine.npz"      a file with x_train, y_train, x_test and y_test: images
                        ``[n, h, w, c]``, uint8 or numbers in [0, 1], and ``[n]``
                        classes, which count from 0

    The first two ship with scikit-learn and are float32; their test split is every
    fifth row in order of class, the same on every machine. Those of TensorFlow Datasets
    are uint8 ``x`` and int32 ``y`` in its order, read from where that package has
    prepared them, as array_record or tfrecord; TensorFlow is not needed. The newest
    version found is taken. They are decoded once, and then read from a cache, which is
    ``~/.cache/advjax`` unless ``ADVJAX_CACHE`` names a folder, and may be deleted.
    Files are uint8 or float32 and int32.

    Args:
        name: one of the table.
        split: "train" or "test".
        data_dir: the local directory that TensorFlow Datasets prepared into. By
            default the environment's ``TFDS_DATA_DIR``, else
            ``~/tensorflow_datasets``. The first two data sets do not look at it. A
            file with a relative name is in it if it is given, and else in the
            working directory.

    Raises:
        ValueError: for an unknown name or split.
        ImportError: without the packages that read it, saying how to install them.
        DataError: where the data set is not prepared, with the command that prepares
            it; or where a file is damaged, leads out of its folder or is not of this
            data set, with its name or the row. Folders that nobody vouches for are
            read as data: nothing that they name is imported.
    """
    name = _checked(name, data_dir)
    _choose("split", split, ["train", "test"])
    if name.endswith(npz.SUFFIX):
        return npz.read(npz.place(name, data_dir), split)
    if name not in _EMBEDDED:
        return tfds.read(name, split, data_dir)
    try:
        import sklearn.datasets
    except ImportError as error:
        msg = f"data set {name!r} needs scikit-learn: pip install scikit-learn"
        raise ImportError(msg) from error
    train, test = _EMBEDDED[name](sklearn.datasets)
    return train if split == "train" else test


def num_classes(
    name: str | os.PathLike, data_dir: str | os.PathLike | None = None
) -> int:
    """The number of classes of a data set, without its images; arguments as ``load``.

    Raises:
        ValueError: for an unknown name, and for a regression.
        DataError: as ``load``.
    """
    name = _checked(name, data_dir)
    if name == "diabetes":
        msg = "data set 'diabetes' is a regression: it has no classes"
        raise ValueError(msg)
    if name.endswith(npz.SUFFIX):
        return npz.num_classes(npz.place(name, data_dir))
    return 10 if name in _EMBEDDED else tfds.num_classes(name, data_dir)


def place(
    name: str | os.PathLike, data_dir: str | os.PathLike | None = None
) -> Path | None:
    """The file or folder that a data set is read from; None for those that ship.

    Arguments and errors are those of ``num_classes``.
    """
    name = _checked(name, data_dir)
    if name.endswith(npz.SUFFIX):
        return npz.place(name, data_dir)
    return None if name in _EMBEDDED else tfds.place(name, data_dir)


def _checked(name: str | os.PathLike, data_dir: str | os.PathLike | None) -> str:
    """The name; raises ValueError for one that is not in the table of ``load``."""
    known = sorted([*_EMBEDDED, *tfds.DATA_SETS])
    name = str(name)
    is_file = name.endswith(npz.SUFFIX)
    if name not in known and not is_file and not tfds.is_prepared(name, data_dir):
        _choose("data set", name, known, or_else=", a prepared one, or a .npz file")
    return name


def as_float(x: Any) -> Any:
    """Pixels in [0, 1]: uint8 becomes float32, x / 255; floats are left as they are.

    Takes and returns NumPy or JAX arrays, also under ``jit``, with the same bits.

    Raises:
        ValueError: for other types, whose range is not known.
    """
    x = x if hasattr(x, "dtype") else np.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x
    if x.dtype != np.uint8:
        msg = f"x.dtype = {x.dtype}: choose uint8 or floating point"
        raise ValueError(msg)
    # XLA divides by a constant through its reciprocal; NumPy would round otherwise.
    return x.astype(np.float32) * np.float32(1 / 255)


def _choose(
    argument: str, value: str, choices: Sequence[str], or_else: str = ""
) -> None:
    if value in choices:
        return
    given = str(value).lower()
    close = [choice for choice in choices if given and choice.startswith(given)]
    close = close or difflib.get_close_matches(given, choices, n=1)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    msg = f"{argument} = {value!r}: choose one of {', '.join(choices)}{or_else}{hint}"
    raise ValueError(msg)


def _digits(datasets: Any) -> tuple[Batch, Batch]:
    table = datasets.load_digits()
    x = (table.images[..., None] / 16).astype(np.float32)
    y = table.target.astype(np.int32)
    return _divide(x, y, _test_rows(y))


def _diabetes(datasets: Any) -> tuple[Batch, Batch]:
    table = datasets.load_diabetes()
    train, test = _divide(table.data, table.target, _test_rows(np.zeros(442, int)))

    def standardised(part: Batch) -> Batch:
        pairs = ((part.x, train.x), (part.y, train.y))
        columns = [(a - b.mean(axis=0)) / b.std(axis=0) for a, b in pairs]
        return Batch(*(column.astype(np.float32) for column in columns))

    return standardised(train), standardised(test)


_EMBEDDED: dict[str, Callable] = {"digits": _digits, "diabetes": _diabetes}


def _test_rows(classes: np.ndarray) -> np.ndarray:
    """Every fifth row in order of class, as a mask: no generator to depend on."""
    by_class = np.argsort(classes, kind="stable")
    chosen = np.zeros(classes.size, bool)
    chosen[by_class[::5]] = True
    return chosen


def _divide(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> tuple[Batch, Batch]:
    return Batch(x[~test], y[~test]), Batch(x[test], y[test])
