"""Without coefficients over the radii; means at the last radius and gap rounded."""

import re

from experiments import arrays
from experiments.generalization.sparsity import DESIGNS
from experiments.migration.generalization import column, moments


def migrated(old, report):
    r = old["results"]
    title = f"their mean at ε = {old['config']['eps_most']:g}"
    gap = float(re.search(r"certified gap at most ([\d.e-]+) of", report)[1])
    largest = [r[name]["largest_inactive"] for name in DESIGNS]
    measured = [moments(r[name]["measured_inactive"]) for name in DESIGNS]
    return arrays.dataset(
        {
            "largest_inactive": (("design",), largest),
            "last_inactive": (("design",), [float(x) for x in column(report, title)]),
            "measured_inactive": (("design", "moment"), measured),
            "largest_gap": ((), gap),
        },
        {"design": DESIGNS, "moment": ["mean", "sd"]},
    )
