"""Networks beside their teachers on one dataset: what is said of each, and whether two students differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from common.analysis.mcnemar import McNemar
from common.analysis.metrics import accuracy, accuracy_by_group, agreement
from common.analysis.networks import analyze_teacher, with_mean
from common.command_line import LARGEST_NUMBER, SMALLEST_NUMBER
from common.data import BatchLoader, Dataset, ImageSet
from common.data.device_loader import evenly_spaced
from common.errors import UserError
from common.run_record import RunRecord
from common.training.evaluation import collect
from common.training.final_analysis import FINAL, TRAIN_IMAGES, analyze_outputs
from common.training.layouts import layout_for
from common.training.runtime import Runtime

MOST_DIFFERENT = 5  # classes


@dataclasses.dataclass(frozen=True)
class Source:
    """A trained network.

    Attributes:
        label: how a person knows it.
        network: on the CPU, in evaluation mode.
        record: of the run that trained it, where it was named by that.
    """

    label: str
    network: nn.Module
    record: RunRecord | None = None

    def outputs(self, images: Tensor) -> Mapping[str, Tensor]:
        """Logits by name, each [N, K]: `FINAL` and those of other exits."""
        return {FINAL: self.network(images)}


Networks = TypeVar("Networks", bound=Source)
OfNetworks = TypeVar("OfNetworks", bound=Source, contravariant=True)
Split = TypeVar("Split", bound=ImageSet)


class Images(Protocol[OfNetworks, Split]):
    """How a paper's networks see a dataset."""

    def batches(self, images: Split, source: OfNetworks) -> BatchLoader:
        """All of `images` in their order, as `source` takes them."""
        ...

    def parts(self, source: OfNetworks) -> tuple[Split, Split | None]:
        """What a source was trained on, and what chose its epoch, as far as that is known."""
        ...


@dataclasses.dataclass(frozen=True)
class Analysis(Generic[Networks, Split]):
    """Networks evaluated on one dataset, each once.

    Attributes:
        data: the dataset.
        images: how networks see it.
        runtime: where.
        test_images: the first so many of the test split; None for all.
        train_images: at most so many of the training split, evenly spaced; 0 leaves it out.
        temperature: for a second divergence; None for that of the student's method.
        add_mean: adds to several teachers' logits what they say together.
    """

    data: Dataset[Split]
    images: Images[Networks, Split]
    runtime: Runtime
    test_images: int | None = None
    train_images: int = TRAIN_IMAGES
    temperature: float | None = None
    add_mean: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = with_mean

    def __call__(self, students: Sequence[Networks], teachers: Sequence[Networks]) -> dict[str, Any]:
        """Everything that is said: `students`, `teachers`, and `comparison` where there are two students.

        Raises:
            UserError: a teacher that is named twice, or runs on different files of the dataset.
        """
        named = {teacher.label: teacher for teacher in teachers}
        if len(named) < len(teachers):
            labels = [teacher.label for teacher in teachers]
            raise UserError(f"--teacher: {next(each for each in labels if labels.count(each) > 1)} is given twice")
        _check_files([*students, *teachers])
        test = self.data.test
        if self.test_images is not None:
            test = test.take(np.arange(min(len(test), self.test_images)))
        on_test = self.add_mean({name: self._logits(teacher, test)[0][FINAL] for name, teacher in named.items()})
        found = [self._student(student, named, test, on_test) for student in students]
        logits = [each.pop("logits") for each in found]
        targets = torch.from_numpy(test.targets)
        result = {
            "data": self.data.describe(),
            "images": len(test),
            "students": found,
            "teachers": {name: analyze_teacher(each, targets) for name, each in on_test.items()},
        }
        if len(students) == 2:
            result["comparison"] = compare(logits[0], logits[1], targets, self.data.classes)
        return result

    def _logits(self, source: Networks, images: Split) -> tuple[dict[str, Tensor], Tensor]:
        """By name, each [N, K], and the targets [N]."""
        layout = layout_for(source.network, self.runtime)
        source.network.to(self.runtime.device).to(memory_format=layout)
        return collect(source.outputs, self.images.batches(images, source), self.runtime, layout)

    def _student(
        self, source: Networks, teachers: Mapping[str, Networks], test: Split, on_test: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        """`test` and `train` of a run's `analysis`, and the final logits on the test split.

        Args:
            source: the student.
            teachers: by name.
            test: the images of the test split.
            on_test: the teachers' logits on them, and their mean's.
        """
        found = {"test": self._logits(source, test)}
        train, validation = self.images.parts(source)
        if validation is not None:
            found["validation"] = self._logits(source, validation)
        temperature = self.temperature or _temperature_of(source)
        result: dict[str, Any] = {"test": analyze_outputs(found, on_test, self.data.classes, temperature)}
        if self.train_images:
            train = train.take(evenly_spaced(len(train), self.train_images))
            own, labels = self._logits(source, train)
            theirs = self.add_mean({name: self._logits(teacher, train)[0][FINAL] for name, teacher in teachers.items()})
            shares = {name: agreement(own[FINAL], each) for name, each in theirs.items()}
            result["train"] = {"images": len(train), "accuracy": accuracy(own[FINAL], labels), "agreement": shares}
        return {"label": source.label, "temperature": temperature, **result, "logits": found["test"][0][FINAL]}


def _check_files(sources: Sequence[Source]) -> None:
    prints = {s.record.data.get("fingerprint"): s.label for s in sources if s.record is not None}
    if len(prints) > 1:
        raise UserError(f"{' and '.join(prints.values())} were trained on different files of the dataset")


def _temperature_of(source: Source) -> float | None:
    """The temperature of the method that trained a student, where its run's record says it.

    Raises:
        UserError: it says what is none.
    """
    temperature = (source.record.analysis or {}).get("temperature") if source.record else None
    if temperature is None:
        return None
    is_number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not is_number or not SMALLEST_NUMBER <= temperature <= LARGEST_NUMBER:
        raise UserError(f"the record of {source.label} has the temperature {temperature!r:.40}: give --temperature")
    return temperature


def compare(a: Tensor, b: Tensor, targets: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Two students on the same test images: agreement, where they differ, McNemar's test."""
    test, each = McNemar.of(a, b, targets), torch.arange(len(classes))
    by_class = zip(classes, accuracy_by_group(a, targets, each), accuracy_by_group(b, targets, each), strict=True)
    gaps = {name: y - x for name, x, y in by_class if x is not None and y is not None}
    widest = sorted(gaps, key=lambda name: -abs(gaps[name]))[:MOST_DIFFERENT]
    low, high = test.interval
    return {
        "agreement": agreement(a, b),
        "both": test.both,
        "only_a": test.only_a,
        "only_b": test.only_b,
        "neither": test.neither,
        "neither_and_different": test.neither - int(((a.argmax(1) == b.argmax(1)) & (a.argmax(1) != targets)).sum()),
        "difference": test.difference,
        "interval": [low, high],
        "p": test.p,
        "classes": {name: gaps[name] for name in widest},
    }
