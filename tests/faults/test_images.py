"""Images and folders of images: what torchvision reads is read, right; nothing is dropped or invented in silence."""

import errno
import io
import os
import random
import shutil
import struct
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.data import Normalization, load_dataset
from common.data.image_files import ImageFileLoader, load_image_files
from common.data.images import in_threads, list_images, read_image
from common.data.synthetic import write_generated
from common.errors import TrainingError, UserError, is_out_of_memory
from common.models import create_model
from common.models.network import require_takes
from tests.processes import CNN, snapshot

RAMP = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)  # what gray images show, from 0 to 252


def picture(mode: str = "RGB", size: tuple[int, int] = (8, 8), value: int = 90) -> Image.Image:
    return Image.new("RGB", size, (value, value, value)).convert(mode)


def deep(dtype: str) -> Image.Image:
    return Image.fromarray(RAMP.astype(np.uint16).astype(dtype) * 257)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes, *, kind: int = 0, bits: int = 8) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff(bits: int, photometric: int, pixels: bytes) -> bytes:
    """A gray image of 8 x 8 pixels in little-endian words, not compressed."""
    fields = {256: 8, 257: 8, 258: bits, 259: 1, 262: photometric, 273: 122, 277: 1, 278: 8, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in fields.items())
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + struct.pack("<I", 0) + pixels


