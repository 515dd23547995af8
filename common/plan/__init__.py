"""The plan of all runs that the published tables need, kept as data in `experiments/`, and the runner that walks it."""
