"""`run.json`, the record of a run. It is written and read here and nowhere else.

Version 2 holds under one name, whatever the paper, what tables and later runs ask for, and one segment for each start
of the run: the code, software and hardware that computed its epochs. Records of version 1 are converted when read.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from common.errors import UserError
from common.field_types import require_field_types
from common.safe_json import read_json_text, read_text

VERSION = 2
NAME, METRICS = "run.json", "metrics.jsonl"
SWEEPS = "sweeps"  # directory below a budget's, of searches over hyperparameters; tables skip it
SET_ASIDE = "set_aside"  # directory below a run's, of runs that another has taken the place of; readers skip it
SKIPPED = (SET_ASIDE, SWEEPS)
_PERCENTAGES = ("last", "best", "selected_by_validation")
TRAINED_HERE = "trained here"  # begins the origin of a teacher that an earlier run left


class _Data(TypedDict):
    content: str
    fingerprint: str


class Data(_Data, total=False):
    """What a record says of its data (`common.data.Dataset.describe`)."""

    name: str
    classes: int
    train_images: int
    test_images: int
    validation_images: int


class Limits(TypedDict):
    """What a record says of its budget (`common.training.run_training.Budget.describe`)."""

    epochs: int
    published_epochs: int
    published_batch_size: int | None
    batches: int | None


class Figures(TypedDict, total=False):
    """Accuracies in percent, and the epoch of the best."""

    last: float | None
    best: float | None
    best_epoch: int | None
    selected_by_validation: float | None


class Teacher(TypedDict, total=False):
    """What a record says of a teacher (`common.training.teachers.TeacherCheckpoint.describe`)."""

    name: str
    path: str
    digest: str | None
    origin: str | None
    trained_on: str | None
    accuracy: float
    accuracy_on: str


class _Hardware(TypedDict):
    cpu: str | None
    gpu: str | None


class Hardware(_Hardware, total=False):
    """What a segment was computed on."""

    host: str
    threads: int


class _Computing(TypedDict):
    device: str
    amp: str


class Computing(_Computing, total=False):
    """How a segment was to be computed (`common.training.runtime.Runtime.settings`)."""

    compile: bool
    plain: bool
    tf32: bool
    graphs: bool
    teacher_cache: str
    world_size: int


@dataclasses.dataclass
class Segment:
    """What one start of a run computed.

    Attributes:
        first_epoch: from 0.
        epochs: finished in it.
        started: time, ISO 8601 in UTC.
        commit: of the code.
        versions: of Python, PyTorch and CUDA.
        hardware: host, CPU and its threads, GPU.
        runtime: device, precision, ranks, and what makes steps fast.
        execution: how steps and evaluation really ran; None before the first epoch has ended.
    """

    first_epoch: int
    epochs: int
    started: str
    commit: str
    versions: dict[str, Any]
    hardware: Hardware
    runtime: Computing
    execution: dict[str, Any] | None = None


@dataclasses.dataclass
class RunRecord:
    """A run as its own file tells it.

    Attributes:
        paper, experiment: the name by which tables find it.
        method, student: what is trained.
        batch_size: samples per step over all ranks.
        seed: of everything random.
        settings: everything that makes two runs the same, but the teachers.
        teachers: of each name, path, digest, origin in words and the fingerprint of what it was trained on.
        data: name, content in words, fingerprint, and numbers of classes and images.
        budget: `epochs`, `published_epochs`, `published_batch_size`, and `batches` (at most per epoch, or None).
        command, directory: what was typed last, and where.
        status: "running", "done", "failed" or "stopped".
        started, finished: times of the first start and of the end, ISO 8601 in UTC.
        error: why it failed.
        epochs_done, seconds: how far it came, and how long that took.
        accuracy: in percent: `last`, `best`, `best_epoch` and `selected_by_validation`; None before the first epoch.
        validation: the same of runs that never see the test set while they train.
        analysis: fidelity to the teacher and calibration of the best and the last epoch (docs/metrics.md); None of runs
            that are not finished, or were before there was one.
        details: what only some papers have to say.
        segments: one for each start.
    """

    paper: str
    experiment: str
    method: str | None
    student: str | None
    batch_size: int | None
    seed: int
    settings: dict[str, Any]
    data: Data
    budget: Limits
    teachers: list[Teacher] = dataclasses.field(default_factory=list)
    command: list[str] = dataclasses.field(default_factory=list)
    directory: str = ""
    status: str = "running"
    started: str = ""
    finished: str | None = None
    error: str | None = None
    epochs_done: int = 0
    seconds: float = 0.0
    accuracy: Figures | None = None
    validation: Figures | None = None
    analysis: dict[str, Any] | None = None
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    segments: list[Segment] = dataclasses.field(default_factory=list)

    @property
    def done(self) -> bool:
        return self.status == "done"

    @property
    def computed(self) -> list[Segment]:
        """The segments that finished an epoch; the last one where none did."""
        return [segment for segment in self.segments if segment.epochs] or self.segments[-1:]

    @property
    def mixed(self) -> list[str]:
        """In what these segments differ: commit, versions, hardware and how they computed, but for the host's name."""
        described = [{"commit": s.commit, **s.versions, **s.hardware, **s.runtime} for s in self.computed]
        names = dict.fromkeys(name for segment in described for name in segment if name != "host")
        return [name for name in names if len({str(s[name]) for s in described if name in s}) > 1]

    def summary(self) -> str:
        """The accuracies in words."""
        if self.accuracy is not None:
            split = "test"
            figures = {
                "last epoch": self.accuracy.get("last"),
                "best epoch": None if self.validation else self.accuracy.get("best"),
                "chosen by validation": self.accuracy.get("selected_by_validation"),
            }
        elif self.validation:
            split = "validation"
            figures = {"last epoch": self.validation.get("last"), "chosen epoch": self.validation.get("best")}
        else:
            return "no epoch is finished"
        parts = [f"{words} {figure:.2f}" for words, figure in figures.items() if figure is not None]
        return f"{split} accuracy: {', '.join(parts)}"

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, **dataclasses.asdict(self)}


