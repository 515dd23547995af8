"""Teachers' logits, computed before an epoch in large batches or read from a file of earlier runs.

All that an epoch shows is known before it begins (`DeviceLoader.views`). So a teacher of which only the logits are read
need not run in the steps: a pass ahead of them puts the epoch's logits into one tensor, and each step takes its own by
position. Of views that are a finite set, a file beside the dataset keeps the logits for all later epochs and runs.

`remember_teachers.py` decides where that is done.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.data import DeviceLoader
from common.data.device_loader import EpochViews
from common.teacher_cache.rows import RowFile
from common.training.progress import progress
from common.training.runtime import Runtime
from common.training.teacher_memory import CurrentBatch, TeacherMemory, computed_logits, set_memory


@dataclasses.dataclass(frozen=True)
class LargeBatches:
    """How a teacher computes outside of steps.

    Attributes:
        loader: shows the images.
        runtime, layout: how networks compute.
        size: images of every batch.
    """

    loader: DeviceLoader
    runtime: Runtime
    layout: torch.memory_format
    size: int

    def logits(
        self, teacher: nn.Module, views: EpochViews, positions: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """A teacher's logits of some of an epoch's samples; the last batch is filled up.

        Args:
            teacher: as it computes.
            views: of the epoch.
            positions: in it, [n].

        Returns:
            Some positions at a time, [m], and their logits, [m, K].
        """
        filled = np.concatenate([positions, np.repeat(positions[-1:], -len(positions) % self.size)])
        for number, images in enumerate(self.loader.render(views, filled, self.size)):
            here = positions[number * self.size :][: self.size]
            with torch.no_grad(), self.runtime.autocast():
                logits = computed_logits(teacher, images.contiguous(memory_format=self.layout))
            yield here, logits[: len(here)]


class TeacherPass:
    """Computes and hands out the logits of one or several teachers.

    Args:
        batches: of the pass.
        batch: the step's.
        memories: to be filled, one a teacher.

    Attributes:
        files: of each memory, where its rows are kept; None where they are not.
        messages: for the log, about what went wrong since it was read last.
    """

    def __init__(
        self,
        batches: LargeBatches,
        batch: CurrentBatch,
        memories: Sequence[TeacherMemory],
    ) -> None:
        self.batches, self.loader = batches, batches.loader
        self.batch, self.memories = batch, list(memories)
        self.files: list[RowFile | None] = [None] * len(self.memories)
        self.messages: list[str] = []
        self.from_file = self.computed = 0
        self.seconds = 0.0
        self._position = 0

    def begin_epoch(self, epoch: int, show_progress: bool) -> bool:
        """Fill the memories with the logits of an epoch.

        Returns:
            Whether steps that were captured before still hold.
        """
        started = time.perf_counter()
        self._position = 0
        same = self._drop(_useless)
        views = self.loader.views(epoch)
        wanted = self._wanted()
        for i, memory in enumerate(self.memories):
            set_memory(memory.teacher, memory)
            memory.asked = memory.answered = 0
            self._fill(i, memory, views, wanted, f"teacher of epoch {epoch + 1}", show_progress)
        self.seconds += time.perf_counter() - started
        return same

    def _wanted(self) -> np.ndarray:
        """Positions of the samples whose batches are of a size that memories answer for."""
        sizes = {size for memory in self.memories for size in memory.sizes}
        return np.flatnonzero(np.concatenate([np.full(size, size in sizes) for size in self.loader.shares]))

    def _drop(self, reason_for: Callable[[TeacherMemory], str | None]) -> bool:
        """Let teachers compute again for which there is a reason; says whether there are none."""
        reasons = [reason_for(memory) for memory in self.memories]
        for memory, reason in zip(self.memories, reasons, strict=True):
            if reason:
                set_memory(memory.teacher, None)
                self.messages.append(f"teacher logits: computed in each step from now on: {reason}")
        kept = [i for i, reason in enumerate(reasons) if reason is None]
        self.memories, self.files = [self.memories[i] for i in kept], [self.files[i] for i in kept]
        return len(kept) == len(reasons)

    def _fill(
        self, i: int, memory: TeacherMemory, views: EpochViews, wanted: np.ndarray, what: str, show_progress: bool
    ) -> None:
        numbers = None if self.files[i] is None else row_numbers(self.loader, views)
        parts = self._parts(self._missing(i, memory, numbers, wanted), shuffled=numbers is not None)
        for part in progress(parts, len(parts), what, show=show_progress):
            missing = self._missing(i, memory, numbers, part)
            for positions, logits in self.batches.logits(memory.teacher, views, missing):
                memory.logits[torch.from_numpy(positions).to(logits.device)] = logits
                if numbers is not None:
                    self._keep(i, numbers[positions], logits)
            self.computed += len(missing)

    def _parts(self, positions: np.ndarray, *, shuffled: bool) -> list[np.ndarray]:
        """Batches of positions. Runs that fill one file at the same time take them in orders of their own: then each
        finds what the others have done meanwhile, and all of them together compute little twice."""
        size = self.batches.size
        parts = [positions[first : first + size] for first in range(0, len(positions), size)]
        if shuffled:
            np.random.default_rng().shuffle(parts)  # of no seed: the order changes no logits
        return parts

    def _missing(self, i: int, memory: TeacherMemory, numbers: np.ndarray | None, positions: np.ndarray) -> np.ndarray:
        """The positions whose logits a memory's file does not have; it takes the others from there."""
        if numbers is None or (file := self.files[i]) is None:
            return positions
        there = self._recall(file, memory, numbers, positions)
        self.from_file += int(there.sum())
        return positions[~there]

    def _recall(self, file: RowFile, memory: TeacherMemory, numbers: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Take from a file what it has; says which of `wanted` that is."""
        try:
            content, there = file.read(numbers[wanted])
        except OSError as error:
            self._give_up(file, f"cannot be read ({error.strerror})")
            return np.zeros(len(wanted), bool)
        rows = as_logits(content[there], memory.logits)
        memory.logits[torch.from_numpy(wanted[there]).to(rows.device)] = rows
        return there

    def _keep(self, i: int, numbers: np.ndarray, logits: Tensor) -> None:
        """Put rows into a memory's file, unless that has been given up."""
        if (file := self.files[i]) is None:
            return
        try:
            file.write(numbers, as_bytes(logits))
        except OSError as error:
            self._give_up(file, f"cannot be written ({error.strerror or error})")

    def _give_up(self, file: RowFile, why: str) -> None:
        self.files[self.files.index(file)] = None
        self.messages.append(f"teacher logits: {file.path} {why}: training goes on without it")
        file.close()

    def advance(self, samples: int) -> bool:
        """A step is about to take the next so many samples of the epoch.

        Returns:
            Whether steps that were captured before still hold.
        """
        self.batch.seek(self._position)
        self._position += samples
        return self._drop(_changed)

    def take_messages(self) -> list[str]:
        messages, self.messages = self.messages, []
        return messages

    def summary(self) -> dict[str, Any]:
        """For a run's record: how many logits came from where, in this process, and the seconds of all passes."""
        return {
            "from_cache": self.from_file,
            "computed_ahead": self.computed,
            "seconds": round(self.seconds, 2),
            "batch": self.batches.size,
            "files": [None if file is None else str(file.path) for file in self.files],
        }


def _changed(memory: TeacherMemory) -> str | None:
    """Why a memory's logits would be wrong; None where they are right."""
    return None if memory.is_valid() else "the teacher is no longer what it was"


def _useless(memory: TeacherMemory) -> str | None:
    """Why an epoch's logits would be wrong, or computed in vain; None where they are wanted."""
    if memory.features_read:
        return "the method reads the teacher's features, too"
    if memory.asked and not memory.answered:
        return "the method shows the teacher other images"
    return _changed(memory)


def row_numbers(loader: DeviceLoader, views: EpochViews) -> np.ndarray:
    """Which rows of a file an epoch's samples are, int64, [n]: all views of the first published image come first."""
    images = views.indices if loader.origin is None else loader.origin[views.indices]
    return images * loader.augmentation.upright_views + loader.augmentation.view_numbers(views.draws)


def as_bytes(logits: Tensor) -> np.ndarray:
    """[n, K] -> uint8, [n, bytes]."""
    return logits.detach().contiguous().cpu().view(torch.uint8).numpy()


def as_logits(content: np.ndarray, like: Tensor) -> Tensor:
    """The logits that `as_bytes` made, of the type and on the device of `like`, [n, K]."""
    return torch.from_numpy(content.reshape(-1)).view(like.dtype).view(len(content), like.shape[1]).to(like.device)


def teacher_name(teacher: nn.Module) -> str:
    """For people; part of a file's name."""
    recipe = getattr(teacher, "recipe", None)
    name = recipe["name"] if recipe else type(getattr(teacher, "network", teacher)).__name__
    return "".join(c if c.isalnum() or c in "._" else "_" for c in name)


def gigabytes(count: int) -> str:
    """A number of bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def as_int(tensor: Tensor) -> Tensor:
    """The bits of a tensor: what is not a number equals itself, and 0 is not -0."""
    return tensor.contiguous().view(torch.uint8)
