"""A frozen teacher that answers with logits which it has given to the same images before.

Only where that is the same to the bit and cannot be noticed: for the very images that a step takes, while the teacher
is evaluated, its weights are those of before, nobody looks into it by hooks, and nobody differentiates through it.
Everything else it is asked, it computes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn


class CurrentBatch:
    """The batch that a step takes.

    Attributes:
        first: its first sample's position in the epoch, a scalar on the device, where captured steps find it.
    """

    def __init__(self, device: torch.device) -> None:
        self.first = torch.zeros((), dtype=torch.int64, device=device)
        self._images: Tensor | None = None
        self._version = -1

    def seek(self, position: int) -> None:
        """Say where in the epoch the next batch begins."""
        self.first.fill_(position)

    def show(self, images: Tensor | None) -> None:
        """Say which tensor methods get as its images."""
        self._images, self._version = images, -1 if images is None else images._version

    def holds(self, images: Tensor) -> bool:
        """Whether `images` are the batch's, as they were."""
        return images is self._images and images._version == self._version and not images.requires_grad


class Memory(Protocol):
    """What a teacher asks before it computes."""

    def recall(self, images: Tensor) -> Tensor | None:
        """The logits of `images`, [N, K]; None where the teacher has to compute them."""

    def features_are_read(self) -> None:
        """Told where somebody looks at the features that go with logits which were recalled."""


class Asking(Protocol):
    """A teacher that asks a memory before it computes; None has it compute."""

    memory: Memory | None


def set_memory(teacher: nn.Module, memory: Memory | None) -> None:
    """Say what a teacher asks before it computes."""
    cast(Asking, teacher).memory = memory  # torch's stub says that modules hold nothing but tensors and modules


class FrozenState:
    """Whether a teacher is what it was: evaluated, unchanged, and watched by nobody."""

    def __init__(self, teacher: nn.Module) -> None:
        self.modules = list(teacher.modules())
        self.tensors = [*teacher.parameters(), *teacher.buffers()]
        self.versions = [tensor._version for tensor in self.tensors]

    def holds(self) -> bool:
        return (
            not any(m.training or m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in self.modules)
            and not any(tensor.requires_grad for tensor in self.tensors)
            and all(tensor._version == version for tensor, version in zip(self.tensors, self.versions, strict=True))
        )


def computed_logits(teacher: nn.Module, images: Tensor) -> Tensor:
    """What the teacher computes, whatever it remembers, [N, K]."""
    memory = getattr(teacher, "memory", None)
    set_memory(teacher, None)
    try:
        answer = teacher(images)
    finally:
        set_memory(teacher, memory)
    return answer[0] if isinstance(answer, tuple) else answer


class TeacherMemory:
    """The logits of an epoch's samples, in the order in which steps take them.

    Args:
        teacher: whose they are.
        batch: the step's.
        samples: in an epoch.
        like: logits of this teacher, [n, K].
        sizes: of batches whose samples' logits have the same bits as those that are put in here.

    Attributes:
        logits: to be filled before the epoch, [samples, K]; it stays where it is, for captured steps.
        features_read: whether somebody wanted features as well.
    """

    def __init__(
        self, teacher: nn.Module, batch: CurrentBatch, samples: int, like: Tensor, sizes: Collection[int]
    ) -> None:
        self.teacher, self.batch, self.sizes = teacher, batch, frozenset(sizes)
        self.logits = torch.zeros(samples, like.shape[1], dtype=like.dtype, device=like.device)
        self.features_read = False
        self.asked = self.answered = 0  # by Python; replays of a captured step do not count
        self._steps = torch.arange(max(sizes), device=like.device)
        self._state = FrozenState(teacher)

    def is_valid(self) -> bool:
        """Whether the teacher still is the one that the logits are of."""
        return self._state.holds()

    def recall(self, images: Tensor) -> Tensor | None:
        self.asked += 1
        if not (len(images) in self.sizes and self.batch.holds(images) and self._state.holds()):
            return None
        self.answered += 1
        return self.logits.index_select(0, self._steps[: len(images)] + self.batch.first)

    def features_are_read(self) -> None:
        self.features_read = True

    def __deepcopy__(self, memo: dict) -> None:
        return None  # a copy of a teacher remembers nothing


class Watch:
    """In the place of a memory, finds out what a method wants of its teacher.

    Args:
        teacher: that is asked.
        batch: the step's.

    Attributes:
        logits: what the teacher computed of the batch's images, [N, K]; None where it was not asked for them, or not as
            one that could remember.
        features_read: whether features were wanted, too.
    """

    def __init__(self, teacher: nn.Module, batch: CurrentBatch) -> None:
        self.teacher, self.batch = teacher, batch
        self.logits: Tensor | None = None
        self.features_read = False
        self._state = FrozenState(teacher)

    def recall(self, images: Tensor) -> Tensor | None:
        if not (self.batch.holds(images) and self._state.holds()):
            return None
        self.logits = computed_logits(self.teacher, images).detach()
        return self.logits.clone()

    def features_are_read(self) -> None:
        self.features_read = True

    @property
    def logits_alone(self) -> Tensor | None:
        """`logits`, where they are all that was wanted and the teacher is still the same."""
        return self.logits if self._state.holds() and not self.features_read else None


class LazyFeatures(dict):
    """Features that are computed as soon as somebody looks at them.

    Args:
        compute: gives them.
    """

    def __init__(self, compute: Any) -> None:
        super().__init__()
        self._compute = compute

    def _filled(self) -> LazyFeatures:
        if self._compute is not None:
            compute, self._compute = self._compute, None
            super().update(compute())
        return self


def _after_filling(name: str) -> Any:
    plain = getattr(dict, name)

    def method(self: LazyFeatures, *args: Any, **kwargs: Any) -> Any:
        return plain(self._filled(), *args, **kwargs)

    method.__name__ = name
    return method


# all that a dictionary can be asked; with an `__iter__` of its own, copies such as `{**features}` ask, too
for _name in (
    *("__getitem__", "__iter__", "__len__", "__contains__", "__eq__", "__ne__", "__repr__", "__or__", "__ror__"),
    *("__setitem__", "__delitem__", "__ior__", "__reversed__", "keys", "values", "items", "get", "pop", "popitem"),
    *("copy", "update", "setdefault", "clear"),
):
    setattr(LazyFeatures, _name, _after_filling(_name))
