"""Results of difficulty.oscillation of the first form."""

import numpy as np

from experiments import arrays
from experiments.difficulty.oscillation import ACCURACIES, KINDS, TRAININGS


def migrated(old, report):
    """The values that the present study has."""
    del report
    r = old["results"]
    names = [*r["layers"]]
    layers = list(dict.fromkeys(layer for n in names for layer in r["layers"][n]))
    layers.sort(key=lambda name: ("Conv" not in name, name))
    first = np.array(r["instability"][f"{names[0]}-standard"]["ori"])
    shape = (len(names), len(TRAININGS), len(KINDS), len(layers), *first.shape[1:])
    instability = np.full(shape, np.nan)
    for i, n in enumerate(names):
        rows = [layers.index(layer) for layer in r["layers"][n]]
        for j, t in enumerate(TRAININGS):
            for k, kind in enumerate(KINDS):
                instability[i, j, k, rows] = r["instability"][f"{n}-{t}"][kind]
    accuracies = [
        [[r["accuracies"][f"{n}-{t}"][a] for a in ACCURACIES] for t in TRAININGS]
        for n in names
    ]
    return arrays.dataset(
        {
            "instability": (
                ("network", "training", "kind", "layer", "epoch", "seed"),
                instability,
            ),
            "accuracy_percent": (
                ("network", "training", "measured", "seed"),
                accuracies,
            ),
        },
        {
            "network": names,
            "training": [*TRAININGS],
            "kind": [*KINDS],
            "layer": layers,
            "measured": [*ACCURACIES],
            "epoch": np.arange(shape[-2]),
            "seed": np.arange(shape[-1]),
        },
    )
