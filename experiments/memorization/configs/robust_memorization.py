"""Figure 1: flatness inside the radius of training, sharpness beyond.

Size: 200 training images, 3 seeds; the stored results of CIFAR-10 have 40. Time: 2 to 6
minutes on one core.

    advjax run memorization/robust_memorization --config.networks=runs/NETWORKS

where the
networks are those of ``networks.py``.

Variants: ``paper``, 1000 training images; ``cpu``, the default, 200; ``smoke``, small,
for tests.
"""

from ml_collections import ConfigDict

from experiments import checks
from experiments.memorization import networks, profiles


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("paper", "cpu", "smoke"))
    config = ConfigDict(networks.FIELDS | profiles.FIELDS)
    config.experiment = "memorization.robust_memorization"
    config.num_images = 1000 if "paper" in words else 200
    if "smoke" in words:
        config.num_images = 10
        config.num_steps = config.loss_steps = 2
        config.batch_size = 10
        config.radii = (0.0, 1.0, 2.0)
    return config.lock()
