"""Figure 6, and as ``high`` Figures 12 and 13: 50 replicates.

Size: the paper's, 50 replicates. Time: half a minute a variant.

    advjax run generalization/two_layer
    advjax run generalization/two_layer:high

Variants: ``high`` is the high dimension of Figures 12 and 13, with ‖θ0‖ = 1; ``ones``
with it the θ0 of ten ones that the text names (by reference to Figure 3), which a
sigmoid network cannot fit: its output is at most Σ|a_j| / (2√h), about 1.8, and y is of
size 3.2; ``smoke``, seconds long, for tests.

At eps = 0.5 (R* = 1.758) the linear, sigmoid and ReLU networks end at 1.792 ± 0.039,
1.799 ± 0.040 and 1.830 ± 0.042. As ``high`` at most 9e-15, 0.081 and 5e-4 of the
training loss is left, and the test losses are 1.08 to 1.12; as ``high,ones`` at most
1e-14, 0.49 and 4e-4, and 9.9 to 10.2.
"""

from ml_collections import ConfigDict

from experiments import checks


def get_config(variant=""):
    """The configuration; see the module's docstring for the variants."""
    words = checks.variants(variant, ("high", "ones", "smoke"))
    if "ones" in words and "high" not in words:
        raise checks.ConfigError("variant 'ones' of config: goes with high")
    config = ConfigDict()
    config.experiment = "generalization.two_layer"
    config.seed = 0
    config.num_replicates = 50
    config.chunk_size = 10
    config.num_hidden = 50
    config.num_test = 10_000

    config.d = 3
    config.n = 100
    config.num_active = 3
    config.theta0_norm = 1.0
    config.sigma = 1.0
    config.eps = (0.1, 0.5)  # not printed; R* is 1.162 and 1.758
    config.xi = 0.01
    config.start_scale = 50**0.5  # h^δ with δ = 0.5
    config.step_size_linear = 0.2
    config.step_size_sigmoid = 0.2
    config.step_size_relu = 0.8
    config.num_observations = 40
    config.steps_between = 100

    if "high" in words:
        config.d = 1000
        config.n = 20
        config.num_active = 10
        config.theta0_norm = 10**0.5 if "ones" in words else 1.0
        config.sigma = 0.1**0.5
        config.eps = (0.0, 0.01, 0.1)  # not printed; those of Figure 3
        config.xi = 0.1
        config.start_scale = 1000**0.6
        config.step_size_linear = 0.16
        config.step_size_sigmoid = 0.16
        config.step_size_relu = 0.64
        config.num_observations = 20
        config.steps_between = 5
    if "smoke" in words:
        config.num_replicates = 3
        config.num_test = 100
        config.num_observations = 2
        config.steps_between = 5
    return config.lock()
