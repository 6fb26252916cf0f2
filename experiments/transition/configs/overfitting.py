"""The generalisation gap after the first drop of the rate: Figure 5.

Size: that of the grid. Time: seconds.

    advjax run transition/overfitting --config.grid=runs/GRID

where GRID is a finished grid of ``classifier_grid.py``. It reads the curves of the
grid. Figure 5 is that of the row ``cifar10``. The size, ``paper``, ``gpu`` or
``smoke``, is the grid's.
"""

from ml_collections import ConfigDict

from experiments import checks
from experiments.transition.readings import GRID_FIELDS, SIZES


def get_config(variant=""):
    """The configuration, which the size does not change."""
    checks.variants(variant, SIZES)
    config = ConfigDict(GRID_FIELDS)
    config.experiment = "transition.overfitting"
    return config.lock()
