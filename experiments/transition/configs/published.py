"""Tables 3 and 4, re-derived from the printed losses; seconds, on any machine.

Size: the printed tables. Time: seconds.

    advjax run transition/published

There are no variants: ``smoke`` is the same.
"""

from ml_collections import ConfigDict

from experiments import checks


def get_config(variant=""):
    """The configuration, which has nothing to choose."""
    checks.variants(variant, ("smoke",))
    config = ConfigDict()
    config.experiment = "transition.published"
    return config.lock()
