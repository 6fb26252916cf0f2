"""Results of difficulty.weight_effects of the first form."""

import re

from experiments import arrays
from experiments.difficulty.weight_effects import THEOREMS


def migrated(old, report):
    """The values that the present study has."""
    r = old["results"]
    names = [*r["errors"]]
    return arrays.dataset(
        {
            "relative_error": (
                ("network", "theorem", "strength", "bound"),
                [[r["errors"][n][t] for t in THEOREMS] for n in names],
            ),
            "share_of_negative_effects": (
                ("network",),
                [r["share_of_negative_effects"][n] for n in names],
            ),
        },
        {
            "network": names,
            "theorem": [*THEOREMS],
            "strength": old["config"]["horizons"],
            "bound": ["mean", "low", "high"],
        },
        setting=re.search(r"## Effects on the first layer: (.*)\n", report)[1]
        .replace("eps = ", "ε = ")
        .replace("0.0313725", "8/255"),
        networks=re.search(r"Networks: (.*)\.\n", report)[1],
        num_images=int(re.search(r"over (\d+) test images", report)[1]),
    )
