"""Errors and last cosines of separable data of the first form."""

from experiments import arrays
from experiments.memorization.separable import ERRORS


def migrated(old, report):
    """The values that the study has now; of cosines only those of the last step."""
    del report
    found = old["results"]
    values = {
        name: (("replicate",), found["errors"][label]) for name, label in ERRORS.items()
    }
    cosine = [[each] for each in found["cosine"]]
    values["cosine"] = (("replicate", "step"), cosine)
    return arrays.dataset(values, {"step": [old["config"]["num_steps"]]})
