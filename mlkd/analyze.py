"""What a student of this paper took from its teachers, at each exit: `python3 analyze.py models/student_model`.

STUDENT, TEACHER and OTHER are directories of runs (`models/<name>`), a student's `best.pth`, or NAME:FILE, a network by
timm's name. A run's own teachers are taken where neither --teacher nor --ensemble is given. Prints tables;
docs/metrics.md has the definitions.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any directory, installed or not
    from common.interrupts import stop_in_imports

    stop_in_imports()

from torch import Tensor

from common.analysis import MEAN
from common.analysis.networks import with_mean
from common.analyze.analysis import Source
from common.analyze.flags import (
    add_analysis_flags,
    analyze_named,
    record_of,
    recorded_teachers,
    report,
    require_purpose,
)
from common.command_line import LARGEST_NUMBER, ArgumentParser, cli_main, resolve_path, settings_from
from common.data import Dataset
from common.data.image_files import CROP
from common.errors import UserError
from common.field_types import require_field_types
from common.run_record import NAME, RunRecord
from common.training.checkpoints import apply_weights, load_checkpoint, model_weights
from common.training.runtime import TRAINING_ONLY, Runtime, add_runtime_flags, runtime_from
from mlkd.data import (
    BATCH_SIZE,
    DATASETS,
    DataFlags,
    DatasetImages,
    SplitLoader,
    add_data_flags,
    image_size,
    load_data,
    network_input,
    part_batches,
    train_and_validation,
)
from mlkd.ensemble import Ensemble, read_ensemble
from mlkd.student import MultiResNetV2
from mlkd.teachers import PAPER, InputSpec, create_network, find_checkpoint, is_architecture, load_teachers

EARLY_EXITS = "middle_fc"  # begins the names of weights that the student alone has
FILES = {"best": "best.pth", "last": "last.pth.tar"}  # of a run's directory


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    add_analysis_flags(parser, "a student's best.pth, or NAME:FILE with a network of timm's")
    parser.add_argument("--ensemble", metavar="FILE", help="JSON that names several teachers, in place of --teacher")
    add_data_flags(parser)
    add_runtime_flags(parser, without=TRAINING_ONLY)
    parser.set_defaults(dataset=None, image_size=None, batch_size=BATCH_SIZE)
    args = parser.parse_args()
    if args.ensemble and args.teacher:
        parser.error("give --teacher or --ensemble, not both")
    settings = RecordedSettings.of(args.student)
    args.dataset = args.dataset or settings.dataset
    args.image_size = args.image_size or settings.image_size
    return args


class _Weighed(TypedDict):
    weight: float


@dataclasses.dataclass(frozen=True)
class RecordedSettings:
    """What is read here of the settings of a student's run; the defaults are those of a file."""

    dataset: str = "oxford-iiit"
    image_size: int = CROP
    teachers: list[_Weighed] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, student: str) -> RecordedSettings:
        """Raises:
        UserError: they are not those of a run of this paper.
        """
        record = record_of(student)
        if record is None or record.paper != PAPER:
            return cls()
        names = [field.name for field in dataclasses.fields(cls)]
        settings = cls(**{name: record.settings[name] for name in names if name in record.settings})
        try:
            settings._check()
        except (TypeError, argparse.ArgumentTypeError) as error:
            raise UserError(f"the record of {student} is not that of a run of this paper: {error}") from error
        if settings.teachers and len(settings.teachers) != len(record.teachers):
            raise UserError(
                f"the record of {student} weighs {len(settings.teachers)} teachers and names {len(record.teachers)}"
            )
        return settings

    def _check(self) -> None:
        require_field_types(self)
        image_size(str(self.image_size))
        if self.dataset not in DATASETS:
            raise TypeError(f"its dataset is {self.dataset!r:.60}")
        if odd := [each["weight"] for each in self.teachers if abs(each["weight"]) > LARGEST_NUMBER]:
            raise TypeError(f"a teacher's weight is {odd[0]:g}")


@dataclasses.dataclass(frozen=True)
class Student(Source):
    """A network with early exits."""

    network: MultiResNetV2

    def outputs(self, images: Tensor) -> Mapping[str, Tensor]:
        return self.network.heads(images)


@dataclasses.dataclass(frozen=True)
class PaperImages:
    """How the networks of this paper see a dataset.

    Attributes:
        flags: about data.
        data: the dataset.
        runtime: where they are computed.
    """

    flags: DataFlags
    data: Dataset[DatasetImages]
    runtime: Runtime

    def batches(self, images: DatasetImages, source: Source) -> SplitLoader:
        # the limit is one of the test split alone, which has been cut
        return part_batches(self.flags, images, dataclasses.replace(self.runtime, limit_eval_batches=None))

    def parts(self, source: Source) -> tuple[DatasetImages, DatasetImages]:
        return train_and_validation(self.data)


