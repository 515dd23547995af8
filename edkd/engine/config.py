"""A run's configuration: defaults, file, overrides, checks; and the names that follow from it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.command_line import (
    LARGEST_COUNT,
    LARGEST_NUMBER,
    REPOSITORY,
    SMALLEST_NUMBER,
    is_inside,
    nearest,
    resolve_path,
    shortened,
)
from common.errors import UserError
from common.run_record import SKIPPED
from edkd.distillers._base import Vanilla
from edkd.engine.cfg import CFG
from edkd.engine.contrast import MODES
from edkd.engine.experiment import PAIRED, PAPER
from edkd.engine.node import Node, read_file
from edkd.engine.registry import distiller_class

TRAINERS = ("base", "crd", "dot", "crd_dot", *PAIRED)
DECLARED = dict(CFG.leaves())  # the keys of this repository; what people's own methods read is theirs to bound
TEMPERATURE_KEYS = ("TEMPERATURE", "T", "TAU")  # of a distiller's section
WARMUPS = ("WARMUP", "WARMUP_EPOCHS")
# keys that say where a run goes and how much of it there is, not what is trained; a record's settings have them
PLACE_AND_BUDGET = (
    *("EXPERIMENT.", "LOG.", "DATASET.NUM_WORKERS", "DATASET.TEST.", "DISTILLER.TEACHER_CKPT"),
    *("SOLVER.EPOCHS", "SOLVER.LR_DECAY_STAGES", "SOLVER.BATCH_SIZE"),
)

# words that may be None; numbers, truth values and lists may not
OPTIONAL = ("EXPERIMENT.NAME", "DISTILLER.TEACHER", "DISTILLER.STUDENT", "DISTILLER.TEACHER_CKPT")
# numbers, or lists of them, that count what there must be one of at least ...
COUNTS = (
    *("SOLVER.BATCH_SIZE", "SOLVER.EPOCHS", "DATASET.TEST.BATCH_SIZE", "LOG.SAVE_CHECKPOINT_FREQ", "CRD.NCE.K"),
    *("FITNET.INPUT_SIZE", "VID.INPUT_SIZE", "OFD.CONNECTOR.KERNEL_SIZE", "REVIEWKD.SHAPES", "REVIEWKD.OUT_SHAPES"),
    *("REVIEWKD.IN_CHANNELS", "REVIEWKD.OUT_CHANNELS", "REVIEWKD.MAX_MID_CHANNEL", "DATASET.IMAGE_SIZE"),
    *("CRD.FEAT.DIM", "CRD.FEAT.STUDENT_DIM", "CRD.FEAT.TEACHER_DIM", "AT.P", "KDSVD.K"),
)
# ... that something is divided by, or that is nothing without them ...
POSITIVE = (
    *("SOLVER.LR", "SOLVER.LR_DECAY_RATE", "KD.TEMPERATURE", "DKD.T", "EDKD.T", "CRD.NCE.TEMPERATURE"),
    *("RKD.PDIST.EPSILON", "VID.EPS", "VID.INIT_PRED_VAR"),
)
ANY_SIGN = ("FITNET.HINT_LAYER",)  # counted from the end; what is nowhere here is 0 at least

# keys that hold a path, which no directory is named by
PATHS = ("LOG.PREFIX", "DISTILLER.TEACHER_CKPT")


@dataclasses.dataclass(frozen=True)
class ConfigFlags:
    """The flags that a configuration follows from, under their names."""

    cfg: str
    opts: Sequence[str]
    epochs: int | None
    seed: int

    @property
    def overrides(self) -> list[tuple[str, str]]:
        """The `KEY VALUE` pairs of the command line."""
        return list(zip(self.opts[::2], self.opts[1::2], strict=True))


def load_config(flags: ConfigFlags) -> tuple[Node, dict[str, int]]:
    """The frozen configuration of a run, and how much training its file asks for, in the words of `run.json`.

    Raises:
        UserError: no such file, unknown keys, wrong types, values that cannot be.
    """
    path = configuration_file(flags)
    content, where = (read_file(path), f"{path}: ") if path else ({}, "")
    _load_named_file(content, flags.opts)
    cfg = CFG.clone()
    cfg.merge_from_mapping(content, where)
    published = {"published_epochs": cfg.SOLVER.EPOCHS, "published_batch_size": cfg.SOLVER.BATCH_SIZE}
    cfg.merge_from_list(flags.opts)
    check(cfg)
    for key, text in flags.overrides:
        if not text.isprintable():
            raise UserError(f"{key} is {text!r}, but must be printable: overrides name the directory of a run")
    if flags.epochs is not None:
        shorten(cfg, flags.epochs)
    cfg.freeze()
    return cfg, published


def configuration_file(flags: ConfigFlags) -> Path | None:
    """The file of `--cfg`; None where none is given.

    Raises:
        UserError: there is no such file.
    """
    if not flags.cfg:
        return None
    path = resolve_path(flags.cfg, PAPER)
    if not path.is_file():
        root = REPOSITORY / PAPER
        listed = f"find {root / 'configs'} -name '*.yaml'"
        hint = nearest(flags.cfg, [str(f.relative_to(root)) for f in root.glob("configs/**/*.yaml")], listed)
        raise UserError(f"no configuration {flags.cfg} here, in {PAPER}/ or in the repository: {hint}")
    return path


def _load_named_file(content: dict[str, Any], opts: Sequence[str]) -> None:
    """Load the file of a `DISTILLER.TYPE FILE.py:CLASS`, which may declare keys of its own in `CFG`."""
    group = content.get("DISTILLER")
    name = group.get("TYPE") if isinstance(group, dict) else None
    name = dict(zip(opts[::2], opts[1::2], strict=False)).get("DISTILLER.TYPE", name)
    if isinstance(name, str) and ":" in name:
        distiller_class(name)


def section_name(cfg: Node) -> str:
    """The group of keys that belongs to the distiller: its registered name, or its class's in capitals."""
    return cfg.DISTILLER.TYPE.rpartition(":")[2].upper() if ":" in cfg.DISTILLER.TYPE else cfg.DISTILLER.TYPE


