"""The largest gap is rounded."""

import re

from experiments import arrays
from experiments.generalization.linf_sensitivity import NORMS
from experiments.migration.generalization import moments


def migrated(old, report):
    r = old["results"]
    axes = ("norm", "d", "xi", "moment")
    gap = float(re.search(r"certified to ([\d.e-]+)\. ", report)[1])
    return arrays.dataset(
        {
            **{
                k: (axes, [moments(r[n][k]) for n in NORMS]) for k in ("left", "excess")
            },
            "largest_gap": ((), gap),
        },
        {
            "norm": [*NORMS],
            "d": old["config"]["d"],
            "xi": old["config"]["xi"],
            "moment": ["mean", "sd"],
        },
    )
