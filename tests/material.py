"""Material from outside the repository. The variable KD_SHARED names its directory; without it none is looked for."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ["KD_SHARED"]) if os.environ.get("KD_SHARED") else None


def shared_or_skip(name: str) -> Path:
    """A file or directory of the shared material; a test that has none is skipped."""
    if SHARED is None:
        pytest.skip(f"KD_SHARED names no directory with {name}")
    if not (SHARED / name).exists():
        pytest.skip(f"{SHARED / name} is not there")
    return SHARED / name
