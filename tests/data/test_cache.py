"""Decoded images are kept beside the data, and never outlive what they were decoded from."""

import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data import Dataset, cifar, image_folder, load_dataset
from common.data.synthetic import write_generated
from common.errors import UserError

CIFAR10 = "cifar-10-batches-py"


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Grows by an entry each time that something is decoded."""
    times = []
    for module, name in ((cifar, "_decode_release"), (image_folder, "decode")):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, f=original: (times.append(f.__name__), f(*args))[1])
    return times


@pytest.fixture
def root(generated_data, tmp_path) -> Path:
    """A directory with one dataset, CIFAR-10."""
    shutil.copytree(generated_data / CIFAR10, tmp_path / CIFAR10)
    return tmp_path


def cache_file(root: Path) -> Path:
    (file,) = (root / ".cache").iterdir()
    return file


def assert_same(ours: Dataset, theirs: Dataset) -> None:
    assert ours.describe() == theirs.describe()
    assert ours.classes == theirs.classes
    for part in ("train", "test"):
        for field in ("pixels", "targets"):
            a, b = (getattr(getattr(dataset, part), field) for dataset in (ours, theirs))
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)


# ------------------------------------------------------------------------------------------------ what is read from it


def test_images_are_decoded_once(root, decoded):
    first = load_dataset("cifar10", root)
    second = load_dataset("cifar10", root)
    assert decoded == ["_decode_release"]
    assert_same(first, second)
    second.train.pixels[0] = 0  # as free to be changed as what is decoded


def test_identity_is_that_of_the_files_at_hand(root):
    load_dataset("cifar10", root)
    (root / CIFAR10 / "generated.json").unlink()
    assert load_dataset("cifar10", root).content == "other content in the published layout, not the published archive"


def test_images_in_folders_are_decoded_once_a_size(tmp_path, decoded):
    for i, part in enumerate(("train", "val")):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / "pets" / part / name / "0.png")
    for size in (None, 10, None, 10):
        data = load_dataset("pets", tmp_path, image_size=size)
        assert data.train.pixels.shape == (2, size or 20, size or 20, 3)
        assert (data.train.pixels[0, 0, 0, 0], data.test.pixels[0, 0, 0, 0]) == (0, 1)
    assert decoded == ["decode"] * 4  # two parts, two sizes


def test_tiny_imagenet_is_decoded_once(tmp_path, decoded):
    folder = write_generated(tmp_path, "tiny-imagenet-200", train_per_class=2, test_per_class=1, classes=3)
    assert_same(load_dataset("tiny_imagenet", tmp_path), load_dataset("tiny_imagenet", tmp_path))
    assert decoded == ["decode"] * 2
    os.truncate(next(folder.rglob("train/*/images/*.JPEG")), 300)
    with pytest.raises(UserError, match=r"cannot read image .*JPEG"):
        load_dataset("tiny_imagenet", tmp_path)


# ------------------------------------------------------------------------------------------------ changes of the data


def rewrite(file: Path, bytes_of: Callable[[bytes], bytes] = lambda content: content) -> None:
    file.write_bytes(bytes_of(file.read_bytes()))


def change_a_pixel(content: bytes) -> bytes:
    batch = pickle.loads(content, encoding="latin1")
    batch["data"][0, 0] ^= 1
    return pickle.dumps(batch)


def test_changed_data_are_decoded_again(root, decoded):
    batch = root / CIFAR10 / "data_batch_2"
    rewrite(batch, lambda content: pickle.dumps(pickle.loads(content, encoding="latin1")))
    before, state = load_dataset("cifar10", root), batch.stat()
    rewrite(batch, change_a_pixel)
    os.utime(batch, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (batch.stat().st_size, batch.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    after = load_dataset("cifar10", root)
    assert after.fingerprint != before.fingerprint
    assert np.flatnonzero((after.train.pixels != before.train.pixels).any((1, 2, 3))).tolist() == [60]
    assert_same(load_dataset("cifar10", root), after)
    assert len(decoded) == 2


def test_damaged_data_are_refused_as_ever(root):
    load_dataset("cifar10", root)
    os.truncate(root / CIFAR10 / "test_batch", 1000)
    with pytest.raises(UserError, match="test_batch is truncated or not a CIFAR file"):
        load_dataset("cifar10", root)
    (root / CIFAR10 / "test_batch").unlink()
    with pytest.raises(UserError, match=r"cannot read .*test_batch \(No such file or directory\)"):
        load_dataset("cifar10", root)


# --------------------------------------------------------------------------------------------------- the cache itself


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "a bit": flip_a_bit,
    "something else": lambda content: pickle.dumps({"key": "x"}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_written_anew(damage, root, decoded):
    before = load_dataset("cifar10", root)
    rewrite(cache_file(root), DAMAGES[damage])
    for _ in range(2):
        assert_same(load_dataset("cifar10", root), before)
    assert len(decoded) == 2


def test_a_pipe_in_its_place_is_replaced(root, decoded):
    before = load_dataset("cifar10", root)
    file = cache_file(root)
    file.unlink()
    os.mkfifo(file)
    for _ in range(2):
        assert_same(load_dataset("cifar10", root), before)
    assert len(decoded) == 2


def test_where_nothing_can_be_written_nothing_is_kept(root, decoded):
    (root / ".cache").touch()
    for _ in range(2):
        load_dataset("cifar10", root)
    assert len(decoded) == 2
    assert (root / ".cache").read_bytes() == b""


def test_several_at_once(root):
    results = []
    threads = [threading.Thread(target=lambda: results.append(load_dataset("cifar10", root))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for data in results:
        assert_same(data, results[0])
    assert len(results) == 4
    assert cache_file(root).name == "cifar10.npz"
