"""Figures 2 right and 3: n = 100, d in {2, 5, 10}, 300 clean replicates.

Size: the paper's, 300 clean and 500 adversarial runs a point. Time: 12 seconds.

    advjax run transition/p_values

Variants: ``smoke``, seconds long, for tests. eps* by loss crossing is 0.026, 0.067 and
0.129, each ± 0.004 (standard error).
"""

from ml_collections import ConfigDict

from experiments import checks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("smoke",))
    config = ConfigDict()
    config.experiment = "transition.p_values"
    config.seed = 0
    config.n = 100
    config.d = (2, 5, 10)
    config.num_replicates = 300

    # The paper states neither of these. 500 runs a point put the error of a median
    # p-value at about 0.02.
    config.num_adversarial = 500
    config.num_steps = 100
    config.step_size = 0.1
    config.theta0_norm = 1.0
    config.sigma = 1.0
    config.log_range = 3.0
    config.num_points = 25
    config.num_resamples = 200

    if "smoke" in words:
        config.num_replicates = 20
        config.num_adversarial = 10
        config.num_steps = 10
        config.num_points = 5
        config.num_resamples = 5
    return config.lock()