def own_section(cfg: Node) -> Node:
    """The keys of the distiller; empty where it has none."""
    return cfg.get(section_name(cfg), Node())


def shorten(cfg: Node, epochs: int) -> None:
    """Train `epochs` epochs, stages and warm-up moved in proportion."""
    share = epochs / cfg.SOLVER.EPOCHS
    cfg.SOLVER.LR_DECAY_STAGES = [round(stage * share) for stage in cfg.SOLVER.LR_DECAY_STAGES]
    section = own_section(cfg)
    for key in WARMUPS:
        if section.get(key) is not None:
            setattr(section, key, max(1, round(section[key] * share)))
    cfg.SOLVER.EPOCHS = epochs


def check(cfg: Node) -> None:
    """Refuse what cannot work.

    Raises:
        UserError: names the key, the value, and what it must be.
    """
    values = dict(cfg.leaves())

    def require(holds: bool, key: str, wanted: str) -> None:
        if not holds:
            raise UserError(f"{key} is {values[key]!r}, but must be {wanted}")

    for key, value in values.items():
        if key in DECLARED:
            _check_kind(key, value, require)
    require(bool(cfg.LOG.PREFIX), "LOG.PREFIX", "a directory")
    require(is_inside(cfg.EXPERIMENT.PROJECT), "EXPERIMENT.PROJECT", "the name of a directory below LOG.PREFIX")
    shown = not {*Path(cfg.EXPERIMENT.PROJECT).parts} & {*SKIPPED}
    require(shown, "EXPERIMENT.PROJECT", f"the name of a directory that tables do not skip ({', '.join(SKIPPED)})")
    for key in ("EXPERIMENT.NAME", "EXPERIMENT.TAG"):
        name = values[key] or ""
        require(name.isprintable() and name not in (".", ".."), key, "the name of a directory")
    require(bool(cfg.EXPERIMENT.NAME or cfg.EXPERIMENT.TAG), "EXPERIMENT.TAG", "the name of a directory")
    kind, trainer = cfg.DISTILLER.TYPE, cfg.SOLVER.TRAINER
    is_vanilla = issubclass(distiller_class(kind), Vanilla)
    require(trainer in TRAINERS, "SOLVER.TRAINER", f"one of {', '.join(TRAINERS)}")
    require(cfg.SOLVER.TYPE == "SGD", "SOLVER.TYPE", "SGD")
    require(cfg.CRD.MODE in MODES, "CRD.MODE", f"one of {', '.join(MODES)}")
    require(cfg.SOLVER.LR_DECAY_RATE <= 1, "SOLVER.LR_DECAY_RATE", "at most 1")
    for key in ("FITNET.INPUT_SIZE", "VID.INPUT_SIZE"):
        require(len(values[key]) == 2, key, "height and width")
    stages = {key: len(values[f"REVIEWKD.{key}"]) for key in ("SHAPES", "OUT_SHAPES", "IN_CHANNELS", "OUT_CHANNELS")}
    for key, count in stages.items():
        agrees = count == stages["SHAPES"] > 0 or kind != "REVIEWKD"
        require(agrees, f"REVIEWKD.{key}", f"a list with a number a stage, as REVIEWKD.{', '.join(stages)} all are")
    for key in ("SOLVER.MOMENTUM", "CRD.NCE.MOMENTUM"):
        require(0 <= values[key] < 1, key, "at least 0 and below 1")
    if "dot" in trainer:
        momentum, delta = cfg.SOLVER.MOMENTUM, cfg.SOLVER.DOT.DELTA
        possible = delta <= momentum and momentum + delta < 1
        require(possible, "SOLVER.DOT.DELTA", f"at most {momentum} and below {1 - momentum:.4g} (SOLVER.MOMENTUM)")
        if is_vanilla:
            raise UserError("SOLVER.TRAINER dot weighs a task against a distillation loss: DISTILLER.TYPE NONE has one")
    if kind == "CRD" and not trainer.startswith("crd"):
        raise UserError(
            f"DISTILLER.TYPE CRD needs SOLVER.TRAINER crd or crd_dot, not {trainer}: they draw its negatives"
        )


