"""Parameters of clean, memorising and robust classifiers over N and d: Theorem 3.3."""

from typing import Any

import numpy as np
import xarray as xr

from advjax import memorization
from experiments import figures
from experiments.finished import Networks
from experiments.training import recipe

DEPTH = 50  # more than the layers of the memorising network, 2 log2 d + s + 5
KINDS = ("clean", "memorising", "robust, at least")


def over_n_and_d(run: Networks, values: xr.Dataset) -> dict[str, xr.DataArray]:
    """log10 of parameters of each ``kind`` of classifier, over ``n`` and over ``d``.

    The clean classifier is a network of width d and two hidden layers; the share of
    small margins is the one measured.
    """
    share = float(values["small_share"].mean()) / 100
    levels, k = int(values["levels"].max()), recipe.num_classes(run.config)
    d0, n0 = int(values["num_inputs"][0]), run.images("train").y.size

    def log10(n, d):
        clean = memorization.num_clean((d, d, d, k))
        own = memorization.num_memorizing(
            num_inputs=d,
            num_centres=max(1, round(share * n)),
            num_outputs=k,
            num_levels=levels,
            clean=clean,
        )
        robust = memorization.robust_log10(d, run.config.eps[0], depth=DEPTH)
        return np.log10(clean), np.log10(own), robust

    grids = {"n": 10.0 ** np.arange(2, 9), "d": 2 ** np.arange(3, 13)}
    counted = {
        "n": [log10(n, d0) for n in grids["n"]],
        "d": [log10(n0, int(d)) for d in grids["d"]],
    }
    return {
        f"parameters_over_{over}": xr.DataArray(
            rows, {over: grids[over], "kind": [*KINDS]}, (over, "kind")
        )
        for over, rows in counted.items()
    }


def figure(values: xr.Dataset) -> Any:
    """Both, a panel each."""
    drawn, axes = figures.panels(2)
    labels = {"n": "training examples N", "d": "dimension d of the inputs"}
    for axis, (over, label) in zip(axes, labels.items(), strict=True):
        counted = values[f"parameters_over_{over}"]
        for kind, color in zip(KINDS, figures.colors(len(KINDS)), strict=True):
            row = counted.sel(kind=kind)
            axis.plot(row[over], row, color=color, marker="o", label=kind)
        axis.set(xscale="log", yscale="log", xlabel=label)
    axes[0].set_ylabel("log₁₀ of the number of parameters")
    figures.legend_below(drawn, axes[0])
    return drawn
