"""Linear paths of the first form."""

import numpy as np

from experiments import arrays
from experiments.transition.linear_paths import ATTACKS


def migrated(old, report):
    del report
    rows = old["results"]["regimes"]
    axes = ("regime", "attack", "step", "moment")
    moments = np.array([[row["mean"], row["sd"]] for row in rows])
    return arrays.dataset(
        {
            "difference": (axes, np.moveaxis(moments, 1, -1)),
            "eps": (axes[:2], [row["eps"] for row in rows]),
            "d": (axes[:1], [row["d"] for row in rows]),
            "n": (axes[:1], [row["n"] for row in rows]),
        },
        {
            "attack": [*ATTACKS],
            "step": np.arange(1, moments.shape[-1] + 1),
            "moment": ["mean", "sd"],
        },
    )
