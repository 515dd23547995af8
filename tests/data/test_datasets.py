"""Datasets on disk are read as published, and what does not fit is named."""

import dataclasses
import functools
import hashlib
import http.server
import os
import pickle
import shutil
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data import ImageArrays, cifar, load_dataset, tiny_imagenet
from common.data.synthetic import write_generated
from common.errors import UserError
from tests.material import shared_or_skip
from tests.processes import REPOSITORY

# --------------------------------------------------------------------------------------------------------- CIFAR


def read_cifar(file: Path) -> dict:
    return pickle.loads(file.read_bytes(), encoding="latin1")


@pytest.mark.parametrize(
    ("name", "folder", "train", "test", "labels"),
    [
        ("cifar10", "cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)], "test_batch", "labels"),
        ("cifar100", "cifar-100-python", ["train"], "test", "fine_labels"),
    ],
)
def test_cifar(name, folder, train, test, labels, generated_data):
    data = load_dataset(name, generated_data, download=False)
    for part, files in ((data.train, train), (data.test, [test])):
        contents = [read_cifar(generated_data / folder / file) for file in files]
        rows = np.concatenate([content["data"] for content in contents])
        assert part.pixels.dtype == np.uint8
        assert part.targets.tolist() == [c for content in contents for c in content[labels]]
        # a row holds the red plane, then the green, then the blue, each line by line
        for n, y, x, channel in ((0, 0, 0, 0), (3, 5, 7, 1), (len(rows) - 1, 31, 30, 2)):
            assert part.pixels[n, y, x, channel] == rows[n, channel * 1024 + y * 32 + x]
        assert np.array_equal(part.pixels.transpose(0, 3, 1, 2).reshape(len(rows), -1), rows)
    assert data.num_classes == (10 if name == "cifar10" else 100)
    assert data.describe() == {
        "name": name,
        "content": data.content,
        "fingerprint": data.fingerprint,
        "classes": data.num_classes,
        "train_images": 300,
        "test_images": 100,
    }
    assert data.content == "synthetic dataset (common.data.synthetic), not the real data"


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_pipe_is_not_waited_for(name, generated_data, tmp_path):
    shutil.copytree(generated_data / "cifar-100-python", folder := tmp_path / "cifar-100-python")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=rf"cannot read {folder / name} \(it is a pipe\)"):
        load_dataset("cifar100", tmp_path, download=False)


def test_other_content_is_named_as_such(generated_data, tmp_path):
    folder = shutil.copytree(generated_data / "cifar-10-batches-py", tmp_path / "cifar-10-batches-py")
    same = load_dataset("cifar10", tmp_path)
    (folder / "generated.json").unlink()
    other = load_dataset("cifar10", tmp_path)
    assert other.content == "other content in the published layout, not the published archive"
    assert other.fingerprint == same.fingerprint
    content = read_cifar(folder / "data_batch_2")
    content["data"][0, 0] ^= 1
    (folder / "data_batch_2").write_bytes(pickle.dumps(content))
    assert load_dataset("cifar10", tmp_path).fingerprint != same.fingerprint


@pytest.mark.slow
@pytest.mark.skipif(
    not (REPOSITORY / "data/cifar-100-python").is_dir(),
    reason="the real CIFAR-100 is not in data/cifar-100-python (data/README.md says how to get it)",
)
def test_real_cifar100():
    data = load_dataset("cifar100", REPOSITORY / "data", download=False)
    if data.content != "published archive, checksums verified":
        pytest.skip(f"data/cifar-100-python is not the real CIFAR-100: {data.content}")
    assert data.train.pixels.shape == (50_000, 32, 32, 3)
    assert data.test.pixels.shape == (10_000, 32, 32, 3)
    assert set(np.bincount(data.train.targets)) == {500}
    assert set(np.bincount(data.test.targets)) == {100}
    assert (data.classes[0], data.classes[99]) == ("apple", "worm")
    # the statistics that these papers normalize by are those of this set
    pixels = data.train.pixels[::10].reshape(-1, 3) / 255
    assert pixels.mean(0) == pytest.approx([0.5070751592371323, 0.48654887331495095, 0.4409178433670343], abs=5e-3)
    assert pixels.std(0) == pytest.approx([0.2673342858792401, 0.2564384629170883, 0.27615047132568404], abs=5e-3)


