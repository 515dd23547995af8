"""The synthetic datasets load through the readers of the real ones, are always the same bytes, and are learnable."""

from __future__ import annotations

import json
import pickle
import pickletools
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.datasets import CIFAR10, CIFAR100, ImageFolder, OxfordIIITPet

from common.data.synthetic import LAYOUTS, MARKER, class_groups, read_marker, write_generated
from common.data.synthetic import settings as synthetic_settings
from common.data.synthetic.__main__ import main
from common.errors import UserError


class _CIFAR100(CIFAR100):
    """torchvision's reader without its checksums."""

    train_list = (("train", None),)
    test_list = (("test", None),)
    meta = {**CIFAR100.meta, "md5": None}  # noqa: RUF012 (as torchvision has it)


class _CIFAR10(CIFAR10):
    train_list = tuple((name, None) for name, _ in CIFAR10.train_list)
    test_list = (("test_batch", None),)
    meta = {**CIFAR10.meta, "md5": None}  # noqa: RUF012


def write(dest: Path, layout: str, train: int = 2, test: int = 1, **options: int) -> Path:
    """A set that is small enough for a test."""
    if layout in ("tiny-imagenet-200", "imagenet"):
        options.setdefault("classes", 6)
    return write_generated(dest, layout, train, test, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def run_cli(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "common.data.synthetic", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


# ------------------------------------------------------------------------------------------------------------ layouts


def test_cifar100_loads_with_torchvision(tmp_path):
    folder = write(tmp_path, "cifar-100", train=3, test=2)
    train, test = _CIFAR100(tmp_path, train=True), _CIFAR100(tmp_path, train=False)
    assert train.data.shape == (300, 32, 32, 3)
    assert train.data.dtype == np.uint8
    assert np.bincount(train.targets).tolist() == [3] * 100
    assert np.bincount(test.targets).tolist() == [2] * 100
    assert train.targets != sorted(train.targets)
    assert train.classes[17] == "generated_017"

    batch = pickle.loads((folder / "test").read_bytes(), encoding="latin1")
    assert set(batch) == {"filenames", "batch_label", "fine_labels", "coarse_labels", "data"}
    assert batch["data"].shape == (200, 3072)
    assert batch["batch_label"] == "testing batch 1 of 1"
    assert batch["filenames"][5] == f"generated_{batch['fine_labels'][5]:03d}_s_000005.png"
    meta = pickle.loads((folder / "meta").read_bytes(), encoding="latin1")
    assert len(meta["coarse_label_names"]) == 20


def test_every_group_has_five_classes_and_is_the_coarse_label(tmp_path):
    folder = write(tmp_path, "cifar-100")
    batch = pickle.loads((folder / "train").read_bytes(), encoding="latin1")
    groups = class_groups(100)
    assert np.bincount(groups).tolist() == [5] * 20
    assert batch["coarse_labels"] == groups[batch["fine_labels"]].tolist()


def test_cifar_pickles_are_of_the_published_kind(tmp_path):
    """The keys are Python 2 strings, and nothing is referred to but what the published files refer to."""
    folder = write(tmp_path, "cifar-100")
    content = (folder / "train").read_bytes()
    operations = [(op.name, argument) for op, argument, _ in pickletools.genops(content)]
    assert operations[0] == ("PROTO", 2)
    assert {argument for name, argument in operations if name == "GLOBAL"} == {
        "numpy.core.multiarray _reconstruct",
        "numpy ndarray",
        "numpy dtype",
    }
    as_bytes = pickle.loads(content, encoding="bytes")
    assert b"fine_labels" in as_bytes
    assert (as_bytes[b"data"] == pickle.loads(content, encoding="latin1")["data"]).all()


def test_cifar10_loads_with_torchvision(tmp_path):
    folder = write(tmp_path, "cifar-10", train=3, test=2)
    train, test = _CIFAR10(tmp_path, train=True), _CIFAR10(tmp_path, train=False)
    assert train.data.shape == (30, 32, 32, 3)
    assert np.bincount(train.targets).tolist() == [3] * 10
    assert np.bincount(test.targets).tolist() == [2] * 10
    batch = pickle.loads((folder / "data_batch_2").read_bytes(), encoding="latin1")
    assert set(batch) == {"batch_label", "labels", "data", "filenames"}
    assert batch["batch_label"] == "training batch 2 of 5"
    meta = pickle.loads((folder / "batches.meta").read_bytes(), encoding="latin1")
    assert (meta["num_cases_per_batch"], meta["num_vis"], len(meta["label_names"])) == (6, 3072, 10)


def test_pets_load_with_torchvision(tmp_path):
    folder = write(tmp_path, "oxford-iiit-pet")
    trainval = OxfordIIITPet(tmp_path, split="trainval", target_types=["category", "binary-category"])
    test = OxfordIIITPet(tmp_path, split="test")
    assert len(trainval.classes) == len(test.classes) == 37
    assert np.bincount(trainval._labels).tolist() == [2] * 37
    assert np.bincount(test._labels).tolist() == [1] * 37
    images = [trainval[i][0] for i in range(0, 74, 9)]
    assert {image.mode for image in images} == {"RGB"}
    assert len({image.size for image in images}) > 3

    lines = [line for line in (folder / "annotations/list.txt").read_text().splitlines() if line[0] != "#"]
    assert len(lines) == len({line.split()[0] for line in lines}) == 37 * 3
    assert {len(line.split()) for line in lines} == {4}
    for line in lines:
        name, _, species, breed = line.split()
        assert name[0].isupper() == (species == "1")
        assert 1 <= int(breed) <= (12 if species == "1" else 25)


def test_tiny_imagenet_has_the_published_files(tmp_path):
    folder = write(tmp_path, "tiny-imagenet-200", train=10, test=2)
    wnids = (folder / "wnids.txt").read_text().split()
    words = dict(line.split("\t") for line in (folder / "words.txt").read_text().splitlines())
    assert len(wnids) == 6
    assert wnids != sorted(wnids)
    assert set(words) == set(wnids)
    for wnid in wnids:
        boxes = [line.split("\t") for line in (folder / "train" / wnid / f"{wnid}_boxes.txt").read_text().splitlines()]
        assert {row[0] for row in boxes} == {f.name for f in (folder / "train" / wnid / "images").iterdir()}
        assert all(0 <= int(x0) < int(x1) < 64 and 0 <= int(y0) < int(y1) < 64 for _, x0, y0, x1, y1 in boxes)
    rows = [line.split("\t") for line in (folder / "val/val_annotations.txt").read_text().splitlines()]
    assert {row[0] for row in rows} == {f.name for f in (folder / "val/images").iterdir()}
    assert sorted(row[1] for row in rows) == sorted(wnids * 2)

    kinds = []
    for file in folder.rglob("train/*/images/*.JPEG"):
        with Image.open(file) as image:
            kinds.append((image.mode, image.size))
    # One grayscale picture in fifty, which readers have to convert.
    assert sorted(kinds) == [("L", (64, 64))] + [("RGB", (64, 64))] * 59


def test_imagenet_loads_with_image_folder(tmp_path):
    folder = write(tmp_path, "imagenet")
    train, val = ImageFolder(folder / "train"), ImageFolder(folder / "val")
    assert train.classes == val.classes
    assert np.bincount(train.targets).tolist() == [2] * 6
    assert np.bincount(val.targets).tolist() == [1] * 6
    assert len({image.size for image, _ in train}) > 3


# --------------------------------------------------------------------------------------------------------- determinism


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_settings_give_the_same_bytes(layout, tmp_path):
    first = contents(write(tmp_path / "first", layout))
    assert first == contents(write(tmp_path / "second", layout))
    other = contents(write(tmp_path / "other", layout, seed=1))
    assert len(first) == len(other)
    pictures = [
        {data for name, data in files.items() if name.endswith((".jpg", ".JPEG", "train", "data_batch_1"))}
        for files in (first, other)
    ]
    assert pictures[0].isdisjoint(pictures[1])


def test_bytes_are_those_of_this_version(tmp_path):
    """Sets of one version are comparable between machines and commits. New bytes? Then raise `_VERSION`."""
    batch = pickle.loads((write(tmp_path, "cifar-10") / "data_batch_1").read_bytes(), encoding="latin1")
    assert (synthetic_settings.VERSION, zlib.crc32(batch["data"].tobytes())) == (1, 4206514930)


def test_training_and_test_images_differ(tmp_path):
    write(tmp_path, "cifar-100", train=1, test=1)
    train, test = _CIFAR100(tmp_path, train=True).data, _CIFAR100(tmp_path, train=False).data
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}


# -------------------------------------------------------------------------------------------------------- learnability


@pytest.mark.slow
def test_classes_of_a_group_look_alike(tmp_path):
    write(tmp_path, "cifar-100", train=30)
    train = _CIFAR100(tmp_path, train=True)
    targets = np.array(train.targets)
    means = np.stack([train.data[targets == c].mean(axis=0).ravel() for c in range(100)])
    distance = np.linalg.norm(means[:, None] - means[None], axis=-1)
    same = class_groups(100)[:, None] == class_groups(100)[None]
    within, across = distance[same & ~np.eye(100, dtype=bool)], distance[~same]
    assert within.mean() < 0.6 * across.mean()


@pytest.mark.slow
def test_small_network_learns_and_confuses_within_groups(tmp_path):
    write(tmp_path, "cifar-10", train=120, test=50)
    train, test = _CIFAR10(tmp_path, train=True), _CIFAR10(tmp_path, train=False)
    (images, targets), (test_images, test_targets) = (
        (torch.from_numpy(part.data).permute(0, 3, 1, 2) / 128 - 1, torch.tensor(part.targets))
        for part in (train, test)
    )
    torch.manual_seed(0)
    stages = [
        nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.MaxPool2d(2), nn.ReLU())
        for i, o in ((3, 16), (16, 32), (32, 64))
    ]
    network = nn.Sequential(*stages, nn.Flatten(), nn.Linear(64 * 16, 10))
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(5):
        for batch in torch.randperm(len(images)).split(50):
            loss = nn.functional.cross_entropy(network(images[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()
    with torch.no_grad():
        predicted = network(test_images).argmax(dim=1)
    assert (predicted == test_targets).float().mean() > 0.4  # chance: 0.1
    assert (predicted // 5 == test_targets // 5).float().mean() > 0.9  # chance: 0.5


# ----------------------------------------------------------------------------------------------- what is there already


def test_existing_set_is_kept_and_its_marker_tells_the_settings(tmp_path):
    folder = write(tmp_path, "cifar-100", seed=3)
    settings = {"layout": "cifar-100", "classes": 100, "train_per_class": 2, "test_per_class": 1, "seed": 3}
    assert read_marker(folder)["settings"] == {**settings, "version": synthetic_settings.VERSION}
    before = (folder / "train").stat().st_mtime_ns
    assert write(tmp_path, "cifar-100", seed=3) == folder
    assert (folder / "train").stat().st_mtime_ns == before
    assert [f.name for f in tmp_path.iterdir()] == ["cifar-100-python"]


def test_real_data_are_never_overwritten(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    (folder / "train").write_bytes(b"real")
    with pytest.raises(UserError, match="not a synthetic dataset"):
        write(tmp_path, "cifar-100")
    assert contents(folder) == {"train": b"real"}


def test_a_marker_of_something_else_does_not_count(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for text in ("", "[]", '{"settings": 1}', "\x00"):
        (folder / MARKER).write_text(text)
        with pytest.raises(UserError, match="not a synthetic dataset"):
            write(tmp_path, "cifar-100")


def test_other_settings_are_refused_and_named(tmp_path):
    folder = write(tmp_path, "cifar-100")
    before = contents(folder)
    with pytest.raises(UserError, match="train_per_class 2, not 3"):
        write(tmp_path, "cifar-100", train=3)
    assert contents(folder) == before


def test_a_set_that_lost_files_is_noticed(tmp_path):
    folder = write(tmp_path, "cifar-100")
    (folder / "test").unlink()
    with pytest.raises(UserError, match="lacks files"):
        write(tmp_path, "cifar-100")


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    assert (write(tmp_path, "cifar-100") / "train").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_run_leaves_nothing(error, tmp_path, monkeypatch):
    def break_off(folder: Path, settings: synthetic_settings.Settings) -> None:
        (folder / "train").write_bytes(b"half")
        raise error

    monkeypatch.setitem(LAYOUTS, "cifar-100", LAYOUTS["cifar-100"]._replace(write=break_off))
    with pytest.raises((KeyboardInterrupt, UserError)):
        write(tmp_path, "cifar-100")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("same", [True, False])
def test_two_at_once_do_not_mix(same, tmp_path, monkeypatch):
    """Another process finishes its set while this one still writes."""
    original = LAYOUTS["cifar-10"]

    def write_slowly(folder: Path, settings: synthetic_settings.Settings) -> None:
        original.write(folder, settings)
        monkeypatch.setitem(LAYOUTS, "cifar-10", original)
        write(tmp_path, "cifar-10", seed=0 if same else 1)

    monkeypatch.setitem(LAYOUTS, "cifar-10", original._replace(write=write_slowly))
    if same:
        write(tmp_path, "cifar-10")
    else:
        with pytest.raises(UserError, match="seed 1, not 0"):
            write(tmp_path, "cifar-10")
    assert [f.name for f in tmp_path.iterdir()] == ["cifar-10-batches-py"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "cifar"}, "unknown layout 'cifar'"),
        ({"train_per_class": 0}, "--train-per-class must be from 1"),
        ({"test_per_class": 5001}, "--test-per-class must be from 1 to 5000"),
        ({"seed": -1}, "--seed must not be negative"),
        ({"layout": "cifar-10", "classes": 9}, "has 10 classes, not 9"),
        ({"layout": "tiny-imagenet-200", "classes": 201}, "2 to 200 classes"),
    ],
)
def test_impossible_settings_are_refused(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        write_generated(tmp_path, **options)


# -------------------------------------------------------------------------------------------------------- command line


@pytest.mark.slow
def test_command_line_writes_and_refuses(tmp_path):
    small = ("--train-per-class", "1", "--test-per-class", "1")
    written = run_cli(tmp_path, *small)
    assert (written.returncode, written.stderr) == (0, "")
    assert json.loads((tmp_path / "cifar-100-python" / MARKER).read_text())["settings"]["seed"] == 0
    refused = run_cli(tmp_path, *small, "--layout", "all", "--seed", "1")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    assert [f.name for f in tmp_path.iterdir()] == ["cifar-100-python"]  # all is checked before anything is written


def call_cli(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["synthetic", *map(str, arguments)])
    main()


def test_command_line_says_what_is_there_already(tmp_path, monkeypatch, capsys):
    for _ in range(2):
        call_cli(monkeypatch, tmp_path, "--layout", "cifar-10", "--train-per-class", "1", "--test-per-class", "1")
    assert "already there" in capsys.readouterr().out.splitlines()[1]


def test_command_line_says_where_it_cannot_write(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        call_cli(monkeypatch, tmp_path / "file", "--train-per-class", "1")
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: cannot write ")


def test_all_writes_every_layout(tmp_path, monkeypatch):
    one_each = ["--train-per-class", "1", "--test-per-class", "1"]
    call_cli(monkeypatch, tmp_path, "--layout", "all", *one_each, "--classes", "2")
    assert {f.name for f in tmp_path.iterdir()} == {form.folder for form in LAYOUTS.values()}
