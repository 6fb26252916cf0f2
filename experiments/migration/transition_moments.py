"""Moments of the first form."""

import numpy as np

from experiments import arrays


def migrated(old, report):
    del report
    rows = old["results"]["designs"]

    def of(key):
        return [[row[name][key] for name in ("variance", "gap")] for row in rows]

    axes = ("design", "quantity")
    formulas = np.array([of("printed"), of("corrected")], float)
    z = np.array([of("z_printed"), of("z_corrected")], float)
    return arrays.dataset(
        {
            "simulated": (axes, of("simulated")),
            "standard_error": (axes, of("standard_error")),
            "formula": (("by", *axes), formulas),
            "z": (("by", *axes), z),
            "n": (axes[:1], [row["n"] for row in rows]),
            "d": (axes[:1], [row["d"] for row in rows]),
        },
        {"quantity": ["variance", "gap"], "by": ["printed", "corrected"]},
    )
