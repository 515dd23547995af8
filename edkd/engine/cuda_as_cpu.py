"""Code that insists on a GPU, run on a CPU."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from common.training.runtime import Runtime

CUDA_SWITCH = "--cuda-as-cpu"


def add_cuda_switch(parser: argparse._ActionsContainer) -> None:
    """The flag of `cuda_calls`."""
    text = "on a CPU: let CUDA calls and the device 'cuda' in a distiller mean the CPU"
    parser.add_argument(CUDA_SWITCH, action="store_true", help=text)


def cuda_calls(args: argparse.Namespace, runtime: Runtime) -> contextlib.AbstractContextManager:
    """What `--cuda-as-cpu` asks for; nothing on a GPU."""
    return CudaAsCpu() if args.cuda_as_cpu and runtime.device.type == "cpu" else contextlib.nullcontext()


# of `torch.cuda`: what asks for a GPU, and what the answer is where the CPU takes its place
STAND_INS = {
    "synchronize": lambda device=None: None,
    "set_device": lambda device: None,
    "current_device": lambda: "cpu",
    "device": lambda device: contextlib.nullcontext(),
    **{f"{kind}Tensor": getattr(torch, f"{kind}Tensor") for kind in ("Float", "Double", "Half", "Long", "Int", "Bool")},
}


class CudaAsCpu(TorchFunctionMode):
    """Within it `Tensor.cuda` leaves a tensor where it is, "cuda" as the name of a device means the CPU, and so on."""

    def __enter__(self) -> CudaAsCpu:
        self.replaced = {name: getattr(torch.cuda, name) for name in STAND_INS}
        for name, stand_in in STAND_INS.items():
            setattr(torch.cuda, name, stand_in)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for name, own in self.replaced.items():
            setattr(torch.cuda, name, own)
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.Tensor.cuda:
            return args[0]
        kwargs = {name: _on_cpu(value) for name, value in (kwargs or {}).items()}
        if isinstance(kwargs.get("device"), int):
            kwargs["device"] = "cpu"
        args = tuple(_on_cpu(value) for value in args)
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], int):
            args = (args[0], "cpu", *args[2:])
        return func(*args, **kwargs)


def _on_cpu(value: Any) -> Any:
    """The CPU in place of a GPU."""
    if isinstance(value, str):
        return "cpu" if value.partition(":")[0] == "cuda" else value
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == "cuda" else value
