"""Theorems 4.1 and 4.2: two-stage adversarial training on separable data.

Size: d = N = 1000, 20 data sets. Time: 9 seconds.

    advjax run memorization/separable

The paper prints no sizes: d = N = 1000, μ = 0.2, α = 10, β = 0.5, δ = 1 are ours, and
20 data sets. Variant ``smoke``: small, for tests.
"""

from ml_collections import ConfigDict

from experiments import checks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("smoke",))
    config = ConfigDict()
    config.experiment = "memorization.separable"
    config.num_inputs = 1000
    config.num_examples = 1000
    config.num_test = 1000
    config.small_share = 0.2
    config.large = 10.0
    config.small = 0.5
    config.eps = 1.0
    config.step_size = 0.01  # descent needs less than 2 over the top eigenvalue, 101
    config.num_steps = 1000
    config.attack_steps = 20
    config.num_replicates = 20
    config.seed = 0
    if "smoke" in words:
        config.num_inputs = config.num_examples = config.num_test = 200
        config.num_steps = 100
        config.num_replicates = 2
    return config.lock()
