"""Accuracies and curves of the memorization networks of the first form."""

import numpy as np

from experiments import arrays
from experiments.memorization.networks import ACCURACIES, SPLITS, TRAININGS


def migrated(old, report):
    """The values that the study has now."""
    del report
    found = old["results"]
    cells, curves = found["accuracies"], found["curves"]
    values = {
        name: (
            ("training", "split", "seed"),
            [[cells[t][f"{kind} {split}"] for split in SPLITS] for t in TRAININGS],
        )
        for name, kind in ACCURACIES.items()
    }
    axes = ("training", "epoch", "seed")
    values |= {
        name: (axes, np.array([curves[t][name] for t in TRAININGS], np.float32))
        for name in curves["standard"]
    }
    config = old["config"]
    return arrays.dataset(
        values,
        {
            "training": [*TRAININGS],
            "split": [*SPLITS],
            "epoch": np.arange(config["num_epochs"]),
            "seed": np.arange(config["num_seeds"]),
        },
        num_train=found["sizes"]["train"],
        num_test=found["sizes"]["test"],
    )
