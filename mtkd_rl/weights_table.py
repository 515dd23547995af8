"""The agent's mean weights of each class, as JSON and as a picture, and beside them what the student took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.analysis.metrics import agreement_by_class
from common.analysis.networks import finite
from common.pictures import table_picture, write_svg
from common.safe_json import read_json_file
from common.training.final_analysis import FINAL, TestOutputs
from common.training.runs import RunDirectory, write_json
from mtkd_rl.methods import MultiTeacherRL

NAME, AGREEMENT = "teacher_weights", "teacher_agreement"
KINDS = ("logits", "features")


def write_weights_table(method: MultiTeacherRL, classes: Sequence[str], directory: Path) -> None:
    """Write `teacher_weights.json` of the epoch just trained; classes that it did not see are left out."""
    names, M = method.teacher_names, len(method.teachers)
    rows = {
        name: {"logits": dict(zip(names, row[:M], strict=True)), "features": dict(zip(names, row[M:], strict=True))}
        for name, row in zip(classes, method.record.weights_by_class.tolist(), strict=True)
        if row[0] == row[0]  # else not a number: no sample of this class
    }
    write_json(directory / f"{NAME}.json", {"teachers": names, "classes": rows})


def agreement_beside_weights(outputs: TestOutputs, run: RunDirectory, best: Mapping[str, Any]) -> dict[str, Any]:
    """For the analysis in the run's record: each class's agreement with each teacher, by the weights that it had.

    Writes the weights and the agreement as pictures, too.

    Agreement is on the test images of the last epoch's network, the weights are the agent's mean ones in that epoch.
    """
    content = read_json_file(run.path / f"{NAME}.json")
    names, weights = content["teachers"], content["classes"]
    student = outputs.epochs["last"][FINAL]
    shares = {
        name: agreement_by_class(student, outputs.teachers[name], outputs.targets, student.shape[1]) for name in names
    }
    rows = {
        label: {
            name: {
                "agreement": shares[name][number],
                "logit_weight": weights[label]["logits"][name] if label in weights else None,
                "feature_weight": weights[label]["features"][name] if label in weights else None,
            }
            for name in names
        }
        for number, label in enumerate(best["accuracy_by_class"])
    }
    blocks = {f"weights for {kind}": [list(row[kind].values()) for row in weights.values()] for kind in KINDS}
    write_svg(table_picture(blocks, list(weights), names), run.path / f"{NAME}.svg")
    kinds = {"weights for logits": "logit_weight", "agreement, %": "agreement"}
    blocks = {title: [[row[name][kind] for name in names] for row in rows.values()] for title, kind in kinds.items()}
    write_svg(table_picture(blocks, list(rows), names), run.path / f"{AGREEMENT}.svg")
    return {"teachers_by_class": finite(rows)}
