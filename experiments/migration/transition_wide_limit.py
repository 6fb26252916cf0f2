"""The wide limit of the first form."""

import numpy as np

from experiments import arrays


def migrated(old, report):
    del report
    r = old["results"]
    moments = ["mean", "sd"]
    values = {}
    for name, axes in (("difference", ("h", "eps")), ("exponent", ("eps",))):
        both = np.array([r[name][moment] for moment in moments])
        values[name] = ((*axes, "moment"), np.moveaxis(both, 0, -1))
    coords = {"h": r["num_hidden"], "eps": r["eps"], "moment": moments}
    return arrays.dataset(values, coords)
