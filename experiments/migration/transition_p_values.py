"""p-values of the first form, without their quartiles."""

from experiments import arrays
from experiments.transition.p_values import LEVELS, TESTS


def migrated(old, report):
    del report
    r, rows = old["results"], old["results"]["dimensions"]
    scalars = ("eps_star", "threshold", "scale", "eps_star_se", "status")
    values = {name: (("d",), [row[name] for row in rows]) for name in scalars}
    medians = [[row["median_p_value"][test] for test in TESTS] for row in rows]
    at = [
        [[row["median_p_value_at"][str(e)][test] for e in LEVELS] for test in TESTS]
        for row in rows
    ]
    return arrays.dataset(
        values
        | {
            "median_p_value": (("d", "test", "log_eps"), medians),
            "median_p_value_at": (("d", "test", "level"), at),
        },
        {
            "d": [row["d"] for row in rows],
            "test": TESTS,
            "log_eps": r["log_eps_over_scale"],
            "level": LEVELS,
        },
    )
