"""Proposition 1: sigmoid networks of up to 3000 hidden units. The sizes are ours.

Size: to 3000 hidden units, 20 replicates. Time: 23 seconds.

    advjax run transition/wide_limit

Variants: ``smoke``, seconds long, for tests.

The difference falls with h as h to the power -0.89 ± 0.03, at eps = 0.5 -0.92 ± 0.09.
"""

from ml_collections import ConfigDict

from experiments import checks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("smoke",))
    config = ConfigDict()
    config.experiment = "transition.wide_limit"
    config.seed = 0
    config.num_replicates = 20
    config.chunk_size = 10
    config.num_steps = 100
    config.num_test = 1000

    config.d = 5
    config.n = 100
    config.num_hidden = (10, 30, 100, 300, 1000, 3000)
    config.eps = (0.0, 0.1, 0.5)
    config.delta = 1.0  # of the start; the proposition asks for a large one
    config.linear_step_size = 0.1
    config.theta0_norm = 1.0
    config.sigma = 1.0

    if "smoke" in words:
        config.num_replicates = 2
        config.num_steps = 5
        config.num_test = 20
        config.num_hidden = (5, 10)
    return config.lock()