def open_source(text: str, given: InputSpec, dataset: str, epoch: str) -> Source:
    """The network that `text` names.

    Args:
        text: a run's directory, a student's file, or NAME:FILE.
        given: what it is given.
        dataset: that it is to be evaluated on.
        epoch: "best" or "last", of a run.

    Raises:
        UserError: nothing there, weights of another network or class count, or a run of another dataset or paper.
    """
    if record := record_of(text):
        return _from_run(Path(text).parent if Path(text).name == NAME else Path(text), record, given, dataset, epoch)
    name, separator, file = text.partition(":")
    if separator and is_architecture(name):
        (teacher,) = load_teachers([(name, file)], given)
        return Source(f"{name} ({os.path.relpath(teacher.checkpoint.path)})", teacher.network)
    path = find_checkpoint(text)
    if path is None:
        raise UserError(f"no run and no checkpoint {text}")
    weights = model_weights(load_checkpoint(path), path)
    if not any(key.startswith(EARLY_EXITS) for key in weights):
        raise UserError(
            f"{path} has no early exits: say which of timm's networks it is, NAME:{text} (resnetv2_50x1_bit:{text} for "
            "a student's models/<name>.pth)"
        )
    return _student(os.path.relpath(path), weights, path, given)


def _from_run(directory: Path, record: RunRecord, given: InputSpec, dataset: str, epoch: str) -> Source:
    if record.paper != PAPER:
        raise UserError(f"{directory} is a run of {record.paper}: `python -m common.analyze` analyzes it")
    if record.settings.get("dataset") != dataset:
        raise UserError(f"{directory} was trained on {record.settings.get('dataset')!s:.40}, not on {dataset}")
    path, label = directory / FILES[epoch], f"{record.experiment}, seed {record.seed}, {epoch} epoch"
    if not path.is_file():
        raise UserError(f"{directory} has no weights of its {epoch} epoch ({path.name}): were they deleted?")
    weights = model_weights(load_checkpoint(path), path)
    if any(key.startswith(EARLY_EXITS) for key in weights):
        return _student(label, weights, path, given, record)
    network = create_network(record.student or "", given)
    apply_weights(network, weights, path, f"{record.student} with {given.classes} classes")
    return Source(label, network, record)


def _student(
    label: str, weights: Mapping[str, Tensor], path: Path, given: InputSpec, record: RunRecord | None = None
) -> Student:
    network = MultiResNetV2(given.classes).eval()
    apply_weights(network, weights, path, f"a student with {given.classes} classes")
    return Student(label, network, record)


def chosen_teachers(args: argparse.Namespace) -> tuple[list[str], list[float] | None]:
    """What names the teachers, and their weights in an ensemble; None where nothing weighs them."""
    if args.teacher:
        return args.teacher, None
    if args.ensemble:
        file = read_ensemble(resolve_path(args.ensemble, PAPER))
        file.require_architectures()
        return [":".join(each) for each in zip(file.names, file.checkpoints, strict=True)], list(file.weights)
    weights = [each["weight"] for each in RecordedSettings.of(args.student).teachers]
    return [f"{name}:{path}" for name, path in recorded_teachers(args.student)], weights or None


def add_weighted_mean(weights: list[float] | None) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """Adds to several teachers' logits those of the ensemble with these weights."""
    if weights is None:
        return with_mean
    combine = Ensemble((), weights).combine
    return lambda logits: {**logits, MEAN: combine(logits.values())} if len(logits) > 1 else dict(logits)


def analyze(args: argparse.Namespace, runtime: Runtime) -> dict[str, Any]:
    """What `Analysis` says of the networks that the flags name."""
    teachers, weights = chosen_teachers(args)
    is_there = record_of(args.student) is not None or find_checkpoint(args.student) is not None
    require_purpose(args, has_teachers=bool(teachers), is_there=is_there)
    flags = settings_from(DataFlags, args)
    data = load_data(flags)
    given = network_input(flags, data)
    images, mean = PaperImages(flags, data, runtime), add_weighted_mean(weights)

    def opened(text: str) -> Source:
        return open_source(text, given, flags.dataset_name, args.epoch)

    return analyze_named(args, teachers, opened, data, images, runtime, mean)


@cli_main
def main() -> None:
    args = parse_arguments()
    with runtime_from(args) as runtime:
        if runtime.distributed:
            raise UserError("analyze.py runs in one process: start it without torchrun")
        report(args, analyze(args, runtime))


if __name__ == "__main__":
    main()