def _check_kind(key: str, value: Any, require: Callable[[bool, str, str], None]) -> None:
    """Refuse what is none of its kind: no number, no count, below or beyond what such numbers are."""
    default = DECLARED[key]
    require(value is not None or key in OPTIONAL, key, "given")
    if isinstance(default, str | bool):
        return
    entries = value if isinstance(value, list | tuple) else [value]
    numbers = [n for n in entries if isinstance(n, int | float) and not isinstance(n, bool)]
    require(len(numbers) == len(entries), key, "a list of numbers" if isinstance(default, list) else "a number")
    if key in POSITIVE:
        require(all(n >= SMALLEST_NUMBER for n in numbers), key, f"positive, at least {SMALLEST_NUMBER:g}")
    elif key in COUNTS:
        require(all(isinstance(n, int) and n >= 1 for n in numbers), key, "at least 1, and whole")
    elif key not in ANY_SIGN:
        require(all(n >= 0 for n in numbers), key, "at least 0")
    largest = LARGEST_NUMBER if isinstance(default, float) else LARGEST_COUNT
    require(all(abs(n) <= largest for n in numbers), key, f"at most {largest:g}")


def output_directory(flags: ConfigFlags, cfg: Node) -> Path:
    """`<LOG.PREFIX>/<PROJECT>/<NAME, or TAG><overrides>`, as published; --seed and --epochs are named as overrides."""
    pairs = {key: value for key, value in flags.overrides if key not in PATHS}
    if "DISTILLER.TYPE" in pairs:
        pairs["DISTILLER.TYPE"] = Path(pairs["DISTILLER.TYPE"]).name  # of FILE.py:CLASS without the directory
    words = [f"{key}:{value}" for key, value in pairs.items()]
    words += [f"epochs:{flags.epochs}"] if flags.epochs is not None else []
    words += [f"seed:{flags.seed}"] if flags.seed else []
    name = (cfg.EXPERIMENT.NAME or cfg.EXPERIMENT.TAG) + ",".join(words)
    return Path(os.path.expanduser(cfg.LOG.PREFIX), cfg.EXPERIMENT.PROJECT, shortened(name.replace("/", "_")))


def experiment_name(flags: ConfigFlags) -> str:
    """What the tables know a run by: its file below `configs/`, and the overrides that change what is trained.

    For example `cifar100/vanilla DISTILLER.STUDENT resnet32x4`.
    """
    parts = Path(flags.cfg).parent.joinpath(Path(flags.cfg).stem).parts
    while "configs" in parts:
        parts = parts[parts.index("configs") + 1 :]
    pairs = sorted((k, v) for k, v in dict(flags.overrides).items() if not k.startswith(PLACE_AND_BUDGET))
    return " ".join(["/".join(parts) or "defaults", *(word for pair in pairs for word in pair)])


def run_config(cfg: Node, defaults: Node, val_fraction: float) -> dict[str, Any]:
    """Everything that makes two runs the same, but the teachers; keys of others' sections where they are no default."""
    declared = dict(defaults.leaves())
    always = ("DATASET.TYPE", "DISTILLER.", "SOLVER.", f"{section_name(cfg)}.")
    never = ("EXPERIMENT.", "LOG.", "DATASET.NUM_WORKERS", "DISTILLER.TEACHER_CKPT")
    return {
        **{
            key: value
            for key, value in cfg.leaves()
            if not key.startswith(never) and (key.startswith(always) or value != declared[key])
        },
        "val_fraction": val_fraction,
    }
