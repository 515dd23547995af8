"""From a distiller to the common training loop."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from common.errors import UserError
from common.models import Network
from common.own_code import making
from common.training.fast_path import apply_fast_path, refuse_old_names
from common.training.layouts import layout_for
from common.training.method import FrozenTeacher, Method, StepOutput
from common.training.runtime import Runtime
from edkd.distillers._base import StudentTraining, TeacherLogits, TeacherView, Vanilla, student_view, teacher_view
from edkd.engine.config import TEMPERATURE_KEYS, own_section
from edkd.engine.contrast import ContrastSampler
from edkd.engine.dot import DOT
from edkd.engine.experiment import INPUT_SIZES, PAIRED, build_network, treated_as
from edkd.engine.explain import explain, pair_of
from edkd.engine.node import Node
from edkd.engine.own_state import OwnState, shared_variables_kept
from edkd.engine.registry import distiller_class, promise
from edkd.engine.signatures import construct, learnable_parameters, training_keywords
from edkd.engine.solver import make_optimizer

# names that the forks' distillers have for both views of an image
WEAK_VIEW = ("image", "image_weak", "image_w", "weak_image")
STRONG_VIEW = ("image_strong", "image_s", "image_aug", "strong_image")

SOME_CLASSES = SOME_IMAGES = 100  # of a dataset that is not there


class ForwardTest(nn.Module):
    """A distiller's `forward_test` as a network: images -> logits. It has the distiller's mode.

    Of several values the first is taken; a distiller without that method is called as mdistiller's evaluation calls it.
    """

    def __init__(self, distiller: StudentTraining, channels_last: bool) -> None:
        super().__init__()
        self.distiller, self.channels_last = distiller, channels_last

    def forward(self, images: Tensor) -> Tensor:
        images = images if self.channels_last else images.contiguous()
        test = getattr(self.distiller, "forward_test", None)
        result = self.distiller(image=images) if test is None else test(images)
        return result[0] if isinstance(result, tuple | list) else result


class Distillation(Method):
    """Trains by a distiller: trainer `base`."""

    def __init__(self, distiller: StudentTraining) -> None:
        super().__init__()
        self.distiller = distiller
        refuse_old_names(distiller)
        self.graph_capturable = promise(distiller, "graph_capturable")
        # the loop counts epochs from 0
        self.epoch_dependent_until = max(0, promise(distiller, "epoch_dependent_until") - 1)
        self.channels_last = promise(distiller, "channels_last")
        self.keywords = training_keywords(distiller)
        self.messages: list[str] = []  # for the run's log
        self.teachers_move = False  # whether a step changes buffers of theirs, as a dry run has found
        name = type(distiller).__name__
        if any(map(is_lazy, distiller.parameters())):
            raise UserError(f"{name} has modules of no size yet (nn.Lazy...): give them their sizes in the constructor")
        self.own_state = OwnState(distiller)
        learnable = self._learnable()
        if unknown := learnable - {id(p) for p in distiller.parameters()}:
            raise UserError(
                f"{name}.get_learnable_parameters() has {len(unknown)} parameters that no module "
                "of it owns: they would be neither moved to the device nor saved (a plain list? use nn.ModuleList)"
            )
        for teacher in self._teachers():
            for parameter in teacher.parameters():
                parameter.requires_grad_(id(parameter) in learnable)

    @property
    def student(self) -> nn.Module:
        return self.distiller.student

    @property
    def evaluated(self) -> nn.Module:
        return ForwardTest(self.distiller, self.channels_last)

    def train(self, mode: bool = True) -> Distillation:
        """Also seeds the host's generators, by PyTorch's seed of the epoch: some distillers draw from them."""
        if mode:
            seed = torch.initial_seed() % 2**32
            random.seed(seed)
            np.random.seed(seed)
        return super().train(mode)

    def get_extra_state(self) -> dict:
        return self.own_state.capture()

    def set_extra_state(self, state: dict) -> None:
        self.messages += self.own_state.restore(state)

    def others_untouched(self) -> contextlib.AbstractContextManager:
        return shared_variables_kept(type(self.distiller))

    def _learnable(self) -> set[int]:
        return {id(parameter) for parameter in learnable_parameters(self.distiller)}

    def _teachers(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, TeacherView | FrozenTeacher)]

    def teacher_logits(self, images: Tensor) -> list[Tensor]:
        images = images if self.channels_last else images.contiguous()
        return [teacher(images)[0] for teacher in self._teachers()]

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What the distiller calls learnable, without what it has frozen."""
        learnable = self._learnable()
        return [p for p in self.parameters() if id(p) in learnable and p.requires_grad]

    def frozen_modules(self) -> list[nn.Module]:
        """The teachers, but those that are trained, or whose statistics training moves."""
        if self.teachers_move:
            return []
        return [
            teacher
            for teacher in self._teachers()
            if not any(module.training for module in teacher.modules())
            and not any(parameter.requires_grad for parameter in teacher.parameters())
        ]

    def forward(
        self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int, strong_images: Tensor | None = None
    ) -> StepOutput:
        if not self.channels_last:
            images = images.contiguous()
            strong_images = None if strong_images is None else strong_images.contiguous()
        usual = {"target": targets, "epoch": epoch + 1, **self.extra_inputs(targets, indices)}
        usual |= {"image": images} if strong_images is None else self._views(images, strong_images)
        return self._output(self.distiller(**self.keywords.choose(usual, {"index": indices})))

    def _output(self, result: Any) -> StepOutput:
        """(logits, losses), between which some return something of their own; losses may be one number per sample."""
        logits, losses = (result[0], result[-1]) if isinstance(result, tuple | list) else (None, None)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or not isinstance(losses, Mapping):
            given = (
                ", ".join(type(one).__name__ for one in result)
                if isinstance(result, tuple | list)
                else type(result).__name__
            )
            raise UserError(
                f"{type(self.distiller).__name__}.forward_train returns ({given}), not (logits [N, K], dictionary of "
                "losses)"
            )
        return StepOutput(logits, {name: _mean(loss, logits.device) for name, loss in losses.items()})

    def _views(self, weak: Tensor, strong: Tensor) -> dict[str, Tensor]:
        """Both views of a batch, by the names that the distiller has for them, by the commonest where it has none."""
        named = set(WEAK_VIEW).intersection(self.keywords.names) or WEAK_VIEW[:2]
        named_strong = set(STRONG_VIEW).intersection(self.keywords.names) or STRONG_VIEW[:1]
        return {**dict.fromkeys(named, weak), **dict.fromkeys(named_strong, strong)}

    def extra_inputs(self, targets: Tensor, indices: Tensor) -> dict[str, Tensor]:
        """What the distiller is told besides images, targets and epoch."""
        return {}


