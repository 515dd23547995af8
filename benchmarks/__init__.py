"""Speed measured against the plain published way of doing the same, both sides in one process run."""

import common  # noqa: F401 (which ends `python -m` quietly by Ctrl-C)
