"""Figure 5 and c(eps): the paper's d, theta0, sigma, xi, step size and 100 replicates.

Size: the paper's, 100 replicates; n = 1000. Time: 8 seconds.

    advjax run generalization/low_dimension

Variants: ``smoke``, seconds long, for tests.

At eps = 0.5 the adversarial test loss is 5.408 ± 0.009, where R* is 5.385, and the
standard one 1.348 ± 0.045, where that of θ* is 1.344.
"""

from ml_collections import ConfigDict

from experiments import checks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("smoke",))
    config = ConfigDict()
    config.experiment = "generalization.low_dimension"
    config.seed = 0
    config.num_replicates = 100
    config.chunk_size = 20

    config.d = 10
    config.sigma = 1.0
    config.xi = 0.1
    config.step_size = 0.01
    # The paper gives neither n nor the number of steps, and of the radii only 0.5.
    config.n = 1000
    config.num_steps = 500
    config.eps = (0.0, 0.1, 0.25, 0.5)

    config.eps_most = 1.5  # of c(eps), which is constant from 1.195 on
    config.num_points = 11

    if "smoke" in words:
        config.num_replicates = 3
        config.n = 50
        config.num_steps = 10
        config.num_points = 3
    return config.lock()
