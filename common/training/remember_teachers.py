"""Whether a trainer takes its teachers' logits from a pass ahead of the steps (`teacher_pass.py`), and from which file.

Whether a method reads the logits alone is found out by one step of a copy. Whether they have the same bits as in a step
is found out by comparing: where they have not, nothing is remembered unless a person asks for it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.data import Dataset, DeviceLoader, ImageArrays
from common.data.cache import DIRECTORY
from common.errors import is_out_of_memory
from common.teacher_cache.key import cache_key, key_digest
from common.teacher_cache.rows import SUFFIX, RowFile, RowFileError, file_bytes
from common.training.checkpoints import save_checkpoint
from common.training.engine import Trainer
from common.training.method import FrozenTeacher
from common.training.teacher_memory import CurrentBatch, TeacherMemory, Watch, set_memory
from common.training.teacher_pass import (
    LargeBatches,
    TeacherPass,
    as_bytes,
    as_int,
    gigabytes,
    row_numbers,
    teacher_name,
)

CHUNK_ON_CPU = 64  # images of a batch of the pass; more is no faster on a CPU
CHUNK_PIXELS = 1 << 20  # of a batch of the pass on a GPU: 1024 images of 32 x 32
SHARE_OF_FREE_DISK = 4  # a file may take one such part of what is free beside it
SPOT_CHECK = 64  # rows of a file that are computed again before it is believed
TEACHERS = "teachers"  # directory below the datasets' cache

Live = dict[nn.Module, dict[int, Tensor]]
"""Teacher -> size of a batch -> its logits in a step of that size, of the first samples of the epoch, [size, K].

A size is left out where the teacher is not asked for the logits of the step's images, or for more than these.
"""


def remember_teachers(trainer: Trainer, data: Dataset) -> None:
    """Let a trainer take its teachers' logits from a pass ahead of the steps, where that is the same, and say so.

    Args:
        trainer: before its first epoch, with the weights that it begins with.
        data: of its loader.
    """
    runtime, method = trainer.runtime, trainer.method
    teachers = [module for module in method.modules() if getattr(type(module), "remembers", False)]
    if runtime.teacher_cache == "off" or runtime.plain or not teachers or trainer.state.epochs_done >= trainer.epochs:
        return
    asked = runtime.teacher_cache == "on"
    if runtime.compile:
        trainer.messages.append("teacher logits: computed in each step: the steps are compiled")
        return
    loader = _loader_in_memory(trainer)
    if loader and not asked and sum(loader.shares) < _fast_chunk(loader, runtime.device):
        trainer.messages.append("teacher logits: computed in each step: an epoch has fewer images than a pass takes")
    elif loader and (live := _try_out(trainer, loader, teachers)):
        _Decision(trainer, data, loader, live)()
    elif asked:
        trainer.messages.append(
            "teacher logits: computed in each step: the method reads more of its teacher, or shows it other images"
        )


def _loader_in_memory(trainer: Trainer) -> DeviceLoader | None:
    """The training loader, if it knows an epoch's images ahead and shows some of them to this process in each step."""
    loader = trainer.loaders.train
    if type(loader) is DeviceLoader and loader.strong is None and min(loader.shares, default=0) > 0:
        return loader
    return None


