"""Figure 8: two attacks from different random starts, over training.

Size: 5000 images of CIFAR-10, 20 epochs, 5 seeds, a small network. Time: 31 minutes.

    advjax run generalization/attack_difference
    advjax run generalization/attack_difference:paper

By default Wong et al.'s small network on 5000 images of CIFAR-10. Any other network,
data set and attack is a matter of fields: ``num_steps`` and ``rel_step_size`` are the
attack of training, ``watched_steps`` the numbers of such steps that are compared.

After 20 epochs 1.43 and 0.23 apart at eps = 3 and 0.5 by five steps, of which linear
functions explain 1.37 and 0.23; 0.085 and 0.003 by twenty.

Variants: ``mnist``, the same network there; one of ``cpu``, the default, ``paper``,
WideResNet34-1 on all of CIFAR-10, ``gpu``, a shorter one, and ``smoke``, on the digits,
seconds long, for tests.
"""

from experiments import checks
from experiments.training import recipe


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("mnist", "paper", "gpu", "cpu", "smoke"))
    (size,) = checks.one_each(words, (("paper", "gpu", "cpu", "smoke"),), ("cpu",))
    config = recipe.defaults()
    config.experiment = "generalization.attack_difference"
    config.dataset = "mnist" if "mnist" in words else "cifar10"
    config.norm = "l2"
    config.eps = (0.5, 3.0)
    config.num_steps = 5
    config.rel_step_size = 2 / 5
    config.num_watched = 1000
    # The paper's, whose steps together are two radii, and enough to forget the start.
    config.watched_steps = (5, 20)
    {"paper": _paper, "gpu": _gpu, "cpu": _cpu, "smoke": _smoke}[size](config)
    return config.lock()


def _paper(config):
    """The protocol of Figure 2 without surrogate."""
    config.model, config.width = "wideresnet34", 1
    config.activation = "relu_softplus"
    config.num_epochs = 100
    config.schedule_knots = (0.75, 0.9)
    config.test_num_steps, config.test_rel_step_size = 20, 0.1


def _gpu(config):
    _paper(config)
    config.num_epochs = 20
    config.num_seeds = 3
    config.test_batch_size = 1000


def _cpu(config):
    config.model = "cnn_wong"
    config.activation = "relu_softplus"  # ReLU alone dies at eps = 3
    config.augment = False
    config.eps_warmup_epochs = 5.0
    config.num_seeds = 5
    config.num_train = 5000
    config.num_test = 1000
    config.num_watched = 500
    config.num_epochs = 20
    config.learning_rate = 0.05
    config.test_num_steps, config.test_rel_step_size = 10, 0.2


def _smoke(config):
    config.dataset = "digits"
    config.model, config.hidden = "mlp", (16,)
    config.num_seeds = 2
    config.num_epochs = 2
    config.num_train, config.num_watched = 200, 30
    config.batch_size = 50
    config.watched_steps = (2, 4)
    config.test_num_steps = 2
