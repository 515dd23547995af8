"""The published implementations' figures (`tests/conformance`), taken on this device.

In float64, which shows whether the same is computed, and in float32 with TF32 off, which is what runs compute in.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.first_run.methods import edkd_configuration
from benchmarks.first_run.training import FAST, Watched, make_trainer, train_epochs
from benchmarks.first_run.verdicts import Check, CheckError, Finding, Place
from common.data import Batch
from common.losses import add_up
from common.models import create_model
from common.training.method import Method
from common.training.runtime import Runtime, use_tf32
from common.training.schedules import Schedule, step_decay
from tests.golden import conformance, conformance_names, draw, golden_array, golden_fill, golden_input

# Relative, by what is computed in. Figures are of float64. Single losses come within 1e-9 of them on a CPU, and all
# steps within 1e-6. A replayed step has its learning rate in float32, hence 1e-5 here; light networks at Tf-KD's rates
# make 2.4e-3 of it in six steps (on an H100). In float32 a loss rounds by
# some 1e-6, logits behind 150 layers by up to 1e-3 of their size, and steps amplify it: on a CPU the six steps of
# resnet8 end 2e-4 from the figures, those of light networks at Tf-KD's learning rates 2e-2. Ten times that is allowed.
# A rectifier that rounding switches moves a gradient by half a hundredth.
LOSS_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
LOGIT_TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-2}
FIRST_STEP_TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-4}
STEP_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-2}
STEP_TOLERANCE_OF_TFKD = {torch.float64: 1e-2, torch.float32: 0.2}
DTYPES = {"float64": torch.float64, "float32": torch.float32}


class Worst:
    """Collects relative differences from figures.

    Args:
        tolerance: that none may exceed.
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance, self.count, self.largest, self.where = tolerance, 0, 0.0, ""
        self.beyond: list[str] = []

    def add(self, where: str, got: float, want: float, *, scale: float = 0.0, tolerance: float | None = None) -> None:
        """Take in one figure.

        Args:
            where: its name.
            got, want: ours and the published one.
            scale: the difference is relative to the figure, or to this where it is larger.
            tolerance: of this figure, in place of that of all.
        """
        apart = abs(got - want) / max(abs(want), scale, 1e-300)
        apart = apart if apart == apart else float("inf")
        self.count += 1
        if apart >= self.largest:
            self.largest, self.where = apart, where
        if apart > (self.tolerance if tolerance is None else tolerance):
            self.beyond.append(f"{where}: {got:.9g} for {want:.9g}")

    def finding(self) -> Finding:
        """Raises:
        CheckError: a figure is farther off than tolerated.
        """
        text = f"{self.count} figures, farthest {self.largest:.1e} ({self.where}), allowed {self.tolerance:.0e}"
        if self.beyond:
            raise CheckError(f"{len(self.beyond)} of {text}; {'; '.join(self.beyond[:3])}")
        if not self.count:
            raise CheckError("there are no figures")
        return Finding(text, {"figures": self.count, "farthest": self.largest, "allowed": self.tolerance})


def _add_steps(worst: Worst, case: dict, watched: Watched, student: nn.Module, dtype: torch.dtype) -> None:
    """The loss of each step, the first of which nothing has amplified, and the weights after them."""
    for number, (losses, want) in enumerate(zip(watched.losses(), case["steps"], strict=True)):
        own = FIRST_STEP_TOLERANCE[dtype] if number == 0 else None
        worst.add(f"{case['id']}, step {number + 1}", sum(losses.values()), want["total"], tolerance=own)
    state = student.state_dict()
    for key, norm in case["final"]["student_l2"].items():
        worst.add(f"{case['id']}, {key}", state[key].double().norm().item(), norm)


# --------------------------------------------------------------------------------------------------------------- losses


def _tfkd_value(case: dict, x: dict[str, Tensor]) -> Tensor:
    from tfkd.losses import kd_loss, label_smoothing_loss, regularization_loss

    if case["loss"] == "tfkd_reg":
        hyper = {key.removeprefix("reg_"): value for key, value in case["hyper"].items()}
        return add_up(regularization_loss(x["student_logits"], x["target"], **hyper).values())
    if case["loss"] == "label_smoothing":
        return add_up(label_smoothing_loss(x["student_logits"], x["target"]).values())
    return add_up(kd_loss(x["student_logits"], x["teacher_logits"], x["target"], **case["hyper"]).values())


