"""Made-up run records and published tables."""

from __future__ import annotations

import json
from pathlib import Path

PUBLISHED = "published archive, checksums verified"
GENERATED = "synthetic dataset, not the real data"
BASELINE, SMOOTHED = "base_experiments/base_resnet18", "base_experiments/base_resnet18 --label_smoothing"


def write_run(directory: Path, experiment: str, best: float, last: float, seed: int = 0, /, **changes: object) -> None:
    """A record as the training loop writes it; `changes` go to whatever part has such a key."""
    record = {
        "paper": "tfkd",
        "experiment": experiment,
        "settings": {"seed": seed, "batch_size": 128, "method": "Baseline", "limit_eval_batches": None},
        "runtime": {"device": "cpu", "amp": "off"},
        "data": {"name": "cifar100", "content": PUBLISHED, "fingerprint": "a" * 32},
        "budget": {"epochs": 200, "published_epochs": 200, "batches": None},
        "command": ["main.py", "--seed", str(seed)],
        "directory": "/some/where",
        "commit": "c0ffee",
        "hardware": {"cpu": "AMD EPYC", "gpu": "H200"},
        "status": "done",
        "started": "2026-01-01T00:00:00+00:00",
        "accuracy": {"best": best, "last": last, "selected_by_validation": None},
    }
    for key, value in changes.items():
        part = next((p for p in (record, *record.values()) if isinstance(p, dict) and key in p), record)
        part[key] = value
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(json.dumps(record))


def analysis(agreement: float, ece: float, teachers: tuple[str, ...] = ("resnet18",)) -> dict:
    """What a record has under that name, all of it made up."""
    fidelity = {"agreement": agreement, "agreement_where_teacher_wrong": None, "kl": 0.5, "kl_at_temperature": 0.25}
    bins = [{"count": 0, "confidence": None, "accuracy": None}] * 13
    bins += [{"count": 40, "confidence": 90.0, "accuracy": 80.0}, {"count": 60, "confidence": 98.0, "accuracy": 97.0}]
    part = {"accuracy": 76.0, "nll": 0.9, "ece": ece, "bins": bins}
    part |= {"optimal_temperature": None, "ece_at_optimal_temperature": None}
    part["fidelity"] = {name: {**fidelity, "agreement": agreement + i} for i, name in enumerate(teachers)}
    train = {"accuracy": 99.0, "agreement": dict.fromkeys(teachers, 98.0)}
    return {"test": {"last": part, "best": part}, "train": {"last": train, "best": train}}


def write_curve(directory: Path, accuracies: list[float], part: str = "test") -> None:
    """The accuracies of a run's epochs."""
    lines = [json.dumps({"epoch": epoch, f"{part}/accuracy": value}) for epoch, value in enumerate(accuracies)]
    (directory / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def write_tables(root: Path, rows: list, *, columns: tuple[str, ...] = ("accuracy",), **changes: object) -> Path:
    """A directory of experiments with one published table, `p/t`, of paper `p`.

    Args:
        root: to make it in.
        rows: of reported.json.
        columns: names.
        changes: of the table ("protocol") and of the plan ("cells", "controls", "notes", "runs").
    """
    table = {
        "id": "p/t",
        "paper": "p",
        "title": "Title",
        "dataset": "CIFAR-10, CIFAR-100",
        "metric": "accuracy",
        "source": "nobody",
    }
    table |= {"columns": list(columns), "rows": rows, "note": ""}
    plan = {"paper": "p", "dataset": "any", "runs": [], "cells": {}}
    for key, value in changes.items():
        (plan if key in ("cells", "controls", "notes", "runs") else table)[key] = value
    (root / "plan").mkdir(parents=True)
    (root / "plan" / "p.json").write_text(json.dumps(plan))
    (root / "reported.json").write_text(json.dumps({"tables": [table]}))
    return root
