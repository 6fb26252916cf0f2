"""Theorems 1 and 2 over designs of three regimes. The sizes are ours.

Size: 17 designs, 200 replicates each. Time: 3 minutes.

    advjax run transition/scaling

Variants: ``smoke``, seconds long, for tests.

Where d ≪ n the loss crosses at a power 0.983 of d/n, 95 % interval 0.956 to 1.011, and
the trajectory departs at 0.470, 0.467 to 0.473; where d ≫ n the powers are 0.512 and
0.506.
"""

from ml_collections import ConfigDict

from experiments import checks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("smoke",))
    config = ConfigDict()
    config.experiment = "transition.scaling"
    config.seed = 0
    config.num_replicates = 200
    config.num_resamples = 1000
    config.chunk_size = 50
    config.num_points = 25
    config.num_steps = 200
    config.rel_step_size = 1.0  # over the largest curvature

    config.small_n = (200, 500, 500, 1000, 1000, 2000, 2000)
    config.small_d = (10, 10, 20, 10, 40, 5, 20)
    config.moderate_n = (200, 100, 100, 50, 50)
    config.moderate_d = (50, 50, 80, 80, 100)
    config.large_n = (20, 20, 20, 10, 10)
    config.large_d = (200, 400, 1000, 1000, 2000)
    config.theta0_norm = 1.0
    config.sigma = 1.0

    if "smoke" in words:
        config.num_replicates = 4
        config.num_resamples = 10
        config.num_points = 5
        config.num_steps = 5
        config.small_n = (50, 100)
        config.small_d = (3, 3)
        config.moderate_n = (20, 10)
        config.moderate_d = (10, 15)
        config.large_n = (5, 5)
        config.large_d = (50, 100)
    return config.lock()
