"""Published tables of the first form."""

import numpy as np

from experiments import arrays


def migrated(old, report):
    del report
    columns = {}
    for axis, name, prefix in (
        ("row", "table_3", ""),
        ("estimate", "table_4", "tuned_"),
    ):
        rows = old["results"][name]
        for key in rows[0]:
            values = [row[key] for row in rows]
            values = np.array(values, float) if key == "derived" else np.array(values)
            columns[f"{prefix}{key}"] = ((axis,), values)
    return arrays.dataset(columns)
