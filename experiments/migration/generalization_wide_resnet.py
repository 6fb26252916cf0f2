"""Curves of compared trainings of the first form of results."""

import re

import numpy as np

from experiments import arrays
from experiments.generalization.wide_resnet import ACCURACIES


def migrated(old, report):
    """The values that the study has now."""
    found = old["results"]
    curves, shown = found["curves"], found["compared_values"]
    names = {name for each in curves for name in each}
    ones = np.ones_like(curves[0]["loss"]).tolist()  # the factor of the attack itself
    values = {
        name: (
            ("value", "epoch", "seed"),
            np.array([each.get(name, ones) for each in curves], np.float32),
        )
        for name in sorted(names)
    }
    last = [found["last"][name] for name in ACCURACIES]
    gains = [[[0.0, 0.0, 0.0], *found["gains"][name]] for name in ACCURACIES]
    values["last"] = (("metric", "value", "seed"), last)
    values["gain"] = (("metric", "value", "bound"), gains)
    num_epochs, num_seeds = np.shape(ones)
    coords = {
        "value": shown,
        "epoch": range(num_epochs),
        "seed": range(num_seeds),
        "metric": [*ACCURACIES],
        "bound": ["mean", "low", "high"],
    }
    sizes = re.search(r"on (\d+) examples, tested on (\d+) by", report)
    facts = {"row": "surrogate", "compared": found["compared"]}
    facts |= {"num_train": int(sizes[1]), "num_test": int(sizes[2])}
    return arrays.dataset(values, coords, **facts)
