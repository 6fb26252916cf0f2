"""The papers, by the folder of their studies."""

PAPERS = {
    "transition": "Phase transition from clean training to adversarial training",
    "generalization": "On the generalization properties of adversarial training",
    "difficulty": "Clarifying the behavior and the difficulty of adversarial training",
    "memorization": "Why clean generalization and robust memorization both happen",
    "training": "Networks on images",
}
"""The last one is of no paper: what the engine trains."""


def of(experiment: str) -> str:
    """The folder of a study, such as "transition.scaling", if it has a paper."""
    folder = experiment.partition(".")[0]
    return folder if folder in PAPERS else ""
