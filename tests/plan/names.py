"""What the papers' scripts call a run in `run.json`, asked of the scripts themselves."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from common.command_line import resolve_path, settings_from
from common.plan.plan import PlannedRun


def name_of(run: PlannedRun, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The `experiment` of the run with these arguments."""
    monkeypatch.setattr(sys, "argv", [run.command[0], *arguments])
    monkeypatch.chdir(run.script.parent)
    return {"tfkd": _tfkd, "edkd": _edkd, "mtkd_rl": _mtkd_rl, "mlkd": _mlkd}[run.paper](run)


def _tfkd(run: PlannedRun) -> str:
    from tfkd.flags import Flags
    from tfkd.main import experiment_name, parse_arguments

    args = parse_arguments()
    return experiment_name(settings_from(Flags, args), resolve_path(args.model_dir, "tfkd"))


def _edkd(run: PlannedRun) -> str:
    from edkd.engine.config import ConfigFlags, experiment_name, load_config
    from edkd.tools.train import parse_arguments

    flags = settings_from(ConfigFlags, parse_arguments())
    load_config(flags)
    return experiment_name(flags)


def _mtkd_rl(run: PlannedRun) -> str:
    from mtkd_rl import train_baseline
    from mtkd_rl.experiment import destination
    from mtkd_rl.student import name_of
    from mtkd_rl.student_flags import StudentFlags, student_parser

    if run.command[0] == "train_baseline.py":
        return train_baseline.name_of(settings_from(train_baseline.Flags, train_baseline.parse_arguments()))
    module = importlib.import_module(f"mtkd_rl.{Path(run.command[0]).stem}")
    args = module.parse_arguments() if module.SCRIPT.own else student_parser("").parse_args()
    own_values = {destination(flag): getattr(args, destination(flag)) for flag in module.SCRIPT.own}
    return name_of(module.SCRIPT, settings_from(StudentFlags, args), own_values)


def _mlkd(run: PlannedRun) -> str:
    from mlkd import train, train_teacher

    if run.command[0] == "train_teacher.py":
        return train_teacher.experiment_name(settings_from(train_teacher.TeacherFlags, train_teacher.parse_arguments()))
    args = train.parse_arguments()
    return train.experiment_name(settings_from(train.StudentFlags, args), args.world_size)
