"""From a distiller to the common training loop."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.models import Network
from common.training.fast_path import refuse_old_names
from common.training.method import Method, Step
from common.training.runtime import Runtime
from edkd.distillers import CRD, distiller_dict
from edkd.distillers._base import StudentView, TeacherLogits, TeacherView, Vanilla
from edkd.engine.contrast import ContrastSampler
from edkd.engine.dot import DOT
from edkd.engine.experiment import INPUT_SIZES
from edkd.engine.node import Node


class Distillation(Method):
    """Trains by a distiller: trainer `base`."""

    def __init__(self, distiller: nn.Module) -> None:
        super().__init__()
        self.distiller = distiller
        learnable = {id(p) for p in distiller.get_learnable_parameters()}
        if unknown := learnable - {id(p) for p in distiller.parameters()}:
            raise UserError(
                f"{type(distiller).__name__}.get_learnable_parameters() has {len(unknown)} parameters that no module "
                "of it owns: they would be neither moved to the device nor saved (a plain list? use nn.ModuleList)"
            )
        for parameter in distiller.parameters():
            parameter.requires_grad_(id(parameter) in learnable)
        refuse_old_names(distiller)
        self.graph_capturable = getattr(distiller, "graph_capturable", False)
        # the loop counts epochs from 0
        self.epoch_dependent_until = max(0, getattr(distiller, "epoch_dependent_until", math.inf) - 1)

    @property
    def student(self) -> Network:
        return self.distiller.student.network

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> Step:
        logits, losses = self.distiller(
            image=images, target=targets, epoch=epoch + 1, **self.more_inputs(targets, indices)
        )
        return Step(logits, {name: loss.mean() for name, loss in losses.items()})  # losses may be one number a sample

    def more_inputs(self, targets: Tensor, indices: Tensor) -> dict[str, Tensor]:
        """What the distiller is told besides images, targets and epoch."""
        return {}


class Contrastive(Distillation):
    """Tells the distiller what to compare each sample with: trainer `crd`.

    Args:
        distiller: takes `index` and `contrastive_index`.
        targets: classes of the training images, [number of images].
        negatives: K.
        mode: "exact" makes the sample itself the positive, "relax" any sample of its class.
    """

    def __init__(self, distiller: nn.Module, targets: Tensor, negatives: int, mode: str) -> None:
        super().__init__(distiller)
        self.sampler = ContrastSampler(targets, negatives, mode)

    def more_inputs(self, targets: Tensor, indices: Tensor) -> dict[str, Tensor]:
        return {"index": indices, "contrastive_index": self.sampler(targets, indices)}


class Oriented(Distillation):
    """Hands the optimiser the gradients of both losses one by one: trainer `dot`."""

    def backward(self, losses: dict[str, Tensor], optimizer: DOT) -> None:
        if losses.keys() != {"loss_ce", "loss_kd"}:
            raise UserError(
                f"SOLVER.TRAINER dot needs a distiller with the losses loss_ce and loss_kd, not {', '.join(losses)}"
            )
        losses["loss_kd"].backward(retain_graph=True)
        optimizer.take_distillation_gradients()
        losses["loss_ce"].backward()


class OrientedContrastive(Oriented, Contrastive):
    """Both: trainer `crd_dot`."""


def make_method(
    cfg: Node, student: Network, teacher: Network | None, targets: Tensor, runtime: Runtime
) -> Distillation:
    """The method that `DISTILLER.TYPE` and `SOLVER.TRAINER` name.

    Args:
        cfg: configuration.
        student, teacher: networks.
        targets: classes of the training images, [number of images].
        runtime: where it will run.

    Raises:
        UserError: a trainer that cannot run there.
    """
    trainer = cfg.SOLVER.TRAINER
    if trainer != "base" and runtime.distributed:
        raise UserError(f"SOLVER.TRAINER {trainer} runs in one process: leave torchrun out")
    if "dot" in trainer and runtime.amp == "fp16":
        raise UserError(f"SOLVER.TRAINER {trainer} has no loss scaling for two losses: use --amp bf16 or --amp off")
    targets = targets.cpu()  # where everything is built; the loop moves the whole
    try:
        method = _build(cfg, make_distiller(cfg, student, teacher, len(targets)), targets)
        _try_out(method, targets, INPUT_SIZES[cfg.DATASET.TYPE])
    except (RuntimeError, ValueError) as error:  # NotImplementedError is a RuntimeError
        kind, pair = cfg.DISTILLER.TYPE, f"{cfg.DISTILLER.TEACHER} -> {cfg.DISTILLER.STUDENT}"
        reason = str(error).splitlines()[0]
        raise UserError(f"{kind} does not fit {pair}: {reason} (do the keys of {kind} fit their features?)") from error
    return method


def _build(cfg: Node, distiller: nn.Module, targets: Tensor) -> Distillation:
    trainer = cfg.SOLVER.TRAINER
    if not trainer.startswith("crd"):
        return Oriented(distiller) if trainer == "dot" else Distillation(distiller)
    kind = OrientedContrastive if trainer == "crd_dot" else Contrastive
    return kind(distiller, targets, cfg.CRD.NCE.K, cfg.CRD.MODE)


@torch.no_grad()
def _try_out(method: Distillation, targets: Tensor, input_size: int) -> None:
    """Send two images through a copy of the method, so that what does not fit is known before anything is written."""
    with torch.random.fork_rng(devices=[]):  # all of it is on the CPU
        images, indices = torch.randn(2, 3, input_size, input_size), torch.arange(2)
        copy.deepcopy(method).train()(images, targets[:2], indices, 0)


def make_distiller(cfg: Node, student: Network, teacher: Network | None, train_images: int) -> nn.Module:
    """The distiller that `DISTILLER.TYPE` names.

    Args:
        cfg: configuration.
        student: network to train.
        teacher: trained network; None for `NONE`.
        train_images: size of the training set.
    """
    kind = distiller_dict[cfg.DISTILLER.TYPE]
    view = StudentView(student)
    if kind is Vanilla:
        return Vanilla(view)
    features = getattr(kind, "teacher_features", True)
    teacher_view = TeacherView(teacher) if features else TeacherLogits(teacher)
    return kind(view, teacher_view, cfg, train_images) if kind is CRD else kind(view, teacher_view, cfg)
