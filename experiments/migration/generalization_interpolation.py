"""Without the curves over steps."""

from experiments import arrays
from experiments.migration.generalization import moments


def migrated(old, report):
    r = old["results"]
    steps = old["config"]["num_steps"]
    names = {
        "train_half": f"training loss, step {steps // 2}",
        "train_last": f"training loss, step {steps}",
        "test_last": "test loss",
        "interpolator": "test loss of the interpolator",
        "largest_gap": "largest gradient gap",
    }
    return arrays.dataset(
        {k: (("eps", "moment"), moments(r[name])) for k, name in names.items()},
        {"eps": r["eps"], "moment": ["mean", "sd"]},
    )
