"""Figure 3, and Figures 9 to 11 as variants: 100 replicates, 100 steps.

Size: the paper's, 100 replicates. Time: 4 seconds a variant.

    advjax run generalization/interpolation
    advjax run generalization/interpolation:exact,d5000

Variants: ``exact`` attacks with xi = 0 (Figure 9), ``d5000`` is Figure 10, and the two
together Figure 11; ``smoke``, seconds long, for tests.

The training loss at step 50 is at most 0.002, the test losses are 10.83 ± 0.06, 10.85 ±
0.06 and 11.07 ± 0.03, at d = 5000 10.97, 10.98 and 11.07 ± 0.01.
"""

from ml_collections import ConfigDict

from experiments import checks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("exact", "d5000", "smoke"))
    config = ConfigDict()
    config.experiment = "generalization.interpolation"
    config.seed = 0
    config.num_replicates = 100
    config.chunk_size = 20
    # The paper does not print the number of steps.
    config.num_steps = 100

    config.d = 1000
    config.n = 20
    config.num_active = 10
    config.sigma = 1.0
    config.eps = (0.0, 0.01, 0.1)
    config.xi = 0.5
    config.step_size = 1e-3

    if "exact" in words:
        config.xi = 0.0
    if "d5000" in words:
        config.d = 5000
        config.step_size = 2e-4
    if "smoke" in words:
        config.num_replicates = 3
        config.d = 100
        config.num_steps = 10
    return config.lock()
