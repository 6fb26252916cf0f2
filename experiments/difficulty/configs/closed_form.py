"""Table 1 and Figure 1: the closed form of perturbations on the ten networks.

Size: 1000 images of MNIST, 100 with free gates; ten networks. Time: 10 minutes.

    advjax run difficulty/closed_form --config.networks=runs/NETWORKS

where the networks are those of ``networks.py:clean,table``.

At strength 0.001 kappa is between 7e-7 and 3e-5 with fixed gates, and grows as the
square of the strength.

Variants: ``noise``, with noise of 0.01 on pixels, off the kinks of gates; ``cpu``, the
default, with free gates on 100 images; ``paper``, on 1000; ``smoke``, small, for tests.
"""

from ml_collections import ConfigDict

from experiments import checks
from experiments.difficulty import networks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("noise", "paper", "cpu", "smoke"))
    config = ConfigDict(networks.FIELDS)
    config.experiment = "difficulty.closed_form"
    config.num_images = 1000
    # The paper's are unknown. Its errors need small strengths and many steps.
    config.horizons = (0.001, 0.01, 0.1, 1.0)
    config.num_steps = (10, 20, 50, 100, 200, 500, 1000)
    config.free_num_images = 100
    config.free_num_steps = 50
    config.few_steps = 10
    config.batch_size = 100
    config.noise = 0.0  # in [0, noise], added to pixels
    if "noise" in words:
        config.noise = 0.01
        config.horizons = (0.001, 0.01)
    if "paper" in words:
        config.free_num_images = 1000
    if "smoke" in words:
        config.num_images = config.free_num_images = 10
        config.horizons = (0.01, 0.1)
        config.num_steps = (10, 20)
        config.free_num_steps = config.few_steps = 3
    return config.lock()
