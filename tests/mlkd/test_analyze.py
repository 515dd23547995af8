"""`analyze.py`: this paper's students at each exit, beside their teachers."""

import json
import re

import pytest
import timm
import torch

from tests.faults.test_records import GOOD
from tests.mlkd.conftest import TEACHER
from tests.processes import record


@pytest.fixture
def analyze(run_script, where):
    flags = list(where)
    at = flags.index("--limit-train-batches")
    del flags[at : at + 2]  # of training alone
    return lambda *arguments: run_script("analyze", *arguments, *flags, "--train-images", "12")


@pytest.mark.slow
def test_a_run_says_of_itself_what_its_record_has(run_script, where, ensemble, analyze, directory):
    assert run_script("train", *where, "--ensemble", ensemble.name, "-n", "student", "-e", "2").code == 0
    known = record(directory / "models/student")["analysis"]
    for epoch in ("last", "best"):
        ended = analyze("models/student", "--epoch", epoch, "--json", "found.json")
        assert ended.code == 0, ended.stderr
        found = json.loads((directory / "found.json").read_text())
        assert found["images"] == known["test"]["images"] == 12
        (student,) = found["students"]
        assert student["temperature"] == 10.0
        ours, theirs = student["test"], known["test"][epoch]
        assert ours["exits"].keys() == theirs["exits"].keys()
        for name in ("exit_1", "exit_3", "final"):
            here, there = (part if name == "final" else part["exits"][name] for part in (ours, theirs))
            assert here["accuracy"] == there["accuracy"]
            assert here["nll"] == pytest.approx(there["nll"], rel=1e-4)
            (first, second, mean), expected = here["fidelity"].values(), there["fidelity"].values()
            for fidelity, one in zip((first, second, mean), expected, strict=True):
                assert fidelity["agreement"] == one["agreement"]
                assert fidelity["kl_at_temperature"] == pytest.approx(one["kl_at_temperature"], rel=1e-3, abs=1e-6)
        assert list(found["teachers"]) == [f"{TEACHER} (models/{name}.pth)" for name in "ab"] + ["mean"]
        assert f"oxford-iiit ensemble --image-size 64, seed 53303, {epoch} epoch, exit_2" in ended.stdout


@pytest.mark.slow
def test_files_in_place_of_runs(analyze, teachers, ensemble, directory):
    """Two of timm's networks beside an ensemble; its mean weighs logits, two teachers' alone weighs probabilities."""
    pair = [f"{TEACHER}:models/{name}.pth" for name in "ab"]
    means = {}
    for kind, flags in {
        "logits": ["--ensemble", ensemble.name],
        "probabilities": [word for teacher in pair for word in ("--teacher", teacher)],
    }.items():
        ended = analyze(pair[0], *flags, "--against", pair[1], "--json", "found.json")
        assert ended.code == 0, ended.stderr
        found = json.loads((directory / "found.json").read_text())
        assert found["students"][0]["test"]["fidelity"][f"{TEACHER} (models/a.pth)"]["agreement"] == 100.0
        assert "McNemar's exact test" in ended.stdout
        means[kind] = found["teachers"]["mean"]["nll"]
    assert means["logits"] != means["probabilities"]


def test_bad_input_is_one_line(analyze, teachers, ensemble, directory):
    torch.save(timm.create_model(TEACHER, num_classes=10).state_dict(), directory / "ten.pth")
    named = f"{TEACHER}:models/a.pth"
    for arguments, words in (
        ([named], "agreement needs a teacher, and"),
        (["models/none"], "no checkpoint and no run models/none"),
        (["models/a.pth", "--teacher", named], "models/a.pth has no early exits: say which of timm's networks it is"),
        ([named, "--teacher", "nowhere"], "no run and no checkpoint nowhere"),
        ([named, "--teacher", f"{TEACHER}:ten.pth"], "ten.pth does not fit"),
        ([named, "--teacher", f"{TEACHER}:models/c.pth"], "no checkpoint models/c.pth"),
        ([named, "--teacher", "tset_resnet:models/a.pth"], "no run and no checkpoint tset_resnet:models/a.pth"),
        ([named, "--teacher", named, "--teacher", named], "is given twice"),
        ([named, "--teacher", named, "--ensemble", ensemble.name], "give --teacher or --ensemble, not both"),
        ([named, "--ensemble", "absent.json"], "there is no such file"),
    ):
        ended = analyze(*arguments)
        assert ended.code == 2
        assert words in ended.stderr
        assert ended.stderr.count("\n") == 1 or ended.stderr.startswith("usage")


ODD = [
    *(("teachers", value) for value in (None, 3, "a", {"weight": 1}, ["a"], [[1.0]], [{}], [{"name": "a"}])),
    *(("teachers", [{"name": "a", "weight": value}]) for value in (None, "1", True, [1], 1e300)),
    ("teachers", [{"weight": 1.0}, {"weight": 1.0}]),
    *(("dataset", value) for value in (None, 3, ["dogs"], {}, "", "cifar-11", "dogs\n")),
    *(("image_size", value) for value in (None, "64", True, 64.5, -64, 65, 10**9, [64])),
]


@pytest.mark.parametrize(("key", "value"), ODD)
def test_odd_settings_are_one_line(key, value, run_script, where, teachers, directory):
    settings = {"dataset": "oxford-iiit", "image_size": 64, "teachers": [{"name": "a", "weight": 1.0}], key: value}
    teacher = {"name": TEACHER, "path": str(directory / "models/a.pth")}
    run = {**GOOD, "paper": "mlkd", "settings": settings, "teachers": [teacher]}
    (directory / "odd").mkdir()
    (directory / "odd/run.json").write_text(json.dumps(run))
    at = where.index("--image-size")
    ended = run_script("analyze", "odd", *where[:at])
    assert (ended.code, ended.stdout) == (2, "")
    assert re.fullmatch(r"error: the record of odd .*\n", ended.stderr)


@pytest.mark.slow
def test_papers_name_each_others_scripts(run_script, where, teachers, analyze, call, directory):
    assert run_script("train", *where, *teachers, "-n", "student", "-e", "1").code == 0
    ended = call([str(directory / "models/student"), "--device", "cpu"], "common.analyze.__main__")
    assert ended.code == 2
    assert "models/student is a run of mlkd, whose networks are of none of the families" in ended.stderr
    assert f"mlkd/analyze.py {directory}/models/student` analyzes it" in ended.stderr
    run = directory / "models/student/run.json"
    run.write_text(run.read_text().replace('"paper": "mlkd"', '"paper": "tfkd"'))
    ended = analyze(str(directory / "models/student"))
    assert ended.code == 2
    assert f"{directory}/models/student is a run of tfkd: `python -m common.analyze` analyzes it" in ended.stderr
