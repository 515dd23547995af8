"""Everything on which the bits of a teacher's logits depend, and the name of the file that keeps them."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.data import DeviceLoader
from common.hardware import cpu_name
from common.training.layouts import layout_name
from common.training.runtime import Runtime

# which kernels the libraries below PyTorch take, as far as the environment says so
LIBRARY_VARIABLES = re.compile(r"ONEDNN_|DNNL_|MKL_|ATEN_|CUBLAS_|CUDNN_|NVIDIA_TF32_OVERRIDE|TORCH_ALLOW_TF32")
DIGEST_LENGTH = 16


def digest(*parts: bytes | memoryview) -> str:
    """Of the parts and where each of them ends."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()[:DIGEST_LENGTH]


def environment(runtime: Runtime) -> dict[str, Any]:
    """Hardware, libraries and modes that decide by which kernels, and in which order, numbers are added up."""
    on_gpu = runtime.device.type == "cuda"
    return {
        "device": runtime.device.type,
        "processor": torch.cuda.get_device_name(runtime.device) if on_gpu else cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": None if on_gpu else torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": [torch.version.cuda, torch.backends.cudnn.version()] if on_gpu else None,
        "precision": runtime.precision,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "onednn": torch.backends.mkldnn.enabled,
        "deterministic": torch.are_deterministic_algorithms_enabled() or torch.backends.cudnn.deterministic,
        "variables": {k: v for k, v in sorted(os.environ.items()) if LIBRARY_VARIABLES.match(k)},
    }


def weights_digest(teacher: nn.Module) -> str:
    """Of all parameters and buffers, whatever their layout."""
    parts = []
    for name, tensor in teacher.state_dict().items():
        if isinstance(tensor, Tensor):
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), content]
    return digest(*parts)


def network_digest(teacher: nn.Module) -> str:
    """Of what the teacher does with its weights: its modules with their options, and the code of their classes."""
    network = getattr(teacher, "network", teacher)  # in a `FrozenTeacher`, whose own code changes nothing
    graphs = [str(module.code) for module in network.modules() if hasattr(module, "graph") and hasattr(module, "code")]
    files = set()
    for kind in {base for module in network.modules() for base in type(module).__mro__}:
        if issubclass(kind, nn.Module) and not kind.__module__.startswith("torch."):
            try:
                files.add(inspect.getsourcefile(kind))
            except (TypeError, OSError):  # made by a program, such as torch.fx: its code is among the graphs
                continue
    sources = sorted(Path(file).read_bytes() for file in files if file and Path(file).is_file())
    return digest(repr(network).encode(), *(graph.encode() for graph in graphs), *sources)


def images_digest(pixels: np.ndarray) -> str:
    """Of the published training images, uint8, [N, H, W, 3]."""
    return digest(str(pixels.shape).encode(), np.ascontiguousarray(pixels).data.cast("B"))


def views_of(loader: DeviceLoader) -> dict[str, Any]:
    """How a loader shows its images."""
    augmentation, normalization = loader.augmentation, loader.normalization
    return {
        "padding": augmentation.padding,
        "flip": augmentation.flip,
        "mean": normalization.mean,
        "std": normalization.std,
        "size": [loader.height, loader.width],
    }


def cache_key(
    teacher: nn.Module,
    pixels: np.ndarray,
    loader: DeviceLoader,
    runtime: Runtime,
    layout: torch.memory_format,
    chunk: int,
    like: Tensor,
) -> dict[str, Any]:
    """What two runs must share to share logits.

    Args:
        teacher: as it computes, on its device.
        pixels: of the published training set.
        loader: shows them.
        runtime, layout: how the teacher computes.
        chunk: images of a batch by which rows are computed.
        like: logits of this teacher, [n, K].
    """
    return {
        "weights": weights_digest(teacher),
        "network": network_digest(teacher),
        "images": images_digest(pixels),
        "views": views_of(loader),
        "logits": [like.shape[1], str(like.dtype)],
        "layout": layout_name(layout),
        "chunk": chunk,
        "environment": environment(runtime),
    }


def key_digest(key: dict[str, Any]) -> str:
    """By which a file with this key is named."""
    return digest(json.dumps(key, sort_keys=True).encode())
