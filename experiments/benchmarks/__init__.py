"""Measurements of speed, each against an alternative, in one run."""