def _edkd_value(case: dict, x: dict[str, Tensor]) -> Tensor:
    from edkd.distillers.DKD import dkd_loss
    from edkd.distillers.EDKD import edkd_loss
    from edkd.distillers.KD import kd_loss

    if case["loss"] == "kd":
        return kd_loss(x["student_logits"], x["teacher_logits"], case["hyper"]["temperature"])
    if case["loss"] == "dkd":
        return dkd_loss(x["student_logits"], x["teacher_logits"], x["target"], **case["hyper"])
    return edkd_loss(x["student_logits"], x["teacher_logits"], x["target"], case["hyper"]["temperature"])


def _mlkd_value(case: dict, x: dict[str, Tensor]) -> Tensor:
    from mlkd.losses import kd_loss, mlkd_loss

    if case["loss"] == "teach_loss":
        return kd_loss(x["student_logits"], x["teacher_logits"], x["target"], **case["hyper"])
    heads = {name: value for name, value in x.items() if name.startswith(("student", "middle"))}
    return add_up(mlkd_loss(heads, x["teacher_logits"], x["target"], **case["hyper"]).values())


def _mtkd_rl_value(case: dict, x: dict[str, Tensor]) -> Tensor:
    from mtkd_rl.losses import feature_kl, feature_mse, logit_losses

    if case["loss"].startswith("distill_kl"):
        per_sample = logit_losses(x["student_logits"], x["teacher_logits"][:, :, None], case["hyper"]["T"])
        return per_sample.mean()
    loss = feature_mse if case["loss"] == "feature_mse_per_sample" else feature_kl
    temperature = case["hyper"].get("temperature", math.nan)  # a squared error has none
    return loss(x["student_feature"], x["teacher_feature"], temperature).mean()


def _feature_value(case: dict, x: dict[str, Any]) -> Tensor:
    from edkd.distillers.AT import at_loss
    from edkd.distillers.NST import nst_loss
    from edkd.distillers.PKT import pkt_loss
    from edkd.distillers.ReviewKD import hcl_loss
    from edkd.distillers.RKD import rkd_loss
    from edkd.distillers.SP import sp_loss

    student, teacher = (
        x[key] if isinstance(x[key], list) else [x[key]] for key in ("student_features", "teacher_features")
    )
    if case["loss"] in ("pkt", "rkd"):
        return {"pkt": pkt_loss, "rkd": rkd_loss}[case["loss"]](student[0], teacher[0], **case["hyper"])
    options = {key: value for key, value in case["hyper"].items() if key != "levels"}  # a constant of `hcl_loss`
    return {"at": at_loss, "sp": sp_loss, "nst": nst_loss, "hcl": hcl_loss}[case["loss"]](student, teacher, **options)


# file -> value of a case, names of its losses that are computed here (the others need a module's state)
LOSSES: dict[str, tuple[Callable[[dict, dict[str, Any]], Tensor], Callable[[str], bool]]] = {
    "tfkd": (_tfkd_value, lambda loss: True),
    "edkd": (_edkd_value, lambda loss: True),
    "mlkd": (_mlkd_value, lambda loss: True),
    "mtkd_rl": (_mtkd_rl_value, lambda loss: loss.startswith(("distill_kl", "feature"))),
    "feature_distillers": (_feature_value, lambda loss: loss in ("at", "sp", "nst", "hcl", "pkt", "rkd")),
}


def _on(spec: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """An input of a case, or a list of them."""
    if isinstance(spec, list):
        return [_on(one, dtype, device) for one in spec]
    value = draw(spec)
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)


def _target(spec: dict, dtype: torch.dtype, device: torch.device, classes: int) -> Tensor:
    """Class indices, or a mixture of smoothed ones."""
    if "mixed" not in spec:
        return _on(spec, dtype, device)
    from mlkd.mixup_cutmix import smooth_one_hot

    mixed = spec["mixed"]
    rows = smooth_one_hot(draw(mixed["a"]), classes, torch.float64)
    return (mixed["lam"] * rows + (1 - mixed["lam"]) * rows.flip(0)).to(device, dtype)


def _leaves(inputs: dict[str, Any], case: dict) -> list[Tensor]:
    """Of which the gradient's figures are."""
    name = case.get("grad_wrt") or next(name for name in inputs if name.startswith("student"))
    value = inputs[name]
    return [one.requires_grad_() for one in (value if isinstance(value, list) else [value])]


