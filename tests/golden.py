"""The conformance figures of the published implementations, and the rules by which their inputs are made.

They lie in `tests/conformance`; where the variable KD_SHARED names a directory, its `conformance/`, which may hold more
cases, comes first. The fill rules are those of the figures' own description (tests/conformance/README.md).
"""

from __future__ import annotations

import json
import math
import os
import zlib
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
HERE = Path(__file__).resolve().parent


def conformance_dirs() -> list[Path]:
    """The places that hold figures, richest first."""
    shared = os.environ.get("KD_SHARED")
    return [*([Path(shared, "conformance")] if shared else []), HERE / "conformance"]


def conformance(name: str) -> dict:
    """One file of figures, for example `losses/tfkd.json`."""
    for directory in conformance_dirs():
        if (directory / name).is_file():
            return json.loads((directory / name).read_text())
    raise FileNotFoundError(f"no conformance file {name}")


def conformance_names(pattern: str) -> list[str]:
    """Names of the files that match, for example `models/tfkd__*.json`, over all places."""
    return sorted({str(f.relative_to(d)) for d in conformance_dirs() for f in d.glob(pattern)})


def golden_array(key: str, shape: list[int] | tuple[int, ...]) -> np.ndarray:
    """Value of one state_dict entry, from its key alone."""
    z = np.asarray(np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tuple(shape)), dtype=np.float64)
    if key.endswith("num_batches_tracked"):
        return np.zeros(tuple(shape), dtype=np.int64)
    if key.endswith("running_mean"):
        return 0.1 * z
    if key.endswith("running_var"):
        return 1.0 + 0.1 * np.abs(z)
    if z.ndim >= 2:
        return z * math.sqrt(2.0 / math.prod(shape[1:]))
    if key.endswith("weight"):
        return 1.0 + 0.1 * z
    return 0.1 * z


def golden_fill(module: M) -> M:
    """Fill a module by the rule, in float64, under its own key names."""
    module.double()
    state = {key: torch.from_numpy(golden_array(key, value.shape)) for key, value in module.state_dict().items()}
    module.load_state_dict(state)
    return module


def golden_input(shape: list[int]) -> Tensor:
    """The image batch on which model figures were taken."""
    return torch.from_numpy(np.random.RandomState(2026).standard_normal(tuple(shape)))


def draw(spec: dict, step: int = 0) -> Tensor:
    """An input given by rule (`{"seed", "shape", "scale"}`, `{"seed", "classes", "size"}` or `{"values"}`)."""
    if "values" in spec:
        values = np.asarray(spec["values"])
        return torch.from_numpy(values if values.dtype.kind == "i" else values.astype(np.float64))
    seed = spec["seed"]
    if isinstance(seed, str):  # "1000 + step"
        base, plus, word = seed.split()
        assert (plus, word) == ("+", "step")
        seed = int(base) + step
    random = np.random.RandomState(seed)
    if "classes" in spec:
        return torch.from_numpy(random.randint(0, spec["classes"], spec["size"]).astype(np.int64))
    array = random.standard_normal(tuple(spec["shape"])) * spec["scale"]
    tensor = torch.from_numpy(array)
    then = spec.get("then")
    if then == "softmax":
        return tensor.softmax(1)
    if then == "relu":
        return tensor.relu()
    assert then is None, then
    return tensor


def summary(tensor: Tensor) -> dict:
    """Sum, norm and first four entries, as the figures give whole tensors."""
    flat = tensor.detach().double().flatten()
    return {"sum": flat.sum().item(), "l2": flat.norm().item(), "first4": flat[:4].tolist()}
