"""What a check is, and what may come of it."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import gc
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import torch

from common.errors import first_line

OK, NOTE, FAILED, ABSENT = "ok", "note", "FAILED", "not run"  # a note is what a reader should know and no failure

GIVEN_UP = "cannot go on in this process"  # the loop, after a capture that left PyTorch's state broken


class CheckError(Exception):
    """What was checked does not hold; the message says what was found and what was allowed.

    Args:
        log: of another process, where that failed.
    """

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class AbsentError(Exception):
    """The check needs what this device does not have."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a check runs.

    Attributes:
        device: of all tensors.
        miniature: only show that the check runs: smaller batches and fewer of them, for a CPU.
        scratch: an empty directory of this check's own.
    """

    device: torch.device
    miniature: bool
    scratch: Path

    def require_gpu(self) -> None:
        """Raises:
        AbsentError: on a CPU.
        """
        if self.device.type != "cuda":
            raise AbsentError("needs CUDA graphs: not on this device")


@dataclasses.dataclass
class Finding:
    """What a check found where it holds.

    Attributes:
        text: one line.
        figures: the same for machines.
        note: whether a reader should look at it although nothing failed.
    """

    text: str
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    note: bool = False


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing to find out.

    Attributes:
        function: finds it out.
        alone: nothing else may use the device meanwhile: it measures time.
        limit: seconds after which it counts as hanging.
    """

    function: Callable[[Place], Finding]
    alone: bool = False
    limit: float = 90.0


@dataclasses.dataclass
class Verdict:
    """What came of a check; one line of the report and one entry of the JSON file.

    Attributes:
        log: of a failure, the traceback or the last lines of its process.
    """

    name: str
    status: str
    text: str
    seconds: float = 0.0
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    log: str = ""

    def __str__(self) -> str:
        return f"{self.status:7} {self.name}: {self.text} ({self.seconds:.1f} s)"


def run_check(name: str, check: Check, place: Place) -> Verdict:
    """Run a check; whatever it raises becomes its verdict."""
    free_memory()
    started = time.perf_counter()
    figures: dict[str, Any] = {}
    log = ""
    try:
        finding = check.function(place)
        status, text, figures = NOTE if finding.note else OK, finding.text, finding.figures
    except AbsentError as absent:
        status, text = ABSENT, str(absent)
    except CheckError as failure:
        status, text, log = FAILED, str(failure), failure.log or traceback.format_exc()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a script's SystemExit, too
        status, text, log = FAILED, f"{type(error).__name__}: {first_line(error)}", traceback.format_exc()
    return Verdict(name, status, text, time.perf_counter() - started, figures, log)


def free_memory() -> None:
    """Give back what the check before has left on a GPU."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def device_works(device: torch.device) -> bool:
    """Whether a GPU still answers: after some errors, no work of this process succeeds any more."""
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
        return float(torch.rand(8, device=device).sum().isfinite()) == 1.0
    except RuntimeError:  # PyTorch's for all that CUDA says
        return False


@contextlib.contextmanager
def protocol_stream() -> Iterator[TextIO]:
    """Standard output for verdicts alone: whatever checks print goes to standard error."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as stream:
        os.dup2(2, 1)
        yield stream


def work(names: list[str], checks: dict[str, Check], device: torch.device, miniature: bool) -> None:
    """Run checks one after another and write a JSON line before and after each; stop when the device is lost."""
    faulthandler.enable()  # what kills this process leaves a traceback
    with protocol_stream() as stream:
        for name in names:
            print(json.dumps({"begin": name}), file=stream, flush=True)
            with tempfile.TemporaryDirectory() as scratch:
                verdict = run_check(name, checks[name], Place(device, miniature, Path(scratch)))
            print(json.dumps(dataclasses.asdict(verdict)), file=stream, flush=True)
            if GIVEN_UP in verdict.text or not device_works(device):
                sys.exit(f"the device does not answer after '{name}'")