def in_12_bits(values: np.ndarray) -> bytes:
    """Two numbers in three bytes."""
    pairs = (values.reshape(-1, 2).astype(np.uint32) * 4095 // 255).tolist()
    return b"".join((a << 12 | b).to_bytes(3, "big") for a, b in pairs)


DEEP_GRAY = {
    "tiff, 12 bits": ("x.tif", tiff(12, 1, in_12_bits(RAMP))),
    "tiff, 16 bits from white": ("x.tif", tiff(16, 0, (65535 - RAMP.astype("<u2") * 257).tobytes())),
    "tiff, 8 bits from white": ("x.tif", tiff(8, 0, (255 - RAMP).tobytes())),
    "png": ("x.png", saved(deep("<u2"), "PNG")),
    "tiff": ("x.tif", saved(deep("<u2"), "TIFF")),
    "tiff, big endian": ("x.tiff", saved(Image.fromarray(RAMP.astype(">u2") * 257), "TIFF")),
    "pgm": ("x.pgm", b"P5 8 8 65535\n" + (RAMP.astype(">u2") * 257).tobytes()),
}


@pytest.mark.parametrize("name", DEEP_GRAY)
def test_deep_gray_keeps_its_brightness(name, tmp_path):
    file, content = DEEP_GRAY[name]
    (tmp_path / file).write_bytes(content)
    pixels = np.asarray(read_image(tmp_path / file))
    assert np.array_equal(pixels, np.repeat(RAMP[..., None], 3, axis=2))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"])
def test_what_torchvision_reads_is_read_alike(mode, suffix, tmp_path):
    from torchvision.datasets.folder import default_loader

    file = tmp_path / f"x{suffix}"
    try:
        picture(mode).save(file)
    except (OSError, ValueError, KeyError):
        pytest.skip("a format without this mode")
    assert np.array_equal(np.asarray(read_image(file)), np.asarray(default_loader(str(file))))
    assert list_images(tmp_path, Counter()) == [file]


def test_pillow_is_quiet_while_images_are_read_and_heard_again_after(tmp_path):
    file = tmp_path / "x.png"
    picture("P").save(file, transparency=b"\1\2\3")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        assert len(list(in_threads(read_image, [file] * 3, "reading"))) == 3
        assert (told, warnings.filters) == ([], before)
        read_image(file)
        assert "Palette images with Transparency" in str(told[0].message)


GOOD_PNG, GOOD_JPEG = saved(picture(), "PNG"), saved(picture(size=(64, 64)), "JPEG")
BAD = {
    "nothing.png": b"",
    "text.png": b"not an image",
    "signature.png": b"\x89PNG\r\n\x1a\n",
    "cut.png": GOOD_PNG[: len(GOOD_PNG) - 30],
    "checksum.png": GOOD_PNG.replace(b"IDAT", b"IDAU"),
    "cut.jpg": GOOD_JPEG[:300],
    "header.jpg": GOOD_JPEG[:20],
    "cut.webp": saved(picture(), "WEBP")[:30],
    "cut.tif": saved(picture(), "TIFF")[:150],
    "bomb.png": png(100_000, 100_000, b""),
    "long.png": png(2_000_000_000, 1, b""),
    "no rows.png": png(0, 5, b""),
    "text bomb.png": GOOD_PNG.replace(b"IEND", b"zTXt") + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a" * 80_000_000)),
    "narrow.png": png(1, 1000, b"\0\0" * 1000),
    "bits.png": png(8, 8, b"", bits=77),
    "float.tif": saved(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"),
    "int32.tif": saved(Image.fromarray(np.ones((8, 8), np.int32)), "TIFF"),
    "no numbers.ppm": b"P6 a b 255\n",
    "too large a number.ppm": b"P6 " + b"9" * 5000 + b" 8 255\n",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_named(name, tmp_path):
    (tmp_path / name).write_bytes(BAD[name])
    with pytest.raises(UserError, match=f"cannot read image .*{name}: ") as caught:
        read_image(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [GOOD_PNG, GOOD_JPEG, saved(picture(), "TIFF"), saved(picture(), "WEBP")])
def test_damage_anywhere_is_an_image_or_one_line(content, tmp_path):
    draws, refused = random.Random(0), []
    for _ in range(100):
        damaged = bytearray(content)
        for _ in range(draws.randint(1, 20)):
            damaged[draws.randrange(len(damaged))] = draws.randrange(256)
        (tmp_path / "x.png").write_bytes(damaged)
        try:
            read_image(tmp_path / "x.png")
        except UserError as error:
            refused.append(str(error))
    assert refused
    assert all(line.startswith(f"cannot read image {tmp_path / 'x.png'}: ") for line in refused)


@pytest.fixture
def folder(tmp_path) -> Path:
    """An image folder of two classes."""
    place = tmp_path / "pets"
    for part, count in (("train", 3), ("val", 2)):
        for number, name in enumerate(("cat", "dog")):
            (place / part / name).mkdir(parents=True)
            for i in range(count):
                picture(value=100 * number + i).save(place / part / name / f"{i}.png")
    return place


LOADERS = {
    "in memory": lambda place, **options: load_dataset(place.name, place.parent, **options),
    "as files": lambda place, **options: load_image_files(place.name, place.parent, **options),
}


@pytest.fixture(params=LOADERS)
def load(request):
    return LOADERS[request.param]


def test_nothing_is_invented_or_dropped_in_silence(folder, load):
    before = load(folder)
    assert before.messages == ()
    picture().save(folder / "train/cat/more.tif")
    (folder / "train/dog/deep/deeper").mkdir(parents=True)
    picture().save(folder / "train/dog/deep/deeper/x.ppm")
    picture().save(folder / "train/dog/.hidden.png")
    (folder / "train/.git").mkdir()
    picture().save(folder / "train/.git/x.png")
    (folder / "train/dog/notes.txt").touch()
    (folder / "train/README").touch()
    os.mkfifo(folder / "val/cat/pipe.png")
    (folder / "val/cat/nowhere.png").symlink_to("nothing")
    (folder / "val/cat/itself.png").symlink_to("itself.png")
    (folder / "val/cat/circle").symlink_to("..")
    data = load(folder)
    assert data.classes == ("cat", "dog")
    assert data.train.targets.tolist() == [0] * 4 + [1] * 4
    (message,) = data.messages
    for part in ("7 files ignored", "2 hidden", "3 links to nowhere, pipes", "1 .txt", "1 outside of class folders"):
        assert part in message


def test_a_class_without_images_is_refused(folder, load):
    (folder / "train/axolotl").mkdir()
    (folder / "train/axolotl/notes.txt").touch()
    with pytest.raises(UserError, match=r"no images .* in the class axolotl"):
        load(folder)


def test_a_class_that_is_not_tested_is_said(folder):
    shutil.rmtree(folder / "val/dog")
    (message,) = LOADERS["in memory"](folder).messages
    assert message == f"{folder / 'val'}: no images of 1 classes, such as dog: they are not tested"
    with pytest.raises(UserError, match="val lacks the class dog"):
        LOADERS["as files"](folder)


def test_a_part_that_is_not_looked_at_is_said(folder, load):
    shutil.copytree(folder / "val", folder / "test")
    assert load(folder).messages == (f"{folder}: val/ is the test split, and test/ is not looked at",)


def test_one_class_is_refused(folder, load):
    for part in ("train", "val"):
        for file in (folder / part / "dog").iterdir():
            file.unlink()
        (folder / part / "dog").rmdir()
    with pytest.raises(UserError, match="has 1 class"):
        load(folder)


def test_names_that_are_not_utf8(folder, load):
    for part in ("train", "val"):
        os.rename(folder / part / "dog", os.fsencode(folder / part) + b"/do\xff")
    data = load(folder)
    assert os.fsencode(data.classes[1]) == b"do\xff"
    Path(os.fsdecode(os.fsencode(folder) + b"/train/do\xff/0.png")).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"do\\xff/0.png: it is no image"):
        load_dataset("pets", folder.parent)


def swap(folder: Path) -> None:
    a, b = folder / "train/cat/0.png", folder / "train/dog/0.png"
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


def invert(folder: Path) -> None:
    content = bytearray((folder / "val/dog/1.png").read_bytes())
    content[60] ^= 255
    (folder / "val/dog/1.png").write_bytes(content)


def with_old_times(folder: Path) -> None:
    file = folder / "train/cat/0.png"
    times = file.stat()
    swap(folder)
    for changed in (file, folder / "train/dog/0.png"):
        os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))


