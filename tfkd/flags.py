"""What this paper's flags ask for, beside data and runtime."""

from __future__ import annotations

import dataclasses

from tfkd.losses import Form

METHOD_FLAGS = ("regularization", "label_smoothing", "matched_scale", "double_training", "self_training", "pt_teacher")


@dataclasses.dataclass(frozen=True)
class Flags:
    """The values of flags, under their names; `main.py` says what each means."""

    restore_file: str | None
    num_class: int
    warm: int
    regularization: bool
    label_smoothing: bool
    matched_scale: bool
    double_training: bool
    self_training: bool
    pt_teacher: bool
    loss_form: Form
    method: str | None
    epochs: int | None

    @property
    def given(self) -> list[str]:
        """The flags of `METHOD_FLAGS` that are set."""
        return [flag for flag in METHOD_FLAGS if getattr(self, flag)]
