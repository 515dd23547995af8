"""The papers' own scripts from the command line on a synthetic dataset: trained, resumed, and their records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.first_run.verdicts import Check, CheckError, Finding, Place
from common.command_line import REPOSITORY
from common.data.synthetic import write_generated
from common.models import create_model
from common.run_record import RunRecord, find_records, record_directories
from common.training.checkpoints import save_checkpoint

LIMIT = 90.0  # seconds of a command


def call(script: str, arguments: list[str], place: Place) -> str:
    """Run a script in the scratch directory; returns what it printed.

    Raises:
        CheckError: any exit code but 0.
    """
    command = [sys.executable, str(REPOSITORY / script), *arguments, "--device", str(place.device)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(
        command, cwd=place.scratch, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if ended.returncode:
        last = (ended.stderr.strip() or "no message").splitlines()[-1]
        raise CheckError(f"{script} ended with exit code {ended.returncode}: {last[:200]}", log=ended.stderr)
    return ended.stdout


def record_of(place: Path) -> RunRecord:
    """The one record below a directory.

    Raises:
        CheckError: there is none, or the run is not done.
    """
    records = [record for _, record in find_records(place)]
    if len(records) != 1:
        raise CheckError(f"{len(records)} records where one run was")
    if not records[0].done:
        raise CheckError(f"the record says {records[0].status}: {records[0].error}")
    return records[0]


def finding_of(record: RunRecord, place: Place, *, captured: bool) -> Finding:
    """What a run's record says of how it ran.

    Raises:
        CheckError: on a GPU, steps or evaluation that ought to have been captured and were not.
    """
    execution = record.segments[-1].execution or {}
    if place.device.type == "cuda":
        wanted = ("step", "evaluation") if captured else ()
        if eager := [f"{part} {execution[part]}" for part in wanted if execution[part] != "captured"]:
            raise CheckError(f"not captured: {'; '.join(eager)}")
        if not execution["peak_memory_mib"]:
            raise CheckError("the record has no peak of memory")
    text = f"step {execution['step']}, evaluation {execution['evaluation']}, layout {execution['layout']}"
    return Finding(f"{text}, {record.seconds:.1f} s of training", {"execution": execution})


def generated(place: Place, layout: str = "cifar-100") -> list[str]:
    """Flags of a run on a small synthetic dataset."""
    write_generated(place.scratch / "data", layout, train_per_class=3, test_per_class=1)
    return ["--data-dir", str(place.scratch / "data"), "--no-download"]


def check_tfkd(place: Place) -> Finding:
    """`tfkd/main.py`, Tf-KD_reg: two epochs, evaluated by `tfkd/evaluate.py`; resuming leaves a finished run alone."""
    where, experiment = generated(place), place.scratch / "experiment"
    experiment.mkdir()
    published = json.loads((REPOSITORY / "experiments/base_experiments/base_resnet18/params.json").read_text())
    params = {**published, "model_version": "shufflenet_v2", "batch_size": 16}
    (experiment / "params.json").write_text(json.dumps(params))
    run = ["--model_dir", str(experiment), *where, "--regularization"]
    call("tfkd/main.py", [*run, "--epochs", "2"], place)
    record = record_of(experiment)
    call("tfkd/main.py", [*run, "--epochs", "2", "--resume"], place)
    if record_of(experiment) != record:
        raise CheckError("resuming a finished run changed its record")
    call(
        "tfkd/evaluate.py",
        ["--model_dir", str(experiment), "--restore_file", "Tf-KD_regularization/best", *where],
        place,
    )
    return finding_of(record, place, captured=True)


def check_edkd(place: Place) -> Finding:
    """`edkd/tools/train.py`, EDKD, resnet14 teaches resnet8."""
    where, teacher = generated(place), place.scratch / "teacher.pth"
    save_checkpoint({"model": create_model("resnet14", 100).state_dict()}, teacher)
    keys = ["DISTILLER.TYPE", "EDKD", "DISTILLER.TEACHER", "resnet14", "DISTILLER.TEACHER_CKPT", str(teacher)]
    keys += ["DISTILLER.STUDENT", "resnet8", "SOLVER.BATCH_SIZE", "16", "LOG.WANDB", "False", "LOG.PREFIX", "output"]
    call("edkd/tools/train.py", ["--cfg", "configs/cifar100/vanilla.yaml", *where, "--epochs", "2", *keys], place)
    return finding_of(record_of(place.scratch / "output"), place, captured=True)


def check_mtkd_rl(place: Place) -> Finding:
    """`mtkd_rl/train_baseline.py` for two teachers, then `train_student_rl.py`."""
    where, teachers = [*generated(place), "--checkpoint-dir", "teachers"], ("resnet8", "wrn_10_1")
    for name in teachers:
        call("mtkd_rl/train_baseline.py", ["--model", name, "--epochs", "1", "--batch_size", "16", *where], place)
    student = ["--arch", "resnet8", "--teacher-name-list", *teachers, "-b", "16", "--epochs", "3", "--dynamic"]
    before = set(record_directories(place.scratch))
    call("mtkd_rl/train_student_rl.py", [*student, *where], place)
    (own,) = set(record_directories(place.scratch)) - before
    return finding_of(record_of(own), place, captured=True)


def check_mlkd(place: Place) -> Finding:
    """`mlkd/mlkd.py` with its whole student, on images of 64 pixels."""
    import timm

    where, teacher = generated(place, "cifar-10"), place.scratch / "teacher.pth"
    torch.save(timm.create_model("test_resnet", num_classes=10).state_dict(), teacher)
    run = ["-d", "cifar-10", "-b", "8", "--image-size", "64", "-e", "1", "--limit-train-batches", "3"]
    run += ["--limit-eval-batches", "2", "--model", "test_resnet", "--checkpoint", str(teacher)]
    call("mlkd/mlkd.py", [*run, *where], place)
    return finding_of(record_of(place.scratch / "models"), place, captured=False)


SCRIPTS = {
    "scripts / tfkd": Check(check_tfkd, limit=2 * LIMIT),
    "scripts / edkd": Check(check_edkd, limit=2 * LIMIT),
    "scripts / mtkd_rl": Check(check_mtkd_rl, limit=2 * LIMIT),
    "scripts / mlkd": Check(check_mlkd, limit=2 * LIMIT),
}
