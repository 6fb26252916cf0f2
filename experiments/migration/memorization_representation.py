"""Everything about the memorising classifier of the first form of results."""

import numpy as np

from experiments import arrays
from experiments.memorization.representation import KINDS, MULTIPLICATIONS, SIDES
from experiments.migration.memorization_shared import facts

OF_F_ADV = {
    "small_share": "small margins, μ",
    "clean_train_error": "clean training error",
    "own_train_error": "robust training error, points memorised for",
    "robust_train_error": "robust training error, f_adv",
    "missed": "missed by the first attack",
    "clean_test_error_of_clean": "clean test error, f_clean",
    "clean_test_error": "clean test error, f_adv",
    "robust_test_error_of_clean": "robust test error, f_clean",
    "robust_test_error": "robust test error, f_adv",
}
OF_RELU = {
    "relu_robust_train_error": "robust training error",
    "relu_attacked_train_error": "robust training error, PGD on it",
    "relu_clean_test_error": "clean test error",
    "relu_robust_test_error": "robust test error",
    "relu_attacked_test_error": "robust test error, PGD on it",
}
SCALARS = {
    "num_small": "num_small",
    "num_inputs": "num_inputs",
    "separation": "separation",
    "nearest_test_image": "nearest test image",
    "logit_bound": "bound",
    "levels": "levels",
    "clean_parameters": "clean parameters",
}


def migrated(old, report):
    """The values that the study has now."""
    results = old["results"]
    found = results["found"]
    seed = ("seed",)
    values = {name: (seed, found["percent"][label]) for name, label in OF_F_ADV.items()}
    values |= {name: (seed, found["relu"][label]) for name, label in OF_RELU.items()}
    values |= {name: (seed, found[label]) for name, label in SCALARS.items()}
    values["parameter_bound"] = (seed, results["bounds"])
    by = [found[name] for name in MULTIPLICATIONS]
    differences = [[each[f"error {s} shells"] for s in SIDES] for each in by]
    axes = ("seed", "multiplication", "side")
    values["difference"] = (axes, np.moveaxis(np.array(differences), -1, 0))
    numbers = [by[0][f"points {s} shells"] for s in SIDES]
    values["num_points"] = (("seed", "side"), np.transpose(numbers))
    parameters = [each["parameters"] for each in by]
    values["parameters"] = (axes[:2], np.transpose(parameters))
    coords = {
        "seed": range(len(found["bound"])),
        "multiplication": MULTIPLICATIONS,
        "side": SIDES,
        "kind": KINDS,
    }
    for over, name in (("n", "N"), ("d", "d")):
        counted = results["counts"][name]
        values[f"parameters_over_{over}"] = ((over, "kind"), counted["log10"])
        coords[over] = counted["grid"]
    own = facts(old["config"]["networks"], report)
    return arrays.dataset(values, coords, **own)
