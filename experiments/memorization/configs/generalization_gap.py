"""Figure 3: flatness and the robust generalisation gap.

    python -m experiments.run --config=FILE --config.learning=runs/LEARNING

where FILE is ``experiments/memorization/configs/generalization_gap.py`` and the work
directory is one of ``learning_process.py``, whose numbers it reads. Seconds.
"""

from ml_collections import ConfigDict

from experiments import checks


def get_config(variant=""):
    """The configuration; there is one variant, ``smoke``, which changes nothing."""
    checks.variants(variant, ("smoke",))
    config = ConfigDict()
    config.experiment = "memorization.generalization_gap"
    config.learning = ""
    config.learning_digest = ""
    return config.lock()
