"""Evaluations of the first form."""

import re

import numpy as np

from experiments import arrays

ENDS = ["value", "low", "high"]


def migrated(old, report):
    rows, config = old["results"]["networks"], old["config"]
    axes = ("network", "end")
    one = (
        "clean_acc",
        "reported",
        "unreliable",
        "robust_loss",
        "num_zero_grad",
        "num_undefined",
        "trained_eps",
        "seed",
        "epoch",
    )
    values = {
        n: (axes[:1], [row.get(n, n != "unreliable" and np.nan) for row in rows])
        for n in one
    }
    values |= {
        n: (axes, [row[n] for row in rows])
        for n in ("clean", "fgsm", "pgd", "worst_case")
    }
    values["autoattack_acc"] = (axes[:1], np.full(len(rows), np.nan))
    values["caveats"] = (axes[:1], ["\n".join(row.get("caveats", [])) for row in rows])
    values["curve"] = (
        ("network", "curve_eps", "end"),
        np.reshape([row["curve"] for row in rows], (len(rows), -1, 3)),
    )
    first = rows[0]
    objective, _ = first["name"].split(" ")
    return arrays.dataset(
        values,
        {"end": ENDS, "curve_eps": np.array(config["curve"], float)},
        dataset=first["dataset"],
        architecture=first["architecture"],
        objective=objective,
        norm=first["norm"],
        eps=first["eps"],
        num_examples=first["num_examples"],
        additional_data=False,
        number_forward_passes=1,
        trained_by=re.search(r"parameters of commit (\S+)\.", report)[1],
    )