def _mean(loss: Any, device: torch.device) -> Tensor:
    """Of a tensor; some put numbers among their losses."""
    return loss.mean() if isinstance(loss, Tensor) else torch.tensor(float(loss), device=device)


class Contrastive(Distillation):
    """Tells the distiller what to compare each sample with: trainer `crd`.

    Args:
        distiller: takes `index` and `contrastive_index`.
        targets: classes of the training images, [number of images].
        negatives: K.
        mode: "exact" makes the sample itself the positive, "relax" any sample of its class.
    """

    def __init__(self, distiller: StudentTraining, targets: Tensor, negatives: int, mode: str) -> None:
        super().__init__(distiller)
        self.sampler = ContrastSampler(targets, negatives, mode)

    def extra_inputs(self, targets: Tensor, indices: Tensor) -> dict[str, Tensor]:
        return {"index": indices, "contrastive_index": self.sampler(targets, indices)}


class DotDistillation(Distillation):
    """Hands the optimizer the gradients of both losses one by one: trainer `dot`."""

    def backward(self, losses: dict[str, Tensor], optimizer: DOT) -> None:
        if losses.keys() != {"loss_ce", "loss_kd"}:
            raise UserError(
                f"SOLVER.TRAINER dot needs a distiller with the losses loss_ce and loss_kd, not {', '.join(losses)}"
            )
        losses["loss_kd"].backward(retain_graph=True)
        optimizer.take_distillation_gradients()
        losses["loss_ce"].backward()


class OrientedContrastive(DotDistillation, Contrastive):
    """Both: trainer `crd_dot`."""


