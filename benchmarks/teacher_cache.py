"""What remembered teachers' logits bring: EDKD's steps with an empty and a filled cache, and a whole row of a table.

`python -m benchmarks.teacher_cache` measures, in turns and in one process, epochs of some steps: the plain published
way, ours with the teacher in each step, and ours with all logits in the file; and it counts, by drawing them, how many
of a 240-epoch run's views were seen before, which gives that run's average. `--row` trains KD, DKD and EDKD with three
seeds and one teacher, once without and once with the cache, at the budget that it prints. CIFAR-100 comes from
--data-dir, or random images in its place; teachers have initial weights, which compute as fast as trained ones.
`--teacher-cache on` measures it also where bits differ, as they do on some GPUs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.loader import training_images
from benchmarks.plain import plain_loader
from benchmarks.step import LEARNING_RATE, edkd_setting
from benchmarks.timing import hardware, how_it_ran, interleave, report
from common.command_line import REPOSITORY, ArgumentParser, cli_main, positive_int
from common.data import Augmentation, Dataset, DeviceLoader, ImageArrays
from common.models import create_model, list_models
from common.plan.estimate import STEP_TIMES
from common.plan.plan import load_plan
from common.results.reported import EXPERIMENTS
from common.safe_json import read_json_file
from common.training.checkpoints import CheckpointFiles
from common.training.engine import Loaders, Trainer
from common.training.method import Method
from common.training.remember_teachers import remember_teachers
from common.training.runs import write_json
from common.training.runtime import Runtime, add_runtime_flags, runtime_from
from common.training.schedules import step_decay
from common.training.training_step import Optimization
from edkd.engine.cfg import CFG
from edkd.engine.experiment import CIFAR100
from edkd.engine.method import make_method
from edkd.engine.node import read_file

PAIRS = ("resnet56,resnet20", "wrn_40_2,wrn_16_2", "resnet32x4,resnet8x4", "vgg13,MobileNetV2")
EPOCHS, BATCH_SIZE = 240, 64
ROW = ("KD", "DKD", "EDKD")


class HitRate(NamedTuple):
    """Of a run that begins with an empty file.

    Attributes:
        drawn, distinct: views.
        first, last: share of the views of the first and the last epoch that were there already.
    """

    drawn: int
    distinct: int
    first: float
    last: float

    @property
    def mean(self) -> float:
        return 1 - self.distinct / self.drawn


def hit_rate(count: int, augmentation: Augmentation, epochs: int, seed: int) -> HitRate:
    """By the draws that training makes (`DeviceLoader.views`), of `count` images whose views are a finite set."""
    per_image = augmentation.view_count
    if per_image is None:
        raise ValueError("rotated images have no finite set of views")
    tiny = ImageArrays(np.zeros((count, 1, 1, 3), np.uint8), np.zeros(count, np.int64))
    loader = DeviceLoader(tiny, BATCH_SIZE, CIFAR100[0], augmentation=augmentation, shuffle=True, seed=seed)
    seen = np.zeros(count * per_image, bool)
    rates = []
    for epoch in range(epochs):
        views = loader.views(epoch)
        numbers = views.indices * per_image + augmentation.view_numbers(views.draws)
        rates.append(float(seen[numbers].mean()))
        seen[numbers] = True
    return HitRate(count * epochs, int(seen.sum()), rates[0], rates[-1])


def dataset_of(images: ImageArrays, root: Path) -> Dataset:
    """The images as a dataset whose cache lies in `root`."""
    return Dataset("benchmark", images, images, tuple(map(str, range(100))), "", "", root=root)


def trainer_of(method: Method, loader: DeviceLoader, runtime: Runtime, place: Path) -> Trainer:
    return Trainer(
        method,
        Optimization(
            lambda parameters: torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=0.9, weight_decay=5e-4),
            step_decay(LEARNING_RATE, (), 1.0),
            epochs=10**6,
        ),
        Loaders(loader, loader),
        runtime,
        CheckpointFiles(place / "last", None),
        settings={},
    )


def compare_steps(args: argparse.Namespace, pair: str, images: ImageArrays, runtime: Runtime, scratch: Path) -> None:
    """Print the rates of the sides for one pair of teacher and student."""
    args.teacher, args.student = pair.split(",")
    setting = edkd_setting(args, torch.from_numpy(images.targets), runtime)
    normalization, augmentation = setting.transforms_for
    plain = setting.make_plain_loop(
        plain_loader(images, normalization, augmentation, BATCH_SIZE, args.workers), runtime.device
    )
    options = {"augmentation": augmentation, "shuffle": True, "limit": args.steps}
    loader = DeviceLoader(images, BATCH_SIZE, normalization, runtime.device, **options)
    trainers = {}
    for side, cache in (("in each step", "off"), ("from the file", runtime.teacher_cache)):
        where = Runtime(**{**vars(runtime), "teacher_cache": cache})
        trainers[side] = trainer_of(setting.make_method(), loader, where, scratch)
        remember_teachers(trainers[side], dataset_of(images, scratch))
    for message in trainers["from the file"].messages:
        print(message)
    if trainers["from the file"].step.teacher_pass is None:
        print(f"EDKD, {pair.replace(',', ' teaches ')}: nothing is remembered here, so there is nothing to compare")
        return
    trainers["from the file"].train_epoch(0, show_progress=False)  # fills the file with what is measured
    before = trainers["from the file"].execution()["teacher_logits"]["computed_ahead"]

    def epoch_of(trainer: Trainer) -> int:
        trainer.train_epoch(0, show_progress=False)
        return args.steps * BATCH_SIZE

    sides = {"plain": lambda: plain.steps(args.steps) * BATCH_SIZE}
    sides |= {f"teacher {side}": lambda trainer=trainer: epoch_of(trainer) for side, trainer in trainers.items()}
    rates = interleave(sides, args.rounds)
    assert trainers["from the file"].execution()["teacher_logits"]["computed_ahead"] == before
    report(f"EDKD, {args.teacher} teaches {args.student}, batch {BATCH_SIZE}", rates)
    print(f"  ours ran: {how_it_ran(trainers['from the file'].execution())}")
    plain_rate, computed, filled = (statistics.median(values) for values in rates.values())
    if args.keep:
        keep(pair, filled / computed)
    hits = hit_rate(len(images), augmentation, EPOCHS, args.seed)
    seconds = hits.mean / filled + (1 - hits.mean) / computed  # an image of the whole run, on average
    print(
        f"  first run of {EPOCHS} epochs: {hits.drawn} views, {hits.distinct} of them distinct, {hits.mean:.3f} from "
        f"the file on average ({hits.last:.3f} in the last epoch): ratio {1 / seconds / plain_rate:.2f} to plain"
    )


def train_row(args: argparse.Namespace, pair: str, images: ImageArrays, runtime: Runtime, scratch: Path) -> None:
    """Print how long KD, DKD and EDKD with three seeds take, without and with one cache for all."""
    teacher_name, student_name = pair.split(",")
    normalization, augmentation = CIFAR100
    some = images.take(np.arange(min(args.row_images, len(images))))
    some = ImageArrays(some.pixels, some.targets)
    torch.manual_seed(0)
    weights = create_model(teacher_name, 100).state_dict()
    seconds: dict[str, float] = {}
    students: dict[str, list] = {}
    counted = [0, 0]
    for cache in ("off", runtime.teacher_cache):
        started = time.perf_counter()
        students[cache] = []
        for kind in ROW:
            for seed in range(3):
                cfg = CFG.clone()
                cfg.DISTILLER.TYPE = kind
                torch.manual_seed(seed)
                teacher, student = create_model(teacher_name, 100), create_model(student_name, 100)
                teacher.load_state_dict(weights)
                method = make_method(cfg, student, teacher, torch.from_numpy(some.targets), runtime)
                options = {"augmentation": augmentation, "shuffle": True, "seed": seed}
                loader = DeviceLoader(some, BATCH_SIZE, normalization, runtime.device, **options)
                where = Runtime(**{**vars(runtime), "teacher_cache": cache})
                trainer = trainer_of(method, loader, where, scratch)
                remember_teachers(trainer, dataset_of(some, scratch / "row"))
                for epoch in range(args.row_epochs):
                    trainer.train_epoch(epoch, show_progress=False)
                students[cache].append(trainer.method.student.state_dict())
                if trainer.step.teacher_pass:
                    counted[0] += trainer.step.teacher_pass.from_file
                    counted[1] += trainer.step.teacher_pass.computed
        seconds[cache] = time.perf_counter() - started
    same = all(
        torch.equal(a[name], b[name])
        for a, b in zip(students["off"], students[runtime.teacher_cache], strict=True)
        for name in a
    )
    budget = f"{len(some)} images, {args.row_epochs} epochs"
    print(f"row: {', '.join(ROW)} x 3 seeds, {teacher_name} teaches {student_name}, {budget} | {hardware()}")
    without, with_one = seconds["off"], seconds[runtime.teacher_cache]
    print(f"  without: {without:.0f} s; with one file: {with_one:.0f} s; ratio {without / with_one:.2f}")
    print(f"  logits from the file: {counted[0]} of {sum(counted)}; all nine students equal, bit for bit: {same}")


def planned_with(pair: str) -> list[str]:
    """The plan's experiments that read the logits of this teacher alone, as `step_times.json` names them."""
    teacher, student = pair.split(",")
    names = []
    for run in load_plan():
        if run.paper != "edkd" or len(run.command) != 3 or run.command[1] != "--cfg":  # overrides change the pair
            continue
        content = read_file(REPOSITORY / "edkd" / run.command[2])
        wanted = content["DISTILLER"]
        plain = content["SOLVER"].get("TRAINER", "base") == "base" and run.dataset == "cifar100"
        if plain and wanted["TYPE"] in ROW and (wanted["TEACHER"], wanted["STUDENT"]) == (teacher, student):
            names.append(f"edkd {run.experiment}")
    return names


