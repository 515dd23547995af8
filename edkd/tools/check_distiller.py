"""Does a distiller written for mdistiller fit? `python tools/check_distiller.py FILE.py:CLASS [KEY VALUE ...]`.

Reads its signatures, keys and what it asks of networks, tries a step as training will take it, trains a few steps in
plain and in fast mode, and says which class attributes would make it faster. With --enter it also writes what brings it
into the tables, beside KD, DKD and EDKD with the same teacher (edkd/README.md).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from any directory, installed or not
    from common.interrupts import stop_in_imports

    stop_in_imports()

import torch
from torch import Tensor, nn

from common.command_line import ArgumentParser, cli_main, positive_int, resolve_path
from common.data import Dataset, DeviceLoader, RandAugment, load_dataset
from common.data.synthetic import write_generated
from common.errors import UserError
from common.training.runtime import Runtime, add_runtime_flags, runtime_from
from edkd.engine.cfg import CFG
from edkd.engine.check import Setting, check_distiller
from edkd.engine.config import check
from edkd.engine.cuda_as_cpu import add_cuda_switch, cuda_calls
from edkd.engine.enter import PAIRS, configuration, enter
from edkd.engine.experiment import CIFAR100, PAIRED, PAPER, build_network
from edkd.engine.registry import distiller_class
from edkd.engine.teachers import teacher_files, teacher_names


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("distiller", metavar="FILE.py:CLASS", help="or a registered name")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides, as of tools/train.py")
    parser.add_argument("--cfg", default="", metavar="FILE", help="its configuration, for the keys of its own")
    parser.add_argument(
        "--pair", default="res32x4_res8x4", choices=PAIRS, help="teacher and student, and how they are trained"
    )
    parser.add_argument("--steps", type=positive_int, default=3, metavar="N", help="training steps of a trial")
    parser.add_argument("--data-dir", default="data", help="CIFAR-100 is read there, else a small set is generated")
    parser.add_argument("--enter", action="store_true", help="write its configuration and its entry in the plan")
    add_cuda_switch(parser)
    add_runtime_flags(parser)
    return parser.parse_intermixed_args()


def own_file(args: argparse.Namespace) -> Path | None:
    """The configuration that came with the distiller."""
    return resolve_path(args.cfg, PAPER) if args.cfg else None


def images(args: argparse.Namespace, scratch: Path) -> Dataset:
    """CIFAR-100 where it is, else a synthetic dataset."""
    try:
        return load_dataset("cifar100", resolve_path(args.data_dir, PAPER), download=False)
    except UserError:
        write_generated(scratch, "cifar-100", train_per_class=5, test_per_class=1)
        return load_dataset("cifar100", scratch, download=False)


@torch.no_grad()
def settle_batch_norm(network: nn.Module, images: Tensor) -> None:
    """Give an untrained network the statistics of these images, without which its logits explode when evaluated."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the mean of all batches, of which this is the first
    network.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def prepare(args: argparse.Namespace, runtime: Runtime, scratch: Path) -> Setting:
    """Networks and data that the pair's configuration asks for. Teachers without a given file are untrained."""
    distiller_class(args.distiller)  # its file may declare keys
    cfg = CFG.clone()
    cfg.merge_from_mapping(configuration(args.distiller, args.pair, own_file(args)))
    cfg.merge_from_list(args.opts)
    check(cfg)
    cfg.freeze()
    data = images(args, scratch)
    print(f"{args.distiller}: {cfg.DISTILLER.TEACHER} teaches {cfg.DISTILLER.STUDENT}, {data.name} ({data.content})")
    student = build_network(cfg.DISTILLER.STUDENT, "cifar100", data.num_classes, "DISTILLER.STUDENT")
    names = teacher_names(cfg)
    teachers = [build_network(name, "cifar100", data.num_classes, "DISTILLER.TEACHER") for name in names]
    if cfg.DISTILLER.TEACHER_CKPT:
        for teacher, checkpoint in zip(teachers, teacher_files(cfg, data), strict=True):
            checkpoint.load_into(teacher, "student.")
    strong = RandAugment() if cfg.SOLVER.TRAINER in PAIRED else None
    normalization, augmentation = CIFAR100
    options = {"augmentation": augmentation, "shuffle": True, "seed": args.seed, "limit": 1, "strong": strong}
    batches = DeviceLoader(data.train, cfg.SOLVER.BATCH_SIZE, normalization, runtime.device, **options)
    seen = next(batches.epoch(0)).images.cpu()
    for network in [student, *([] if cfg.DISTILLER.TEACHER_CKPT else teachers)]:
        settle_batch_norm(network, seen)
    return Setting(cfg, student, teachers, batches, runtime, args.steps)


def report(args: argparse.Namespace, runtime: Runtime, scratch: Path) -> bool:
    """Print every finding; whether all of them are good."""
    findings, setting = [], prepare(args, runtime, scratch)
    with CFG.standing_for(setting.cfg):
        for finding in check_distiller(setting):
            print(finding, flush=True)
            findings.append(finding)
    return all(finding.holds is not False for finding in findings)


@cli_main
def main() -> None:
    args = parse_arguments()
    with runtime_from(args) as runtime, tempfile.TemporaryDirectory() as scratch, cuda_calls(args.cuda_as_cpu, runtime):
        fits = report(args, runtime, Path(scratch))
    if not fits:
        raise UserError(f"{args.distiller} does not fit: see NO above, and the contract in docs/distillers.md")
    print(f"{args.distiller} fits")
    if args.enter:
        for line in enter(args.distiller, args.pair, own_file(args), args.opts):
            print(line)


if __name__ == "__main__":
    main()
