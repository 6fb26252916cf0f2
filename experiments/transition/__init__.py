"""Studies of "Phase transition from clean training to adversarial training"."""
