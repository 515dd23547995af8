"""Where and how a run computes: device, precision, seed, threads, ranks. One group of flags for all scripts."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import os
import re
import sys
from collections.abc import Collection, Iterator
from typing import Any

import torch
import torch.distributed as dist

from common.command_line import byte_count, positive_int, seed_number, thread_count
from common.errors import UserError, first_line, is_out_of_memory
from common.run_record import Computing

MEETING = datetime.timedelta(minutes=10)  # ranks wait so long for each other, at the start and in a reduction
AMP_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# flags that mean nothing where one network is evaluated once
TRAINING_ONLY = (
    *("--compile", "--no-graphs", "--seed", "--resume", "--overwrite", "--limit-train-batches", "--stop-after"),
    *("--teacher-cache", "--teacher-cache-limit", "--check-settings"),
)


def add_runtime_flags(parser: argparse.ArgumentParser, *, without: Collection[str] = ()) -> None:
    """The flags that every script here understands.

    Args:
        parser: of a script.
        without: flags that mean nothing in this script, such as `TRAINING_ONLY`; they keep their defaults.
    """
    group = parser.add_argument_group("runtime (the same for every script here)")

    def add(flag: str, **options: Any) -> None:
        if flag not in without:
            group.add_argument(flag, **options)
        else:
            default = options.get("default", False if "action" in options else None)
            parser.set_defaults(**{flag.removeprefix("--").replace("-", "_"): default})

    add("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1, mps ...")
    add("--amp", choices=list(AMP_DTYPES), default="off", help="mixed precision; off computes in float32 as published")
    add(
        "--tf32",
        action="store_true",
        help="TensorFloat-32 in convolutions, as published runs on Ampere GPUs and newer had by PyTorch's default",
    )
    add("--compile", action="store_true", help="compile the training step (slow start, faster steps)")
    add(
        "--plain",
        action="store_true",
        help="take every step as the published code does: contiguous tensors, teachers as they are, nothing fused or "
        "captured; for comparisons with the fast path, which is the default",
    )
    add(
        "--no-graphs",
        action="store_true",
        help="on a GPU, do not capture steps and evaluation as CUDA graphs: slower, and takes less memory",
    )
    add("--seed", type=seed_number, default=0, help="of initial weights, order, augmentation and dropout")
    add("--resume", action="store_true", help="resume the run in this directory if there is one")
    add(
        "--stop-after",
        type=positive_int,
        metavar="N",
        help="stop when N epochs are done, those of earlier starts included; --resume continues",
    )
    add("--overwrite", action="store_true", help="set aside another run, or a finished one, that is in its directory")
    add(
        "--check-settings",
        action="store_true",
        help="say what is wrong with flags and settings, without data and teachers, and end",
    )
    add("--limit-train-batches", type=positive_int, metavar="N", help="at most N training batches per epoch")
    add(
        "--teacher-cache",
        choices=("auto", "on", "off"),
        default="auto",
        help="remember teachers' logits: auto where that changes no bit, on also where bits differ, which is measured "
        "and said",
    )
    add(
        "--teacher-cache-limit",
        type=byte_count,
        metavar="SIZE",
        help="keep no file of teachers' logits that may grow beyond this: 4G (default: a quarter of the free disk)",
    )
    add("--limit-eval-batches", type=positive_int, metavar="N", help="at most N batches an evaluation")
    add("--num-threads", type=thread_count, metavar="N", help="CPU threads (default: PyTorch's choice)")


def end_if_checked(check_settings: bool) -> None:
    """With `--check-settings`, end the script: flags and settings are read, and nothing is wrong with them."""
    if check_settings:
        print("nothing is wrong with these flags and settings")
        sys.exit(0)


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Where and how a run computes.

    Attributes:
        device: of this process.
        amp: "off", "bf16" or "fp16".
        compile: compile the training step.
        plain: without anything that makes steps faster.
        tf32: TensorFloat-32 in convolutions.
        graphs: CUDA graphs, where the device has them.
        seed: of everything random.
        rank, world_size: this process among those of a distributed run (torchrun), else 0 and 1.
        limit_train_batches, limit_eval_batches: at most so many batches per epoch, and in an evaluation.
        stop_after: epochs after which to stop and leave the rest to another start; None trains to the end.
        teacher_cache: whether teachers' logits are remembered: "auto", "on" or "off".
        teacher_cache_limit: bytes of the largest file of them; None leaves that to the free disk.
    """

    device: torch.device
    amp: str = "off"
    compile: bool = False
    plain: bool = False
    tf32: bool = False
    graphs: bool = True
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    limit_train_batches: int | None = None
    limit_eval_batches: int | None = None
    stop_after: int | None = None
    teacher_cache: str = "auto"
    teacher_cache_limit: int | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    @property
    def distributed(self) -> bool:
        return self.world_size > 1

    @property
    def precision(self) -> str:
        """Of convolutions: "fp32", "tf32", "bf16" or "fp16"."""
        if self.amp != "off":
            return self.amp
        return "tf32" if self.tf32 and self.device.type == "cuda" else "fp32"

    def autocast(self) -> contextlib.AbstractContextManager:
        """Mixed precision as asked for, nothing when off."""
        dtype = AMP_DTYPES[self.amp]
        return torch.autocast(self.device.type, dtype=dtype) if dtype else contextlib.nullcontext()

    def compared_settings(self) -> dict:
        """What belongs to the settings that two runs must share to be one, besides what the scripts name themselves.

        Not how steps are taken: `plain` and `graphs` may change when a run is resumed, which moves results by rounding.
        """
        return {
            "seed": self.seed,
            "amp": self.amp,
            "limit_train_batches": self.limit_train_batches,
            "limit_eval_batches": self.limit_eval_batches,
            **({"tf32": True} if self.tf32 else {}),
        }

    def settings(self) -> Computing:
        """What a run's record says about how it was computed."""
        return {
            "device": self.device.type,
            "amp": self.amp,
            "compile": self.compile,
            "plain": self.plain,
            "tf32": self.tf32,
            "graphs": self.graphs,
            "teacher_cache": self.teacher_cache,
            "world_size": self.world_size,
        }


