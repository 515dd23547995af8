"""Every way of training of every paper, on networks small enough for seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from common.models import create_model
from common.training.method import Method
from common.training.runtime import Runtime
from edkd.distillers import distiller_dict
from edkd.engine.cfg import CFG
from edkd.engine.method import make_method
from edkd.engine.node import Node
from edkd.engine.solver import make_optimizer as edkd_optimizer
from mlkd.methods import FineTuning, MultiLevel
from mlkd.mixup_cutmix import MixupCutmix
from mlkd.student import MultiResNetV2
from mtkd_rl.methods import MultiTeacherRL
from mtkd_rl.multi_teacher import Averaging, Options
from mtkd_rl.student import make_optimizer as mtkd_rl_optimizer
from tfkd.methods import Baseline, Distillation, LabelSmoothing, Regularization

CLASSES, IMAGE_SIZE = 100, 32

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A way of training.

    Attributes:
        build: makes the method on the CPU; `targets` are the classes of all training images, [number of images].
        lr: learning rate, so low that untrained networks do not amplify what rounding does.
        make_optimizer: from (parameters, lr), as the paper's script has it.
        loss_tolerance: relative, where the loss itself depends on more than rounding; 0 for none.
    """

    build: Callable[[torch.Tensor], Method]
    lr: float
    make_optimizer: Callable[[list[nn.Parameter], float], torch.optim.Optimizer]
    loss_tolerance: float = 0.0


def tfkd_sgd(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=5e-4)


def adamw(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=1e-4)


# ----------------------------------------------------------------------------------------------------------------- tfkd


def _tfkd(wrap: Callable[..., Method], teacher: str | None = None, **options: Any) -> Setting:
    def build(targets: torch.Tensor) -> Method:
        networks = [create_model(name, CLASSES, family="tfkd") for name in ("shufflenet_v2", teacher) if name]
        return wrap(*networks, **options)

    return Setting(build, 1e-5, tfkd_sgd)


TFKD = {
    "tfkd baseline": _tfkd(Baseline),
    "tfkd label smoothing": _tfkd(LabelSmoothing),
    "tfkd label smoothing, paper": _tfkd(LabelSmoothing, form="paper"),
    "tfkd reg": _tfkd(Regularization, alpha=0.1, temperature=20.0, multiplier=100.0),
    "tfkd reg, paper": _tfkd(Regularization, alpha=0.1, temperature=20.0, multiplier=100.0, form="paper"),
    "tfkd kd": _tfkd(Distillation, "cnn", alpha=0.9, temperature=20.0),
    "tfkd kd, paper": _tfkd(Distillation, "cnn", alpha=0.9, temperature=20.0, form="paper"),
    "tfkd self": _tfkd(Distillation, "shufflenet_v2", alpha=0.9, temperature=20.0, multiplier=10.0),
}

# ----------------------------------------------------------------------------------------------------------------- edkd

# hyperparameters that networks as narrow as these need
NARROW = {
    "CRD": {"FEAT": {"STUDENT_DIM": 64, "TEACHER_DIM": 64}, "NCE": {"K": 16}},
    "REVIEWKD": {"IN_CHANNELS": [16, 32, 64, 64], "OUT_CHANNELS": [16, 32, 64, 64]},
    "OFD": {"LOSS": {"FEAT_WEIGHT": 1e-5}},
}


def edkd_configuration(kind: str, section: dict[str, Any] | None = None, **solver: Any) -> Node:
    """`CFG` with `DISTILLER.TYPE` = `kind`, values of its section and of `SOLVER`."""
    cfg = CFG.clone()
    cfg.DISTILLER.TYPE = kind
    cfg._merge({"SOLVER": solver, **({kind: section} if section else {})}, [], "")
    return cfg


