"""Figure 2: exponential growth of perturbations and gradients.

Size: 40 images, 100 steps of the deep networks; 500 and 300 of the MLP. Time: 9
minutes, ``mlp`` half a minute.

    advjax run difficulty/growth --config.networks=runs/NETWORKS
    advjax run difficulty/growth:mlp --config.networks=runs/NETWORKS

The networks are those of ``networks.py:clean,deep``, and for ``mlp``, the five-layer
MLP of panel (e), those of ``networks.py:clean,table``.

Variants: ``mlp``; ``cpu``, the default, 40 images and 100 steps of the deep networks,
or ``paper``, 500 and 300; ``smoke``, small, for tests.
"""

from ml_collections import ConfigDict

from experiments import checks
from experiments.difficulty import networks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("mlp", "paper", "cpu", "smoke"))
    config = ConfigDict(networks.FIELDS)
    config.experiment = "difficulty.growth"
    config.num_images = 40
    # The paper's are unknown. With these AlexNet takes about twenty steps.
    config.step_size = 0.1
    config.l2_step_size = 0.05
    config.linf_step_size = 0.004
    config.num_steps = 100
    config.least_steps = 5
    config.num_positions = 50
    if "paper" in words:
        config.num_images, config.num_steps = 500, 300
    if "mlp" in words:
        config.models = ("mlp5",)
        config.num_images = 500
        config.step_size, config.num_steps = 0.02, 300
        config.l2_step_size, config.linf_step_size = 0.02, 0.002
    if "smoke" in words:
        config.models = ()
        config.num_images = 20
        config.step_size, config.num_steps = 1.0, 10
        config.least_steps = 2
    return config.lock()
