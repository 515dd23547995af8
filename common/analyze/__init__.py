"""Compares trained networks of any family: `python -m common.analyze --help`."""
