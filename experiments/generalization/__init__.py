"""Studies of "On the generalization properties of adversarial training"."""
