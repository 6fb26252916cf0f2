"""Curves between clean and adversarially trained networks: Figure 4.

Size: 4 pairs at 4 radii on MNIST. Time: 20 minutes on one core.

    advjax run transition/connectivity:mnist --config.grid=runs/GRID
    advjax run transition/connectivity:cifar10,gpu --config.grid=runs/GRID

where GRID is a finished grid of ``classifier_grid.py`` with at least two seeds, whose
networks are joined.

Of the MNIST grid at ``cpu`` barriers are 0.04 and less along the curves, and above eps*
no low-loss region beside the robust network.

Variants, joined by commas: ``cifar10``, the radii of the figure, ``mnist`` or
``digits``; ``polychain`` for the Bezier curve; ``adversarial`` for its objective;
``same``, ends of one seed. Sizes: ``paper``, the default; ``gpu``, shorter; ``smoke``,
for tests.
"""

from ml_collections import ConfigDict

from experiments import checks
from experiments.transition.readings import GRID_FIELDS, SIZES

_ROWS = {
    "cifar10": tuple(radius / 255 for radius in (0, 0.5, 2, 8)),
    "mnist": (0.0, 0.05, 0.15, 0.25),
    "digits": tuple(radius / 255 for radius in (0, 10, 30, 40)),
}
_WORDS = ("polychain", "adversarial", "same", *SIZES)


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, (*_ROWS, *_WORDS))
    (row,) = checks.one_each(words, (tuple(_ROWS),), ("digits",))
    config = ConfigDict(GRID_FIELDS)
    config.experiment = "transition.connectivity"
    config.seed = 2
    config.dataset, config.norm, config.eps = row, "linf", _ROWS[row]
    if "smoke" in words:
        config.eps = config.eps[:2]
    config.seed_shift = 1
    config.curve = "polychain" if "polychain" in words else "bezier"
    config.objective = "adversarial" if "adversarial" in words else "standard"

    # Garipov et al.'s training of VGG and ResNets, 50 of their 200 epochs; the decay of
    # Rice et al. on the point of the curve.
    config.num_epochs = 50
    config.learning_rate = 0.03
    config.schedule = "linear"
    config.schedule_knots = (0.5, 0.9)
    config.schedule_values = (1.0, 0.01)
    config.weight_decay = 5e-4
    config.num_points = 61
    config.grid_size = 21
    config.num_eval = 10_000  # examples of the training set; 0 for all
    config.eval_batch_size = 500
    if "same" in words:
        config.seed_shift = 0
        config.eps = config.eps[1:]
    if "gpu" in words:
        config.num_epochs = 10
        config.num_eval = 2000
    if row == "mnist":
        config.num_epochs = 20
        config.num_eval = 4000
    if row == "digits":
        config.num_eval = 0
    if "smoke" in words:
        config.num_epochs = 2
        config.num_points = 3
        config.grid_size = 3
        config.num_eval = 0
    return config.lock()