def make_method(
    cfg: Node,
    student: Network,
    teachers: Network | Sequence[Network] | None,
    targets: Tensor,
    runtime: Runtime,
) -> Distillation:
    """The method that `DISTILLER.TYPE` and `SOLVER.TRAINER` name.

    Args:
        cfg: configuration.
        student, teachers: networks; they answer as distillers expect from now on.
        targets: classes of the training images, [number of images].
        runtime: where it will run.

    Raises:
        UserError: a trainer that cannot run there.
    """
    trainer = cfg.SOLVER.TRAINER
    if ("crd" in trainer or "dot" in trainer) and runtime.distributed:
        raise UserError(f"SOLVER.TRAINER {trainer} runs in one process: leave torchrun out")
    if "dot" in trainer and runtime.amp == "fp16":
        raise UserError(f"SOLVER.TRAINER {trainer} has no loss scaling for two losses: use --amp bf16 or --amp off")
    targets = targets.cpu()  # where everything is built; the loop moves the whole
    with _explained(cfg):
        tried = dry_run(cfg, student, teachers, targets, runtime)
    method = build_method(cfg, make_distiller(cfg, student, teachers, len(targets)), targets)
    method.messages += tried.messages
    method.teachers_move = tried.teachers_move
    method.temperature = temperature_of(cfg)
    return method


def try_constructor(cfg: Node, dataset: str, teachers: Sequence[str]) -> None:
    """Build the distiller of untrained networks, for a dataset that is not there: constructors check their own keys.

    Args:
        cfg: configuration.
        dataset: whose networks they are.
        teachers: their names.

    Raises:
        UserError: what a constructor raises.
    """
    named = [(cfg.DISTILLER.STUDENT, "DISTILLER.STUDENT"), *((name, "DISTILLER.TEACHER") for name in teachers)]
    student, *given = (build_network(name, dataset, SOME_CLASSES, key) for name, key in named)
    with _explained(cfg):
        make_distiller(cfg, student, given, SOME_IMAGES)


@contextlib.contextmanager
def _explained(cfg: Node) -> Iterator[None]:
    """Within it, whatever somebody else's code raises is told in one line."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        kind = cfg.DISTILLER.TYPE
        raise explain(error, distiller_class(kind), kind, pair_of(cfg)) from error


def forked_random_state(device: torch.device) -> contextlib.AbstractContextManager:
    """Within it PyTorch's random numbers on the host and on `device` are drawn, and not taken from those outside."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


class DryRun(NamedTuple):
    """What one step has told.

    Attributes:
        messages: what the run's log should say.
        teachers_move: whether it changes buffers of the teachers.
    """

    messages: list[str]
    teachers_move: bool


