"""The descriptions of a data set by TensorFlow Datasets, read as data.

A description may come from anybody: no class that it names is imported, no name of a
file leads out of its folder, and what it says of a data set in ``DATA_SETS`` has to be
what that is known to be.
"""

import json
import re
import reprlib
from pathlib import Path
from typing import Any, NamedTuple

from advjax.data.untrusted import ContentError, check_place, require

__all__ = [
    "DATA_SETS",
    "DataSet",
    "Images",
    "images",
    "read",
    "shards",
    "splits",
    "text",
]

# In bytes; real descriptions have 1500.
_LARGEST = 2**20


class DataSet(NamedTuple):
    """What a data set is known to be; a split may be stored in part."""

    shape: tuple[int, int, int]
    num_classes: int
    num_examples: dict[str, int]


DATA_SETS = {
    "mnist": DataSet((28, 28, 1), 10, {"train": 60_000, "test": 10_000}),
    "cifar10": DataSet((32, 32, 3), 10, {"train": 50_000, "test": 10_000}),
    "cifar100": DataSet((32, 32, 3), 100, {"train": 50_000, "test": 10_000}),
    "svhn_cropped": DataSet((32, 32, 3), 10, {"train": 73_257, "test": 26_032}),
}


class Images(NamedTuple):
    """What the examples of a data set are: images and their classes."""

    shape: tuple[int, int, int]
    num_classes: int
    formats: list[str]


def read(file: Path) -> dict[str, Any]:
    """The JSON object in a file; raises ContentError for anything else."""
    check_place(file, file.parent)
    with file.open("rb") as stream:
        content = stream.read(_LARGEST + 1)
    too_large = f"it has more than {_LARGEST} bytes"
    require(len(content) <= _LARGEST, too_large)
    return _parsed(content)


