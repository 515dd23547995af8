"""What a finished run says of its student beside its teachers: best and last epoch, test and training split."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from common.analysis.metrics import optimal_temperature
from common.analysis.networks import MEAN, analyze_predictions, analyze_teacher, finite
from common.training.data_parallel import on_main_rank
from common.training.engine import Trainer
from common.training.evaluation import collect
from common.training.gpu_memory import explained_out_of_memory
from common.training.method import Method
from common.training.progress import duration
from common.training.runs import RunDirectory

FINAL = "final"  # the output that a network is judged by
TRAIN_IMAGES = 50_000  # of the training split at most; of larger ones as many, evenly spaced
# of `analysis`, what TensorBoard and the log show
SHOWN = ("accuracy", "nll", "ece", "optimal_temperature", "ece_at_optimal_temperature")
SHOWN_OF_TEACHERS = ("agreement", "agreement_where_teacher_wrong", "kl", "kl_at_temperature")


@dataclasses.dataclass(frozen=True)
class TestOutputs:
    """What the networks of a finished run say about the test images, on the CPU.

    Attributes:
        epochs: "last" and "best" -> output -> the student's logits, [N, K]; one entry where the last epoch is the best.
        teachers: name -> logits, [N, K]; of several also their mean.
        targets: [N].
    """

    epochs: dict[str, dict[str, Tensor]]
    teachers: dict[str, Tensor]
    targets: Tensor

    @property
    def chosen(self) -> dict[str, Tensor]:
        """Those of the best epoch, or of the last where the best one's weights are gone."""
        return self.epochs.get("best", self.epochs["last"])


# outputs, directory of the run, test analysis of the best epoch -> more entries of the record's `analysis`
Extension = Callable[[TestOutputs, RunDirectory, Mapping[str, Any]], dict[str, Any]]


def analyze_run(
    trainer: Trainer,
    test: Any,
    teachers: Sequence[str],
    classes: Sequence[str],
    best: Path | None,
    run: RunDirectory | None,
    extend: Extension = lambda *_: {},
) -> dict[str, Any] | None:
    """The record's `analysis`. Called on all ranks; teachers see each image once.

    Args:
        trainer: after the last epoch; has the same weights afterwards.
        test: batches of the test split.
        teachers: names of the run's teachers.
        classes: names of the classes.
        best: checkpoint of the best epoch; where it is gone, the last epoch alone is analyzed.
        run: receives the figures.
        extend: gives more entries.

    Returns:
        `seconds`; `temperature` of the method; `test` and `train`, each with the number of `images`, and `best` and
        `last` (`analyze_predictions`; accuracy and agreement on the training split); in `test` also `teachers` by
        themselves. None on all but the main process.
    """
    started = time.perf_counter()
    method = trainer.method.eval()
    if trainer.runtime.is_main and (best is None or not best.is_file()):
        best = None
    on_train = getattr(trainer.loaders.train, "unaugmented", None)  # people's own batches need not have it
    sets = {
        "test": test,
        "validation": trainer.loaders.validation,
        "train": on_train and on_train(min(trainer.loaders.train.samples, TRAIN_IMAGES)),
    }
    sets = {name: batches for name, batches in sets.items() if batches is not None}
    last_is_best = trainer.state.selection.best_epoch == trainer.epochs - 1
    if run is not None:
        networks = ["the last epoch", *["the best epoch"] * (not last_is_best and best is not None), *teachers]
        run.log(_announcement(trainer, networks, sets))
    with explained_out_of_memory("analysis", graphs=False):
        student = {"last": _collect_all(trainer, method.outputs, sets, "last epoch")}
        if last_is_best:
            student["best"] = student["last"]
        elif on_main_rank(best is not None, trainer.runtime):
            with trainer.state.weights_from(best or Path()):
                student["best"] = _collect_all(trainer, method.outputs, sets, "best epoch")
        taught = {name: sets[name] for name in ("test", "train") if teachers and name in sets}
        teacher = _collect_all(trainer, functools.partial(_teacher_outputs, method, teachers), taught, "teachers")
    if run is None:
        return None
    logits, targets = teacher.get("test", ({}, None))[0], student["last"]["test"][1]
    parts = {epoch: analyze_outputs(found, logits, classes, method.temperature) for epoch, found in student.items()}
    analysis = {
        "temperature": method.temperature,
        "test": {
            "images": len(targets),
            "teachers": {name: analyze_teacher(each, targets) for name, each in logits.items()},
            **parts,
        },
    }
    if "train" in sets:
        predicted = teacher.get("train", ({}, None))[0]
        of_train = {epoch: _on_training_split(*found["train"], predicted) for epoch, found in student.items()}
        analysis["train"] = {"images": sets["train"].samples, **of_train}
    outputs = TestOutputs({epoch: found["test"][0] for epoch, found in student.items()}, logits, targets)
    analysis |= extend(outputs, run, parts.get("best", parts["last"]))
    analysis["seconds"] = round(time.perf_counter() - started, 2)
    run.log_scalars(_scalars(analysis), trainer.epochs - 1)
    for line in in_words(analysis):
        run.log(line)
    return analysis


