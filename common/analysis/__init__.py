"""What a student took from its teacher, and how well its probabilities are calibrated (docs/metrics.md)."""

MEAN = "mean"  # what several teachers together are called
