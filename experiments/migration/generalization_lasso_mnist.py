"""Metrics of LASSO on MNIST of the first form of results."""

import re

import numpy as np

from experiments import arrays


def migrated(old, report):
    """The values that the study has now."""
    found, config = old["results"], old["config"]
    by = {(each["norm"], each["xi"], each["n"]): each for each in found["by_setting"]}
    names = {
        name for each in by.values() for name, v in each.items() if type(v) is list
    }
    shape = (found["num_repetitions"], len(found["arms"]))
    ones = np.ones(shape).tolist()  # the factor of the attack itself
    axes = ("norm", "xi", "n", "repetition", "arm")
    values = {
        name: (
            axes,
            [
                [
                    [by[norm, xi, n].get(name, ones) for n in config["n"]]
                    for xi in config["xi"]
                ]
                for norm in config["norms"]
            ],
        )
        for name in sorted(names)
    }
    values |= {name: (("norm",), config[name]) for name in ("eps", "rel_path")}
    coords = {"norm": config["norms"], "xi": config["xi"], "n": config["n"]}
    coords["arm"] = found["arms"]
    num_inputs = int(re.search(r"MLP (\d+)-", report)[1])
    return arrays.dataset(values, coords, num_inputs=num_inputs)
