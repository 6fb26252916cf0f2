"""All of it; the number of training images is that of the report."""

import re

import numpy as np

from experiments import arrays


def migrated(old, report):
    r, config = old["results"], old["config"]
    shape = (config["num_epochs"], len(r["eps"]), config["num_seeds"])
    axes = ("epoch", "eps", "seed")
    steps = r["by_steps"]
    curves = {
        name: (axes, np.asarray(values, float).reshape(shape))
        for name, values in r["curves"].items()
        if not name.startswith("attack_difference")
    }

    def of_steps(key):
        return [each[key] for each in steps]

    number = re.search(r"epochs on (\d+) images by", report)[1]
    return arrays.dataset(
        {
            **curves,
            "difference": (("num_steps", *axes), of_steps("attack_difference")),
            "linear": (("num_steps", "eps"), of_steps("linear")),
            "growth": (("num_steps", "eps", "bound"), of_steps("growth")),
            "contrast": (("num_steps", "bound"), of_steps("contrast")),
            "relative_contrast": (
                ("num_steps", "bound"),
                of_steps("relative_contrast"),
            ),
        },
        {
            "num_steps": config["watched_steps"],
            "eps": r["eps"],
            "epoch": np.arange(shape[0]),
            "seed": np.arange(shape[2]),
            "bound": ["mean", "low", "high"],
        },
        num_train=int(number),
        num_test=config["num_test"],
    )