def _parsed(content: bytes | str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        msg = f"it is not JSON, {error}"
        raise ContentError(msg) from error
    return _object("it", found)


def _object(what: str, value: Any) -> dict[str, Any]:
    require(isinstance(value, dict), f"{what} is {_short(value)}, and no JSON object")
    return value


def text(what: str, value: Any) -> str:
    """``value`` itself; raises ContentError unless it is a string."""
    require(isinstance(value, str), f"{what} is {_short(value)}, and no string")
    return value


def _array(what: str, value: Any) -> list[Any]:
    require(isinstance(value, list), f"{what} is {_short(value)}, and no array")
    return value


def _counts(what: str, values: Any) -> list[int]:
    """Counts, which protobuf writes as strings."""
    for value in _array(what, values):
        is_count = type(value) in (str, int) and re.fullmatch("[0-9]{1,9}", str(value))
        require(bool(is_count), f"{what} has {_short(value)}, which is no count")
    return [int(value) for value in values]


_short = reprlib.repr


def images(name: str, described: dict[str, Any]) -> Images:
    """The images of a data set and their classes, after a check of all features."""
    content = _feature("the whole", described, ["FeaturesDict"])
    features = dict(_object("features", content.get("features", content)))
    image = _feature("'image'", features.pop("image", None), ["Image"])
    label = _feature("'label'", features.pop("label", None), ["ClassLabel"])
    for field, ignored in features.items():
        _feature(_short(field), ignored, ["ClassLabel", "Scalar", "Tensor", "Text"])
    declared = label.get("numClasses", label.get("num_classes"))
    (num_classes,) = _counts("numClasses", [declared])
    known = DATA_SETS.get(name)
    if known is not None:
        classes = f"{name} has {known.num_classes} classes, not {num_classes}"
        require(num_classes == known.num_classes, classes)
    require(num_classes > 1, f"it has {num_classes} classes")
    return Images(_shape(name, image), num_classes, _formats(image))


def _shape(name: str, image: dict[str, Any]) -> tuple[int, int, int]:
    declared = image.get("shape")
    sizes = declared.get("dimensions") if isinstance(declared, dict) else declared
    found = _counts("shape", sizes)
    if name in DATA_SETS:
        shape = DATA_SETS[name].shape
        differs = f"images of {name} have shape {[*shape]}, not {found}"
        require(found == [*shape], differs)
        return shape
    plain = f"images have shape {found}, and [height, width, 1 or 3] is read"
    require(len(found) == 3 and 0 not in found and found[2] in (1, 3), plain)
    return found[0], found[1], found[2]


def _formats(image: dict[str, Any]) -> list[str]:
    dtype = image.get("dtype")
    require(dtype == "uint8", f"images have dtype 'uint8', not {_short(dtype)}")
    encoding = image.get("encodingFormat", image.get("encoding_format"))
    choices = f"images are stored as 'png' or 'jpeg', not {_short(encoding)}"
    require(encoding in [None, "png", "jpeg"], choices)
    return [encoding.upper()] if encoding else ["PNG", "JPEG"]


# By class, where the content of a feature is.
_CONTENTS = {
    "FeaturesDict": "featuresDict",
    "Image": "image",
    "ClassLabel": "classLabel",
    "Scalar": "tensor",
    "Tensor": "tensor",
    "Text": "text",
}


def _feature(what: str, described: Any, choices: list[str]) -> dict[str, Any]:
    """The content of a feature of one of the classes; no class is imported."""
    feature = _object(what, described)
    # TFDS once wrote "type" and "content" instead, the latter as JSON in a string too.
    class_name = feature.get("pythonClassName", feature.get("type"))
    package, _, kind = str(class_name).rpartition(".")
    known = f"{package}.".startswith("tensorflow_datasets.core.features.")
    refused = f"{what} is of class {_short(class_name)}, not {' or '.join(choices)}"
    require(known and kind in choices, refused)
    content = feature.get(_CONTENTS[kind], feature.get("content", {}))
    return _parsed(content) if isinstance(content, str) else _object(what, content)


def splits(name: str, info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The descriptions of all splits by their names."""
    found = info.get("name")
    own, _, variant = name.partition("/")
    require(found == own, f"it describes the data set {_short(found)}")
    found = info.get("configName", "")
    require(found == variant, f"it describes the variant {_short(found)}")
    found_splits: dict[str, dict[str, Any]] = {}
    for described in _array("splits", info.get("splits")):
        split = text("the name of a split", _object("a split", described).get("name"))
        plain = re.fullmatch(r"\w[\w.-]*", split, re.ASCII)
        require(bool(plain), f"{_short(split)} is no name of a split")
        require(
            split not in found_splits, f"it describes the split {_short(split)} twice"
        )
        found_splits[split] = described
    return found_splits


# A name without folders; TFDS replaces what is in braces.
_TEMPLATE = re.compile(
    r"([\w.-]|{(DATASET|SPLIT|FILEFORMAT|SHARD_INDEX|NUM_SHARDS|SHARD_X_OF_Y)})*",
    re.ASCII,
)


def shards(
    name: str, split: str, described: dict[str, Any], file_format: str
) -> dict[str, int]:
    """How many records each file of a split declares, by the name of the file."""
    from tensorflow_datasets import core

    # It becomes a format string, which could follow attributes and pad to any width.
    template = text("filepathTemplate", described.get("filepathTemplate", ""))
    refused = f"filepathTemplate {_short(template)} is no name of files in its folder"
    require(bool(_TEMPLATE.fullmatch(template)), refused)
    lengths = _counts("shardLengths", described.get("shardLengths"))
    largest = DATA_SETS[name].num_examples[split] if name in DATA_SETS else None
    found = f"shardLengths is {_short(lengths)}"
    has = "" if largest is None else f", and {name} has {largest} examples"
    total = sum(lengths)
    require(0 < total <= (largest or total) and 0 not in lengths, found + has)
    naming = core.ShardedFileTemplate(
        data_dir="",
        template=template,
        dataset_name=name.partition("/")[0],
        split=split,
        filetype_suffix=file_format,
    )
    num_shards = len(lengths)
    names = [
        naming.relative_filepath(shard_index=index, num_shards=num_shards)
        for index in range(num_shards)
    ]
    found_shards = dict(zip(names, lengths, strict=True))
    require(len(found_shards) == num_shards, f"{num_shards} shards are the same file")
    return found_shards
