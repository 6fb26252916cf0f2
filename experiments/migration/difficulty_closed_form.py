"""Results of difficulty.closed_form of the first form, with its report."""

import re

import numpy as np

from experiments import arrays


def cells(report, title):
    """The rows of the table below a title, by network."""
    part = report.split(title, 1)[1].split("\n### ", 1)[0]
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in part.splitlines()
        if line.startswith("| ")
    ]
    return rows[0], {row[0]: row[1:] for row in rows[2:]}


def interval(cell):
    """``mean [low, high]``."""
    return [float(each) for each in re.findall(r"[-+\d.e]+", cell)]


def migrated(old, report):
    """The values that the present study has, but for the pictures of Figure 1."""
    r, config = old["results"], old["config"]
    names = [*r["kappa"]]
    k = len(r["horizons"])
    _, fixed = cells(report, "### Table 1")
    header, free = cells(report, "### Gates free")
    first = header.index(f"change of λ₁, β = {r['horizons'][0]:g}") - 1
    fixed_kappa = np.array([[interval(c) for c in fixed[n][1 : 1 + k]] for n in names])
    kappa = np.array([r["kappa"][n] for n in names])
    fixed_kappa[:, :, 0] = kappa[:, :, -1]
    change = [[float(c) for c in free[n][first : first + k]] for n in names]
    mismatch = [[r["mismatch"][n][a] for a in ("l2", "linf")] for n in names]
    network, strength = "network", "strength"
    return arrays.dataset(
        {
            "kappa": ((network, strength, "num_steps"), kappa),
            "fixed_kappa": ((network, strength, "bound"), fixed_kappa),
            "free_kappa": (
                (network, strength, "bound"),
                [r["free_kappa"][n] for n in names],
            ),
            "mismatch": ((network, "attack", strength), mismatch),
            "eigenvalue_change": ((network, strength), change),
        },
        {
            "network": names,
            "strength": r["horizons"],
            "num_steps": r["num_steps"],
            "attack": ["l2", "linf"],
            "bound": ["mean", "low", "high"],
        },
        setting=re.search(
            r"## Closed form of perturbations: (.*?)(, noise.*)?\n", report
        )[1],
        networks=re.search(r"Networks: (.*)\.\n", report)[1],
        num_images=int(re.search(r"over (\d+) test images", report)[1]),
        num_free_images=min(config["free_num_images"], config["num_images"]),
        num_without_gradient=int(
            re.search(r"without a gradient, (\d+) in all", " ".join(report.split()))[1]
        ),
        shown=names[0],
    )
