"""The networks that the studies of this folder measure.

Size: 1000 to 5000 images, 4 or 6 epochs, 1 seed. Time: 4 to 20 minutes a family.

    advjax run difficulty/networks:clean --workdir=runs/difficulty-clean

A training, a family, a size and a data set, joined by commas. Trainings: ``clean``, of
ten classes; ``adversarial``, of a binary task, odd against even digits, by PGD at eps =
0.1. Families: ``table``, the ten networks of Tables 1 and 2; ``deep``, AlexNet, VGG-11
and a ResNet, 18 layers deep for ``clean`` and 50 for ``adversarial``. Data sets:
``mnist``; ``cifar10``, for ``deep`` and ``adversarial``, AlexNet alone on vehicles
against animals at eps = 8/255. Sizes: ``paper``, all images and 20 epochs; ``cpu``, few
of both; ``smoke``, seconds long, small networks on the digits, for tests.

The paper says which networks and data it took, and for the ten networks whose settings
it followed; their widths, and how they were trained, are our choice.
"""

from experiments import checks
from experiments.training import recipe

TABLE = (
    *("mlp3", "mlp4", "mlp5", "cnn3", "cnn4", "cnn5"),
    *("rescnn3", "rescnn4", "rescnn5", "rescnn10"),
)


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    groups = (
        ("clean", "adversarial"),
        ("table", "deep"),
        ("mnist", "cifar10"),
        ("paper", "cpu", "smoke"),
    )
    words = checks.variants(variant, [word for group in groups for word in group])
    defaults = ("clean", "table", "mnist", "cpu")
    training, family, dataset, size = checks.one_each(words, groups, defaults)
    config = recipe.defaults()
    config.experiment = "difficulty.networks"
    config.augment = False
    config.num_epochs = 20
    config.learning_rate = 0.01
    config.schedule = "constant"
    config.dataset = dataset
    config.eps = (0.1,)
    config.objective = "standard"
    last = "resnet18"
    if training == "adversarial":
        config.objective = "adversarial"
        config.positive_classes = (1, 3, 5, 7, 9)
        last = "resnet50"
    config.models = TABLE if family == "table" else ("alexnet", "vgg11", last)
    if dataset == "cifar10":
        if (training, family) != ("adversarial", "deep"):
            raise checks.ConfigError("cifar10 is for adversarial,deep")
        config.models = ("alexnet",)
        config.eps = (8 / 255,)
        config.positive_classes = (0, 1, 8, 9)
    {"paper": _paper, "cpu": _cpu, "smoke": _smoke}[size](config, family)
    return config.lock()


def _paper(config, family):
    del config, family


def _cpu(config, family):
    # SGD at one rate is too slow for AlexNet, which has no normalisation, and too fast
    # for the sums of ResCNN-10.
    config.optimiser, config.learning_rate, config.weight_decay = "adam", 5e-4, 0.0
    if family == "table":
        config.num_train, config.num_test = 5000, 1000
        config.num_epochs, config.eps_warmup_epochs = 6, 3.0
        return
    config.batch_size = 25
    config.num_epochs, config.eps_warmup_epochs = 4, 2.0
    is_clean = config.objective == "standard"
    config.num_train, config.num_test = 3000 if is_clean else 1000, 200
    config.num_steps, config.rel_step_size = 3, 0.5
    config.test_num_steps, config.test_rel_step_size = 3, 0.5


def _smoke(config, family):
    config.dataset = "digits"
    config.models = ("cnn3", "mlp3") if family == "table" else ("cnn_wong", "cnn3")
    if config.positive_classes:
        config.models = config.models[:1]
    config.num_train, config.num_test = 200, 50
    config.num_epochs = 1
    config.batch_size = 50
    config.num_steps = config.test_num_steps = 2
