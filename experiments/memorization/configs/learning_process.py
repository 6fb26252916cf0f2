"""Figure 2: flatness through adversarial training.

Size: 200 images of each part; the stored results have 50 or 40. Time: 5 to 7 minutes
with those, on one core.

    advjax run memorization/learning_process --config.networks=runs/NETWORKS

where the networks are those of ``networks.py``.

Variants: ``paper``, 1000 images of each part; ``cpu``, the default, 200; ``smoke``,
small, for tests.
"""

from ml_collections import ConfigDict

from experiments import checks
from experiments.memorization import networks, profiles


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("paper", "cpu", "smoke"))
    config = ConfigDict(networks.FIELDS | profiles.FIELDS)
    config.experiment = "memorization.learning_process"
    config.num_images = 1000 if "paper" in words else 200
    if "smoke" in words:
        config.num_images = 10
        config.num_steps = config.loss_steps = 2
        config.batch_size = 10
        config.radii = (0.0, 1.0, 2.0)
    return config.lock()
