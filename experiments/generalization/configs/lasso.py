"""Theorem 9 on the sparse design of Figure 3: n from 50 to 1000, 100 replicates.

Size: d = 1000, n to 1000, 100 replicates. Time: 26 seconds.

    advjax run generalization/lasso

Variants: ``smoke``, seconds long, for tests.

The excess risk at n = 50 to 1000 is 5.86, 4.76, 2.80, 0.83 and 0.34, without penalty
7.18, 7.55, 7.83, 7.22 and 4.08.
"""

from ml_collections import ConfigDict

from experiments import checks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("smoke",))
    config = ConfigDict()
    config.experiment = "generalization.lasso"
    config.seed = 0
    config.num_replicates = 100
    config.chunk_size = 10
    config.num_steps = 300

    config.d = 1000
    config.num_active = 10
    config.n = (50, 100, 200, 500, 1000)
    config.sigma = 1.0
    config.eps = 0.5
    # c in λ = c v √(s log d / n). The theorem asks for a large constant; from 0.2 to
    # 0.4 the risk hardly changes at n = 1000, and more shrinks everything at n = 50.
    config.penalty_factor = 0.4

    if "smoke" in words:
        config.num_replicates = 3
        config.d = 50
        config.num_active = 3
        config.n = (20, 40)
        config.num_steps = 20
    return config.lock()
