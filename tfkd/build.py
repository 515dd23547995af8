"""Which method the flags and the parameters ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from common.data import Dataset
from common.errors import UserError
from common.models import Network
from common.models.network import require_takes
from common.own_code import construct
from common.training.method import Method, load_method
from common.training.teachers import TeacherCheckpoint
from tfkd.experiment import PAPER, build_network, network_options, resolve_num_classes
from tfkd.flags import Flags
from tfkd.losses import regularization_scale
from tfkd.methods import Baseline, Distillation, LabelSmoothing, Regularization
from tfkd.params import Params
from tfkd.teachers import find_teacher


def load_teacher(teacher: TeacherCheckpoint, params: Params, file: Path, num_classes: int) -> Network:
    """The network of a teacher, with its weights."""
    network = build_network(teacher.name, params, file, num_classes)
    teacher.load_into(network)
    return network


def build_method(
    flags: Flags, model_dir: Path, params: Params, keys: dict[str, Any], data: Dataset
) -> tuple[Method, list[TeacherCheckpoint]]:
    """The method that flags and params ask for, and its teacher; `keys` are those of `require_method`.

    Raises:
        UserError: a teacher that is missing, images that networks do not take.
    """
    file = model_dir / "params.json"
    num_classes = resolve_num_classes(flags.num_class, data)
    student = build_network(params.student, params, file, num_classes)
    height, width = data.train.pixels.shape[1:3]
    require_takes(student, params.student, height, width, num_classes)
    if flags.double_training:
        find_teacher(params.student, model_dir).load_into(student)
    if not params.has_teacher:
        if flags.regularization:
            method = Regularization(
                student, keys["reg_alpha"], keys["reg_temperature"], keys["multiplier"], form=flags.loss_form
            )
            return method, []
        if flags.label_smoothing:
            scale = 1.0
            if flags.matched_scale:
                scale = regularization_scale(keys["reg_alpha"], keys["multiplier"], num_classes, form=flags.loss_form)
            return LabelSmoothing(student, form=flags.loss_form, scale=scale), []
        return _own_method(flags.method, student) if flags.method else Baseline(student), []
    found = find_teacher(params.teacher, model_dir, flags.pt_teacher)
    teacher = load_teacher(found, params, file, num_classes)
    require_takes(teacher, params.teacher, height, width, num_classes)
    if flags.method:
        return _own_method(flags.method, student, teacher), [found]
    return Distillation(student, teacher, **keys, form=flags.loss_form), [found]


def require_method(flags: Flags, file: Path, params: Params) -> dict[str, Any]:
    """The keys of `file` that the method needs, beside flags that go together and with them.

    Raises:
        UserError: they do not, or a key is missing.
    """
    for name in (params.student, *([params.teacher] if params.has_teacher else [])):
        network_options(name, params, file)
    untaught = [flag for flag in ("double_training", "regularization", "label_smoothing") if flag in flags.given]
    taught = [flag for flag in ("self_training", "pt_teacher") if flag in flags.given]
    if params.has_teacher and untaught:
        raise UserError(
            f"--{untaught[0]} takes no teacher, but {file} names {params.teacher}: give a base_experiments directory"
        )
    if not params.has_teacher and taught:
        raise UserError(f"--{taught[0]} needs a teacher, and {file} names none: give a kd_experiments directory")
    if flags.regularization:
        return params.require(file, "--regularization", "reg_alpha", "reg_temperature", "multiplier")
    if flags.matched_scale:
        return params.require(file, "--matched_scale", "reg_alpha", "multiplier")
    if not params.has_teacher:
        return {}
    if flags.self_training:
        if params.teacher != params.student:
            raise UserError(f"--self_training: in {file} {params.student} is taught by {params.teacher}, not by itself")
        return params.require(file, "--self_training", "alpha", "temperature", "multiplier")
    return params.require(file, "distillation", "alpha", "temperature")


def _own_method(source: str, *networks: Network) -> Method:
    """The method of `--method FILE.py:CLASS`.

    Raises:
        UserError: its constructor fails, or leaves no student.
    """
    kind = load_method(source, PAPER)
    method = construct(source, kind, *networks)
    if not isinstance(getattr(method, "student", None), nn.Module):
        raise UserError(f"--method {source}: its constructor must set self.student, the network that is trained")
    return method
