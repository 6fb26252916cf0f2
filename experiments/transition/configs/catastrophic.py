"""Single-step training that overfits catastrophically: Tables 2 and B.6.

Size: that of the grid; 8 radii × 4 seeds on MNIST. Time: 40 minutes on one core.

    advjax run transition/catastrophic:cifar10 --config.grid=runs/GRID
    advjax run transition/catastrophic:mnist --config.grid=runs/GRID

where GRID is a finished grid of ``classifier_grid.py``, which decides on data, network
and size.

Of the MNIST grid at ``cpu`` no seed collapses up to 0.4.

Variants: ``cifar10``, the radii of Table B.6, for n = 10 000 and 50 000; ``mnist``;
``digits``. The size, ``paper``, ``gpu`` or ``smoke``, is that of the grid.
"""

from ml_collections import ConfigDict

from experiments import checks
from experiments.transition.readings import GRID_FIELDS, SIZES

_ROWS = {
    "cifar10": tuple(radius / 255 for radius in (1, 2, 4, 8, 12, 16, 20, 32)),
    "mnist": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4),
    "digits": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3),
}


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, (*_ROWS, *SIZES))
    (row,) = checks.one_each(words, (tuple(_ROWS),), ("digits",))
    config = ConfigDict(GRID_FIELDS)
    config.experiment = "transition.catastrophic"
    config.dataset, config.norm, config.eps = row, "linf", _ROWS[row]
    # The default of Rice et al.'s code; their published runs with 0.75 and 0.875 do not
    # collapse at 8/255.
    config.rel_step_size = 1.25
    config.start = ""  # that of the grid; or "none", with a step size of 1
    if "smoke" in words:
        config.eps = config.eps[::4]
    return config.lock()
