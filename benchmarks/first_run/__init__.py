"""The checks of `benchmarks/gpu_first_run.py`."""
