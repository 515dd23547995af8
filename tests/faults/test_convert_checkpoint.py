"""The converter of checkpoints: keeps values, runs nothing, and says what it left out."""

import argparse
import collections
import importlib
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.convert_checkpoint import convert, main
from common.errors import UserError
from common.training.checkpoints import load_checkpoint, model_weights

WEIGHTS = {"0.weight": torch.arange(4.0), "0.bias": torch.zeros(2, dtype=torch.float64)}


class Settings(dict):
    """A dictionary of one's own, as configuration packages have them."""


class Own:
    def __init__(self) -> None:
        self.a = 1


class Lists(list):
    """A list of one's own."""


class Runs:
    """Asks to call something while it is loaded."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self):
        return self.call


def converted(content: object, place: Path, **options: object) -> tuple[dict, list[str]]:
    torch.save(content, place / "in.pth", **options)
    left_out = convert(place / "in.pth", place / "out.pth")
    return load_checkpoint(place / "out.pth"), left_out


@pytest.mark.parametrize("legacy", [False, True])
def test_values_are_kept(legacy, tmp_path):
    content = {
        "model": collections.OrderedDict(WEIGHTS),
        "args": argparse.Namespace(lr=0.1, milestones=[150, 180], inner=argparse.Namespace(seed=3)),
        "best_acc": np.float64(71.25),
        "epoch": np.int64(240),
        "flag": np.bool_(True),
        "big": np.array([1, 2], dtype=">i4")[0],
        "history": np.arange(6, dtype=np.float32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "text": "a",
        "nothing": None,
    }
    kept, left_out = converted(content, tmp_path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"not opened: .* convert it with `python -m common.convert_checkpoint"):
        load_checkpoint(tmp_path / "in.pth")
    assert left_out == []
    assert kept["args"] == {"lr": 0.1, "milestones": [150, 180], "inner": {"seed": 3}}
    assert (kept["best_acc"], kept["epoch"], kept["flag"], kept["big"]) == (71.25, 240, True, 1)
    assert kept["history"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert kept["columns"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (kept["text"], kept["nothing"]) == ("a", None)
    weights = model_weights(kept, tmp_path)
    assert all(torch.equal(weights[key], value) for key, value in WEIGHTS.items())


def test_objects_are_left_out_and_named(tmp_path):
    content = {
        "model": WEIGHTS,
        "config": Settings(a=1),
        "list": Lists([1]),
        "own": [Own(), 3],
        "function": len,
        "kind": Own,
    }
    kept, left_out = converted(content, tmp_path)
    assert sorted(kept) == ["model", "own"]
    assert kept["own"] == [3]
    names = " ".join(left_out)
    for part in ("config (", "Settings", "list (", "own.0 (", "Own", "function (", "kind ("):
        assert part in names


def test_nothing_is_run(tmp_path):
    proof = tmp_path / "proof"
    calls = {
        "method": Runs(Path.touch, (proof,)),
        "command": Runs(os.system, (f"touch {proof}",)),
        "text": Runs(eval, (f"open({str(proof)!r}, 'w')",)),
        "file": Runs(open, (str(proof), "w")),
        "load": Runs(torch.storage._load_from_bytes, (b"",)),
        "module": Runs(importlib.import_module, ("antigravity",)),
    }
    kept, left_out = converted({"model": WEIGHTS, **calls}, tmp_path)
    assert sorted(kept) == ["model"]
    assert [line.partition(" ")[0] for line in left_out] == list(calls)
    assert not proof.exists()


def test_programs_are_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "in.pth"))
    with pytest.raises(UserError, match="is a TorchScript program"):
        convert(tmp_path / "in.pth", tmp_path / "out.pth")


def circle() -> dict:
    content: dict = {"model": WEIGHTS}
    content["again"] = content
    return content


def multiplied() -> dict:
    content: list = [1]
    for _ in range(40):
        content = [content] * 10
    return {"content": content}


BAD = {
    "a circle": circle,
    "anchors that multiply": multiplied,
    "an object": Own,
    "nothing but objects": lambda: {"a": Own()},
    "a text": lambda: "weights",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_checkpoint_is_refused(name, tmp_path):
    with pytest.raises(UserError) as caught:
        converted(BAD[name](), tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out.pth").exists()


FILES = {
    "nothing": b"",
    "text": b"weights",
    "plain pickle": pickle.dumps({"model": Own()}),
    "cut archive": b"PK\x03\x04abc",
    "thousands of classes": b"".join(b"cm%d\nc\n0" % i for i in range(2000)) + b"N.",
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_none(name, tmp_path, capsys, monkeypatch):
    (tmp_path / "in.pth").write_bytes(FILES[name])
    monkeypatch.setattr(sys, "argv", ["convert", str(tmp_path / "in.pth"), str(tmp_path / "out.pth")])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out.pth").exists()


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "out.pth").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        converted({"model": WEIGHTS}, tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        convert(tmp_path / "absent.pth", tmp_path / "other.pth")
