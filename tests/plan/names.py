"""What the papers' scripts call a run in `run.json`, asked of the scripts themselves."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from common.plan.plan import PlannedRun


def name_of(run: PlannedRun, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The `experiment` of the run with these arguments."""
    monkeypatch.setattr(sys, "argv", [run.command[0], *arguments])
    monkeypatch.chdir(run.script.parent)
    return {"tfkd": _tfkd, "edkd": _edkd, "mtkd_rl": _mtkd_rl, "mlkd": _mlkd}[run.paper](run)


def _tfkd(run: PlannedRun) -> str:
    from common.command_line import resolve_path, settings_from
    from tfkd.flags import Flags
    from tfkd.main import experiment_name, parse_arguments

    args = parse_arguments()
    return experiment_name(settings_from(Flags, args), resolve_path(args.model_dir, "tfkd"))


def _edkd(run: PlannedRun) -> str:
    from edkd.engine.config import experiment_name, load_config
    from edkd.tools.train import parse_arguments

    args = parse_arguments()
    load_config(args)
    return experiment_name(args)


def _mtkd_rl(run: PlannedRun) -> str:
    """The scripts name their runs in the middle of training: caught where the record is made."""
    import mtkd_rl.experiment

    script = importlib.import_module(f"mtkd_rl.{Path(run.command[0]).stem}")
    name = mtkd_rl.experiment.experiment_name
    if run.command[0] == "train_baseline.py":
        args = script.parse_arguments()
        return name(f"teacher {args.model}", args, script.NAMED)
    from mtkd_rl.student_flags import NAMED, student_parser

    if run.command[0] == "train_student_avg.py":
        args = student_parser("").parse_args()
        return name(f"{args.arch} AVER", args, NAMED)
    args = script.parse_arguments()
    return name(f"{args.arch} MTKD-RL", args, {**script.OWN, **NAMED})


def _mlkd(run: PlannedRun) -> str:
    if run.command[0] == "train_teacher.py":
        from common.command_line import settings_from
        from mlkd.data import DataFlags
        from mlkd.train_teacher import parse_arguments

        args = parse_arguments()
        return f"{settings_from(DataFlags, args).name} teacher {args.model}"
    from mlkd.train import experiment_name, parse_arguments

    return experiment_name(parse_arguments())
