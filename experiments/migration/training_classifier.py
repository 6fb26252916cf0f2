"""Training results of the first form."""

import re

import numpy as np

from experiments import arrays


def migrated(old, report):
    r, config = old["results"], old["config"]
    shape = (len(config["eps"]), config["num_seeds"])
    axes = ("epoch", "eps", "seed")
    values = {
        n: (axes, np.array(v, float).reshape(-1, *shape))
        for n, v in r["curves"].items()
    }
    missing = np.full_like(values["loss"][1], np.nan)
    gap = (
        values["test_fgsm_accuracy"][1] - values["test_robust_accuracy"][1]
        if "test_fgsm_accuracy" in values
        else missing
    )
    for name, value in {
        "test_fgsm_gap": gap,
        "test_fgsm_accuracy": missing,
        "test_undefined": missing,
        "test_zero_grad": missing,
    }.items():
        values.setdefault(name, (axes, value))
    values["best_epoch"] = (axes[1:], np.array(r["best_epoch"]).reshape(shape))
    sizes = re.search(r"epochs on (\d+) examples, tested on (\d+)", report)
    coords = {
        "epoch": np.arange(config["num_epochs"]),
        "eps": config["eps"],
        "seed": np.arange(shape[1]),
    }
    return arrays.dataset(
        values, coords, num_train=int(sizes[1]), num_test=int(sizes[2])
    )
