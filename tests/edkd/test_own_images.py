"""Image folders of one's own, such as CIFAR-100 as PNG files, in EDKD's configurations."""

import json
from pathlib import Path

import pytest
from PIL import Image

VANILLA = "configs/cifar100/vanilla.yaml"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three classes of 32 x 32 PNG files."""
    place = tmp_path / "elsewhere" / "mine"
    for part, count in (("train", 6), ("val", 2)):
        for number, name in enumerate("abc"):
            (place / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), (80 * number, 10 * i, 0)).save(place / part / name / f"{i}.png")
    return place


def test_a_student_learns_from_a_teacher_on_ones_own_images(run_script, folder, tmp_path):
    common = ["LOG.PREFIX", str(tmp_path / "output"), "LOG.WANDB", "False", "SOLVER.BATCH_SIZE", "8", "--epochs", "1"]
    mine = ["DATASET.TYPE", str(folder), "--device", "cpu"]
    alone = run_script("train", "--cfg", VANILLA, *mine, "DISTILLER.STUDENT", "resnet8", *common)
    assert alone.code == 0, alone.stderr
    pair = ["DISTILLER.TEACHER", "resnet8", "DISTILLER.STUDENT", "resnet14"]
    taught = run_script("train", "--cfg", "configs/cifar100/kd/res56_res20.yaml", *mine, *pair, *common)
    assert taught.code == 0, taught.stderr
    records = [json.loads(file.read_text()) for file in (tmp_path / "output").rglob("run.json")]
    assert {record["data"]["name"] for record in records} == {"mine"}
    assert {record["data"]["classes"] for record in records} == {3}
    assert [teacher["name"] for record in records for teacher in record["teachers"]] == ["resnet8"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["DATASET.TYPE", "nowhere"],
            "unknown dataset 'nowhere': one of cifar100, tiny_imagenet",
        ),
        (
            ["DATASET.TYPE", "mine", "DATASET.IMAGE_SIZE", "48"],
            "DATASET.IMAGE_SIZE is 48: there are networks for 32",
        ),
    ],
)
def test_folders_that_cannot_be_used(words, message, run_script, tmp_path):
    where = ["LOG.PREFIX", str(tmp_path / "output"), "--device", "cpu"]
    ended = run_script("train", "--cfg", VANILLA, "DISTILLER.STUDENT", "resnet8", *words, *where)
    assert ended.code == 2
    assert message in ended.stderr
