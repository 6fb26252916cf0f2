"""Connectivity of the first form, without its planes."""

import re

import numpy as np

from experiments import arrays, migration
from experiments.transition.connectivity import with_quantities


def migrated(old, report):
    r = old["results"]
    radii, pairs = r["eps"], np.array(r["pairs"])
    shape = (len(radii), len(pairs) // len(radii))
    axes = ("eps", "seed")
    values = {}
    for name, each in r["along"].items():
        each = np.array(each, float)
        each = each.reshape(*shape, *each.shape[1:])
        values[name] = ((*axes, "t")[: each.ndim], each)
    q = r["quantities"]
    values["asymmetry_plane"] = (axes, q["asymmetry of the plane"])
    halves = (
        q["share of the clean half below twice the clean end's loss"],
        q["share of the other half"],
    )
    values["share_low"] = (("side", *axes), halves)
    values["right_seed"] = (("seed",), pairs[: shape[1], 1])
    name = r["grid"].split()[0].split("/")[-1]
    grid = migration.old(f"mnist-{name}")["results"]
    values["eps_star"] = (("grid_seed",), grid["readings"][0]["eps_star"])
    found = arrays.dataset(
        values,
        {
            "eps": radii,
            "seed": np.arange(shape[1]),
            "side": ["clean", "other"],
            "t": np.linspace(0, 1, old["config"]["num_points"]),
        },
        setting=re.search(r"## Connectivity of (.*)", report)[1],
        grid=r["grid"],
        num_eval=int(re.search(r"training loss on (\d+) examples", report)[1]),
    )
    return with_quantities(found)
