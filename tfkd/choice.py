"""Which method the flags and the parameters ask for."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.data import Dataset
from common.errors import UserError
from common.training.method import Method, load_method
from tfkd.experiment import build_network, class_count
from tfkd.losses import regularization_scale
from tfkd.methods import Baseline, Distillation, LabelSmoothing, Regularization
from tfkd.params import Params
from tfkd.teachers import find_teacher, load_teacher


def build_method(args: argparse.Namespace, model_dir: Path, params: Params, data: Dataset) -> tuple[Method, list[str]]:
    """The method that flags and params ask for, and remarks about its teacher.

    Raises:
        UserError: flags that do not go together, a key or a teacher that is missing.
    """
    file = model_dir / "params.json"
    num_classes = class_count(args.num_class, data)
    student = build_network(params.student, params, file, num_classes)
    if args.double_training:
        if params.has_teacher:
            raise UserError(
                f"--double_training takes no teacher, but {file} names {params.teacher}: "
                "give a base_experiments directory"
            )
        trained = find_teacher(params.student, model_dir)
        load_teacher(student, trained, params.student)
    if not params.has_teacher:
        for flag in ("self_training", "pt_teacher"):
            if getattr(args, flag):
                raise UserError(f"--{flag} needs a teacher, and {file} names none: give a kd_experiments directory")
        if args.regularization:
            keys = params.require(file, "--regularization", "reg_alpha", "reg_temperature", "multiplier")
            return Regularization(student, *keys, form=args.loss_form), []
        if args.label_smoothing:
            scale = 1.0
            if args.matched_scale:
                keys = params.require(file, "--matched_scale", "reg_alpha", "multiplier")
                scale = regularization_scale(*keys, num_classes, form=args.loss_form)
            return LabelSmoothing(student, form=args.loss_form, scale=scale), []
        return load_method(args.method)(student) if args.method else Baseline(student), []

    for flag in ("regularization", "label_smoothing"):
        if getattr(args, flag):
            raise UserError(
                f"--{flag} takes no teacher, but {file} names {params.teacher}: give a base_experiments directory"
            )
    keys = params.require(file, "distillation", "alpha", "temperature")
    if args.self_training:
        if params.teacher != params.student:
            raise UserError(f"--self_training: in {file} {params.student} is taught by {params.teacher}, not by itself")
        keys += params.require(file, "--self_training", "multiplier")
    teacher = build_network(params.teacher, params, file, num_classes)
    found = find_teacher(params.teacher, model_dir, args.pt_teacher)
    checkpoint = load_teacher(teacher, found, params.teacher)
    remarks = [f"teacher {params.teacher} from {found.path}"]
    trained_on = checkpoint.get("training", {}).get("settings", {}).get("data")
    remarks += data.remarks_on("this teacher", trained_on)
    if args.method:
        return load_method(args.method)(student, teacher), remarks
    return Distillation(student, teacher, *keys, form=args.loss_form), remarks
