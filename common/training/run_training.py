"""From a run's specification to its finished record: the same for every script of every paper."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from common.data import BatchLoader, Dataset
from common.errors import UserError
from common.run_record import Limits, RunRecord, Segment, Teacher, read_record
from common.training.engine import Loaders, Trainer
from common.training.final_analysis import Extension, analyze_run
from common.training.method import Method
from common.training.remember_teachers import remember_teachers
from common.training.run_state import LENGTH, RunState
from common.training.runs import RunDirectory, RunFiles
from common.training.runtime import Runtime
from common.training.schedules import Schedule
from common.training.teacher_records import LoadTeacher, accuracy_of
from common.training.teachers import TeacherCheckpoint
from common.training.training_step import Optimization


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much a run trains, beside what is published.

    Attributes:
        epochs, batch_size: of the run; samples per step over all ranks.
        published_epochs, published_batch_size: of the paper.
        batches: limit per epoch.
    """

    epochs: int
    batch_size: int
    published_epochs: int
    published_batch_size: int
    batches: int | None = None

    def describe(self) -> Limits:
        """The same for a record, which has the batch size elsewhere."""
        return {
            "epochs": self.epochs,
            "published_epochs": self.published_epochs,
            "published_batch_size": self.published_batch_size,
            "batches": self.batches,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What one run differs from others by.

    Attributes:
        paper, experiment: the name by which tables find it.
        student: name of the network that is trained.
        method: losses and student, not yet on the device.
        method_name: what records call it; its class's name where that is left out.
        make_optimizer: from the trainable parameters.
        schedule: learning rate by position.
        loaders: `train`, and `test` or `validation` or both; without `test` the validation loss chooses the epoch.
        data: what they load.
        budget: how much is trained.
        files: where the run writes.
        settings: everything that makes two runs the same, but the teachers.
        length: those of them that say how long the run is: the number of epochs, and what follows from it.
        teachers: of the student.
        accumulation_steps: batches whose gradients are summed before an update.
        messages: lines of the log before training.
        title: what the log begins with.
        details: what only this paper's records say.
        load_teacher: gives the network by which a teacher's accuracy is measured.
        initialize: called on all ranks unless the run is resumed, before anything is written.
        on_start: called on the main process once the run's directory is its own.
        after_epoch: called on the main process before the checkpoint of an epoch is written: what the next epoch
            forgets.
        after_save: called on the main process once it is there, and again where a run is resumed from it, with the
            metrics of the monitored split and whether they are the best: what the checkpoint tells.
        test: batches to analyze the finished run on; those that training tests on where it does.
        best_weights: file with the student of the best epoch, where its script keeps that itself.
        extend_analysis: what this paper says besides, in the record's `analysis`; called on the main process.
        after_training: called on all ranks; gives fields of the record.
    """

    paper: str
    experiment: str
    student: str
    method: Method
    make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    schedule: Schedule
    loaders: Mapping[str, BatchLoader]
    data: Dataset
    budget: Budget
    files: RunFiles
    settings: Mapping[str, Any]
    length: Sequence[str] = LENGTH
    method_name: str = ""
    teachers: Sequence[TeacherCheckpoint] = ()
    accumulation_steps: int = 1
    messages: Sequence[str] = ()
    title: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    load_teacher: LoadTeacher | None = None
    initialize: Callable[[Trainer], None] = lambda trainer: None
    on_start: Callable[[RunDirectory], None] = lambda run: None
    after_epoch: Callable[[Trainer, RunDirectory], None] = lambda *_: None
    after_save: Callable[[Trainer, RunDirectory, dict[str, float], bool], None] = lambda *_: None
    test: Any = None
    best_weights: Path | None = None
    extend_analysis: Extension = lambda *_: {}
    after_training: Callable[[Trainer, RunDirectory | None], dict[str, Any]] = lambda *_: {}

    def compared_settings(self) -> dict[str, Any]:
        """What two runs must share to be one, but what is the runtime's and the teachers'."""
        return {**self.settings, **self.data.compared_settings()}

    def record(self, runtime: Runtime) -> RunRecord:
        """What `run.json` says from the start."""
        return RunRecord(
            paper=self.paper,
            experiment=self.experiment,
            method=self.called,
            student=self.student,
            batch_size=self.budget.batch_size,
            seed=runtime.seed,
            settings={**self.compared_settings(), **runtime.compared_settings()},
            teachers=[teacher.describe() for teacher in self.teachers],
            data=self.data.describe(),
            budget=self.budget.describe(),
            details=dict(self.details),
        )

    @property
    def called(self) -> str:
        """The method's name."""
        return self.method_name or type(self.method).__name__

    @property
    def best_file(self) -> Path | None:
        """Where the student of the best epoch goes."""
        return self.best_weights or self.files.checkpoints.best


def run_training(spec: RunSpec, runtime: Runtime, *, resume: bool, overwrite: bool) -> None:
    """Train to the end, or from where `resume` finds the run, and print the accuracies.

    Raises:
        UserError: a directory that holds another run, or a finished one; a checkpoint that does not fit.
        TrainingError: training that cannot go on.
    """
    teacher_files = [teacher.digest for teacher in spec.teachers]
    trainer = Trainer(
        spec.method,
        Optimization(spec.make_optimizer, spec.schedule, spec.budget.epochs, spec.accumulation_steps),
        Loaders(**spec.loaders),
        runtime,
        spec.files.checkpoints,
        {**spec.compared_settings(), **({"teacher_files": teacher_files} if teacher_files else {})},
        length=spec.length,
    )
    before, record = read_record(spec.files.directory), spec.record(runtime)
    resumed = resume and trainer.resume()
    if resumed and before is not None and before.done and trainer.state.epochs_done == trainer.epochs:
        if runtime.is_main:
            print(f"{spec.files.directory} is finished: {before.summary()}")
        return
    if not resumed:
        _require_free(spec, before, record, runtime, overwrite)
        spec.initialize(trainer)
    run = None
    if runtime.is_main:
        segments = segments_until(before, trainer.state.epochs_done) if resumed else []
        run = RunDirectory(
            spec.files,
            record,
            runtime.settings(),
            before=before,
            history=trainer.state.history,
            segments=segments,
            set_aside=not resumed and (before is None or before.epochs_done > 0),
        )
    with contextlib.nullcontext() if run is None else run.closed_on_error():
        if run is not None:
            _log_title(spec, run)
        _add_accuracies(spec, record.teachers, runtime, run)
        if run is not None:
            run.update(teachers=record.teachers)
            for message in _messages(spec, run, trainer, resumed):
                run.log(message)
            spec.on_start(run)
        remember_teachers(trainer, spec.data)
    trainer.fit(
        run,
        run and (lambda: spec.after_epoch(trainer, run)),
        run and (lambda metrics, is_best: spec.after_save(trainer, run, metrics, is_best)),
        lambda: finish(spec, trainer, run),
    )
    if run is not None:
        print(run.record.summary())


def finish(spec: RunSpec, trainer: Trainer, run: RunDirectory | None) -> dict[str, Any]:
    """Analyze the trained networks, then do what the script does after training; gives fields of the record."""
    test = spec.test or spec.loaders.get("test")
    if test is not None:
        names = [teacher.name for teacher in spec.teachers]
        analysis = analyze_run(trainer, test, names, spec.data.classes, spec.best_file, run, spec.extend_analysis)
        if run is not None:
            run.update(analysis=analysis)
    return spec.after_training(trainer, run)


def _log_title(spec: RunSpec, run: RunDirectory) -> None:
    """What is trained, and what a person must know at once; before anything that takes long."""
    if spec.data.is_synthetic:
        run.log(f"SYNTHETIC DATA: {spec.data.name} is generated, not the real dataset")
    run.log(spec.title or f"{spec.called}: {spec.student} on {spec.data.name} ({spec.data.content})")
    if run.set_aside:
        run.log(f"what an earlier run left was set aside: {run.set_aside}")


def _add_accuracies(spec: RunSpec, described: list[Teacher], runtime: Runtime, run: RunDirectory | None) -> None:
    """Complete what the record says of the teachers, where their networks can be had; called on all ranks."""
    split = next((name for name in ("test", "validation") if name in spec.loaders), None)
    if spec.load_teacher is None or split is None:
        return
    report = run.log if run is not None else lambda message: None
    for teacher, entry in zip(spec.teachers, described, strict=True):
        accuracy = accuracy_of(teacher, spec.load_teacher, spec.data, split, spec.loaders[split], runtime, report)
        entry |= {"accuracy": accuracy, "accuracy_on": split}


def _messages(spec: RunSpec, run: RunDirectory, trainer: Trainer, resumed: bool) -> list[str]:
    messages: list[str] = []
    for teacher, recorded in zip(spec.teachers, run.record.teachers, strict=True):
        measured = ""
        if "accuracy" in recorded and "accuracy_on" in recorded:
            measured = f": {recorded['accuracy_on']} accuracy {recorded['accuracy']:.2f}"
        messages.append(f"teacher {teacher.name} from {teacher.path} ({teacher.origin}){measured}")
    mine = spec.budget.epochs, spec.budget.published_epochs, spec.budget.batches
    messages += [line for teacher in spec.teachers for line in teacher.messages_on_budget(*mine)]
    messages += [line for teacher in spec.teachers for line in teacher.messages_on_data(spec.data.fingerprint)]
    messages += [*spec.data.messages, *spec.method.messages, *spec.messages]
    if resumed:
        messages.append(f"resuming after epoch {trainer.state.epochs_done}/{trainer.epochs}")
        messages += messages_on_best(spec.best_file, trainer.state)
    return messages


def messages_on_best(file: Path | None, state: RunState) -> list[str]:
    """What a person should know about the checkpoint of the best epoch before a run goes on; `last` may replace it."""
    epoch = state.selection.best_epoch
    try:
        if file is not None and epoch >= 0 and not state.last_is_best:
            state.require_best(file)
    except UserError as error:
        return [f"warning: {error}: the network of the best epoch, {epoch + 1}, is lost unless a later one is as good"]
    return []


def segments_until(before: RunRecord | None, epochs: int) -> list[Segment]:
    """The segments of a run's record that computed its first `epochs` epochs, which its checkpoint holds.

    A record may be an epoch behind its checkpoint, where the run was killed between the two.
    """
    segments = [dataclasses.replace(s) for s in (before.segments if before else []) if s.first_epoch < epochs]
    for segment, following in itertools.zip_longest(segments, segments[1:]):
        segment.epochs = (following.first_epoch if following else epochs) - segment.first_epoch
    return [segment for segment in segments if segment.epochs > 0]


def _require_free(
    spec: RunSpec, before: RunRecord | None, record: RunRecord, runtime: Runtime, overwrite: bool
) -> None:
    """Refuse to take the place of a finished run, or of another one that has come to something; ranks agree.

    Raises:
        UserError: says what is there, and what to do.
    """
    problem = None
    if runtime.is_main and before is not None and not overwrite:
        problem = _problem_with(spec, before, record)
    if runtime.distributed:
        outcome = [problem]
        dist.broadcast_object_list(outcome, 0)
        problem = outcome[0]
    if problem:
        raise UserError(problem)


def _problem_with(spec: RunSpec, before: RunRecord, record: RunRecord) -> str | None:
    """Why the run of `record` may not start where that of `before` is; None where it may."""
    place = spec.files.directory
    advice = "--overwrite sets it aside and starts again"
    record = dataclasses.replace(record, settings=json.loads(json.dumps(record.settings)))  # tuples as lists
    same = (before.experiment, before.settings) == (record.experiment, record.settings)
    same = same and _digests(before) == _digests(record)
    if same and before.done:
        return f"{place} holds this run, finished ({before.summary()}): --resume says so and leaves it, {advice}"
    if same or not before.epochs_done:
        return None
    how = "a finished run" if before.done else f"a run of which {before.epochs_done} epochs are done"
    return (
        f"{place} holds {how} of '{before.experiment}' with {_difference(before, record)}: give its own flags and "
        f"--resume to continue it; {advice}"
    )


def _digests(record: RunRecord) -> list[str | None]:
    return [teacher.get("digest") for teacher in record.teachers]


def _difference(before: RunRecord, record: RunRecord) -> str:
    """The first settings in which two runs differ, in words."""
    old, new = before.settings, record.settings
    keys = [key for key in {**new, **old} if old.get(key) != new.get(key)]
    if not keys:
        return "another teacher" if _digests(before) != _digests(record) else "other flags"
    words = [f"{key} = {old.get(key)!r:.40}, not {new.get(key)!r:.40}" for key in keys[:2]]
    return " and ".join(words)
