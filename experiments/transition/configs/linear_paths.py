"""Figure 2 left at the sizes of Table B.1: 100 replicates, both regimes.

Size: the paper's, 100 replicates. Time: 3 seconds.

    advjax run transition/linear_paths

Variants: ``smoke``, seconds long, for tests. The relative differences at step 100 are
0.008, 0.016, 0.175 and 0.009, 0.585, 0.879.
"""

from ml_collections import ConfigDict

from experiments import checks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("smoke",))
    config = ConfigDict()
    config.experiment = "transition.linear_paths"
    config.seed = 0
    config.num_replicates = 100
    config.num_steps = 100

    # The regimes of Table B.1. It gives neither the step sizes nor θ0 and σ: the steps
    # must stay below 2 over the largest curvature, 460 + 2·20² in the second regime.
    config.d = (20, 2000)
    config.n = (1000, 10)
    config.eps_small = (0.01, 1.0)
    config.eps_star = (0.02, 15.0)
    config.eps_large = (0.2, 20.0)
    config.step_size = (0.05, 5e-4)
    config.theta0_norm = 1.0
    config.sigma = 1.0

    if "smoke" in words:
        config.num_replicates = 4
        config.num_steps = 5
        config.d = (20, 200)
    return config.lock()
