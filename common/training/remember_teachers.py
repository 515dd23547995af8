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
from common.training.teacher_memory import CurrentBatch, TeacherMemory, Watch
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


def remember_teachers(trainer: Trainer, data: Dataset) -> None:
    """Let a trainer take its teachers' logits from a pass ahead of the steps, where that is the same, and say so.

    Args:
        trainer: before its first epoch, with the weights that it begins with.
        data: of its loader.
    """
    runtime, loader, method = trainer.runtime, trainer.loaders.train, trainer.method
    teachers = [module for module in method.modules() if getattr(type(module), "remembers", False)]
    if runtime.teacher_cache == "off" or runtime.plain or not teachers or trainer.state.epochs_done >= trainer.epochs:
        return
    asked = runtime.teacher_cache == "on"
    if runtime.compile:
        trainer.messages.append("teacher logits: computed in each step: the steps are compiled")
        return
    in_memory = type(loader) is DeviceLoader and loader.strong is None and min(loader.shares, default=0) > 0
    trials = _try_out(trainer, teachers) if in_memory else {}
    main = max(trials, default=0)
    chosen = [i for i in range(len(teachers)) if main and trials[main][i] is not None]
    if not chosen:
        if asked:
            trainer.messages.append(
                "teacher logits: computed in each step: the method reads more of its teacher, or shows it other images"
            )
        return
    _Decision(trainer, data, [teachers[i] for i in chosen], {s: [t[i] for i in chosen] for s, t in trials.items()})()


def _try_out(trainer: Trainer, teachers: list[nn.Module]) -> dict[int, list[Tensor | None]]:
    """What each of the teachers computes in a step of each size, for a copy of the method.

    Returns:
        Size of a batch -> for each teacher its logits, [size, K]; None where it was not asked for the logits of the
        step's images, or for more than that. Empty where no step of a copy can be taken.
    """
    loader, runtime = trainer.loaders.train, trainer.runtime
    views = loader.views(trainer.state.epochs_done)
    places = [i for i, module in enumerate(trainer.method.modules()) if module in set(teachers)]
    results: dict[int, list[Tensor | None]] = {}
    try:
        with _untouched_random_state(runtime.device):
            for size in sorted(set(loader.shares), reverse=True):
                method = copy.deepcopy(trainer.method).train()
                copies = list(method.modules())
                batch = CurrentBatch(runtime.device)
                watches = [Watch(copies[place], batch) for place in places]
                for watch in watches:
                    watch.teacher.memory = watch
                images = next(loader.render(views, np.arange(size), size)).contiguous(memory_format=trainer.layout)
                indices = torch.from_numpy(views.indices[:size]).to(runtime.device)
                batch.show(images)
                with runtime.autocast():
                    method(images, loader.targets[indices], indices, trainer.state.epochs_done)
                results[size] = [watch.logits_alone for watch in watches]
    except Exception as error:  # whatever somebody's method does when it is copied
        if is_out_of_memory(error) and runtime.device.type == "cpu":
            raise
        return {}
    return results


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
        teachers: of which the logits alone are read.
        live: size of a batch -> what each of them computed in a step of that size, of the first samples of the epoch.
    """

    trainer: Trainer
    data: Dataset
    teachers: list[nn.Module]
    live: dict[int, list[Tensor]]

    def __call__(self) -> None:
        main = max(self.live)
        asked, say = self.trainer.runtime.teacher_cache == "on", self.trainer.messages.append
        for chunk in dict.fromkeys((self._fast_chunk(), main)):
            differences = {size: self._difference(chunk, size) for size in self.live}
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
        sizes = [size for size in self.live if asked or differences[size] == 0]
        self._install(chunk, sizes)

    def _fast_chunk(self) -> int:
        loader = self.trainer.loaders.train
        if self.trainer.runtime.device.type == "cpu":
            return CHUNK_ON_CPU
        return max(CHUNK_ON_CPU, CHUNK_PIXELS // (loader.height * loader.width))

    def _pass(self, chunk: int, sizes: Sequence[int]) -> TeacherPass:
        trainer = self.trainer
        batch = CurrentBatch(trainer.runtime.device)
        likes = self.live[max(self.live)]
        memories = [
            TeacherMemory(teacher, batch, sum(trainer.loaders.train.shares), like, sizes)
            for teacher, like in zip(self.teachers, likes, strict=True)
        ]
        return TeacherPass(self._batches(chunk), batch, memories)

    def _batches(self, size: int) -> LargeBatches:
        return LargeBatches(self.trainer.loaders.train, self.trainer.runtime, self.trainer.layout, size)

    def _difference(self, chunk: int, size: int) -> float:
        """Between logits of the pass, computed in another order, and those of a step; relative to the largest."""
        ahead, views = self._batches(chunk), self.trainer.loaders.train.views(self.trainer.state.epochs_done)
        worst = 0.0
        for teacher, live in zip(self.teachers, self.live[size], strict=True):
            if live is None:
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
        if left := sorted(set(self.live) - set(sizes)):
            some = ", ".join(map(str, left))
            say(f"teacher logits: those of batches of {some} are computed in their steps, where their bits differ")
        trainer.step.teacher_pass = teacher_pass

    def _file_for(self, memory: TeacherMemory, teacher_pass: TeacherPass) -> tuple[RowFile | None, str]:
        """The file that keeps a teacher's logits, and a word about it."""
        trainer, data, loader = self.trainer, self.data, self.trainer.loaders.train
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
        loader = self.trainer.loaders.train
        views = loader.views(self.trainer.state.epochs_done)
        numbers = row_numbers(loader, views)
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
