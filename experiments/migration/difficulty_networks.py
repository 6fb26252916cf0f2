"""Networks of the difficulty studies, of the first form."""

import numpy as np

from experiments import arrays
from experiments.difficulty.networks import MEASURED


def migrated(old, report):
    """The values that the present study has."""
    del report
    r = old["results"]
    names = [*r["curves"]]
    axes = ("network", "epoch", "seed")
    values = {
        curve: (axes, np.float32([r["curves"][name][curve] for name in names]))
        for curve in r["curves"][names[0]]
    }
    accuracies = np.array([r["accuracies"][name] for name in names], float)
    values["accuracy_percent"] = (
        ("measured", "network", "seed"),
        accuracies.transpose(1, 0, 2),
    )
    coords = {
        "network": names,
        "epoch": np.arange(values["loss"][1].shape[1]),
        "seed": np.arange(accuracies.shape[-1]),
        "measured": [*MEASURED],
    }
    sizes = {"num_train": r["num_train"], "num_test": r["num_test"]}
    return arrays.dataset(values, coords, **sizes)
