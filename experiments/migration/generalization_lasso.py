"""Without distances of the descent without penalty, and so without the figure."""

import numpy as np

from experiments import arrays
from experiments.generalization.lasso import PENALTIES
from experiments.migration.generalization import moments


def migrated(old, report):
    rows = old["results"]["by_n"]
    distance = moments(
        {k: [r["distance_over_penalty"][k] for r in rows] for k in ("mean", "sd")}
    )
    axes = ("n", "penalty", "moment")
    return arrays.dataset(
        {
            "strength": (axes[:1], [r["penalty"] for r in rows]),
            "excess": (axes, [moments(r["excess"]) for r in rows]),
            "gain": (axes[:1], [r["gain"]["mean"] for r in rows]),
            "gain_95": (axes[:1], [r["gain"]["interval_95"] for r in rows]),
            "distance_over_strength": (
                axes,
                np.stack([np.full_like(distance, np.nan), distance], 1),
            ),
            "nonzero": (axes[:2], [r["nonzero"] for r in rows]),
            "largest_gap": (axes[:1], [r["largest_relative_gap"] for r in rows]),
        },
        {
            "n": [r["n"] for r in rows],
            "penalty": PENALTIES,
            "moment": ["mean", "sd"],
        },
    )