@contextlib.contextmanager
def runtime_from(args: argparse.Namespace) -> Iterator[Runtime]:
    """The runtime that the flags of `add_runtime_flags` describe; joins the process group under torchrun.

    Raises:
        UserError: a device that is not there, or a precision that it cannot compute in.
    """
    rank, world_size, local_rank = _place_among_processes()
    device = resolve_device(args.device, local_rank if world_size > 1 else None)
    if args.amp == "fp16" and device.type == "cpu":
        raise UserError("--amp fp16 needs a GPU: use --amp bf16 or --amp off on a CPU")
    if args.plain and args.compile:
        raise UserError("--plain leaves out what makes steps faster: give it without --compile")
    if args.tf32 and not _has_tf32(device):
        raise UserError(f"--tf32 needs an NVIDIA GPU of Ampere's generation or newer, which {device} is not")
    current = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with settings_put_back(), current:
        if args.num_threads:
            torch.set_num_threads(args.num_threads)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        use_tf32(args.tf32)
        if world_size > 1:
            wanted = getattr(args, "dist_backend", "nccl")  # where a script has that flag
            nccl = wanted == "nccl" and device.type == "cuda" and dist.is_nccl_available()
            _meet("nccl" if nccl else "gloo", device if nccl else None)
        torch.manual_seed(args.seed)
        try:
            yield Runtime(
                device,
                amp=args.amp,
                compile=args.compile,
                plain=args.plain,
                tf32=args.tf32,
                graphs=not args.no_graphs,
                seed=args.seed,
                rank=rank,
                world_size=world_size,
                limit_train_batches=args.limit_train_batches,
                limit_eval_batches=args.limit_eval_batches,
                stop_after=args.stop_after,
                teacher_cache=args.teacher_cache,
                teacher_cache_limit=args.teacher_cache_limit,
            )
        finally:
            if world_size > 1:
                dist.destroy_process_group()


@contextlib.contextmanager
def settings_put_back() -> Iterator[None]:
    """What is set of PyTorch's within it ends with it: threads, the search for kernels, TensorFloat-32."""
    threads, search = torch.get_num_threads(), torch.backends.cudnn.benchmark
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = search
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


def _place_among_processes() -> tuple[int, int, int]:
    """Rank, number of ranks, and rank on this machine, by the variables that torchrun sets.

    Raises:
        UserError: variables that are no numbers, contradict each other, or are there in part.
    """
    advice = "torchrun sets them, one process alone needs none of them"
    given = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name in os.environ}
    if bad := [f"{name}={value[:40]}" for name, value in given.items() if not re.fullmatch("[0-9]{1,6}", value)]:
        raise UserError(f"the environment has {bad[0]}, which is no number from 0: {advice}")
    numbers = {name: int(value) for name, value in given.items()}
    if ("RANK" in numbers) != ("WORLD_SIZE" in numbers):
        raise UserError(f"the environment has {' and '.join(given)} of RANK and WORLD_SIZE: {advice}")
    rank, world_size = numbers.get("RANK", 0), numbers.get("WORLD_SIZE", 1)
    if not rank < world_size:
        raise UserError(f"the environment has RANK={rank} of WORLD_SIZE={world_size}, but ranks count from 0: {advice}")
    if world_size > 1 and (missing := [n for n in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(n)]):
        raise UserError(f"the environment has WORLD_SIZE={world_size} without {missing[0]}: {advice}")
    return rank, world_size, numbers.get("LOCAL_RANK", 0)


def _meet(backend: str, device: torch.device | None) -> None:
    """Join the process group.

    Raises:
        UserError: the processes do not find each other.
    """
    try:
        dist.init_process_group(backend, device_id=device, timeout=MEETING)
    except (ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"the {os.environ['WORLD_SIZE']} processes do not meet at {place} ({first_line(error)})"
        ) from error


def use_tf32(wanted: bool) -> None:
    """TensorFloat-32, which keeps ten bits of the mantissa, in convolutions; never in matrix products.

    That is PyTorch's default where `wanted`. Otherwise float32 means float32.
    """
    torch.backends.cudnn.allow_tf32 = wanted
    torch.backends.cuda.matmul.allow_tf32 = False


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def resolve_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device of this process; `local_rank` chooses among several GPUs."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"  # Apple's GPUs only on demand: they have no double
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: no such kind of device; try cpu, cuda or mps") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"--device {name}: PyTorch sees no GPU here; use --device cpu")
        index = local_rank if local_rank is not None else device.index or 0
        if index >= torch.cuda.device_count():
            raise UserError(f"--device {name}: there are {torch.cuda.device_count()} GPUs, counted from 0")
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {name}: PyTorch sees no GPU of Apple's here; use --device cpu")
    if device.type not in ("cpu", "mps"):
        raise UserError(f"--device {name} is not supported; use cpu, cuda or mps")
    if device.index:
        raise UserError(f"--device {name}: there is only one, {device.type}")
    return device


def reduce_sum(tensor: torch.Tensor, runtime: Runtime) -> torch.Tensor:
    """Sum over all ranks, in place; the tensor itself when there is one process."""
    if runtime.distributed:
        dist.all_reduce(tensor)
    return tensor
