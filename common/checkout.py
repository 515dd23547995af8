"""A checkout as git knows it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def git(checkout: Path, *arguments: str) -> str:
    """What a git command says about a checkout, also where that belongs to another user.

    Another repository says nothing about it: neither one that it lies in nor, as in a hook, that of the environment.

    Raises:
        OSError, subprocess.SubprocessError: no git, or no checkout.
    """
    command = ["git", "-c", "safe.directory=*", "-C", str(checkout), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_CEILING_DIRECTORIES"] = str(checkout.resolve().parent)
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=20)
    return run.stdout