def check_losses(name: str, dtype: torch.dtype, place: Place) -> Finding:
    """Values and gradients of a file's losses."""
    value_of, included = LOSSES[name]
    worst = Worst(LOSS_TOLERANCE[dtype])
    for case in conformance(f"losses/{name}.json")["cases"]:
        if not included(case["loss"]):
            continue
        specs = dict(case["inputs"])
        target = specs.pop("target", None)
        inputs = {key: _on(spec, dtype, place.device) for key, spec in specs.items()}
        if target is not None:
            inputs["target"] = _target(target, dtype, place.device, inputs["student_logits"].shape[1])
        leaves = _leaves(inputs, case)
        value = value_of(case, inputs)
        want = case["value"]
        worst.add(case["id"], value.item(), sum(want) / len(want) if isinstance(want, list) else want)
        gradients = torch.autograd.grad(value, leaves, allow_unused=True)
        norm = torch.cat([g.flatten() for g in gradients if g is not None]).double().norm().item()
        worst.add(f"{case['id']}, gradient", norm, case["grad_student_l2"])
    return worst.finding()


def check_distillers(dtype: torch.dtype, place: Place) -> Finding:
    """Every distiller once on whole networks, resnet20 teaching resnet8: losses and gradients."""
    from edkd.distillers.VID import VID, initial_log_scale
    from edkd.engine.method import Distillation, make_distiller

    worst = Worst(STEP_TOLERANCE[dtype])
    for case in conformance("losses/whole_distillers.json")["cases"]:
        kind = case["distiller"]
        if kind == "KDSVD":
            continue  # its value depends on signs that each decomposition chooses for itself
        cfg = _figures_configuration(kind, case.get("hyper"))
        student, teacher = (golden_fill(create_model(case[role], case["classes"])) for role in ("student", "teacher"))
        distiller = make_distiller(cfg, student, teacher, case.get("num_data", 0)).double()
        _fill_named(distiller, case["auxiliary_state"], leave=("contrast.params",))
        if isinstance(distiller, VID):
            for log_scale in distiller.log_scales:
                log_scale.data.fill_(initial_log_scale(cfg.VID.INIT_PRED_VAR, cfg.VID.EPS))
        Distillation(distiller)
        distiller.train().to(place.device, dtype)
        image, target = (_on(case["inputs"][key], dtype, place.device) for key in ("image", "target"))
        more = _contrast_indices(case["inputs"], place.device) if "index" in case["inputs"] else {}
        _, losses = distiller(image=image, target=target, epoch=case["epoch"], **more)
        for name, want in case["losses"].items():
            worst.add(f"{kind} {name}", losses[name].item(), want)
        add_up(losses.values()).backward()
        gradient = distiller.student.get_parameter("conv1.weight").grad
        if gradient is None:
            raise CheckError(f"{kind} has no gradient")
        worst.add(f"{kind} gradient", gradient.norm().item(), case["grad_conv1_l2"])
    return worst.finding()


def _figures_configuration(kind: str, hyper: dict | None, **solver: Any) -> Any:
    section = dict(hyper or {})
    if kind in ("FITNET", "VID"):
        section["PROBE_IN_TRAIN_MODE"] = False  # the figures were taken with undisturbed statistics
    return edkd_configuration(kind, section, **solver)


def _fill_named(module: nn.Module, names: dict[str, list[int]], leave: Sequence[str] = ()) -> None:
    """Fill the named entries of a module's state by the figures' rule, in float64."""
    state = module.double().state_dict()
    for name, shape in names.items():
        if name not in leave:
            state[name].copy_(torch.from_numpy(golden_array(name, shape)))


def _contrast_indices(inputs: dict, device: torch.device) -> dict[str, Tensor]:
    import numpy as np

    spec, negatives = inputs["index"], inputs["contrast_index"]
    index = np.random.RandomState(spec["permutation_seed"]).permutation(spec["of"])[: spec["take_first"]]
    table = np.random.RandomState(negatives["seed"]).randint(0, negatives["classes"], negatives["shape"])
    table[:, 0] = index
    return {"index": torch.from_numpy(index).to(device), "contrastive_index": torch.from_numpy(table).to(device)}


# --------------------------------------------------------------------------------------------------------------- models


def model_files(group: str) -> list[str]:
    """Names of the figures' files of a group: a family, or mdistiller's networks for large images."""
    family, _, large = group.partition(" ")
    names = conformance_names(f"models/{family}__*.json")
    if family != "mdistiller":
        return names
    return [name for name in names if bool(large) == ("imagenet_" in name)]


