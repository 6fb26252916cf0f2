"""Catastrophic overfitting of the first form."""

import re

import numpy as np

from experiments import arrays
from experiments.transition.catastrophic import collapsed
from experiments.training.recipe import DATASETS


def migrated(old, report):
    r, dataset = old["results"], old["config"]["dataset"]
    seeds = len(r["eps_star"])
    shape = (len(r["eps"]), seeds)
    axes = ("epoch", "eps", "seed")
    values = {
        name: (axes, np.array(each, float).reshape(-1, *shape))
        for name, each in r["curves"].items()
    }
    for name, each in r["selected"].items():
        values[f"selected_{name}"] = (axes[1:], np.array(each, float))
    values["best_epoch"] = (axes[1:], np.array(r["best_epoch"]).reshape(shape))
    for name in ("eps_star", "unstable_eps"):
        values[name] = (axes[2:], np.array(r[name], float))
    coords = {
        "epoch": np.arange(len(values["loss"][1])),
        "eps": r["eps"],
        "seed": np.arange(seeds),
    }
    setting = re.search(r"## Catastrophic overfitting of (.*)", report)[1]
    width = re.search(r"width (\d+)", setting)[1]
    found = arrays.dataset(
        values,
        coords,
        setting=setting,
        grid=r["grid"],
        row=f"{dataset}_fc{width}",
        test_num_steps=int(re.search(r"PGD-(\d+)", report)[1]),
        num_classes=DATASETS[dataset],
        num_train=int(re.search(r"n = (\d+)", setting)[1]),
    )
    robust, accuracy = (
        found[f"selected_{name}"] for name in ("test_robust_accuracy", "accuracy")
    )
    fallen = collapsed(robust, accuracy, found.attrs["num_classes"])
    return found.assign(is_collapsed=fallen)
