"""Figures 3 and 4: which examples adversarial training weighs most.

Size: 200 images of MNIST, odd against even. Time: 6 minutes, of 100 images of ResNet-50
three.

    advjax run difficulty/influential --config.networks=runs/NETWORKS

where the networks are those of ``networks.py:adversarial,deep``; for the repetition on
CIFAR-10, of ``networks.py:adversarial,deep,cifar10``.

Rank correlations between 0.8 and 0.98; cosines rise with the group.

Variants: ``cpu``, the default; ``paper``, 1000 images; ``smoke``, small, for tests.
"""

from ml_collections import ConfigDict

from experiments import checks
from experiments.difficulty import networks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("paper", "cpu", "smoke"))
    config = ConfigDict(networks.FIELDS)
    config.experiment = "difficulty.influential"
    config.num_images = 200
    config.horizon = 1.0
    config.num_steps = 10
    config.num_groups = 10
    config.batch_size = 10
    if "paper" in words:
        config.num_images, config.batch_size = 1000, 100
    if "smoke" in words:
        config.num_images = 12
        config.num_steps = config.num_groups = 3
        config.batch_size = 6
    return config.lock()
