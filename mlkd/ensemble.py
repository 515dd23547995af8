"""Several teachers as one, and the JSON file that names them."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.command_line import LARGEST_NUMBER
from common.errors import UserError
from common.safe_json import read_json_file
from common.training.runs import write_json
from mlkd.teachers import (
    InputSpec,
    Teacher,
    find_checkpoint,
    is_architecture,
    is_path,
    load_teachers,
    require_architecture,
)


class Ensemble(nn.Module):
    """The mean over members of weight_k * logits_k; the weights need not add up to anything.

    Members run one after the other and leave their logits only, so that the activations of one live at a time.

    Args:
        members: networks that give logits, [N, K].
        weights: one a member.
    """

    weights: Tensor

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", torch.tensor(list(weights), dtype=torch.get_default_dtype()))

    def forward(self, images: Tensor) -> Tensor:
        return self.combine(member(images) for member in self.members)

    def combine(self, logits: Iterable[Tensor]) -> Tensor:
        """What the ensemble makes of the logits of its members, each [N, K]."""
        return torch.stack([weight * each for weight, each in zip(self.weights, logits, strict=True)]).mean(0)


@dataclasses.dataclass(frozen=True)
class EnsembleFile:
    """An ensemble as its JSON file describes it: `{"models": [...], "names": [...], "weights": [...]}`.

    Attributes:
        path: the file.
        names: timm's names of the members.
        checkpoints: their checkpoints, as written.
        weights: one a member.
        reading: which list was taken for what, in words.
        content: the whole file.
    """

    path: Path
    names: tuple[str, ...]
    checkpoints: tuple[str, ...]
    weights: tuple[float, ...]
    reading: str
    content: dict[str, Any]

    def require_architectures(self) -> None:
        """Raises:
        UserError: timm knows no network of a member's name.
        """
        try:
            for name in self.names:
                require_architecture(name)
        except UserError as error:
            raise UserError(f"{error} ({self.reading})") from error

    def load(self, given: InputSpec) -> list[Teacher]:
        """The members with their weights; raises what `load_teachers` does."""
        try:
            return load_teachers(list(zip(self.names, self.checkpoints, strict=True)), given)
        except UserError as error:
            raise UserError(f"{error} ({self.reading})") from error

    def with_weights(self, weights: Sequence[float]) -> None:
        """Write the file again with other weights; everything else in it stays."""
        write_json(self.path, {**self.content, "weights": list(weights)})


def read_ensemble(path: Path) -> EnsembleFile:
    """Read an ensemble's file.

    As published, `models` has timm's names and `names` the checkpoints `models/<name>.pth`; the other way round is
    understood too, and paths in place of names. Weights that are left out are 1.

    Raises:
        UserError: absent, not JSON, or lists that are missing, of other content, or of different length.
    """
    if not path.exists():
        raise UserError(f"cannot read {path}: there is no such file; experiments/mlkd/*_ensemble.json are ready to use")
    content = read_json_file(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold an object with the lists models, names and weights")
    models, names = (_strings(content, key, path) for key in ("models", "names"))
    if len(models) != len(names) or not models:
        raise UserError(f"{path} has {len(models)} models and {len(names)} names: give one of each for every member")
    misspelled = [] if "weights" in content else difflib.get_close_matches("weights", content)
    if misspelled:
        raise UserError(f"{path} has no 'weights' but '{misspelled[0]}': is that what they are called?")
    weights = content.get("weights", [1.0] * len(models))
    if not isinstance(weights, list) or not all(type(w) in (int, float) and math.isfinite(w) for w in weights):
        raise UserError(f"{path}: 'weights' must be a list of finite numbers")
    if any(abs(w) > LARGEST_NUMBER for w in weights):
        raise UserError(f"{path}: 'weights' must be from {-LARGEST_NUMBER:g} to {LARGEST_NUMBER:g}")
    if len(weights) != len(models):
        raise UserError(f"{path} has {len(weights)} weights for {len(models)} models")
    as_published = _as_published(models, names)
    architectures, checkpoints = (models, names) if as_published else (names, models)
    lists = ("models", "names") if as_published else ("names", "models")
    reading = "{}: timm's names are those in '{}', checkpoints those in '{}'".format(path.name, *lists)
    return EnsembleFile(path, tuple(architectures), tuple(checkpoints), tuple(map(float, weights)), reading, content)


def _as_published(models: list[str], names: list[str]) -> bool:
    """Whether `models` has timm's names; a checkpoint may be called like a network of timm's, as resnet152 is."""
    known_models, known_names = (sum(map(is_architecture, words)) for words in (models, names))
    if known_models == known_names == len(models):
        return all(map(find_checkpoint, names)) or not all(map(find_checkpoint, models))
    if known_models == known_names:  # one list is misspelled: paths are no names
        return not any(map(is_path, models))
    return known_models > known_names


def _strings(content: dict[str, Any], key: str, path: Path) -> list[str]:
    value = content.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(
            f"{path}: '{key}' must be a list of strings (timm's names in 'models', names of checkpoints in 'names')"
        )
    return value
