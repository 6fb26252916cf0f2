"""The generalisation gap after the first drop of the rate: Figure 5.

    python -m experiments.run --config=FILE --config.grid=runs/GRID

where FILE is ``experiments/transition/configs/overfitting.py`` and GRID a finished grid
of ``classifier_grid.py``. Seconds long: it reads the curves of the grid.

Figure 5 shows the radii 0, 0.5, 1, 4, 8 and 12 of 255; the row ``cifar10`` of the grid
has all but the last, which ``--config.eps`` adds.
"""

from ml_collections import ConfigDict

from experiments import checks
from experiments.transition.classifier_grid import GRID_FIELDS


def get_config(variant=""):
    """The configuration; ``smoke`` changes nothing."""
    checks.variants(variant, ("smoke",))
    config = ConfigDict(GRID_FIELDS)
    config.experiment = "transition.overfitting"
    return config.lock()
