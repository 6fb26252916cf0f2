"""Grids of the first form."""

import numpy as np

from experiments import arrays


def migrated(old, report):
    del report
    r, config = old["results"], old["config"]
    readings = r["readings"]
    axes = ("epoch", "eps", "seed")
    values = {name: (axes, np.array(each, float)) for name, each in r["curves"].items()}
    names = {"epoch": "selected_epoch", "loss": "selected_loss"}
    for name in readings[0]:
        if name == "rule":
            continue
        each = np.array([read[name] for read in readings])
        each = each.astype(float) if each.dtype == object else each
        dims = axes[1:] if each.ndim == 3 else axes[2:]
        values[names.get(name, name)] = (("rule", *dims), each)
    values["median_images_per_second"] = ((), r["images_per_second"])
    return arrays.dataset(
        values,
        {
            "epoch": np.arange(config["num_epochs"]),
            "eps": r["eps"],
            "seed": np.arange(config["num_seeds"]),
            "rule": [read["rule"] for read in readings],
        },
        num_train=r["num_train"],
        num_test=r["num_test"],
        row=f"{config['dataset']}_fc{config['width']}",
    )
