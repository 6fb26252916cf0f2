"""PGD-50 with ten restarts, and a curve over eps, on released networks.

Size: 10 000 test images, PGD-50 from ten starts. Time: 2.5 minutes a network of
``mnist.py``.

    advjax evaluate runs/mnist/best.safetensors

Fields are overridden there as everywhere, ``--config.num_restarts=1``. Variant
``smoke``, for tests.
"""

from ml_collections import ConfigDict, config_dict

from experiments import checks


def get_config(variant=""):
    """The configuration."""
    words = checks.variants(variant, ("smoke",))
    config = ConfigDict()
    config.experiment = "evaluate"
    config.checkpoint = ""
    config.digest = ""  # of that file; filled in, so that results say what they are of
    config.data_dir = ""  # that of TFDS if empty
    config.num_test = 0  # a fixed random subset; 0 for all
    config.seed = 0
    config.norm = ""  # of training if empty
    config.eps = config_dict.placeholder(float)  # the largest of training if None
    config.num_steps = 50
    config.num_restarts = 10
    config.rel_step_size = 1 / 30  # 0.01 at eps = 0.3, as Wong et al. 2020
    config.batch_size = 100
    config.num_devices = 0  # that share a batch; 0 for one CPU, or all accelerators
    config.curve = ()  # radii, each attacked by PGD from one start
    if "smoke" in words:
        config.num_test = 50
        config.batch_size = 50
        config.num_steps = 2
        config.num_restarts = 2
        config.curve = (0.0, 0.1)
    return config.lock()
