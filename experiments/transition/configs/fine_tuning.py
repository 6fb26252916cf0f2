"""eps* by fine-tuning the clean networks of a grid: Tables 4 and B.7, Figure B.1.

Size: that of the grid; 3 radii × 4 seeds on MNIST. Time: 10 minutes on one core.

    advjax run transition/fine_tuning:cifar10_10k --config.grid=runs/GRID
    advjax run transition/fine_tuning:mnist --config.grid=runs/GRID

where GRID is a finished grid of ``classifier_grid.py``, which decides on data, network,
norm and size.

Of the MNIST grid at ``cpu`` the estimates err by 16 to 97 %.

Variants, joined by commas: ``cifar10``, ``cifar10_10k`` and ``cifar10_l2``, the rows of
Table 4, of the grids of these names; ``mnist`` and ``digits``; ``high``, a rate that
rises to that of clean training. The size, ``paper``, ``gpu`` or ``smoke``, is that of
the grid: a fifth of its epochs, as the paper's 40 of 200.
"""

from ml_collections import ConfigDict

from experiments import checks
from experiments.transition.readings import GRID_FIELDS, SIZES

_ROWS = {
    "cifar10": ("cifar10", "linf", (0.25 / 255, 0.5 / 255, 1 / 255)),
    "cifar10_10k": ("cifar10", "linf", (0.25 / 255, 0.5 / 255, 1 / 255)),
    "cifar10_l2": ("cifar10", "l2", (5 / 255, 10 / 255, 15 / 255)),
    "mnist": ("mnist", "linf", (0.0125, 0.025, 0.05)),
    "digits": ("digits", "linf", (0.01, 0.02, 0.04)),
}


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, (*_ROWS, *SIZES, "high"))
    (row,) = checks.one_each(words, (tuple(_ROWS),), ("digits",))
    config = ConfigDict(GRID_FIELDS)
    config.experiment = "transition.fine_tuning"
    config.seed = 1
    config.dataset, config.norm, config.eps = _ROWS[row]
    config.fgm_rel_step_size = 1.25

    # The base rate of clean training times Figure B.1, which prints no values. These
    # peak at a tenth, the rate at which the clean network was selected.
    config.num_epochs = 0  # a fifth of the grid's
    config.schedule = "fine_tuning"
    config.schedule_knots = ()
    config.schedule_values = ()
    if "high" in words:
        config.schedule = "linear"
        config.schedule_knots = (0.0, 0.375, 1.0)
        config.schedule_values = (0.05, 1.0, 0.0)
    return config.lock()
