"""An MLP on the digits, which need no download; the engine in seconds.

Size: 1437 digits. Time: a quarter of a minute.

    advjax run training/digits

Variant ``smoke``, for tests.
"""

from experiments import checks
from experiments.training import recipe


def get_config(variant=""):
    """The configuration."""
    words = checks.variants(variant, ("smoke",))
    config = recipe.defaults()
    config.num_seeds = 3
    config.eps = (0.0, 0.05, 0.1)
    config.num_epochs = 40
    config.dispatch = "scan"  # a network of matrix products
    if "smoke" in words:
        config.num_seeds = 2
        config.num_epochs = 2
        config.num_steps = 2
        config.test_num_steps = 2
    return config.lock()