CHANGES = {
    "contents swapped": swap,
    "a byte": invert,
    "contents swapped, times kept": with_old_times,
    "a name": lambda folder: (folder / "train/cat/0.png").rename(folder / "train/cat/00.png"),
    "a label": lambda folder: (folder / "train/cat/0.png").rename(folder / "train/dog/9.png"),
    "a label, by another file's name": lambda folder: [
        (folder / "train/cat").rename(folder / "train/x"),
        (folder / "train/dog").rename(folder / "train/cat"),
        (folder / "train/x").rename(folder / "train/dog"),
    ],
    "one image less": lambda folder: (folder / "val/cat/0.png").unlink(),
    "from one part to the other": lambda folder: (folder / "val/cat/0.png").rename(folder / "train/cat/9.png"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_changes_with_any_byte_or_label(change, folder):
    load = LOADERS["as files"]
    before = load(folder).fingerprint
    assert load(folder).fingerprint == before
    CHANGES[change](folder)
    assert load(folder).fingerprint != before


def test_contents_are_digested_once(folder, load, monkeypatch):
    before = load(folder).fingerprint
    monkeypatch.setattr("common.data.images._digests", lambda files: pytest.fail("read again"))
    assert load(folder).fingerprint == before
    monkeypatch.undo()
    for file in (folder.parent / ".cache").iterdir():
        file.write_bytes(b"damaged")
    assert load(folder).fingerprint == before


def test_bad_images_are_left_out_on_demand(folder, load):
    whole = load(folder)
    (folder / "train/cat/1.png").write_bytes(b"damaged")
    data = load(folder, skip_bad=True)
    assert len(data.train) == len(whole.train) - 1
    assert data.messages == (f"pets: 1 images cannot be read and are skipped, such as {folder / 'train/cat/1.png'}",)
    assert data.fingerprint != whole.fingerprint
    assert data.train.targets.tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ("train/cat", "no training images of the class cat, which would be counted and never learned"),
        ("train", "no training images$"),
        ("val", "no test images$"),
    ],
)
def test_what_is_skipped_leaves_each_part_and_class_some(damaged, message, folder, load):
    for file in (folder / damaged).rglob("*.png"):
        file.write_bytes(b"damaged")
    with pytest.raises(UserError, match=f"pets: {message}"):
        load(folder, skip_bad=True)