def check_models(group: str, place: Place) -> Finding:
    """Logits of every network of a group with figures, in evaluation and in training mode, channels-last."""
    worst = Worst(LOGIT_TOLERANCE[torch.float32])
    names = model_files(group)
    for name in names[:2] if place.miniature else names:
        figures, family = conformance(name), group.partition(" ")[0]
        if "eval" not in figures:
            continue
        # MTKD-RL's `vgg8_in64` and its like are another network at another image size
        own = figures.get("reference_name", figures["name"]) if family == "mtkd_rl" else figures["name"]
        network = golden_fill(create_model(own, figures["num_classes"], family=family))
        for module in network.modules():
            if isinstance(module, nn.Dropout | nn.Dropout2d):
                module.p = 0.0
        for dtype in DTYPES.values():
            model = copy.deepcopy(network).to(place.device, dtype).to(memory_format=torch.channels_last)
            images = golden_input(figures["input_shape"]).to(place.device, dtype)
            images = images.contiguous(memory_format=torch.channels_last)
            for mode in ("eval", "train"):  # in this order: training moves the running statistics, and reads none
                with torch.no_grad():
                    logits = model.train(mode == "train")(images)
                _add_logits(worst, f"{figures['name']} {mode}", logits, figures[mode])
    return worst.finding()


def _add_logits(worst: Worst, where: str, logits: Tensor, want: dict) -> None:
    """Take in what the figures have of a network's logits."""
    scale, tolerance = want["logits_abs_mean"], LOGIT_TOLERANCE[logits.dtype]
    logits, where = logits.double().cpu(), f"{where}, {str(logits.dtype).removeprefix('torch.')}"
    worst.add(where, logits.abs().mean().item(), scale, tolerance=tolerance)
    for key, values in (("logits_row0_first8", logits[0, :8]), ("logits_row1_last8", logits[1, -8:])):
        for got, value in zip(values.tolist(), want[key], strict=True):
            worst.add(where, got, value, scale=scale, tolerance=tolerance)


def check_multi_level_student(place: Place) -> Finding:
    """Logits of all four exits of MLKD's student."""
    from mlkd.student import MultiResNetV2

    figures, worst = conformance("models/mlkd__MultiResNetV2.json"), Worst(LOGIT_TOLERANCE[torch.float32])
    filled = golden_fill(MultiResNetV2(37))
    for dtype in DTYPES.values():
        student = copy.deepcopy(filled).to(place.device, dtype).to(memory_format=torch.channels_last)
        images = golden_input(figures["input_shape"]).to(place.device, dtype)
        for mode in ("eval", "train"):
            with torch.no_grad():
                heads = student.train(mode == "train").heads(images.contiguous(memory_format=torch.channels_last))
            wanted = [figures[mode], *figures[mode]["branches"]]
            for name, want in zip(("final", "exit_1", "exit_2", "exit_3"), wanted, strict=True):
                _add_logits(worst, f"{name} {mode}", heads[name], want)
    return worst.finding()


# --------------------------------------------------------------------------------------------------------- trajectories


class CaseBatches:
    """A case's batches in place of a dataset: its epochs, each with the numbers of its steps."""

    def __init__(self, case: dict, steps: dict[int, list[int]], device: torch.device, dtype: torch.dtype) -> None:
        self.case, self.steps, self.device, self.dtype = case, steps, device, dtype
        self.current = next(iter(steps))

    def __len__(self) -> int:
        return len(self.steps[self.current])

    @property
    def samples(self) -> int:
        return len(self) * self.case["batch"]

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        for step in self.steps[epoch]:
            images, targets = (draw(self.case["data"][key], step) for key in ("x", "y"))
            images, targets = images.to(self.device, self.dtype), targets.to(self.device)
            yield Batch(images, targets, torch.arange(len(targets), device=self.device), len(targets))


MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def _tfkd_case(case: dict) -> tuple[Method, MakeOptimizer, Schedule, dict[int, list[int]]]:
    from tfkd.main import GAMMA, LR_BATCH_SIZE, MILESTONES
    from tfkd.methods import Baseline, Distillation, LabelSmoothing, Regularization

    hyper, n = case["hyper"], case["iterations_per_epoch"]
    student = _tfkd_network(case["student"], case["classes"])
    if case["loss"] == "cross_entropy":
        method: Method = Baseline(student)
    elif case["loss"] == "label_smoothing":
        method = LabelSmoothing(student)
    elif case["loss"] == "tfkd_reg":
        method = Regularization(student, hyper["reg_alpha"], hyper["reg_temperature"], hyper["multiplier"])
    else:
        options = {key: hyper[key] for key in ("alpha", "temperature", "multiplier") if key in hyper}
        method = Distillation(student, _tfkd_network(case["teacher"], case["classes"]), **options)
    lr = hyper["learning_rate"] * case["batch"] / LR_BATCH_SIZE
    schedule = step_decay(lr, MILESTONES, GAMMA, warmup_epochs=case["warm"])
    steps = {epoch: list(range(epoch * n, (epoch + 1) * n)) for epoch in range(case["epochs"])}
    options = {key: value for key, value in case["optimizer"].items() if key != "type"}
    return method, lambda p: torch.optim.SGD(p, lr=lr, **options), schedule, steps


def _tfkd_network(name: str, classes: int) -> nn.Module:
    network = golden_fill(create_model(name, classes, family="tfkd"))
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def _edkd_case(case: dict) -> tuple[Method, MakeOptimizer, Schedule, dict[int, list[int]]]:
    from edkd.engine.method import make_method
    from edkd.engine.solver import make_optimizer

    solver = {**case["solver"], "TRAINER": case["trainer"]}
    if case["trainer"] == "dot":
        solver["DOT"] = {"DELTA": case["optimizer"]["momentum_kd"] - case["solver"]["MOMENTUM"]}
    cfg = _figures_configuration(case["distiller"], case["hyper"], **solver)
    student, teacher = (golden_fill(create_model(case[role], case["classes"])) for role in ("student", "teacher"))
    torch.set_default_dtype(torch.float64)
    try:
        method = make_method(
            cfg, student, teacher, torch.zeros(case["batch"], dtype=torch.long), Runtime(torch.device("cpu"))
        )
    finally:
        torch.set_default_dtype(torch.float32)
    _fill_named(method.distiller, case.get("auxiliary_state", {}))
    schedule = step_decay(cfg.SOLVER.LR, cfg.SOLVER.LR_DECAY_STAGES, cfg.SOLVER.LR_DECAY_RATE)
    steps: dict[int, list[int]] = {}
    for entry in case["steps"]:
        steps.setdefault(entry["epoch"] - 1, []).append(entry["step"])
    # the schedule counts three batches per epoch, whatever the case has of it
    return method, partial(make_optimizer, cfg), schedule, steps


def _mtkd_rl_case(case: dict) -> tuple[Method, MakeOptimizer, Schedule, dict[int, list[int]]]:
    from mtkd_rl.methods import MultiTeacherRL
    from mtkd_rl.multi_teacher import Averaging, Options
    from mtkd_rl.student import make_optimizer, make_schedule

    hyper = case["hyper"]
    student, *teachers = (
        golden_fill(create_model(name, case["classes"], family="mtkd_rl"))
        for name in (case["student"], *case["teachers"])
    )
    options = Options(hyper["kd_T"], hyper["feat_weight"], hyper["feat_kd"])
    arguments = student, dict(zip(case["teachers"], teachers, strict=True)), case["data"]["x"]["shape"][-1], options
    if "agent_step" not in hyper:
        method: Method = Averaging(*arguments)
    else:
        method = MultiTeacherRL(*arguments, dynamic=case["dynamic"], agent_step=hyper["agent_step"])
        golden_fill(method.agent.policy)
        method.agent.learner.double().load_state_dict(method.agent.policy.state_dict())
    golden_fill(method.transforms)
    schedule = make_schedule(hyper["lr_type"], hyper["init_lr"], hyper["milestones"], hyper["epochs"])
    epochs = itertools.groupby(case["steps"], key=lambda step: step["epoch"])
    steps = {i: [step["step"] for step in group] for i, (_, group) in enumerate(epochs)}
    decay = case["optimizer"]["weight_decay"]
    return method, lambda p: make_optimizer(p, hyper["init_lr"], decay), schedule, steps


CASES = {"tfkd": _tfkd_case, "edkd": _edkd_case, "mtkd_rl": _mtkd_rl_case}


