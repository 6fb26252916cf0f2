"""What studies of memorization networks kept of them in the first form of results."""

import re
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments import migration
from experiments.memorization import networks


def facts(name, report):
    """The facts about the networks in ``runs/<name>``."""
    old = migration.old(Path(name).name)
    config = ConfigDict(old["config"])
    robust = old["results"]["accuracies"]["adversarial"]["robust train"]
    return {
        "setting": networks.setting(config),
        "networks": re.search(r"Networks: (.*)\.\n", report)[1],
        "dataset": config.dataset,
        "model": config.model,
        "eps": config.eps[0],
        "memorised": float(np.mean(robust)),
    }