OF_THE_MACHINE = [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM]


@pytest.mark.parametrize("number", OF_THE_MACHINE, ids=errno.errorcode.get)
def test_what_is_wrong_with_the_machine_makes_no_image_bad(number, folder, load, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("common.data.images.open_at_once", fail)
        with pytest.raises(MemoryError if number == errno.ENOMEM else TrainingError, match=os.strerror(number)):
            load(folder, skip_bad=True)
    assert load(folder, skip_bad=True).messages == ()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO], ids=errno.errorcode.get)
def test_what_is_wrong_with_a_workers_machine_is_one_line(number, folder, monkeypatch):
    data = load_image_files("pets", folder.parent)
    batches = ImageFileLoader(data.train, 2, Normalization((0,) * 3, (1,) * 3), size=8, workers=1, train=True)

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("common.data.images.open_at_once", fail)
    with pytest.raises(TrainingError, match=rf"^cannot read image \S+: {os.strerror(number)}$"):
        list(batches.epoch(0))


def test_tiny_imagenet_drops_nothing_in_silence(tmp_path):
    folder = write_generated(tmp_path, "tiny-imagenet-200", train_per_class=2, test_per_class=1, classes=3)
    images = sorted(folder.glob("train/*/images"))
    for place, name in zip(images, ("more.jpeg", "more.png", "._hidden.JPEG"), strict=True):
        shutil.copy(next(place.iterdir()), place / name)
    data = load_dataset("tiny_imagenet", tmp_path)
    assert sorted(np.bincount(data.train.targets).tolist()) == [2, 3, 3]
    (message,) = data.messages
    assert "1 files ignored (1 hidden)" in message
    images[0].parent.rename(images[0].parent.with_name("n999"))
    with pytest.raises(UserError, match=r"train has a class that wnids\.txt lacks: n999"):
        load_dataset("tiny_imagenet", tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_met_by_a_worker_is_one_line(folder, workers):
    data = load_image_files("pets", folder.parent)
    (folder / "train/cat/1.png").write_bytes(b"damaged")
    batches = ImageFileLoader(data.train, 2, Normalization((0,) * 3, (1,) * 3), size=8, workers=workers, train=True)
    with pytest.raises(UserError) as caught:
        list(batches.epoch(0))
    assert str(caught.value) == (
        f"cannot read image {folder / 'train/cat/1.png'}: it is no image of a known format "
        "(--skip-bad-images leaves such images out)"
    )


# ------------------------------------------------------------------------------------------ images and their networks

# family, network, height and width of an image that it does not take
TOO_SMALL = [
    *(("tfkd", name, size) for name, size in (("alexnet", 8), ("cnn", 1), ("densenet121", 2))),
    *(("mtkd_rl", name, 1) for name in ("vgg8", "vgg13")),
    *(("mdistiller", name, 4) for name in ("vgg8", "vgg11")),
]


@pytest.mark.parametrize(("family", "name", "size"), TOO_SMALL)
def test_images_that_a_network_does_not_take_are_one_line(family, name, size):
    network = create_model(name, 2, family, **({"num_channels": 4, "dropout_rate": 0.1} if name == "cnn" else {}))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(UserError, match=rf"^{name} does not take images of {size} x {size} pixels: [^\n]+$"):
        require_takes(network, name, size, size, 2)
    require_takes(network, name, 32, 32, 2)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_short_memory_says_nothing_about_the_images_that_a_network_takes():
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        require_takes(torch.nn.Linear(3, 2), "x", 2**24, 2**24, 2)
    assert is_out_of_memory(caught.value)


def test_a_folder_of_small_images(folder, workspace, call):
    experiment = workspace.experiment(
        CNN, model_version="alexnet", dataset="pets", num_channels=None, dropout_rate=None
    )
    before = snapshot(experiment)
    ended = call([*workspace.arguments(CNN), "--data-dir", str(folder.parent)])
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith("error: alexnet does not take images of 8 x 8 pixels: ")
    assert snapshot(experiment) == before
