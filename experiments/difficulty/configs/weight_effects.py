"""Table 2, and the identities of Theorems 3 to 5, on the ten networks.

Size: 300 images of MNIST, odd against even; ten networks. Time: 2 minutes.

    advjax run difficulty/weight_effects --config.networks=runs/NETWORKS

where the networks are those of ``networks.py:adversarial,table``.

At strength 0.001 kappa' is between 2e-7 and 6e-7.

Variants: ``cpu``, the default, on 300 images; ``paper``, on 1000; ``smoke``, small, for
tests.
"""

from ml_collections import ConfigDict

from experiments import checks
from experiments.difficulty import networks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("paper", "cpu", "smoke"))
    config = ConfigDict(networks.FIELDS)
    config.experiment = "difficulty.weight_effects"
    config.num_images = 300
    config.horizons = (0.001, 0.01, 0.1)
    config.num_steps = 1000
    config.batch_size = 50
    if "paper" in words:
        config.num_images = 1000
    if "smoke" in words:
        config.num_images = 6
        config.horizons = (0.001, 0.01)
        config.num_steps = 20
    return config.lock()
