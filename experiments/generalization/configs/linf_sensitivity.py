"""Section 4's remark on linf attacks, as a measurement. The sizes are ours.

Size: n = 1000, d to 300, 20 replicates. Time: 27 seconds.

    advjax run generalization/linf_sensitivity

Variants: ``smoke``, seconds long, for tests.

At xi = 0.1 the l2 length left of the linf attack goes from 0.74 at d = 10 to 0.41 at d
= 300, that of the l2 attack stays at 0.96.
"""

from ml_collections import ConfigDict

from experiments import checks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("smoke",))
    config = ConfigDict()
    config.experiment = "generalization.linf_sensitivity"
    config.seed = 0
    config.num_replicates = 20
    config.chunk_size = 20
    config.num_steps = 300
    config.rel_step_size = 0.2  # over the inverse of the largest curvature

    config.d = (10, 30, 100, 300)
    config.n = 1000
    config.sigma = 1.0
    config.eps = 0.5
    config.xi = (0.0, 0.001, 0.01, 0.1)

    if "smoke" in words:
        config.num_replicates = 2
        config.num_steps = 30
        config.d = (3, 5)
        config.n = 20
    return config.lock()