def check_trajectories(paper: str, dtype: torch.dtype, place: Place) -> Finding:
    """Six steps of each method by the loop's fast path, against those of the published implementation."""
    tolerance = STEP_TOLERANCE_OF_TFKD if paper == "tfkd" else STEP_TOLERANCE
    worst, captured, how = Worst(tolerance[dtype]), 0, {}
    cases = conformance(f"trajectories/{paper}.json")["cases"]
    for case in cases[:2] if place.miniature else cases:
        method, make_optimizer, schedule, steps = CASES[paper](case)
        batches = CaseBatches(case, steps, place.device, dtype)
        watched = Watched(batches, dtype)
        runtime = FAST.runtime(place.device)
        trainer = make_trainer(method.to(dtype), make_optimizer, schedule, watched, runtime, place.scratch)
        for epoch in steps:
            batches.current = epoch
            train_epochs(trainer, [epoch])
        how[case["id"]] = trainer.execution()["step"]
        captured += how[case["id"]] == "captured"
        _add_steps(worst, case, watched, trainer.method.student, dtype)
    finding = worst.finding()
    finding.text += f"; {captured} of {len(how)} captured"
    finding.figures["steps"] = how
    return finding


def check_multi_level_trajectories(dtype: torch.dtype, place: Place) -> Finding:
    """Two updates of MLKD's student on images of 224 pixels, with the figures' teacher and shares of mixing."""
    from mlkd.methods import MultiLevel
    from mlkd.mixup_cutmix import Mix, MixupCutmix
    from mlkd.student import MultiResNetV2

    class FixedMixing(MixupCutmix):
        def __init__(self, case: dict) -> None:
            super().__init__(case["classes"], 1.0, 1.0)
            self.share = case["mixing"]["lam"]

        def draw(self, height: int, width: int) -> Mix:
            return Mix(self.share, self.share)

    class Table(nn.Module):
        """A teacher that answers the case's logits, one step's after the other's."""

        def __init__(self, case: dict) -> None:
            super().__init__()
            self.case, self.step = case, -1

        def forward(self, images: Tensor) -> Tensor:
            self.step += 1
            return draw(self.case["data"]["teacher_logits"], self.step).to(images)

    worst = Worst(STEP_TOLERANCE[dtype])
    cases = conformance("trajectories/mlkd.json")["cases"]
    for case in cases[:1] if place.miniature else cases:
        mixing = FixedMixing(case) if case["mixing"] else MixupCutmix(case["classes"], 0.0, 0.0)
        student = golden_fill(MultiResNetV2(case["classes"]))
        method = MultiLevel(student, Table(case), mixing, **case["hyper"]).to(dtype)
        batches = CaseBatches(case, {0: list(range(len(case["steps"])))}, place.device, dtype)
        watched = Watched(batches, dtype)
        optimizer = {key: value for key, value in case["optimizer"].items() if key != "type"}
        trainer = make_trainer(
            method,
            lambda p, options=optimizer: torch.optim.AdamW(p, **options),
            step_decay(optimizer["lr"], (), 1.0),
            watched,
            FAST.runtime(place.device),
            place.scratch,
            accumulation_steps=max(1, 128 // case["loader_batch_size"]),
        )
        train_epochs(trainer, [0])
        _add_steps(worst, case, watched, trainer.method.student, dtype)
    return worst.finding()


# --------------------------------------------------------------------------------------------------------------- checks

MODEL_GROUPS = ("tfkd", "mtkd_rl", "mdistiller", "mdistiller large")


def _float32_convolutions(function: Callable[[Place], Finding]) -> Callable[[Place], Finding]:
    def check(place: Place) -> Finding:
        use_tf32(False)
        return function(place)

    return check


def _checks() -> dict[str, Callable[[Place], Finding]]:
    checks: dict[str, Callable[[Place], Finding]] = {}
    for word, dtype in reversed(DTYPES.items()):
        for paper in CASES:
            checks[f"trajectories of {paper}, {word}"] = partial(check_trajectories, paper, dtype)
        checks[f"trajectories of mlkd, {word}"] = partial(check_multi_level_trajectories, dtype)
        for name in LOSSES:
            checks[f"losses of {name}, {word}"] = partial(check_losses, name, dtype)
        checks[f"whole distillers, {word}"] = partial(check_distillers, dtype)
    for group in MODEL_GROUPS:
        checks[f"networks of {group}"] = partial(check_models, group)
    checks["networks of mlkd"] = check_multi_level_student
    return checks


CONFORMANCE = {f"figures / {name}": Check(_float32_convolutions(function)) for name, function in _checks().items()}
