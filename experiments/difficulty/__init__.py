"""Studies of "Clarifying the behavior and the difficulty of adversarial training"."""
