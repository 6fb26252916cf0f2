"""Proposition 3.2, Theorem 3.3 and Corollary 3.4 on clean networks.

Size: 5000 training and 1000 test images; the stored results have 2000 and 500. Time: 14
minutes with those, on one core.

    advjax run memorization/representation --config.networks=runs/NETWORKS

where the networks are those of ``networks.py``.

Variants: ``cpu``, the default; ``smoke``, small, for tests.
"""

from ml_collections import ConfigDict

from experiments import checks
from experiments.memorization import networks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("cpu", "smoke"))
    config = ConfigDict(networks.FIELDS)
    config.experiment = "memorization.representation"
    config.num_images = 5000
    config.num_test = 1000
    config.num_compared = 500
    config.num_attacked = 100
    config.split_steps = 20
    config.strong_steps = 40
    config.num_restarts = 2
    config.num_random = 2
    config.batch_size = 100
    config.shell = 1.5  # indicators are 0 from so many radii on
    config.error = 1e-3
    config.seed = 0
    if "smoke" in words:
        config.num_images, config.num_test, config.num_compared = 40, 20, 20
        config.num_attacked = 20
        config.split_steps = config.strong_steps = 3
        config.batch_size = 20
    return config.lock()
