"""eps* by fine-tuning the clean networks of a grid: Tables 4 and B.7, Figure B.1.

    python -m experiments.run --config=FILE:cifar10_10k --config.grid=runs/GRID
    python -m experiments.run --config=FILE:mnist --config.grid=runs/GRID

where FILE is ``experiments/transition/configs/fine_tuning.py`` and GRID a finished grid
of ``classifier_grid.py``, which decides on data, network, norm and size.

Variants, joined by commas: ``cifar10``, ``cifar10_10k`` and ``cifar10_l2``, the rows of
Table 4, of the grids of these names; ``mnist`` and ``digits``; ``high``, a rate that
rises to that of clean training; ``smoke``, of a grid of that size, for tests.
"""

from ml_collections import ConfigDict

from experiments import checks
from experiments.transition.classifier_grid import GRID_FIELDS

_ROWS = {
    "cifar10": (0.25 / 255, 0.5 / 255, 1 / 255),
    "cifar10_10k": (0.25 / 255, 0.5 / 255, 1 / 255),
    "cifar10_l2": (5 / 255, 10 / 255, 15 / 255),
    "mnist": (0.0125, 0.025, 0.05),
    "digits": (0.01, 0.02, 0.04),
}


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, (*_ROWS, "high", "smoke"))
    (row,) = checks.one_each(words, (tuple(_ROWS),), ("digits",))
    config = ConfigDict(GRID_FIELDS)
    config.experiment = "transition.fine_tuning"
    config.seed = 1
    config.eps = _ROWS[row]
    config.fgm_rel_step_size = 1.25

    # The base rate of clean training times Figure B.1, which prints no values. These
    # peak at a tenth, the rate at which the clean network was selected.
    config.num_epochs = 0  # a fifth of the grid's, as the paper's 40 of 200
    config.schedule = "linear"
    config.schedule_knots = (0.0, 0.25, 0.5, 0.75, 1.0)
    config.schedule_values = (0.01, 0.1, 0.1, 0.01, 0.001)
    if "high" in words:
        config.schedule_knots = (0.0, 0.375, 1.0)
        config.schedule_values = (0.05, 1.0, 0.0)
    return config.lock()
