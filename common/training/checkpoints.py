"""Checkpoints that are written whole or not at all, and read without running what is in them."""

from __future__ import annotations

import dataclasses
import errno
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from common.atomic_write import write_atomically
from common.errors import UserError, is_damage
from common.training.saved_state import nonfinite_names

WRAPPINGS = ("state_dict", "model_state_dict", "model", "net")  # keys under which files keep a network's weights
# what tools put into the names of weights: anywhere, or before the first part ...
WITHIN = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.|^(module\.)+")
BEFORE_ALL = ("module.", "model.", "net.")  # ... and before all names of a file alike


@dataclasses.dataclass(frozen=True)
class CheckpointFiles:
    """Where a run keeps its checkpoints, under its paper's published names.

    Attributes:
        last: after every epoch; what `--resume` reads.
        best: at the best test accuracy so far, the latest of equals; None where the script keeps the best itself.
        snapshots: file that keeps the student's weights -> number of finished epochs when it is written.
        weights_key, optimizer_key, accuracy_key: what the published files call the student's weights, the optimizer's
            state and the best accuracy so far; without the last it is kept under a name of ours alone.
        constants: what the published files hold besides.
    """

    last: Path
    best: Path | None
    snapshots: dict[Path, int] = dataclasses.field(default_factory=dict)
    weights_key: str = "state_dict"
    optimizer_key: str = "optim_dict"
    accuracy_key: str | None = None
    constants: dict[str, Any] = dataclasses.field(default_factory=dict)


def save_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint."""

    def write(temporary: Path) -> None:
        with _Target(open(temporary, "wb", buffering=0)) as target:
            torch.save(dict(content), target)
            if target.error is not None:
                raise target.error

    write_atomically(path, write)


class _Target(io.BufferedWriter):
    """The file that `torch.save` writes to: keeps its first error, in whose place PyTorch says something of its own."""

    error: OSError | None = None

    def write(self, buffer: Any) -> int:
        if self.error is None:
            try:
                return super().write(buffer)
            except OSError as error:
                self.error = error
        return len(buffer)


def load_checkpoint(path: Path | str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint file with the safe loader, once its content agrees with the checksums in it.

    Files in PyTorch's format from before 1.6 have no checksums.

    Raises:
        UserError: no such file, not a checkpoint, truncated, changed since it was written, or asking to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint {path}")
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that are refused anyway
            verify_checksums(file, path)
            content = torch.load(file, map_location=device, weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error})") from error
    except Exception as error:
        if not is_damage(error):
            raise
        if isinstance(error, pickle.UnpicklingError) and (named := re.search(r"GLOBAL (\S+)", str(error))):
            raise UserError(
                f"{path} is not opened: it asks to run code while loading ({named[1]}); convert it with "
                f"`python -m common.convert_checkpoint {path} {path.stem}_plain.pth`, which runs nothing from it"
            ) from error
        raise UserError(f"{path} is truncated or not a checkpoint") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return dict(content)


def verify_checksums(file: BinaryIO, path: Path) -> None:
    """Compare each record of an archive with its CRC-32, which PyTorch writes and does not look at; rewinds `file`.

    Raises:
        UserError: a record has changed, or the archive cannot be taken apart.
    """
    is_archive = file.read(4) == b"PK\x03\x04"
    try:
        if is_archive:
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                if (changed := archive.testzip()) or len(set(names)) < len(names):
                    raise UserError(
                        f"{path} has changed since it was written: {changed or 'a name'} in it does not agree with its "
                        "checksum (a damaged disk or transfer?); fetch or make the file again"
                    )
    except Exception as error:
        if not (is_damage(error) or (isinstance(error, OSError) and error.errno == errno.EINVAL)):
            raise  # EINVAL: a damaged archive that points to before its beginning
        raise UserError(f"{path} is truncated or not a checkpoint") from error
    file.seek(0)


def model_weights(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, in any of the wrappings that published files and common tools have.

    They are bare, or under one of `WRAPPINGS`, maybe within each other. What data parallelism, `torch.compile`,
    Lightning and others put into their names is dropped (`WITHIN`, `module.`, and `BEFORE_ALL`).

    Raises:
        UserError: no weights in it, or those of several networks.
    """
    weights = content
    for _ in WRAPPINGS:  # not for ever: a file may hold itself
        wrapped = [key for key in WRAPPINGS if isinstance(weights.get(key), Mapping)]
        if len(wrapped) > 1:
            raise UserError(f"{path} holds weights under {' and '.join(map(repr, wrapped))}: keep those that are meant")
        weights = weights[wrapped[0]] if wrapped else weights
    if not weights or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()):
        raise UserError(f"{path} holds no weights (keys: {', '.join(map(str, list(content)[:5]))})")
    plain = {WITHIN.sub("", key): value for key, value in weights.items()}
    while prefix := next((p for p in BEFORE_ALL if all(key.startswith(p) for key in plain)), None):
        plain = {key.removeprefix(prefix): value for key, value in plain.items()}
    if len(plain) < len(weights):
        raise UserError(f"{path} holds some weights twice, with and without 'module.' before their names")
    return plain


