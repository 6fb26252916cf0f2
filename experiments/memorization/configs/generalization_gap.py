"""Figure 3: flatness and the robust generalisation gap.

Size: that of ``learning_process``. Time: seconds.

    advjax run memorization/generalization_gap --config.learning=runs/LEARNING

where the work directory is one of ``learning_process.py``, whose numbers it reads.
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
