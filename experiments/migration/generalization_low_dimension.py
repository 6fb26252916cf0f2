"""Without curves over steps and the fine grid of c; the largest gap is rounded."""

import re

from experiments import arrays
from experiments.generalization.low_dimension import CURVES
from experiments.migration.generalization import moments


def migrated(old, report):
    r = old["results"]
    gap = float(re.search(r"largest certified gap ([\d.e-]+) of", report)[1])
    optimum = {
        f"optimal_{k}": (("eps",), r["optimum"][k]) for k in ("risk", "standard", "c")
    }
    return arrays.dataset(
        {
            **optimum,
            "exact_c": (("radius",), r["c"]["closed_form"]),
            **{f"{k}_last": (("eps", "moment"), moments(r[k])) for k in CURVES},
            "measured_c": (("radius", "moment"), moments(r["c"])),
            "largest_gap": ((), gap),
        },
        {"eps": r["eps"], "radius": r["c"]["eps"], "moment": ["mean", "sd"]},
    )
