"""Proposition 8 and Example 1: block against full covariance. The sizes are ours.

Size: d = 20, n = 1000, 100 replicates. Time: 11 seconds.

    advjax run generalization/sparsity

Variants: ``smoke``, seconds long, for tests.

The largest inactive coefficient of θ* is 0 with block and 0.160 with full covariance.
"""

from ml_collections import ConfigDict

from experiments import checks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("smoke",))
    config = ConfigDict()
    config.experiment = "generalization.sparsity"
    config.seed = 0
    config.num_replicates = 100
    config.chunk_size = 100

    config.d = 20
    config.num_active = 5
    config.n = 1000
    config.rho = 0.5
    config.sigma = 1.0
    config.eps_most = 1.5
    config.num_points = 61
    config.num_measured = 11

    if "smoke" in words:
        config.num_replicates = 3
        config.d = 6
        config.num_active = 2
        config.n = 50
        config.num_points = 5
        config.num_measured = 3
    return config.lock()
