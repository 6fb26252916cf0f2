"""eps* of several grids beside each other: Figure A.1, and differences with intervals.

Size: those of the grids. Time: seconds.

    advjax run transition/comparison '--config.grids=("runs/A", "runs/B")'

where A and B are finished grids of ``classifier_grid.py``.
"""

from ml_collections import ConfigDict

from experiments import checks


def get_config(variant=""):
    """The configuration; ``smoke`` changes nothing."""
    checks.variants(variant, ("smoke",))
    config = ConfigDict()
    config.experiment = "transition.comparison"
    config.grids = ()
    config.grid_digests = ()
    config.confidence = 0.95
    return config.lock()