# ------------------------------------------------------------------------------------------------- Tiny-ImageNet


@pytest.fixture(params=["generated", "real"])
def tiny(request, tmp_path) -> Path:
    """Folder of a set in Tiny-ImageNet's layout, free to be damaged."""
    if request.param == "generated":
        sizes = {"train_per_class": 3, "test_per_class": 2, "classes": 4}
        return write_generated(tmp_path, "tiny-imagenet-200", **sizes)
    mini = shared_or_skip("data/tiny-imagenet-200-mini")
    copy = shutil.copytree(mini, tmp_path / "tiny-imagenet-200", copy_function=shutil.copyfile)
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755)
    return copy


def test_tiny_imagenet(tiny):
    data = load_dataset("tiny_imagenet", tiny.parent, download=False)
    wnids = (tiny / "wnids.txt").read_text().split()
    words = dict(line.split("\t") for line in (tiny / "words.txt").read_text().splitlines())
    assert data.classes == tuple(words[wnid] for wnid in wnids)
    files = {wnid: sorted((tiny / "train" / wnid / "images").glob("*.JPEG")) for wnid in wnids}
    assert np.bincount(data.train.targets).tolist() == [len(files[wnid]) for wnid in wnids]
    assert data.train.pixels.shape[1:] == (64, 64, 3)
    first = np.asarray(Image.open(files[wnids[1]][0]).convert("RGB"))
    assert np.array_equal(data.train.pixels[data.train.targets == 1][0], first)

    annotations = [line.split("\t")[:2] for line in (tiny / "val/val_annotations.txt").read_text().splitlines()]
    assert data.test.targets.tolist() == [wnids.index(wnid) for _, wnid in annotations]
    last = np.asarray(Image.open(tiny / "val/images" / annotations[-1][0]).convert("RGB"))
    assert np.array_equal(data.test.pixels[-1], last)


def _replace(folder: Path) -> None:
    (folder / "val/val_annotations.txt").write_text(f"x.JPEG\t{(folder / 'wnids.txt').read_text().split()[0]}\n")


def _append(file: Path, line: int) -> None:
    """A line of the file once more."""
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[line]]) + "\n")


