"""Studies of "Why clean generalization and robust memorization both happen"."""
