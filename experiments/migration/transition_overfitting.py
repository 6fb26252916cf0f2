"""Overfitting of the first form."""

import re

import numpy as np

from experiments import arrays


def migrated(old, report):
    r = old["results"]
    gap, late = (np.array(r[name], float) for name in ("gap", "ratio"))
    ratio = np.full_like(gap, np.nan)
    ratio[r["first_epoch"] :] = late
    axes = ("epoch", "eps", "seed")
    return arrays.dataset(
        {
            "gap": (axes, gap),
            "ratio": (axes, ratio),
            "eps_star": (axes[2:], np.array(r["eps_star"], float)),
        },
        {
            "epoch": np.arange(len(gap)),
            "eps": r["eps"],
            "seed": np.arange(gap.shape[-1]),
        },
        setting=re.search(r"## Overfitting of (.*)", report)[1],
        grid=r["grid"],
        first_epoch=r["first_epoch"],
    )