def keep(pair: str, speedup: float) -> None:
    """Let `--dry-run` know how many times as fast steps with remembered logits are."""
    file = EXPERIMENTS / STEP_TIMES
    table = read_json_file(file)
    views = CIFAR100[1].view_count
    for name in planned_with(pair):
        if name in table["runs"]:
            table["runs"][name]["remembered"] = {"speedup": round(speedup, 2), "views": views}
    write_json(file, table)


def _pair(text: str) -> str:
    """Type of a flag: a teacher and a student of mdistiller's family."""
    names = text.split(",")
    if len(names) != 2 or not set(names) <= set(list_models("mdistiller")):
        raise argparse.ArgumentTypeError(f"{text} is not TEACHER,STUDENT (`python -m common.models mdistiller`)")
    return text


@cli_main
def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", nargs="+", type=_pair, default=list(PAIRS), metavar="TEACHER,STUDENT")
    parser.add_argument("--rounds", type=positive_int, default=3)
    parser.add_argument("--steps", type=positive_int, help="steps a measurement (default: 4, on a GPU 200)")
    parser.add_argument("--workers", type=positive_int, default=2, help="worker processes of the plain loader")
    parser.add_argument("--row", action="store_true", help="train a whole row of a table instead, for each pair")
    parser.add_argument("--row-images", type=positive_int, default=320, help="the first so many images")
    parser.add_argument("--row-epochs", type=positive_int, default=6)
    parser.add_argument("--keep", action="store_true", help=f"write the ratios into {STEP_TIMES}, for --dry-run")
    parser.add_argument("--data-dir", type=Path, default=REPOSITORY / "data", metavar="DIR")
    add_runtime_flags(parser)
    args = parser.parse_args()
    if args.teacher_cache == "off":
        parser.error("--teacher-cache off leaves nothing to measure")
    with runtime_from(args) as runtime, tempfile.TemporaryDirectory() as scratch:
        args.steps = args.steps or (200 if runtime.device.type == "cuda" else 4)
        images = training_images(args.data_dir)
        for pair in args.pairs:
            (train_row if args.row else compare_steps)(args, pair, images, runtime, Path(scratch))


if __name__ == "__main__":
    main()
