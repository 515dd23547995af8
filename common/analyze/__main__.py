"""What a student took from its teachers: `python -m common.analyze STUDENT --teacher TEACHER [--against OTHER]`.

STUDENT, TEACHER and OTHER are checkpoints or directories of runs, of any family, released ones included. A run's own
teachers are taken where --teacher is left out; OTHER is a second student, and whether the two differ is tested. Prints
tables; docs/metrics.md has the definitions.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.analysis.mcnemar import McNemar
from common.analysis.metrics import accuracy_by_group, agreement, optimal_temperature
from common.analysis.networks import analyze_predictions, analyze_teacher, finite, with_mean
from common.analyze.sources import Source, check_pair, open_source, own_validation
from common.command_line import (
    ArgumentParser,
    cli_main,
    nonnegative_int,
    output_file,
    positive_float,
    positive_int,
    resolve_path,
)
from common.data import Dataset, DeviceLoader, ImageArrays, load_dataset
from common.data.device_loader import evenly_spaced
from common.data.flags import add_data_flags
from common.errors import UserError
from common.results.tables import markdown
from common.run_record import NAME, read_record
from common.training.evaluation import collect
from common.training.layouts import layout_for
from common.training.runs import write_json
from common.training.runtime import TRAINING_ONLY, Runtime, add_runtime_flags, runtime_from

NONE = "–"
BATCH_SIZE = 250
MOST_DIFFERENT = 5  # classes
COLUMNS = {
    "agreement": "agreement, %",
    "agreement_where_teacher_wrong": "where the teacher is wrong, %",
    "kl": "KL",
    "kl_at_temperature": "KL at its temperature",
}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m common.analyze", description=__doc__)
    add = parser.add_argument
    add("student", metavar="STUDENT", help="checkpoint, or directory of a run; FAMILY/NETWORK:FILE names the network")
    add("--teacher", action="append", default=[], metavar="TEACHER", help="likewise; repeat it for several")
    add("--against", metavar="OTHER", help="a second student, compared on the same test images (McNemar's test)")
    add("--epoch", choices=("last", "best"), default="last", help="of runs: the last, or the one that was the best")
    add("--dataset", metavar="NAME", help="default: of the student's run, else cifar100")
    add(
        "--temperature",
        type=positive_float,
        metavar="T",
        help="for a second divergence (default: of the student's method)",
    )
    add("--train-images", type=nonnegative_int, default=50_000, metavar="N", help="of the training split, at most")
    add("--batch-size", type=positive_int, default=BATCH_SIZE, metavar="N", help="images at a time")
    add("--json", type=output_file, metavar="FILE", help="also write everything, with classes and bins")
    add_data_flags(parser, training=False, folders=False)
    add_runtime_flags(parser, without=TRAINING_ONLY)
    return parser.parse_args(arguments)


class Analysis:
    """Networks evaluated on one dataset, each once.

    Args:
        args, runtime: flags.
        data: the dataset.
    """

    def __init__(self, args: argparse.Namespace, runtime: Runtime, data: Dataset) -> None:
        self.args, self.runtime, self.data = args, runtime, data
        limit = args.limit_eval_batches
        count = len(data.test) if limit is None else min(len(data.test), limit * args.batch_size)
        self.test = data.test.take(evenly_spaced(count, count))

    def logits(self, source: Source, images: ImageArrays) -> tuple[Tensor, Tensor]:
        """[N, K], and the targets [N]."""
        layout = layout_for(source.network, self.runtime)
        network = source.network.to(self.runtime.device).to(memory_format=layout)
        batches = DeviceLoader(images, self.args.batch_size, source.normalization, self.runtime.device)
        outputs, targets = collect(lambda x: {"final": network(x)}, batches, self.runtime, layout)
        return outputs["final"], targets

    def student(self, source: Source, teachers: Mapping[str, Source], on_test: Mapping[str, Tensor]) -> dict[str, Any]:
        """`test` and `train` of a run's `analysis`, and the logits on the test split.

        Args:
            source: the student.
            teachers: by name.
            on_test: their logits on the test split, and their mean's.
        """
        logits, targets = self.logits(source, self.test)
        train, validation = own_validation(source, self.data)
        best = optimal_temperature(*self.logits(source, validation)) if validation is not None else None
        temperature = self.args.temperature or _temperature_of(source)
        how = {"temperature": temperature, "validation_temperature": best}
        result = {"test": analyze_predictions(logits, targets, on_test, self.data.classes, **how)}
        if self.args.train_images:
            train = train.take(evenly_spaced(len(train), self.args.train_images))
            own, labels = self.logits(source, train)
            theirs = with_mean({name: self.logits(teacher, train)[0] for name, teacher in teachers.items()})
            shares = {name: agreement(own, each) for name, each in theirs.items()}
            hits = 100 * float((own.argmax(1) == labels).double().mean())
            result["train"] = {"images": len(train), "accuracy": hits, "agreement": shares}
        return {"label": source.label, "temperature": temperature, **result, "logits": logits}


def _temperature_of(source: Source) -> float | None:
    """The temperature of the method that trained a student, where its run's record says it."""
    return (source.record.analysis or {}).get("temperature") if source.record else None