def _edkd(kind: str, trainer: str = "base", lr: float = 1e-4, loss_tolerance: float = 0.0, **section: Any) -> Setting:
    cfg = edkd_configuration(kind, {**NARROW.get(kind, {}), **section}, TRAINER=trainer, LR=lr)

    def build(targets: torch.Tensor) -> Method:
        networks = create_model("resnet8", CLASSES), create_model("resnet14", CLASSES)
        return make_method(cfg, *networks, targets, Runtime(torch.device("cpu")))

    def optimizer(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        return edkd_optimizer(cfg, parameters)

    return Setting(build, lr, optimizer, loss_tolerance)


EDKD = {
    **{f"edkd {kind}": _edkd(kind) for kind in sorted({*distiller_dict} - {"CRD", "KDSVD"})},
    "edkd CRD": _edkd("CRD", "crd"),
    "edkd CRD, relax": _edkd("CRD", "crd", MODE="relax"),
    # the singular vectors' signs are the decomposition's, and come into the loss
    "edkd KDSVD": _edkd("KDSVD", loss_tolerance=0.05),
    "edkd EDKD, per sample": _edkd("EDKD", FORM="per_sample"),
    "edkd EDKD, config": _edkd("EDKD", FORM="config"),
    "edkd VID, learned scales": _edkd("VID", LEARN_SCALES=True),
    "edkd OFD, teacher evaluated": _edkd("OFD", TEACHER_IN_TRAIN_MODE=False),
    "edkd KD, dot": _edkd("KD", "dot"),
    "edkd CRD, crd_dot": _edkd("CRD", "crd_dot"),
}

# -------------------------------------------------------------------------------------------------------------- mtkd_rl


def _mtkd_rl(kind: type[Method], options: Options | None = None, **more: Any) -> Setting:
    def build(targets: torch.Tensor) -> Method:
        student, *teachers = (create_model(n, CLASSES, family="mtkd_rl") for n in ("resnet8", "resnet14", "wrn_16_1"))
        named = dict(zip(("resnet14", "wrn_16_1"), teachers, strict=True))
        return kind(student, named, IMAGE_SIZE, options or Options(), **more)

    return Setting(build, 1e-4, partial(mtkd_rl_optimizer, weight_decay=1e-4))


RL = partial(_mtkd_rl, MultiTeacherRL, agent_step=3)
MTKD_RL = {
    "mtkd_rl AVER": _mtkd_rl(Averaging),
    "mtkd_rl AVER, feature KL": _mtkd_rl(Averaging, Options(feature_loss="kl")),
    "mtkd_rl RL": RL(),
    "mtkd_rl RL, dynamic": RL(dynamic=True),
    "mtkd_rl RL, policy gradient": RL(agent_loss="policy-gradient"),
    "mtkd_rl RL, policy gradient, dynamic": RL(agent_loss="policy-gradient", dynamic=True),
    "mtkd_rl RL, equal weights": RL(equal_weights=True),
}

# ----------------------------------------------------------------------------------------------------------------- mlkd

SMALL_STUDENT = {"layers": (1, 1, 1, 1), "channels": (128, 128, 128, 128), "hidden": 32}


def _mlkd(alpha: float, mixing: float) -> Setting:
    def build(targets: torch.Tensor) -> Method:
        student, teacher = MultiResNetV2(CLASSES, **SMALL_STUDENT), create_model("resnet8", CLASSES)
        return MultiLevel(student, teacher, MixupCutmix(CLASSES, mixing, mixing), alpha, 10.0)

    return Setting(build, 1e-6, adamw)


def _fine_tuning(targets: torch.Tensor) -> Method:
    return FineTuning(create_model("resnet8", CLASSES), MixupCutmix(CLASSES, 1.0, 1.0))


MLKD = {
    "mlkd multi-level": _mlkd(1.0, 1.0),
    "mlkd multi-level, labels, no mixing": _mlkd(0.5, 0.0),
    "mlkd teacher": Setting(_fine_tuning, 1e-6, adamw),
}

METHODS: dict[str, Setting] = {**TFKD, **EDKD, **MTKD_RL, **MLKD}
