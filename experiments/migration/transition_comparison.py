"""Comparisons of the first form, with what was read off their grids."""

import re

import numpy as np

from experiments import arrays, migration
from experiments.transition.comparison import WAYS, compared


def migrated(old, report):
    r = old["results"]
    readings, facts = [], {name: [] for name in ("name", "setting", "origin", "row")}
    for grid in r["grids"]:
        place = grid["origin"].split()[0].split("/")[-1]
        there = migration.old(f"mnist-{place}")
        read, config = there["results"]["readings"][0], there["config"]
        for name in WAYS.values():
            assert read[name] == grid[name]
        reading = {
            "threshold": (("seed",), np.array(read["threshold"], float)),
            "selected_loss": (("eps", "seed"), np.array(read["loss"], float)),
        }
        for name in WAYS.values():
            reading[name] = (("seed",), np.array(read[name], float))
        seeds = np.arange(len(read["threshold"]))
        readings.append(arrays.dataset(reading, {"eps": config["eps"], "seed": seeds}))
        line = re.search(
            rf"^- {re.escape(grid['name'])}: (.*), \d+ seeds, runs", report, re.M
        )
        facts["name"].append(grid["name"])
        facts["setting"].append(line[1])
        facts["origin"].append(grid["origin"])
        facts["row"].append(f"mnist_fc{config['width']}")
    values = compared(readings, old["config"]["confidence"], **facts)
    was = [[each[way] for way in WAYS] for each in r["differences"]]
    np.testing.assert_allclose(values["difference"], np.array(was, float), rtol=1e-12)
    return values