DAMAGES = {
    "no wnids.txt": (lambda f: (f / "wnids.txt").unlink(), "is not Tiny-ImageNet .*No such file.*wnids.txt"),
    "no annotations": (
        lambda f: (f / "val/val_annotations.txt").unlink(),
        "is not Tiny-ImageNet .*val_annotations.txt",
    ),
    "unreadable words": (lambda f: (f / "words.txt").write_bytes(b"\xff\xfe\x00\xff"), "is not Tiny-ImageNet"),
    "a line of one column": (
        lambda f: (f / "val/val_annotations.txt").write_text("val_0.JPEG\n"),
        "is not Tiny-ImageNet",
    ),
    "unknown class": (
        lambda f: (f / "val/val_annotations.txt").write_text("val_0.JPEG\tn123\t0\t0\t9\t9\n"),
        r"validation classes \['n123'\] are not in wnids.txt",
    ),
    "no training images": (lambda f: shutil.rmtree(f / "train"), "no training images"),
    "no validation images": (lambda f: (f / "val/val_annotations.txt").write_text(""), "no validation images"),
    "a wnid twice": (lambda f: _append(f / "wnids.txt", 0), r"wnids.txt has n\d+ 2 times"),
    "an annotation twice": (
        lambda f: _append(f / "val/val_annotations.txt", 0),
        r"val_annotations.txt has .*JPEG 2 times",
    ),
    "an annotation of what lies elsewhere": (
        lambda f: (f / "val/val_annotations.txt").write_text(f"../../wnids.txt\t{(f / 'wnids.txt').read_text()[:9]}\n"),
        r"val_annotations.txt has ../../wnids.txt, which is no name of what lies below",
    ),
    "a wnid that is a path": (
        lambda f: (f / "wnids.txt").write_text((f / "wnids.txt").read_text() + "\n/tmp\n"),
        "wnids.txt has /tmp, which is no name",
    ),
    "a wnid without images": (
        lambda f: (f / "wnids.txt").write_text((f / "wnids.txt").read_text() + "\nn00000000\n"),
        "no training images of the class n00000000, which would be counted and never learned",
    ),
    "a pipe for words": (
        lambda f: ((f / "words.txt").unlink(), os.mkfifo(f / "words.txt")),
        "is not Tiny-ImageNet .*not a plain file",
    ),
    "a pipe for an image": (lambda f: os.mkfifo(f / "val/images/x.JPEG") or _replace(f), "cannot read image .*x.JPEG"),
    "missing image": (lambda f: next((f / "val/images").iterdir()).unlink(), "cannot read image .*No such file"),
    "truncated image": (
        lambda f: os.truncate(next(f.rglob("train/*/images/*.JPEG")), 300),
        "cannot read image .*JPEG",
    ),
    "image of another size": (
        lambda f: Image.new("RGB", (32, 32)).save(next(f.rglob("train/*/images/*_1.JPEG"))),
        "images differ in size .* is 32x32, ",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_tiny_imagenet(damage, tmp_path):
    folder = write_generated(tmp_path, "tiny-imagenet-200", train_per_class=2, test_per_class=1, classes=3)
    spoil, message = DAMAGES[damage]
    spoil(folder)
    with pytest.raises(UserError, match=message):
        load_dataset("tiny_imagenet", tmp_path, download=False)


# -------------------------------------------------------------------------------------------------- image folders


def save_image(path: Path, size: tuple[int, int] = (20, 20), color: int = 0, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (color,) * len(mode) if len(mode) > 1 else color).save(path)


@pytest.fixture
def pets(tmp_path) -> Path:
    """An image folder of two classes."""
    folder = tmp_path / "pets"
    for part, count in (("train", 3), ("val", 2)):
        for c, name in enumerate(("cat", "dog")):
            for n in range(count):
                save_image(folder / part / name / f"{n}.png", color=100 * c + n)
    return folder


@pytest.mark.parametrize("test_part", ["val", "test"])
def test_image_folder(test_part, pets):
    if test_part == "test":
        (pets / "val").rename(pets / "test")
    (pets / "train/cat/notes.txt").touch()
    data = load_dataset("pets", pets.parent)
    assert data.classes == ("cat", "dog")
    assert data.train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.targets.tolist() == [0, 0, 1, 1]
    assert data.train.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]
    assert data.test.pixels.shape == (4, 20, 20, 3)
    assert data.content == "image folder"
    save_image(pets / "train/cat/4.png")
    assert load_dataset("pets", pets.parent).fingerprint != data.fingerprint


def test_images_are_resized_to_the_shorter_side_and_cropped(pets):
    save_image(pets / "train/cat/0.png", (60, 30), 7)
    save_image(pets / "val/dog/0.jpg", (25, 70), 9, mode="L")
    data = load_dataset("pets", pets.parent, image_size=16)
    assert data.train.pixels.shape == (6, 16, 16, 3)
    assert data.test.pixels.shape == (5, 16, 16, 3)
    assert np.all(data.train.pixels[0] == 7)


@pytest.mark.parametrize("place", ["train/cat/2.png", "train/dog/0.png"])
def test_images_that_differ_in_size(place, pets):
    save_image(pets / place, (30, 20))
    with pytest.raises(UserError, match=r"images differ in size \(\d.png is 30x20, .* 20x20\): give --image-size"):
        load_dataset("pets", pets.parent)


def test_parts_that_differ_in_size(pets):
    for file in pets.glob("val/*/*.png"):
        save_image(file, (24, 24))
    with pytest.raises(UserError, match="training and test images differ in size; give --image-size"):
        load_dataset("pets", pets.parent)


def test_incomplete_image_folders(pets):
    (pets / "val/cat/0.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"cannot read image .*val/cat/0.png"):
        load_dataset("pets", pets.parent)
    save_image(pets / "val/horse/0.png")
    with pytest.raises(UserError, match=r"has a class that .*train lacks: horse"):
        load_dataset("pets", pets.parent)
    shutil.rmtree(pets / "val")
    with pytest.raises(UserError, match="neither val/ nor test/"):
        load_dataset("pets", pets.parent)
    (pets / "val").mkdir()
    with pytest.raises(UserError, match=r"val: no images"):
        load_dataset("pets", pets.parent)
    with pytest.raises(UserError, match="unknown dataset 'dogs'"):
        load_dataset("dogs", pets.parent)


def test_a_class_may_lack_test_images(pets):
    shutil.rmtree(pets / "val/cat")
    data = load_dataset("pets", pets.parent)
    assert (data.num_classes, data.test.targets.tolist()) == (2, [1, 1])


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny_imagenet"])
def test_image_size_is_for_image_folders(name, tmp_path):
    with pytest.raises(UserError, match=f"--image-size is for image folders; {name} has a size of its own"):
        load_dataset(name, tmp_path, image_size=32)


# ----------------------------------------------------------------------------------------------------------- split


def test_split_divides_every_class():
    targets = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [10, 20, 40]))
    images = ImageArrays(np.arange(70, dtype=np.uint8)[:, None, None, None], targets)
    rest, part = images.split(0.2)
    assert np.bincount(part.targets).tolist() == [2, 4, 8]
    numbers = [p.pixels.flatten().tolist() for p in (rest, part)]
    assert sorted(numbers[0] + numbers[1]) == list(range(70))
    assert all(n == sorted(n) for n in numbers)
    for p in (rest, part):
        assert np.array_equal(p.targets, targets[p.pixels.flatten()])
    assert np.array_equal(images.split(0.2)[1].pixels, part.pixels)
    assert not np.array_equal(images.split(0.2, seed=1)[1].pixels, part.pixels)
    assert [len(p) for p in images.split(0.0)] == [70, 0]


