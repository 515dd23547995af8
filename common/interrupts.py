"""Ctrl-C while a program still imports ends it as `cli_main` does later, without a traceback."""

from __future__ import annotations

import os
import signal
from typing import NoReturn


def stop_in_imports() -> None:
    """Until `cli_main` begins, Ctrl-C ends this process at once; to be called ahead of what takes long to import."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in a background job
        signal.signal(signal.SIGINT, leave_imports)


def leave_imports(signal_number: int, frame: object) -> NoReturn:
    """End at once: nothing is written yet, and some packages take an exception for a module that is missing."""
    if os.environ.get("RANK", "0") == "0":  # one process of a distributed run speaks for all
        os.write(2, b"stopped\n")
    os._exit(130)
