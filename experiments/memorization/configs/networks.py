"""The networks that the studies of this folder measure; Table 1 for them.

Size: 20 000 images of MNIST, or 5000 of CIFAR-10 and a quarter of the width; 3 seeds.
Time: an hour and a half on one core.

    advjax run memorization/networks:mnist --workdir=runs/memorization-mnist

A data set and a size, joined by commas, and optionally ``long`` or ``classic``.
``mnist``: LeNet5, 20 epochs, eps = 0.1, Adam with a triangular rate; ``classic`` takes
that of LeCun et al. 1998. ``cifar10``: ResNet9, 15 epochs, eps = 8/255, SGD with a
triangular rate. ``long`` has 60 epochs. Sizes: ``paper``, all images, in bfloat16;
``cpu``, 20 000 images of MNIST, and 5000 of CIFAR-10 with a quarter of the width, in
batches of 50; ``smoke``, seconds long, for tests.

The paper says architectures, epochs, radii and "cyclical learning rates" after Wong et
al. 2020, whose peak rates, batches and PGD-7 these are; PGD-10 on MNIST is our choice.
"""

from experiments import checks
from experiments.training import recipe


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    groups = (("mnist", "cifar10"), ("paper", "cpu", "smoke"))
    words = checks.variants(
        variant, [*(word for group in groups for word in group), "long", "classic"]
    )
    dataset, size = checks.one_each(words, groups, ("mnist", "cpu"))
    config = recipe.defaults()
    config.experiment = "memorization.networks"
    config.dataset = dataset
    config.num_seeds = 3
    config.schedule = "linear"
    config.num_measured = 1000
    config.measured_steps = 20
    {"mnist": _mnist, "cifar10": _cifar10}[dataset](config)
    if "classic" in words:
        config.model = "lenet5_classic"
    if "long" in words:
        config.num_epochs = 60
        config.kept_epochs = (1, 5, 10, 15, 30, 45, 60)
    {"paper": _paper, "cpu": _cpu, "smoke": _smoke}[size](config, dataset)
    return config.lock()


def _mnist(config):
    config.model = "lenet5"
    config.eps = (0.1,)
    config.augment = False
    config.num_epochs = 20
    config.kept_epochs = (1, 5, 10, 15, 20)
    config.batch_size = 100
    config.optimiser = "adam"
    config.weight_decay = 0.0
    config.learning_rate = 5e-3
    config.schedule_knots = (0.0, 0.4, 1.0)
    config.schedule_values = (0.0, 1.0, 0.0)


def _cifar10(config):
    config.model = "resnet9"
    config.eps = (8 / 255,)
    config.num_epochs = 15
    config.kept_epochs = (1, 3, 6, 9, 12, 15)
    config.learning_rate = 0.2
    config.schedule_knots = (0.0, 0.5, 1.0)
    config.schedule_values = (0.0, 1.0, 0.0)
    config.num_steps = 7


def _paper(config, dataset):
    del dataset
    config.dtype = "bfloat16"


def _cpu(config, dataset):
    config.num_train, config.num_test = 20_000, 1000
    if dataset == "cifar10":
        config.width = 16
        config.num_train = 5000
        config.batch_size, config.learning_rate = 50, 0.1


def _smoke(config, dataset):
    if dataset == "mnist":
        config.dataset, config.model = "digits", "mlp"
    else:
        config.width = 4
    config.num_train, config.num_test = 60, 20
    config.num_measured = 20
    config.num_epochs = 2
    config.kept_epochs = (1, 2)
    config.batch_size = 20
    config.num_steps = config.test_num_steps = config.measured_steps = 2
    config.num_seeds = 2
