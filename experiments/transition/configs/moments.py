"""Lemmas 1 and 2 against 10 000 data sets a design. The sizes are ours.

Size: 7 designs, 10 000 data sets each. Time: 23 seconds.

    advjax run transition/moments

Variants: ``smoke``, seconds long, for tests.

The corrected formulas are within 2.0 standard errors in 14 comparisons; 7 printed ones
are off by more than 4.
"""

from ml_collections import ConfigDict

from experiments import checks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("smoke",))
    config = ConfigDict()
    config.experiment = "transition.moments"
    config.seed = 0
    config.num_replicates = 10_000
    config.chunk_size = 500

    config.n = (200, 200, 100, 100, 50, 20, 20)
    config.d = (5, 20, 50, 80, 100, 100, 400)
    config.theta0_norm = 1.0
    config.sigma = 1.0

    if "smoke" in words:
        config.num_replicates = 20
        config.chunk_size = 20
        config.n = (20, 5)
        config.d = (3, 12)
    return config.lock()
