"""Curves of the learning process of the first form."""

import numpy as np

from experiments import arrays
from experiments.memorization.networks import SPLITS
from experiments.migration.memorization_shared import facts


def migrated(old, report):
    """The values that the study has now."""
    found, radii = old["results"], old["config"]["radii"]
    axes = ("split", "epoch", "seed", "radius")
    values = {
        name: (axes, np.array([found["curves"][s][name] for s in SPLITS], np.float32))
        for name in ("gradient", "loss", "error")
    }
    changes = [[found["changes"][s][f"{r:g}"] for r in radii] for s in SPLITS]
    values["change"] = (("split", "radius", "bound"), changes)
    values["num_images"] = (("split",), [found["num_images"][s] for s in SPLITS])
    return arrays.dataset(
        values,
        {
            "split": [*SPLITS],
            "epoch": found["epochs"],
            "seed": np.arange(values["gradient"][1].shape[2]),
            "radius": radii,
            "bound": ["mean", "low", "high"],
        },
        num_train=found["num_train"],
        num_inputs=found["num_inputs"],
        **facts(old["config"]["networks"], report),
    )
