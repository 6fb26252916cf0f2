"""Results of difficulty.growth of the first form, whose curves are not there."""

import re

import numpy as np

from experiments import arrays
from experiments.difficulty.growth import ATTACKS, MODELS, NORMS


def migrated(old, report):
    """The values that the present study has, but for the curves."""
    r = old["results"]
    names = [*r["fits"]]
    cases = [(n, a) for n in names for a in ATTACKS]

    def shaped(values, *shape):
        return np.array(values, float).reshape(len(names), len(ATTACKS), *shape)

    axes = ("network", "attack")
    fits = [r["fits"][n][a][norm] for n, a in cases for norm in NORMS]
    slopes = [fit["slopes"] or [np.nan] * 3 for fit in fits]
    r2 = [[fit["r2"][m] for m in MODELS] for fit in fits]
    keys = {
        "num_correct": "correct",
        "num_reached": "reached",
        "num_early": "too early",
        "num_never": "never",
    }
    numbers = {
        new: (axes, shaped([r["numbers"][n][a][key] for n, a in cases]).astype(int))
        for new, key in keys.items()
    }
    steps = {
        (cells[0], cells[1]): float(cells[5])
        for line in report.splitlines()
        if len(cells := [c.strip() for c in line.strip("| ").split(" | ")]) == 14
        and cells[1] in ATTACKS
    }
    return arrays.dataset(
        {
            "slope": ((*axes, "norm", "bound"), shaped(slopes, len(NORMS), 3)),
            "r2": ((*axes, "norm", "model"), shaped(r2, len(NORMS), len(MODELS))),
            "median_steps": (axes, shaped([steps[case] for case in cases])),
            **numbers,
        },
        {
            "network": names,
            "attack": [*ATTACKS],
            "norm": [*NORMS],
            "model": [*MODELS],
            "bound": ["mean", "low", "high"],
        },
        setting=re.search(r"## Growth of perturbations: (.*)\n", report)[1],
        networks=re.search(r"Networks: (.*)\.\n", report)[1],
    )
