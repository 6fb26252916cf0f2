"""PreActResNet18 on CIFAR-10, by the protocol of Rice et al. 2020.

Size: the paper's; ``gpu``: 10 000 images, 30 epochs, bfloat16. Time: not run yet; a
step of the full size takes 12 seconds.

    advjax run training/cifar10:gpu
    advjax run training/cifar10:gpu,clean

Without variants the paper's size: 50 000 images, 200 epochs, PGD-10. Variants, joined
by commas: ``10k``, a fixed random subset of 10 000 images; ``gpu``, that subset, 30
epochs with a triangular rate, in bfloat16, minutes on one accelerator; ``clean``;
``l2``, at 128/255; ``smoke``, a few steps of a few images, for tests. Only that one has
been run so far.
"""

from experiments import checks
from experiments.training import recipe


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("10k", "gpu", "clean", "l2", "smoke"))
    config = recipe.defaults()
    config.dataset = "cifar10"
    config.model = "preactresnet18"
    config.eps = (8 / 255,)
    if "l2" in words:
        config.norm = "l2"
        config.eps = (128 / 255,)
        config.rel_step_size = config.test_rel_step_size = 15 / 128
        config.start = "radius_uniform"
    if "clean" in words:
        config.objective = "standard"
    if words & {"10k", "gpu"}:
        config.num_train = 10_000
    if "gpu" in words:
        config.num_epochs = 30
        config.dtype = "bfloat16"
        config.schedule = "linear"
        config.schedule_knots = (0.0, 0.4, 1.0)
        config.schedule_values = (0.0, 1.0, 0.0)
    if "smoke" in words:
        config.num_epochs = 1
        config.num_train = 24
        config.num_test = 8
        config.batch_size = config.test_batch_size = 8
        config.num_steps = config.test_num_steps = 2
    return config.lock()
