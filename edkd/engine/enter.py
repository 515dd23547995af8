"""A distiller's way into the tables: its configuration for a published pair, and its entry in the plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from common.atomic_write import write_text_atomically
from common.command_line import REPOSITORY, resolve_path
from common.errors import UserError
from common.own_code import shorter
from common.results.reported import EXPERIMENTS
from common.safe_json import read_json_file
from edkd.engine.experiment import PAPER
from edkd.engine.node import read_file

CONFIGS = REPOSITORY / PAPER / "configs" / "cifar100"
PAIRS = sorted(file.stem for file in (CONFIGS / "kd").glob("*.yaml"))
# groups of a configuration that say what every method of a table has in common
COMMON = ("EXPERIMENT", "DISTILLER", "SOLVER", "LOG", "DATASET")


def configuration(source: str, pair: str, own_file: Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a distiller is trained with: networks and schedule of a pair's KD file, its own keys, teachers and trainer.

    Args:
        source: `FILE.py:CLASS` or a registered name.
        pair: of `PAIRS`.
        own_file: the configuration that came with it, where one did.
        overrides: `KEY VALUE` pairs, of which the same is taken as of the file.
    """
    content = read_file(CONFIGS / "kd" / f"{pair}.yaml")
    own = read_file(own_file) if own_file else {}
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        _put(own, key.split("."), yaml.safe_load(value))
    trainer = (own.get("SOLVER") or {}).get("TRAINER")
    teachers = (own.get("DISTILLER") or {}).get("TEACHER")
    content["EXPERIMENT"]["TAG"] = f"{short_name(source)},{pair.replace('_', ',', 1)}"
    content["DISTILLER"]["TYPE"] = source
    content["SOLVER"] |= {"TRAINER": trainer} if trainer else {}
    content["DISTILLER"] |= {"TEACHER": teachers} if isinstance(teachers, list) else {}
    return {**content, **{key: value for key, value in own.items() if key not in COMMON}}


def _put(content: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        content = content.setdefault(key, {})
    content[path[-1]] = value


def short_name(source: str) -> str:
    """How a distiller is called in names of files and experiments."""
    return source.rpartition(":")[2].lower()


def enter(source: str, pair: str, own_file: Path | None, overrides: Sequence[str] = ()) -> list[str]:
    """Write a distiller's configuration and its entry in the plan; returns the commands that make its row.

    Raises:
        UserError: there is such a file already.
    """
    name, file = short_name(source), source.rpartition(":")[0]
    if file:
        source = f"{resolve_path(file, PAPER).resolve()}:{source.rpartition(':')[2]}"
    content = configuration(source, pair, own_file, overrides)
    experiment = f"cifar100/{name}/{pair}"
    cfg, plan = CONFIGS / name / f"{pair}.yaml", EXPERIMENTS / "plan" / f"{name}_{pair}.json"
    for path in (cfg, plan):
        if path.exists():
            raise UserError(f"{path} is there already: remove it, or give the class another name")
    teachers, student = (content["DISTILLER"][role] for role in ("TEACHER", "STUDENT"))
    teachers = teachers if isinstance(teachers, list) else [teachers]
    published = read_file(CONFIGS / "kd" / f"{pair}.yaml")["DISTILLER"]["TEACHER"]
    planned = _plan_entry(experiment, name, teachers, f"{published} / {student}")
    command = f"python tools/train.py --cfg configs/{experiment}.yaml"
    cfg.parent.mkdir(parents=True, exist_ok=True)
    head = f"# {' + '.join(teachers)} teaches {student}.\n#   {command}\n"
    write_text_atomically(cfg, head + yaml.safe_dump(content, sort_keys=False))
    write_text_atomically(plan, json.dumps(planned, indent=2) + "\n")
    without = f"cifar100/vanilla DISTILLER.STUDENT {student}"
    cells = f"--cells 'cifar100/*kd/{pair}' --cells {experiment} --cells '{without}'"
    return [
        f"wrote {shorter(cfg)} and {shorter(plan)}",
        f"next: ./run_all.sh --budget small --seeds 0,1,2 {cells}",
        f"then: python -m common.results --compare {experiment} cifar100/edkd/{pair} results/small",
    ]


def _plan_entry(experiment: str, name: str, teachers: Sequence[str], column: str) -> dict[str, Any]:
    """A row in every table that has the pair; `edkd/dkd-original`, which has all of them, shows KD, DKD and EDKD."""
    row = {"row": name, "column": column, "experiment": experiment, "why": "added by tools/check_distiller.py --enter"}
    tables = read_json_file(EXPERIMENTS / "reported.json")["tables"]
    depends_on = [f"cifar100/vanilla DISTILLER.STUDENT {teacher}" for teacher in teachers]
    return {
        "paper": PAPER,
        "runs": [
            {
                "experiment": experiment,
                "command": f"tools/train.py --cfg configs/{experiment}.yaml",
                "depends_on": depends_on,
            }
        ],
        "controls": {t["id"]: [row] for t in tables if t["paper"] == PAPER and column in t["columns"]},
    }
