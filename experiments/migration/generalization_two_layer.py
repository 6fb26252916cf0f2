"""Without curves over steps; training losses are rounded."""

import numpy as np

from experiments import arrays
from experiments.generalization.two_layer import NETWORKS
from experiments.migration.generalization import column, moments, written_moments


def migrated(old, report):
    r = old["results"]
    config = old["config"]
    steps = config["num_observations"] * config["steps_between"]
    shape = (len(NETWORKS), len(r["eps"]), 2)
    start, last = (
        written_moments(column(report, title)).reshape(shape)
        for title in ("training loss at the start", f"at step {steps}")
    )
    axes = ("network", "eps", "moment")

    def share(key):
        return np.stack([r[name]["train_share"][key] for name in NETWORKS])

    return arrays.dataset(
        {
            "optimal_risk": (axes[1:2], r["optimal_risk"]),
            "train_start": (axes, start),
            "train_last": (axes, last),
            "test_last": (axes, [moments(r[name]["test"]) for name in NETWORKS]),
            "mean_share": (axes[:2], share("mean")),
            "largest_share": (axes[:2], share("largest")),
        },
        {"network": [*NETWORKS], "eps": r["eps"], "moment": ["mean", "sd"]},
    )
