"""Fine-tuning results of the first form, with the losses of their grid."""

import re

import numpy as np

from experiments import arrays, migration
from experiments.transition.fine_tuning import _names, SCRATCH


def migrated(old, report):
    r = old["results"]
    name = "mnist-fc128"
    grid = migration.old(name)["results"]["readings"][0]
    names = [SCRATCH, *_names(len(r["eps"]))]
    est = r["estimates"]
    per = lambda key: [
        np.array(e[key], object if key == "status" else float) for e in est
    ]
    config = migration.old(name)["config"]
    epochs = re.search(
        r"(\d+) epochs from the clean network, (\d+) from scratch", report
    )
    row = ("estimate", "seed")
    return arrays.dataset(
        {
            "eps_star": (row, np.stack(per("eps_star"))),
            "status": (row, np.stack(per("status")).astype(str)),
            "relative_error": (row, np.stack(per("relative_error"))),
            "gradients": (row[:1], [e["gradients"] for e in est]),
            "share_of_gradients": (row[:1], [e["share_of_gradients"] for e in est]),
            "share_of_two_radii": (row[:1], [e["share_of_two_radii"] for e in est]),
            "clean_loss": (("seed",), r["clean_loss"]),
            "threshold": (("seed",), r["threshold"]),
            "grid_loss": (("grid_eps", "seed"), grid["loss"]),
            "tuned_loss": (
                ("attack", "eps", "seed"),
                [r["tuned_loss"][a] for a in ("pgd", "fgm")],
            ),
        },
        {
            "estimate": names,
            "attack": ["pgd", "fgm"],
            "eps": r["eps"],
            "grid_eps": config["eps"],
            "seed": np.arange(len(r["threshold"])),
        },
        setting=re.search(r"## Fine-tuning of (.*)", report)[1],
        grid=r["grid"],
        row="mnist_fc128",
        num_epochs=int(epochs[1]),
        grid_epochs=int(epochs[2]),
    )