def _collect_all(
    trainer: Trainer, outputs: Callable[[Tensor], Mapping[str, Tensor]], sets: Mapping[str, Any], whose: str
) -> dict[str, tuple[dict[str, Tensor], Tensor]]:
    """Set -> logits by name and targets; of the training split predicted classes in place of logits."""
    how = {"runtime": trainer.runtime, "layout": trainer.layout}
    return {
        name: collect(outputs, part, predictions=name == "train", title=f"analyzing {whose}, {name} split", **how)
        for name, part in sets.items()
    }


def _announcement(trainer: Trainer, networks: Sequence[str], sets: Mapping[str, Any]) -> str:
    """What is about to be analyzed, and how long that takes: for each image about as long as in an epoch."""
    images = " and ".join(f"{part.samples} {name}" for name, part in sets.items())
    line = f"analyzing {', '.join(networks)} on {images} images"
    if (epoch := trainer.time_left.epoch) is None:
        return line
    loaders = [trainer.loaders.train, trainer.loaders.test, trainer.loaders.validation]
    share = sum(part.samples for part in sets.values()) / sum(part.samples for part in loaders if part is not None)
    return f"{line}: about {duration(share * epoch)}"


def _teacher_outputs(method: Method, names: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    logits = method.teacher_logits(images)
    named = dict(zip(_unique(names, len(logits)), logits, strict=True))
    return {**named, MEAN: method.mean_teacher(logits)} if len(logits) > 1 else named


def _unique(names: Sequence[str], count: int) -> list[str]:
    """A name for each of `count` teachers: those of the checkpoints, numbered where one occurs twice."""
    if len(names) != count:  # a distiller that builds teachers of its own
        names = ["teacher"] * count
    return [f"{name} {names[: i + 1].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def analyze_outputs(
    found: Mapping[str, tuple[dict[str, Tensor], Tensor]],
    teachers: Mapping[str, Tensor],
    classes: Sequence[str],
    temperature: float | None,
) -> dict[str, Any]:
    """The test analysis of the final output, and under `exits` of each other one.

    Args:
        found: "test", and "validation" where there is one -> logits by output, each [N, K], and the targets [N].
        teachers: name -> logits on the test split; several with their mean.
        classes: names of the classes.
        temperature: of the method, for a second divergence; None where it has none.
    """
    outputs, targets = found["test"]
    validation, labels = found.get("validation", ({}, targets))

    def of(name: str) -> dict[str, Any]:
        best = optimal_temperature(validation[name], labels) if name in validation else None
        how = {"temperature": temperature, "validation_temperature": best}
        return analyze_predictions(outputs[name], targets, teachers, classes, **how)

    exits = {name: of(name) for name in outputs if name != FINAL}
    return {**of(FINAL), **({"exits": exits} if exits else {})}


def _on_training_split(
    predicted: Mapping[str, Tensor], targets: Tensor, teachers: Mapping[str, Tensor]
) -> dict[str, Any]:
    share = {name: _share(predicted[FINAL] == classes) for name, classes in teachers.items()}
    return finite({"accuracy": _share(predicted[FINAL] == targets), "agreement": share})


def _share(hits: Tensor) -> float:
    return 100 * float(hits.double().mean())


def _scalars(analysis: Mapping[str, Any]) -> dict[str, Any]:
    """`analysis/<split>/<epoch>/<metric>[/<teacher>]` -> number."""
    scalars = {}
    for split, epoch in ((split, epoch) for split in ("test", "train") for epoch in ("best", "last")):
        part = analysis.get(split, {}).get(epoch, {})
        name = f"analysis/{split}/{epoch}"
        scalars |= {f"{name}/{key}": part.get(key) for key in SHOWN}
        for teacher, fidelity in part.get("fidelity", {}).items():
            scalars |= {f"{name}/{key}/{teacher}": fidelity[key] for key in SHOWN_OF_TEACHERS}
        scalars |= {f"{name}/agreement/{teacher}": share for teacher, share in part.get("agreement", {}).items()}
    return scalars


def in_words(analysis: Mapping[str, Any]) -> Iterable[str]:
    """The main figures of the test split, a line for the last epoch and one for the best where that is another."""
    test = analysis["test"]
    for epoch in ("last", "best") if test.get("best") != test["last"] else ("last",):
        if part := test.get(epoch):
            words = [f"NLL {part['nll']:.4f}", f"ECE {part['ece']:.2f} %"]
            words += [f"agreement with {name} {f['agreement']:.2f} %" for name, f in part["fidelity"].items()]
            yield f"analysis of the {epoch} epoch: {', '.join(words)}"