def parse_record(content: Any) -> RunRecord:
    """A record from the content of its file.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is not one.
    """
    if not isinstance(content, Mapping):
        raise TypeError("a record is an object")
    content = dict(content)
    version = content.pop("version", 1)
    if version == 1:
        content = _from_version_1(content)
    elif version != VERSION:
        raise ValueError(f"a record of version {version!r}, which this code does not know")
    segments = [Segment(**segment) for segment in content.pop("segments")]
    record = RunRecord(**content, segments=segments)
    require_field_types(record)
    percentages = [(of or {}).get(key) for of in (record.accuracy, record.validation) for key in _PERCENTAGES]
    if not all(value is None or 0 <= value <= 100.0001 for value in percentages):
        raise ValueError("an accuracy that is no percentage")
    return record


def read_record(directory: Path) -> RunRecord | None:
    """The record of the run in a directory; None where there is none, or one that cannot be read."""
    try:
        return parse_record(read_json_text(read_text(directory / NAME)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of the `metrics.jsonl` of the run in a directory, one for each epoch in their order.

    Raises:
        OSError: there is none that can be read.
        ValueError: a line that is not of an epoch.
    """
    lines = [read_json_text(line) for line in read_text(directory / METRICS).splitlines()]
    if not all(isinstance(line, dict) and line.get("epoch") == epoch for epoch, line in enumerate(lines)):
        raise ValueError("its lines are not those of epochs")
    return lines


def find_records(root: Path) -> Iterator[tuple[Path, RunRecord]]:
    """Directory and record of all runs below `root`, but of those set aside."""
    for folder in record_directories(root):
        if record := read_record(folder):
            yield folder, record


def record_directories(root: Path) -> Iterator[Path]:
    """Directories below `root` that have a `run.json`; links are not followed, so that no run is met twice."""
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if name not in SKIPPED)
        if NAME in names:
            yield Path(folder)


# ------------------------------------------------------------------------------------------------------------ version 1

# what the papers' settings called the same, before records had one name for each
_FORMER_NAMES = {
    "method": ("method", "DISTILLER.TYPE"),
    "student": ("student", "DISTILLER.STUDENT", "model_version", "model"),
    "batch_size": ("global_batch_size", "batch_size", "SOLVER.BATCH_SIZE"),
}
_FIELDS = {field.name for field in dataclasses.fields(RunRecord)} - {"teachers", "segments", "details", "settings"}
_PROVENANCE = ("commit", "versions", "hardware", "runtime", "execution")


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record of version 1, whose one segment is the last start."""
    settings, digests = split_teacher_files(content["settings"])
    former = {
        name: next((settings[key] for key in keys if key in settings), None) for name, keys in _FORMER_NAMES.items()
    }
    described = content.pop("teachers", None) or content.pop("teacher", None) or []
    teachers = [dict(one) for one in (described if isinstance(described, list) else [described])]
    names = settings.get("DISTILLER.TEACHER") or settings.get("teachers") or []
    names = names if isinstance(names, list) else [names]
    for teacher, name in zip(teachers, names, strict=False):
        teacher.setdefault("name", name["name"] if isinstance(name, dict) else name)
    for teacher, digest in zip(teachers, digests, strict=False):
        teacher.setdefault("digest", digest)
    data = dict(content["data"])
    data["content"] = data["content"].replace("synthetic data set", "synthetic dataset", 1)
    hardware, runtime = content["hardware"], content["runtime"]
    segment = {
        "first_epoch": 0,
        "epochs": content.get("epochs_done", content["budget"]["epochs"]),
        "started": content["started"],
        "commit": content["commit"],
        "versions": content.get("versions", {}),
        "hardware": {"gpu": hardware["gpu"], "cpu": hardware["cpu"], **hardware},
        "runtime": {"device": runtime["device"], "amp": runtime["amp"], **runtime},
        "execution": content.get("execution"),
    }
    budget = {"published_batch_size": former["batch_size"], **content["budget"]}
    known = {key: value for key, value in content.items() if key in _FIELDS}
    details = {key: v for key, v in content.items() if key not in {*_FIELDS, *_PROVENANCE, "settings", "teacher"}}
    return {
        **former,
        "seed": settings["seed"],
        **known,
        "settings": settings,
        "teachers": teachers,
        "data": data,
        "budget": budget,
        "details": details,
        "segments": [segment],
    }


def split_teacher_files(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Settings without the digests of teachers that those of version 1 hold, and these digests."""
    settings = dict(settings)
    if "teacher_files" in settings:
        return settings, settings.pop("teacher_files")
    if "DISTILLER.TEACHER" in settings and "teacher" in settings:
        digests = settings.pop("teacher")
        return settings, digests.split("+") if digests else []
    members = settings.get("teachers")
    if isinstance(members, Sequence) and members and all(isinstance(m, Mapping) and "checkpoint" in m for m in members):
        settings["teachers"] = [{k: v for k, v in m.items() if k != "checkpoint"} for m in members]
        return settings, [member["checkpoint"] for member in members]
    return settings, []


def require_record(directory: Path) -> RunRecord:
    """The record of the run in a directory.

    Raises:
        UserError: there is none that can be read.
    """
    if (record := read_record(directory)) is None:
        raise UserError(f"{directory} holds no record of a run ({NAME})")
    return record