# -------------------------------------------------------------------------------------------------------- download


@pytest.fixture
def server(generated_data, tmp_path, monkeypatch):
    """Serves the generated CIFAR-10 archive from this machine in place of the published one."""
    served = tmp_path / "served"
    served.mkdir()
    archive = served / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(generated_data / "cifar-10-batches-py", "cifar-10-batches-py")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        requests = 0

        def log_message(self, *args) -> None:
            Quiet.requests += self.command == "GET"

    handler = functools.partial(Quiet, directory=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        release = dataclasses.replace(
            cifar._RELEASES["cifar10"],
            url=f"http://127.0.0.1:{running.server_port}/{archive.name}",
            md5=hashlib.md5(archive.read_bytes()).hexdigest(),
        )
        monkeypatch.setitem(cifar._RELEASES, "cifar10", release)
        yield archive, Quiet
        running.shutdown()
        thread.join()


def test_absent_sets_are_downloaded(server, generated_data, tmp_path):
    data = load_dataset("cifar10", tmp_path / "new/data")
    assert data.fingerprint == load_dataset("cifar10", generated_data).fingerprint
    present = sorted(f.name for f in (tmp_path / "new/data").iterdir())
    assert present == [".cache", ".lock", "cifar-10-batches-py", server[0].name]


def test_an_archive_placed_by_hand_is_unpacked(server, tmp_path):
    archive, handler = server
    (tmp_path / "data").mkdir()
    shutil.move(archive, tmp_path / "data" / archive.name)
    assert len(load_dataset("cifar10", tmp_path / "data").train) == 300
    assert handler.requests == 0


def test_a_download_of_another_content_is_refused(server, tmp_path):
    os.truncate(server[0], 1000)
    with pytest.raises(UserError, match=r"cifar10 is not in .* and could not be downloaded from http.*corrupted"):
        load_dataset("cifar10", tmp_path / "data")
    assert not (tmp_path / "data/cifar-10-batches-py").exists()


def test_a_download_that_is_not_there(server, tmp_path):
    server[0].unlink()
    with pytest.raises(UserError, match=r"could not be downloaded from http\S+ \(.*\): place the published"):
        load_dataset("cifar10", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_two_at_once_download_once(server, tmp_path):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(load_dataset("cifar10", tmp_path / "data"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(data.train) for data in results] == [300] * 3
    assert server[1].requests <= 2  # torchvision asks once where to go, and once for the file


@pytest.mark.parametrize(
    ("name", "folder", "layout"),
    [
        ("cifar10", "cifar-10-batches-py", "cifar-10"),
        ("cifar100", "cifar-100-python", "cifar-100"),
        ("tiny_imagenet", tiny_imagenet.FOLDER, "tiny-imagenet-200"),
    ],
)
def test_absent_sets_without_download(name, folder, layout, tmp_path):
    with pytest.raises(UserError) as error:
        load_dataset(name, tmp_path / "data", download=False)
    assert str(error.value).startswith(f"{name} is not in {tmp_path}/data: place the published {folder}/ there by hand")
    assert f"`python -m common.data.synthetic DEST --layout {layout}`" in str(error.value)
    assert not (tmp_path / "data").exists()
