"""What the tests of this paper share."""

from __future__ import annotations

from functools import partial
from typing import Any

import mlkd.train
from mlkd.student import MultiResNetV2

SMALL = {"layers": (1, 1, 1, 1), "channels": (128, 128, 128, 128), "hidden": 32}


def small_student(patch: Any = setattr) -> None:
    """From now on the script trains a student of a thousandth of the size, with the same exits."""
    patch(mlkd.train, "MultiResNetV2", partial(MultiResNetV2, **SMALL))
