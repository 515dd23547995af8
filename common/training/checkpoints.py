"""Checkpoints that are written whole or not at all, and read without running what is in them."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write(temporary_path)`, sync the file to disk and rename it to `path`.

    A process killed at any moment leaves either the old file or the new one.

    Raises:
        UserError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); what was there before is untouched") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def save_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint."""
    data = io.BytesIO()  # written in one go: a full disk is then an OSError that says so
    torch.save(dict(content), data)
    write_atomically(path, lambda temporary: temporary.write_bytes(data.getbuffer()))


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint file with the safe loader.

    Raises:
        UserError: no such file, not a checkpoint, truncated, or one that asks to run code.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that are refused anyway
            content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file can raise almost anything
        if isinstance(error, pickle.UnpicklingError) and (named := re.search(r"GLOBAL (\S+)", str(error))):
            raise UserError(
                f"{path} is not opened: it asks to run code while loading ({named[1]}); {_conversion(named[1], path)}"
            ) from error
        raise UserError(f"{path} is truncated or not a checkpoint") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return dict(content)


def _conversion(named: str, path: Path) -> str:
    """How to get at the weights of a checkpoint that the safe loader refuses because of `named`."""
    if named != "argparse.Namespace":
        return "convert it where you trust it, to a file of tensors only"
    # a Namespace only holds values; the safe loader may be told so
    return (
        'convert it to a file of weights alone with `python -c "import argparse, torch; '
        "torch.serialization.add_safe_globals([argparse.Namespace]); "
        f"torch.save({{'model': torch.load('{path}', map_location='cpu', weights_only=True)['model']}}, "
        f"'{path.stem}_weights.pth')\"`, which runs nothing from it"
    )


def model_weights(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, in any of the published wrappings.

    They are `{"state_dict": ...}`, `{"model": ...}` or bare; a `module.` that data parallelism put before each name
    is dropped.

    Raises:
        UserError: no weights in it.
    """
    weights = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), Mapping)), content)
    if not weights or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()):
        raise UserError(f"{path} holds no weights (keys: {', '.join(map(str, list(content)[:5]))})")
    return {key.removeprefix("module."): value for key, value in weights.items()}


def load_weights(model: nn.Module, path: Path, name: str) -> dict[str, Any]:
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
    content = load_checkpoint(path)
    apply_weights(model, model_weights(content, path), path, name)
    return content


def apply_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Copy `weights` into `model` after checking names and shapes; `path` and `name` are for messages.

    Raises:
        UserError: what does not fit.
    """
    own = model.state_dict()
    # PyTorch before 0.4.1 did not count batches; such files are complete all the same
    missing = [k for k in own if k not in weights and not k.endswith("num_batches_tracked")]
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
    model.load_state_dict(dict(weights), strict=False)
