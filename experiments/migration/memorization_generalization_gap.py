"""Numbers of the generalisation gap of the first form."""

import re
from pathlib import Path

from experiments import arrays, migration
from experiments.memorization.generalization_gap import COLUMNS, GAPS
from experiments.memorization.networks import SPLITS
from experiments.migration.memorization_shared import facts

OLD = {
    "local_flatness": "local flatness",
    "global_flatness": "global flatness",
    "loss_gap": "gap in loss",
    "error_gap": "gap in error",
    "clean_error_gap": "clean gap in error",
    "robust_test_error": "robust test error",
    "bound": "N^(-1/(d+2)) × global flatness",
    "steep_rise": "δ × global flatness",
    "test_rise": "rise of the test loss",
    "first_order": "first order",
    "rise_over_first_order": "rise over first order",
}


def migrated(old, report):
    """The values that the study has now."""
    found = old["results"]
    learning = Path(old["config"]["learning"]).name
    own = migration.old_text(learning, "report.md")
    values = {
        name: (("epoch", "seed"), found["numbers"][OLD[name]]) for name in COLUMNS
    }
    ranks = [found["correlations"][OLD[name]] for name in GAPS]
    values["correlation"] = (("gap", "seed"), ranks)
    values["factor"] = ((), found["numbers"]["factor"])
    numbers = re.search(r"by (\d+) training and (\d+) test images", report)
    values["num_images"] = (("split",), [int(number) for number in numbers.groups()])
    coords = {
        "epoch": found["epochs"],
        "seed": range(len(ranks[0])),
        "gap": [*GAPS],
        "split": [*SPLITS],
    }
    origin = re.search(r"From: (.*)\.\n", report)[1]
    name = learning.removesuffix("-learning")
    return arrays.dataset(values, coords, learning=origin, **facts(name, own))