def _fast_chunk(loader: DeviceLoader, device: torch.device) -> int:
    """Images of a batch of the pass."""
    if device.type == "cpu":
        return CHUNK_ON_CPU
    return max(CHUNK_ON_CPU, CHUNK_PIXELS // (loader.height * loader.width))


def _sizes(loader: DeviceLoader) -> list[int]:
    """Of a process's batches, the usual one first."""
    return sorted(set(loader.shares), reverse=True)


def _try_out(trainer: Trainer, loader: DeviceLoader, teachers: list[nn.Module]) -> Live:
    """What the teachers compute in a step of each size, for a copy of the method.

    Returns:
        Of those of which a step of the usual size wants the logits alone. Empty where no step of a copy can be taken.
    """
    runtime, sizes = trainer.runtime, _sizes(loader)
    views = loader.views(trainer.state.epochs_done)
    places = [i for i, module in enumerate(trainer.method.modules()) if module in set(teachers)]
    results: Live = {teacher: {} for teacher in teachers}
    try:
        with _untouched_random_state(runtime.device), trainer.method.others_untouched():
            for size in sizes:
                method = copy.deepcopy(trainer.method).train()
                copies = list(method.modules())
                batch = CurrentBatch(runtime.device)
                watches = [Watch(copies[place], batch) for place in places]
                for watch in watches:
                    set_memory(watch.teacher, watch)
                images = next(loader.render(views, np.arange(size), size)).contiguous(memory_format=trainer.layout)
                indices = torch.from_numpy(views.indices[:size]).to(runtime.device)
                batch.show(images)
                with runtime.autocast():
                    method(images, loader.targets[indices], indices, trainer.state.epochs_done)
                for teacher, watch in zip(teachers, watches, strict=True):
                    if (logits := watch.logits_alone) is not None:
                        results[teacher][size] = logits
    except Exception as error:  # whatever somebody's method does when it is copied
        if is_out_of_memory(error) and runtime.device.type == "cpu":
            raise
        return {}
    return {teacher: live for teacher, live in results.items() if sizes[0] in live}


@contextlib.contextmanager
def _untouched_random_state(device: torch.device) -> Iterator[None]:
    """Random numbers that are drawn within are not taken from those outside."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@dataclasses.dataclass
class _Decision:
    """Whether and how the logits of teachers are remembered.

    Attributes:
        loader: the trainer's.
        live: of the teachers of which the logits alone are read.
    """

    trainer: Trainer
    data: Dataset
    loader: DeviceLoader
    live: Live

    def __call__(self) -> None:
        tried = _sizes(self.loader)
        main = tried[0]
        asked, say = self.trainer.runtime.teacher_cache == "on", self.trainer.messages.append
        for chunk in dict.fromkeys((_fast_chunk(self.loader, self.trainer.runtime.device), main)):
            differences = {size: self._difference(chunk, size) for size in tried}
            if differences[main] == 0 or asked:
                break
        else:
            say(
                "teacher logits: computed in each step: ahead of it, they would differ by up to "
                f"{differences[main]:.1e} of the largest here (--teacher-cache on takes that)"
            )
            return
        if differences[main]:
            say(f"warning: teacher logits ahead of the steps differ by up to {differences[main]:.1e} of the largest")
        self._install(chunk, [size for size in tried if asked or differences[size] == 0])

    def _pass(self, chunk: int, sizes: Sequence[int]) -> TeacherPass:
        batch = CurrentBatch(self.trainer.runtime.device)
        samples, main = sum(self.loader.shares), _sizes(self.loader)[0]
        memories = [TeacherMemory(teacher, batch, samples, live[main], sizes) for teacher, live in self.live.items()]
        return TeacherPass(self._batches(chunk), batch, memories)

    def _batches(self, size: int) -> LargeBatches:
        return LargeBatches(self.loader, self.trainer.runtime, self.trainer.layout, size)

    def _difference(self, chunk: int, size: int) -> float:
        """Between logits of the pass, computed in another order, and those of a step; relative to the largest."""
        ahead, views = self._batches(chunk), self.loader.views(self.trainer.state.epochs_done)
        worst = 0.0
        for teacher, of_sizes in self.live.items():
            if (live := of_sizes.get(size)) is None:
                return float("inf")
            computed = torch.empty_like(live)
            for positions, logits in ahead.logits(teacher, views, np.arange(size)[::-1].copy()):
                computed[torch.from_numpy(positions).to(live.device)] = logits
            if not torch.equal(as_int(computed), as_int(live)):
                largest = live.float().abs().max().clamp(min=torch.finfo(torch.float32).tiny)
                worst = max(worst, ((computed.float() - live.float()).abs().max() / largest).item(), 1e-45)
        return worst

    def _install(self, chunk: int, sizes: Sequence[int]) -> None:
        trainer, say = self.trainer, self.trainer.messages.append
        teacher_pass = self._pass(chunk, sizes)
        for i, memory in enumerate(teacher_pass.memories):
            file, why = self._file_for(memory, teacher_pass)
            teacher_pass.files[i] = file
            say(f"teacher logits: computed ahead of each epoch, {chunk} images at a time, {why}")
        if left := sorted(set(self.loader.shares) - set(sizes)):
            some = ", ".join(map(str, left))
            say(f"teacher logits: those of batches of {some} are computed in their steps, where their bits differ")
        trainer.step.teacher_pass = teacher_pass

    def _file_for(self, memory: TeacherMemory, teacher_pass: TeacherPass) -> tuple[RowFile | None, str]:
        """The file that keeps a teacher's logits, and a word about it."""
        trainer, data, loader = self.trainer, self.data, self.loader
        views = loader.augmentation.view_count
        if views is None:
            return None, "and not kept: images are turned by any angle"
        if data.root is None or not isinstance(data.train, ImageArrays):
            return None, "and not kept: the dataset has no directory here"
        pixels = data.train.pixels
        row_bytes = memory.logits.shape[1] * memory.logits.element_size()
        rows = len(pixels) * views
        key = cache_key(
            memory.teacher, pixels, loader, trainer.runtime, trainer.layout, teacher_pass.batches.size, memory.logits
        )
        directory = data.root / DIRECTORY / TEACHERS
        path = directory / f"{teacher_name(memory.teacher)}-{key_digest(key)}{SUFFIX}"
        size = file_bytes(rows, row_bytes)
        try:
            limit, limit_in_words = self._limit(directory, path)
        except OSError as error:
            return None, f"and not kept: {directory} cannot be used ({error.strerror})"
        if size > limit:
            return None, f"and not kept: all of them would be {gigabytes(size)}, more than {limit_in_words}"
        header = {
            "rows": rows,
            "row_bytes": row_bytes,
            "key": key,
            "teacher": getattr(memory.teacher, "recipe", None),
            "folded": isinstance(memory.teacher, FrozenTeacher),
            "dataset": data.name,
        }
        try:
            file = RowFile(path, header)
            self._keep_weights(memory.teacher, path.with_suffix(".pth"))
        except (OSError, RowFileError) as error:
            return None, f"and not kept: {path} cannot be used ({getattr(error, 'strerror', None) or error})"
        if file.replaced:
            trainer.messages.append(f"teacher logits: {path} was replaced: {file.replaced}")
        if problem := self._spot_check(file, memory, teacher_pass):
            file.close()
            return None, f"and not kept: {problem}"
        return file, f"and kept in {path}: {gigabytes(size)} when full, less than {limit_in_words}"

    def _limit(self, directory: Path, path: Path) -> tuple[int, str]:
        """How many bytes the file may come to, and that in words."""
        if self.trainer.runtime.teacher_cache_limit is not None:
            return self.trainer.runtime.teacher_cache_limit, "--teacher-cache-limit"
        directory.mkdir(parents=True, exist_ok=True)
        taken = path.stat().st_blocks * 512 if path.is_file() else 0
        free = shutil.disk_usage(directory).free
        return (free + taken) // SHARE_OF_FREE_DISK, f"a quarter of the {gigabytes(free)} that are free there"

    def _keep_weights(self, teacher: nn.Module, path: Path) -> None:
        """Beside a file of rows, what computes them: for whoever verifies it."""
        if not path.is_file():
            partial = path.with_name(f"{path.stem}.{os.getpid()}{path.suffix}")
            try:
                state = {name: tensor.cpu().contiguous() for name, tensor in teacher.state_dict().items()}
                save_checkpoint({"model": state}, partial)
                os.replace(partial, path)
            except Exception as error:
                raise OSError(None, str(error)) from error
            finally:
                partial.unlink(missing_ok=True)

    def _spot_check(self, file: RowFile, memory: TeacherMemory, teacher_pass: TeacherPass) -> str | None:
        """Compute some rows again that are there; says what is wrong, None where they are the same."""
        views = self.loader.views(self.trainer.state.epochs_done)
        numbers = row_numbers(self.loader, views)
        try:
            some = np.arange(min(len(numbers), 8 * SPOT_CHECK))
            content, there = file.read(numbers[some])
        except OSError as error:
            return f"{file.path} cannot be read ({error.strerror})"
        some, content = some[there][:SPOT_CHECK], content[there][:SPOT_CHECK]
        if not len(some):
            return None
        computed = torch.cat([logits for _, logits in teacher_pass.batches.logits(memory.teacher, views, some)])
        different = int((as_bytes(computed) != content).any(axis=1).sum())
        if not different:
            return None
        advice = f"`python -m common.teacher_cache delete {file.path.stem}` lets it begin anew"
        return f"{different} of {len(some)} rows of {file.path} have other bits than are computed now; {advice}"
