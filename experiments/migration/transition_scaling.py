"""Scaling of the first form."""

import numpy as np

from experiments import arrays
from experiments.transition.scaling import FITTED, LEVELS, RATIOS


def migrated(old, report):
    del report
    designs, fits = old["results"]["designs"], old["results"]["exponents"]

    def radii(key):
        return [
            [
                [row[f"{ratio} reaches {level}"][key] for level in LEVELS]
                for ratio in RATIOS
            ]
            for row in designs
        ]

    def fit(key, empty):
        found = [
            [
                [fits[f"{ratio} reaches {level}, {regime}"][key] for level in LEVELS]
                for ratio in RATIOS
            ]
            for regime in FITTED
        ]
        return [[[empty if x is None else x for x in b] for b in a] for a in found]

    axes = ("design", "ratio", "level")
    values = {
        name: (axes[:1], [row[name] for row in designs])
        for name in ("regime", "n", "d")
    }
    values["eps"] = (("design", "point"), [row["eps"] for row in designs])
    curves = [[row[ratio] for ratio in RATIOS] for row in designs]
    values["ratio_curve"] = (("design", "ratio", "point"), np.array(curves, float))
    names = {
        "radius": "radius",
        "radius_se": "se",
        "share_of_resamples": "share_of_resamples",
    }
    for name, key in names.items():
        values[name] = (axes, np.array(radii(key), float))
    fitted = ("fitted", *axes[1:])
    values["exponent"] = (fitted, np.array(fit("exponent", np.nan), float))
    ends = np.array(fit("interval_95", [np.nan] * 2), float)
    values["exponent_95"] = ((*fitted, "end"), ends)
    coords = {"ratio": RATIOS, "level": [*LEVELS], "fitted": [*FITTED]}
    return arrays.dataset(values, coords)
