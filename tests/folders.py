"""Folders of data sets, written by TensorFlow Datasets itself."""

import io

import numpy as np
from PIL import Image

from advjax.types import Batch

SHAPES = {
    "mnist": (28, 28, 1),
    "cifar10": (32, 32, 3),
    "cifar100": (32, 32, 3),
    "svhn_cropped": (32, 32, 3),
    # What the library does not know.
    "garments": (12, 10, 1),
    "flowers": (40, 60, 3),
    "skies": (200, 300, 3),
}
CLASSES = {"cifar100": 100, "garments": 3, "flowers": 17, "skies": 2}


def random(name, num_examples, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (num_examples, *SHAPES[name]), np.uint8)
    classes = min(CLASSES.get(name, 10), 10)
    return Batch(x, rng.integers(0, classes, num_examples).astype(np.int32))


def png(image):
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "PNG")
    return file.getvalue()


def prepare(root, name, splits, version="3.0.1", replaced=None):
    """Writes array_record files of at most three examples, through TFDS itself.

    ``replaced`` maps rows to what is stored there instead of their images.
    """
    import tensorflow_datasets as tfds

    folder = root / name / version
    folder.mkdir(parents=True)
    image = tfds.features.Image(shape=SHAPES[name])
    label = tfds.features.ClassLabel(num_classes=CLASSES.get(name, 10))
    features = {"image": image, "label": label}
    identity = tfds.core.DatasetIdentity(
        name=name, version=version, data_dir=str(folder), module_name=__name__
    )
    writer = tfds.core.SequentialWriter(
        tfds.core.DatasetInfo(
            builder=identity, features=tfds.features.FeaturesDict(features)
        ),
        max_examples_per_shard=3,
        file_format="array_record",
    )
    writer.initialize_splits(list(splits))
    for split, (x, y) in splits.items():
        images = dict(enumerate(map(png, x))) | (replaced or {})
        examples = [
            {"image": io.BytesIO(images[row]), "label": int(label)}
            for row, label in enumerate(y)
        ]
        writer.add_examples({split: examples})
    writer.close_all()
    return folder
