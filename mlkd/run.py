"""What the runs of students and teachers share: AdamW, validation chooses the epoch, the test set is for the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from common.data import Dataset
from common.training.engine import Trainer
from common.training.final_analysis import Extension
from common.training.method import Method
from common.training.run_training import Budget, RunSpec
from common.training.runs import RunDirectory
from common.training.runtime import Runtime
from common.training.schedules import Schedule
from common.training.teacher_records import LoadTeacher
from common.training.teachers import TeacherCheckpoint
from mlkd.data import DataFlags, SplitLoader
from mlkd.exits import Accuracies
from mlkd.outputs import NetworkFiles
from mlkd.teachers import PAPER

# Flags without which two runs are not the same, whatever is trained; a run is resumed with the same ones only
SAME_FLAGS = ("image_size", "mixup_alpha", "cutmix_alpha", "epochs", "batch_size")


@dataclasses.dataclass(frozen=True)
class RunFlags(DataFlags):
    """The flags that both scripts have, under their names; `name` is that of a run's files."""

    name: str
    epochs: int
    mixup_alpha: float
    cutmix_alpha: float
    save_frequency: int
    no_test: bool
    check_settings: bool


def make_spec(
    flags: RunFlags,
    runtime: Runtime,
    data: Dataset,
    loaders: Mapping[str, SplitLoader],
    method: Method,
    files: NetworkFiles,
    *,
    experiment: str,
    student: str,
    schedule: Schedule,
    weight_decay: float,
    published: tuple[int, int],
    settings: dict[str, Any],
    measure: Callable[[], Accuracies],
    messages: Sequence[str],
    extend_analysis: Extension = lambda *_: {},
    teachers: Sequence[TeacherCheckpoint] = (),
    load_teacher: LoadTeacher | None = None,
    accumulation_steps: int = 1,
    after_epoch: Callable[[Trainer], None] = lambda trainer: None,
    report: Callable[[Accuracies, Accuracies, RunDirectory], dict[str, Any]] = lambda *_: {},
) -> RunSpec:
    """The run of one of the scripts.

    Args:
        flags, runtime: what was asked for.
        data, loaders, method: what is trained on what.
        files: that the run leaves.
        experiment, student: what the tables know it by.
        schedule, weight_decay: of AdamW.
        published: epochs and batch size of the paper.
        settings: what makes two runs the same besides `SAME_FLAGS`.
        measure: test accuracies of the network as it is; called on all ranks.
        messages, teachers: for log and record.
        load_teacher: gives a teacher's network.
        extend_analysis: as of `RunSpec`.
        accumulation_steps: batches per update.
        after_epoch: called on the main process.
        report: makes of the test accuracies of the chosen and of the last network details of the record; called on the
            main process.

    Raises:
        UserError: networks of this run and of another would have one name.
    """

    def test(trainer: Trainer, run: RunDirectory | None) -> dict[str, Any]:
        if "test" not in loaders:
            return {}
        chosen = trainer.state.selection.best_epoch
        last = best = measure()
        if chosen != flags.epochs - 1:
            with trainer.state.weights_from(files.multi_exit_checkpoint):
                best = measure()
        if run is None:
            return {}
        accuracy = {"last": last["final"], "best": best["final"], "best_epoch": chosen}
        details = {**run.record.details, **report(best, last, run)}
        return {"accuracy": {**accuracy, "selected_by_validation": best["final"]}, "details": details}

    files.require_own(flags.epochs, flags.save_frequency)
    batch_size = flags.batch_size * runtime.world_size
    return RunSpec(
        paper=PAPER,
        experiment=experiment,
        student=student,
        method=method,
        make_optimizer=lambda parameters: torch.optim.AdamW(parameters, weight_decay=weight_decay),
        schedule=schedule,
        loaders={split: loaders[split] for split in ("train", "validation")},
        data=data,
        budget=Budget(flags.epochs, batch_size, *published, runtime.limit_train_batches),
        files=files.run_files,
        settings={
            "dataset": flags.dataset_name,
            "method": type(method).__name__,
            **settings,
            **{key: getattr(flags, key) for key in SAME_FLAGS},
            "global_batch_size": batch_size,
        },
        teachers=teachers,
        load_teacher=load_teacher,
        accumulation_steps=accumulation_steps,
        messages=[*messages, _batches_in_words(flags.batch_size, runtime.world_size, accumulation_steps)],
        title=f"{experiment} on {data.content}",
        after_epoch=lambda trainer, run: after_epoch(trainer),
        after_save=lambda trainer, run, metrics, is_best: files.save_networks(trainer, is_best, flags.save_frequency),
        test=loaders.get("test"),
        best_weights=files.multi_exit_checkpoint,
        extend_analysis=extend_analysis,
        after_training=test,
    )


def _batches_in_words(each: int, ranks: int, steps: int) -> str:
    text = f"global batch {each * ranks}: {each} images in each of {ranks} process{'es' * (ranks > 1)}"
    return text + (f", gradients of {steps} batches summed before an update" if steps > 1 else "")
