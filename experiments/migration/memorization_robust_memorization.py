"""Curves of robust memorization of the first form."""

import re

import numpy as np

from experiments import arrays
from experiments.memorization.networks import TRAININGS
from experiments.memorization.robust_memorization import KINDS, STEPS
from experiments.migration.memorization_shared import facts


def migrated(old, report):
    """The values that the study has now."""
    curves, ratios = old["results"]["curves"], old["results"]["ratios"]
    axes = ("training", "seed", "radius")
    values = {
        kind: (axes, np.array([curves[t][kind] for t in TRAININGS], np.float32))
        for kind in KINDS
    }
    growth = [[ratios[t][step] for step in STEPS] for t in TRAININGS]
    values["growth"] = (("training", "step", "bound"), growth)
    values["growth_over_clean"] = (("bound",), ratios["adversarial over clean"])
    return arrays.dataset(
        values,
        {
            "training": [*TRAININGS],
            "radius": old["config"]["radii"],
            "step": [*STEPS],
            "bound": ["mean", "low", "high"],
            "seed": np.arange(values["gradient"][1].shape[1]),
        },
        num_images=int(re.search(r"Means over (\d+) training images", report)[1]),
        **facts(old["config"]["networks"], report),
    )
