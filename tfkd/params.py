"""`params.json`: the hyperparameters of one experiment."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Any

from common.command_line import LARGEST_COUNT, LARGEST_NUMBER, SMALLEST_NUMBER
from common.errors import UserError
from common.safe_json import read_json_file

NO_TEACHER = "none"


@dataclasses.dataclass(frozen=True)
class Params:
    """The keys of a `params.json`. Those without a default must be there; the others where the method reads them.

    Attributes:
        model_version: student; a `_distill` at its end says only that it has a teacher.
        subset_percent: part of the training set that is used, in (0, 1].
        augmentation: "yes" or "no".
        teacher: model name, or "none".
        learning_rate: for a batch of 128; scaled with the batch size.
        alpha, temperature: of KD and self-training.
        reg_alpha, reg_temperature: of Tf-KD_reg.
        multiplier: factor on the soft term in self-training and Tf-KD_reg.
        dropout_rate, num_channels: of the small plain network `cnn`.
        inferred: which keys are not published, and what they were inferred from; for people.
        save_summary_steps, num_workers, anchor_num, batch_mean, num_class: in published files; nothing reads them.
    """

    model_version: str
    subset_percent: float
    augmentation: str
    teacher: str
    learning_rate: float
    batch_size: int
    num_epochs: int
    dataset: str
    alpha: float | None = None
    temperature: float | None = None
    reg_alpha: float | None = None
    reg_temperature: float | None = None
    multiplier: float | None = None
    dropout_rate: float | None = None
    num_channels: int | None = None
    inferred: str | None = None
    save_summary_steps: int | None = None
    num_workers: int | None = None
    anchor_num: int | None = None
    batch_mean: int | None = None
    num_class: int | None = None

    @property
    def student(self) -> str:
        """Model name of the student."""
        return self.model_version.removesuffix("_distill")

    @property
    def has_teacher(self) -> bool:
        return self.teacher != NO_TEACHER

    def require(self, file: Path, purpose: str, *keys: str) -> dict[str, Any]:
        """`keys` and their values.

        Raises:
            UserError: one is missing; `purpose` says what needs it.
        """
        if missing := [key for key in keys if getattr(self, key) is None]:
            raise UserError(f"{file} lacks the key '{missing[0]}', which {purpose} needs")
        return {key: getattr(self, key) for key in keys}


def read_params(file: Path) -> Params:
    """Read a `params.json`.

    Raises:
        UserError: absent, not JSON, or with a key that is unknown, missing, of a wrong type or out of range.
    """
    content = read_json_file(file)
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__}, not an object of keys and values")
    fields = {field.name: field for field in dataclasses.fields(Params)}
    for key, value in content.items():
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            raise UserError(f"{file} has an unknown key '{key}'" + (f": did you mean '{close[0]}'?" if close else ""))
        kind = fields[key].type.removesuffix(" | None")
        allowed = {"str": (str,), "int": (int,), "float": (int, float)}[kind]
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise UserError(f"{file}: '{key}' is {value!r:.60}, not of type {kind}")
        largest = {"str": None, "int": LARGEST_COUNT, "float": LARGEST_NUMBER}[kind]
        if largest is not None and abs(value) > largest:
            raise UserError(f"{file}: '{key}' is {value!r:.60}, but must be at most {largest:g}")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in content:
            raise UserError(f"{file} lacks the key '{name}'")
    params = Params(**content)
    _check_ranges(file, params)
    return params


def _check_ranges(file: Path, params: Params) -> None:
    def check(holds: bool, key: str, wanted: str) -> None:
        if not holds:
            raise UserError(f"{file}: '{key}' is {getattr(params, key)!r}, but must be {wanted}")

    check(0 < params.subset_percent <= 1, "subset_percent", "above 0 and at most 1")
    check(params.augmentation in ("yes", "no"), "augmentation", '"yes" or "no"')
    check(params.batch_size >= 2, "batch_size", "at least 2, because batch norm cannot train on one image")
    check(params.num_epochs >= 1, "num_epochs", "at least 1")
    check(params.num_channels is None or params.num_channels >= 1, "num_channels", "at least 1")
    for key in ("alpha", "reg_alpha"):
        check(getattr(params, key) is None or 0 <= getattr(params, key) <= 1, key, "from 0 to 1")
    check(params.dropout_rate is None or 0 <= params.dropout_rate < 1, "dropout_rate", "at least 0 and below 1")
    check(params.multiplier is None or params.multiplier >= 0, "multiplier", "at least 0")
    for key in ("learning_rate", "temperature", "reg_temperature"):
        value = getattr(params, key)
        check(value is None or value >= SMALLEST_NUMBER, key, f"positive, at least {SMALLEST_NUMBER:g}")
