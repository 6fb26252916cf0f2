"""Figures 4, 14, 15 and 16: LASSO on zeros and ones of MNIST, MLP 784-1024-2.

Size: 10 repetitions of 30, n to 200, 200 epochs of 2000, PGD-5 for PGD-40. Time: 27
minutes.

    advjax run generalization/lasso_mnist
    advjax run generalization/lasso_mnist:paper

At n = 50 LASSO gains 16 points of adversarial accuracy (l2) and 29 (linf) by the
surrogate, and 2.3 and 5.8 by the attack itself.

Variants: ``cpu``, the default; ``paper``, its 30 repetitions, 2000 epochs, seven sizes
and PGD-40, which take 1.8e17 floating-point operations, a third of them for the
proximal arm that the paper has not; ``smoke``, seconds long, for tests.
"""

from ml_collections import ConfigDict

from experiments import checks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("paper", "cpu", "smoke"))
    (size,) = checks.one_each(words, (("paper", "cpu", "smoke"),), ("cpu",))
    config = ConfigDict()
    config.experiment = "generalization.lasso_mnist"
    config.seed = 0
    config.dataset = "mnist"
    config.data_dir = ""  # that of TFDS if empty
    config.classes = (0, 1)
    config.num_train = 0  # that training sets are drawn from; all if 0
    config.num_test = 0  # all if 0
    config.subset_seed = 0
    config.n = (10, 20, 50, 100, 200, 500, 1000)
    config.num_repetitions = 30
    config.chunk_size = 0  # repetitions at once; all if 0

    # Every norm has its radius, and every norm is run with every xi.
    config.norms = ("l2", "linf")
    config.eps = (3.0, 0.3)
    config.xi = (1e-4, 0.0)
    # Steps of an attack together, over eps: 2 of l2, and the 40 steps of 0.01 that
    # AdverTorch and its neighbours take for linf.
    config.rel_path = (2.0, 4 / 3)
    config.num_steps = 40
    config.test_num_steps = 40

    config.penalty = 1e-3  # on the weights of both layers, not on biases
    config.proximal = True  # a third arm, with exact zeros

    config.hidden = 1024  # of one layer, from PyTorch's initialisation
    config.num_epochs = 2000
    config.batch_size = 64
    config.learning_rate = 1e-4  # of Adam
    {"paper": lambda _: None, "cpu": _cpu, "smoke": _smoke}[size](config)
    return config.lock()


def _cpu(config):
    """A tenth of the epochs at ten times the rate, of fewer steps of the attack."""
    config.n = (10, 20, 50, 100, 200)
    config.num_repetitions = 10
    config.chunk_size = 2
    config.num_epochs = 200
    config.learning_rate = 1e-3
    config.num_steps = 5
    config.test_num_steps = 20


def _smoke(config):
    config.dataset = "digits"
    config.n = (12,)
    config.xi = (1e-4,)
    config.learning_rate = 0.01
    config.num_repetitions = 2
    config.hidden = 16
    config.num_epochs = 3
    config.batch_size = 8
    config.num_steps = config.test_num_steps = 2
