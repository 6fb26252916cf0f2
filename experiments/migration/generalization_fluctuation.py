"""Without the curves of the first data set; training losses are rounded."""

from experiments import arrays
from experiments.migration.generalization import column, moments, written_moments


def migrated(old, report):
    r = old["results"]
    train = written_moments(column(report, "training loss (surrogate)"))
    return arrays.dataset(
        {
            "fluctuation": (("xi", "moment"), moments(r["fluctuation"])),
            "ratio": (("moment",), moments(r["ratio"])),
            "smallest_ratio": ((), r["ratio"]["smallest"]),
            "train_loss": (("xi", "moment"), train),
            "test_loss": (("xi", "moment"), moments(r["test_loss"])),
        },
        {"xi": old["config"]["xi"], "moment": ["mean", "sd"]},
    )
