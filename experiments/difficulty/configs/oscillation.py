"""Figure 5: instability of weight gradients through training.

Size: 1000 images of MNIST, 4 epochs, 3 seeds; hidden layers of 512. Time: 25 minutes.

    advjax run difficulty/oscillation

On VGG-11 gradients at attacked images are 1.8 (clean training) and 1.3 times
(adversarial training) as unstable.

Variants: ``cpu``, the default, AlexNet and VGG-11 with two hidden layers of 512 units
instead of 4096 on 1000 images of MNIST; ``paper``, their full widths and all images;
``smoke``, seconds long, for tests.
"""

from experiments import checks
from experiments.training import recipe


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("paper", "cpu", "smoke"))
    (size,) = checks.one_each(words, (("paper", "cpu", "smoke"),), ("cpu",))
    config = recipe.defaults()
    config.experiment = "difficulty.oscillation"
    config.dataset = "mnist"
    config.models = ("alexnet", "vgg11")
    config.augment = False
    config.eps = (0.1,)
    # SGD at 0.01, our choice for small networks, does not move AlexNet from its start.
    config.optimiser, config.learning_rate, config.weight_decay = "adam", 5e-4, 0.0
    config.schedule = "constant"
    config.num_epochs = 20
    config.num_seeds = 3
    config.num_watched = 200
    config.layer_step = 1e-2  # of the norm of the layer
    {"paper": _paper, "cpu": _cpu, "smoke": _smoke}[size](config)
    return config.lock()


def _paper(config):
    del config


def _cpu(config):
    config.hidden = (512, 512)
    config.num_train, config.num_test = 1000, 200
    config.batch_size = 25
    config.num_epochs, config.eps_warmup_epochs = 4, 2.0
    config.num_steps, config.rel_step_size = 3, 0.5
    config.test_num_steps, config.test_rel_step_size = 3, 0.5
    config.num_watched = 20


def _smoke(config):
    config.dataset = "digits"
    config.models, config.hidden = ("mlp",), (16,)
    config.num_seeds = 2
    config.num_train, config.num_test = 100, 20
    config.batch_size = 50
    config.num_epochs = 2
    config.num_watched = 3
    config.num_steps = config.test_num_steps = 2