def teachers_of(args: argparse.Namespace) -> list[str]:
    """What `--teacher` names, or the teachers that the student's run names.

    Raises:
        UserError: none of either, and no other student to compare with.
    """
    if args.teacher:
        return args.teacher
    path = Path(args.student)
    record = read_record(path if path.is_dir() else path.parent) if path.is_dir() or path.name == NAME else None
    paths = [teacher["path"] for teacher in record.teachers if "path" in teacher] if record else []
    if missing := [path for path in paths if not Path(path).is_file()]:
        raise UserError(f"the teacher of {args.student} is no longer at {missing[0]}: give --teacher FILE")
    if not paths and not args.against:
        raise UserError(
            f"agreement needs a teacher, and {args.student} names none: give --teacher FILE, a checkpoint or a run"
        )
    return paths


def dataset_of(args: argparse.Namespace) -> str:
    """`--dataset`, or that of the student's run."""
    path = Path(args.student)
    record = read_record(path) if path.is_dir() else None
    return args.dataset or (record.data.get("name") if record else None) or "cifar100"


def analyze(args: argparse.Namespace, runtime: Runtime) -> dict[str, Any]:
    """Everything that is said: `students`, `teachers`, and `comparison` where there are two students."""
    named = teachers_of(args)
    data = load_dataset(dataset_of(args), resolve_path(args.data_dir, ""), download=not args.no_download)
    if not isinstance(data.test, ImageArrays):
        raise UserError(f"{data.name} is not held in memory: analyze its runs by their own run.json")
    students = [open_source(text, data, args.epoch) for text in [args.student, *([args.against] * bool(args.against))]]
    teachers: dict[str, Source] = {}
    for text in named:
        source = open_source(text, data, args.epoch)
        if source.label in teachers:
            raise UserError(f"--teacher {text} is given twice")
        teachers[source.label] = source
    check_pair([*students, *teachers.values()])
    analysis = Analysis(args, runtime, data)
    on_test = with_mean({name: analysis.logits(teacher, analysis.test)[0] for name, teacher in teachers.items()})
    found = [analysis.student(student, teachers, on_test) for student in students]
    logits = [each.pop("logits") for each in found]
    targets = torch.from_numpy(analysis.test.targets)
    result = {
        "data": data.describe(),
        "images": len(analysis.test),
        "students": found,
        "teachers": {name: analyze_teacher(each, targets) for name, each in on_test.items()},
    }
    if len(students) == 2:
        result["comparison"] = compare(logits[0], logits[1], targets, data.classes)
    return result


