"""Results of difficulty.influential of the first form, whose points are not there."""

import re

import numpy as np

from experiments import arrays
from experiments.difficulty.influential import (
    CAUSES,
    EFFECTS,
    QUANTILES,
    SIZES,
    WEIGHTS,
)


def migrated(old, report):
    """The values that the present study has, but for the images of a figure."""
    r = old["results"]
    names = [*r["groups"]]
    rows = {
        cells[0]: cells[1:]
        for line in report.split("Medians")[0].splitlines()
        if (cells := [c.strip() for c in line.strip("| ").split(" | ")])[0] in names
    }
    quantiles = [
        [[float(x) for x in re.findall(r"[\d.e+-]+", cell)] for cell in rows[n][:4]]
        for n in names
    ]
    correlation = np.array(
        [[[r["correlations"][n][e][c] for c in CAUSES] for e in EFFECTS] for n in names]
    )
    trend = np.array([[r["trends"][n][w] for w in WEIGHTS] for n in names])
    grouped = ("network", "weights", "group")
    return arrays.dataset(
        {
            "correlation": (
                ("network", "effect", "cause", "seed", "bound"),
                correlation,
            ),
            "trend": (("network", "weights", "seed", "bound"), trend),
            "group_cosine": (
                grouped,
                [[r["groups"][n][w] for w in WEIGHTS] for n in names],
            ),
            "group_error": (
                grouped,
                [[r["groups"][n][f"{w} error"] for w in WEIGHTS] for n in names],
            ),
            "quantile": (("network", "quantity", "share"), quantiles),
            "share_correct": (
                ("network",),
                [float(rows[n][4].strip(" %")) / 100 for n in names],
            ),
        },
        {
            "network": names,
            "effect": [*EFFECTS],
            "cause": [*CAUSES],
            "weights": [*WEIGHTS],
            "quantity": [*SIZES],
            "share": QUANTILES,
            "seed": np.arange(trend.shape[2]),
            "bound": ["mean", "low", "high"],
        },
        setting=re.search(r"## Influence of examples: (.*)\n", report)[1]
        .replace("eps = ", "ε = ")
        .replace("0.0313725", "8/255"),
        networks=re.search(r"Networks: (.*)\.\n", report)[1],
        num_images=int(re.search(r"(\d+) test images", report)[1]),
    )
