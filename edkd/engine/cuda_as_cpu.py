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


def cuda_calls(as_cpu: bool, runtime: Runtime) -> contextlib.AbstractContextManager:
    """What `--cuda-as-cpu` asks for; nothing on a GPU."""
    return CudaAsCpu() if as_cpu and runtime.device.type == "cpu" else contextlib.nullcontext()


class _Nothing(contextlib.nullcontext):
    """A stream or an event where everything is in order anyway: whatever is asked of it, it does nothing."""

    def __init__(self, *_args: Any, **_options: Any) -> None:
        super().__init__(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_args, **_options: None

    def query(self) -> bool:
        return True

    def elapsed_time(self, _other: Any) -> float:
        return 0.0


_GENERATOR, _LOAD = torch.Generator, torch.load


class _Kind(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, _GENERATOR)


class _GeneratorOnCpu(metaclass=_Kind):
    """`torch.Generator(device="cuda")` is one of the CPU."""

    def __new__(cls, device: Any = "cpu") -> torch.Generator:
        return _GENERATOR(device=_on_cpu(device))


_TENSORS = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Byte", "Char", "Bool")


def _load(*args: Any, **options: Any) -> Any:
    return _LOAD(*map(_on_cpu, args), **{name: _on_cpu(value) for name, value in options.items()})


# module -> what of it asks for a GPU, and what the answer is where the CPU takes its place
STAND_INS: dict[Any, dict[str, Any]] = {
    torch.cuda: {
        **dict.fromkeys(("synchronize", "set_device", "empty_cache"), lambda *_args: None),
        **dict.fromkeys(("manual_seed", "manual_seed_all"), lambda _seed: None),
        **dict.fromkeys(("Stream", "Event", "stream", "current_stream", "default_stream", "device"), _Nothing),
        **{f"{kind}Tensor": getattr(torch, f"{kind}Tensor") for kind in _TENSORS},
        "current_device": lambda: "cpu",
        "get_device_name": lambda device=None: "CPU",
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
    },
    torch: {"Generator": _GeneratorOnCpu, "load": _load},
}


class CudaAsCpu(TorchFunctionMode):
    """Within it `Tensor.cuda` leaves a tensor where it is, "cuda" as the name of a device means the CPU, and so on."""

    is_on = False

    def __enter__(self) -> CudaAsCpu:
        self.replaced = [(module, name, getattr(module, name)) for module, names in STAND_INS.items() for name in names]
        for module, name, _ in self.replaced:
            setattr(module, name, STAND_INS[module][name])
        CudaAsCpu.is_on = True
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        CudaAsCpu.is_on = False
        for module, name, own in self.replaced:
            setattr(module, name, own)
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (torch.Tensor.cuda, torch.Tensor.pin_memory):
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
        return "cpu" if value.partition(":")[0] == "cuda" else value.replace("torch.cuda.", "torch.")
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == "cuda" else value