def compare(a: Tensor, b: Tensor, targets: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Two students on the same test images: agreement, where they differ, McNemar's test."""
    test, each = McNemar.of(a, b, targets), torch.arange(len(classes))
    by_class = zip(classes, accuracy_by_group(a, targets, each), accuracy_by_group(b, targets, each), strict=True)
    gaps = {name: y - x for name, x, y in by_class if x is not None and y is not None}
    widest = sorted(gaps, key=lambda name: -abs(gaps[name]))[:MOST_DIFFERENT]
    low, high = test.interval
    return {
        "agreement": agreement(a, b),
        "both": test.both,
        "only_a": test.only_a,
        "only_b": test.only_b,
        "neither": test.neither,
        "neither_and_different": test.neither - int(((a.argmax(1) == b.argmax(1)) & (a.argmax(1) != targets)).sum()),
        "difference": test.difference,
        "interval": [low, high],
        "p": test.p,
        "classes": {name: gaps[name] for name in widest},
    }


def render(result: Mapping[str, Any]) -> str:
    """The analysis as Markdown."""
    data = result["data"]
    blocks = [f"{data['name']} ({data['content']}), {result['images']} test images"]
    rows = [["student", student["label"], *_own(student["test"])] for student in result["students"]]
    rows += [["teacher", name, *_own(figures)] for name, figures in result["teachers"].items()]
    header = ["", "network", "accuracy, %", "NLL", "ECE, %", "best temperature", "ECE after it, %"]
    blocks.append(markdown(header, rows, left=2))
    rows = [
        [student["label"], name, *(_show(fidelity[key]) for key in COLUMNS), *_of_train(student, name)]
        for student in result["students"]
        for name, fidelity in student["test"]["fidelity"].items()
    ]
    if rows:
        header = ["student", "teacher", *COLUMNS.values(), "agreement on training images, %"]
        blocks.append(markdown(header, rows, left=2))
    rows = [[s["label"], _show(s["train"]["accuracy"]), str(s["train"]["images"])] for s in _with_train(result)]
    if rows:
        blocks.append(markdown(["student", "accuracy on training images, %", "of so many"], rows, left=1))
    if "comparison" in result:
        blocks.append(_comparison(result["comparison"], *(student["label"] for student in result["students"])))
    return "\n\n".join(blocks) + "\n"


def _with_train(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [student for student in result["students"] if "train" in student]


def _own(figures: Mapping[str, Any]) -> list[str]:
    words = [_show(figures["accuracy"]), _show(figures["nll"], 4), _show(figures["ece"])]
    return [*words, _show(figures.get("optimal_temperature"), 3), _show(figures.get("ece_at_optimal_temperature"))]


def _of_train(student: Mapping[str, Any], teacher: str) -> list[str]:
    return [_show(student["train"]["agreement"][teacher]) if "train" in student else NONE]


def _show(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _comparison(found: Mapping[str, Any], a: str, b: str) -> str:
    low, high = found["interval"]
    verdict = "they differ" if found["p"] < 0.05 else "no difference shown"
    classes = ", ".join(f"{name} {gap:+.1f}" for name, gap in found["classes"].items())
    return "\n".join(
        [
            f"A: {a}\nB: {b}",
            f"- give the same class to {found['agreement']:.2f} % of the images",
            f"- right: both {found['both']}, A alone {found['only_a']}, B alone {found['only_b']}, neither "
            f"{found['neither']} ({found['neither_and_different']} of these with different classes)",
            f"- B − A: {found['difference']:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}; "
            f"McNemar's exact test: p = {found['p']:.2g}, {verdict} (of these two networks, whatever other seeds give)",
            f"- classes with the largest differences in accuracy, B − A: {classes}",
        ]
    )


@cli_main
def main() -> None:
    args = parse_arguments()
    with runtime_from(args) as runtime:
        result = analyze(args, runtime)
    if args.json:
        write_json(args.json, finite(result))
    print(render(result), end="")


if __name__ == "__main__":
    main()