def dry_run(
    cfg: Node, student: Network, teachers: Network | Sequence[Network] | None, targets: Tensor, runtime: Runtime
) -> DryRun:
    """One training step and one evaluation as they will be, on copies, so that what fails does so before a run begins.

    Images are noise, of the real number and size, in the real place and layout.
    """
    device = runtime.device
    with forked_random_state(device), shared_variables_kept(distiller_class(cfg.DISTILLER.TYPE)):
        distiller = make_distiller(cfg, *copy.deepcopy((student, teachers)), len(targets))
        method = build_method(cfg, distiller, targets)
        layout = layout_for(method, runtime)
        if not runtime.plain:
            apply_fast_path(method, layout, runtime)
        method.to(device).train()
        _check_keywords(method, cfg.SOLVER.TRAINER)
        built = {name for name, _ in method.distiller.named_parameters()}
        indices = torch.randperm(len(targets))[: max(2, cfg.SOLVER.BATCH_SIZE // runtime.world_size)]
        size = INPUT_SIZES[treated_as(cfg.DATASET.TYPE, cfg.DATASET.IMAGE_SIZE)]
        images = torch.randn(len(indices), 3, size, size, device=device).to(memory_format=layout)
        views = (torch.randn_like(images),) if cfg.SOLVER.TRAINER in PAIRED else ()
        theirs = [buffer for teacher in method._teachers() for buffer in teacher.buffers()]
        versions = [buffer._version for buffer in theirs]
        with runtime.autocast():
            step = method(images, targets[indices].to(device), indices.to(device), 0, *views)
        moved = versions != [buffer._version for buffer in theirs]
        method.backward(step.losses, make_optimizer(cfg, method.trainable_parameters()))
        messages = [*_late_modules(method, built), *_evaluation_messages(method.eval(), images, runtime)]
        return DryRun(messages, moved)


def _late_modules(method: Distillation, built: set[str]) -> list[str]:
    """What to say about parameters that a step has brought to those that were `built` with the distiller."""
    late = sorted({name.split(".")[0] for name, _ in method.distiller.named_parameters() if name not in built})
    if not late:
        return []
    return [
        f"{type(method.distiller).__name__}.forward_train makes {', '.join(late)}, which no optimizer trains, as in "
        "mdistiller, and with which --resume cannot go on: the constructor is the place"
    ]


def _check_keywords(method: Distillation, trainer: str) -> None:
    """Refuse a distiller that wants of a batch what the trainer does not hand out."""
    usual = {"image", "target", "epoch", "index"}
    usual |= {"contrastive_index"} if isinstance(method, Contrastive) else set()
    usual |= {"image_weak", "image_strong"} if trainer in PAIRED else set()
    other_names = {*WEAK_VIEW, *STRONG_VIEW} if trainer in PAIRED else set()
    if missing := sorted(method.keywords.required - usual - other_names):
        hints = {**dict.fromkeys((*WEAK_VIEW, *STRONG_VIEW), "aug"), "contrastive_index": "crd"}
        hint = f"; SOLVER.TRAINER {hints[missing[0]]} has it" if missing[0] in hints else ""
        name = type(method.distiller).__name__
        raise UserError(
            f"{name}.forward_train asks for {', '.join(missing)}, but SOLVER.TRAINER {trainer} hands out "
            f"{', '.join(sorted(usual))}{hint}"
        )


@torch.no_grad()
def _evaluation_messages(method: Distillation, images: Tensor, runtime: Runtime) -> list[str]:
    with runtime.autocast():
        evaluated, alone = method.evaluated(images), method.student(images)[0]
    if evaluated.shape == alone.shape and torch.allclose(evaluated.float(), alone.float(), rtol=1e-3, atol=1e-4):
        return []
    name = type(method.distiller).__name__
    return [f"accuracy is that of {name}.forward_test; the student alone, which student_best has, gives other logits"]


def temperature_of(cfg: Node) -> float | None:
    """By which the configured distiller softens student and teacher; None where it has no key for that."""
    section = own_section(cfg)
    value = next((section[key] for key in TEMPERATURE_KEYS if section.get(key) is not None), None)
    return float(value) if isinstance(value, int | float) and value > 0 else None


def build_method(cfg: Node, distiller: StudentTraining, targets: Tensor) -> Distillation:
    """The method of a distiller that is there already; arguments as of `make_method`."""
    trainer = cfg.SOLVER.TRAINER
    if not trainer.startswith("crd"):
        return DotDistillation(distiller) if trainer == "dot" else Distillation(distiller)
    kind = OrientedContrastive if trainer == "crd_dot" else Contrastive
    return kind(distiller, targets, cfg.CRD.NCE.K, cfg.CRD.MODE)


def make_distiller(
    cfg: Node, student: Network, teachers: Network | Sequence[Network] | None, train_images: int
) -> StudentTraining:
    """The distiller that `DISTILLER.TYPE` names, in training mode as it means it.

    Args:
        cfg: configuration.
        student: network to train.
        teachers: trained networks; None for `NONE`.
        train_images: size of the training set.
    """
    kind = distiller_class(cfg.DISTILLER.TYPE)
    view = student_view(student)
    if issubclass(kind, Vanilla):
        return kind(view)
    show = teacher_view if promise(kind, "teacher_features") else TeacherLogits
    given = [teachers] if isinstance(teachers, nn.Module) else teachers or []
    several = isinstance(cfg.DISTILLER.TEACHER, list | tuple)
    with making(kind):
        distiller = construct(kind, view, [show(teacher) for teacher in given], cfg, train_images, several=several)
    distiller.train()  # some return nothing from it
    return distiller