def load_weights(model: nn.Module, path: Path | str, name: str) -> dict[str, Any]:
    """Load a checkpoint file into `model`; every name and shape must fit.

    Args:
        model: receives the weights.
        path: checkpoint file.
        name: how to call the model in messages.

    Returns:
        The whole checkpoint.

    Raises:
        UserError: unreadable file, or weights of another architecture or class count.
    """
    path = Path(path)
    content = load_checkpoint(path)
    apply_weights(model, model_weights(content, path), path, name)
    return content


def apply_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Copy `weights` into `model` after checking names and shapes; `path` and `name` are for messages.

    Raises:
        UserError: what does not fit.
    """
    own = model.state_dict()
    _require_dense(weights, own, path, name)
    # PyTorch before 0.4.1 did not count batches; such files are complete all the same
    counters = {k: v for k, v in own.items() if k.endswith("num_batches_tracked")}
    if not counters.keys() & weights.keys():
        weights = {**counters, **weights}
    missing = [k for k in own if k not in weights]
    surplus = [k for k in weights if k not in own]
    misshapen = [k for k in own if k in weights and own[k].shape != weights[k].shape]
    if misshapen and not (missing or surplus):
        key = misshapen[0]
        raise UserError(
            f"{path} does not fit {name}: '{key}' is {list(weights[key].shape)} there and {list(own[key].shape)} here "
            "(another width or number of classes)"
        )
    if missing or surplus:
        parts = [f"lacks '{missing[0]}' (and {len(missing) - 1} more)"] if missing else []
        parts += [f"has '{surplus[0]}' (and {len(surplus) - 1} more)"] if surplus else []
        raise UserError(f"{path} does not fit {name}: it {' and '.join(parts)}; is it of another architecture?")
    model.load_state_dict(_converted(weights, own, path, name))


def _require_dense(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Raises:
    UserError: tensors that are not dense, or numbers of another kind.
    """
    for key in weights.keys() & own.keys():
        value = weights[key]
        kinds = [(t.is_floating_point(), t.is_complex(), t.dtype == torch.bool) for t in (value, own[key])]
        odd = value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_nested
        if odd or kinds[0] != kinds[1]:
            raise UserError(
                f"{path} does not fit {name}: '{key}' is a tensor of {value.dtype}, {value.layout}, on {value.device}, "
                f"where plain {own[key].dtype} is needed"
            )


def _converted(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path, name: str) -> dict[str, Tensor]:
    """Weights in the dtypes of `own`: published files may hold other precisions, but no other kinds of numbers.

    Raises:
        UserError: numbers that are not finite, or a variance below zero.
    """
    converted = {key: value.to(own[key].dtype) for key, value in weights.items()}
    bad = nonfinite_names(converted) - nonfinite_names(own)
    bad |= {k for k, v in converted.items() if k.endswith("running_var") and bool((v < 0).any())}
    if bad:
        raise UserError(
            f"{path} cannot be used for {name}: '{min(bad)}' holds numbers that are not finite or cannot be"
        )
    return converted
