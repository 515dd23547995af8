"""A checkout as git knows it."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git(checkout: Path, *arguments: str) -> str:
    """What a git command says about a checkout, also where that belongs to another user.

    Raises:
        OSError, subprocess.SubprocessError: no git, or no checkout.
    """
    command = ["git", "-c", "safe.directory=*", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
