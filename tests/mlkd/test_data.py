"""Datasets at 224 x 224: enlarging as Pillow does, the published split, layouts."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from common.data import DeviceLoader, ImageArrays, Normalization
from common.data.image_files import ImageFileLoader
from common.data.oxford_pets import load_oxford_pets
from common.errors import UserError
from common.training.runtime import Runtime
from mlkd.data import NORMALIZATION, DataFlags, load_data, load_dogs, make_batches, split, train_and_validation
from mlkd.upscaled import UpscaledLoader, draw_crops, jittered

BICUBIC = v2.InterpolationMode.BICUBIC
AS_IT_IS = Normalization((0.0,) * 3, (1.0,) * 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
IMAGES = ImageArrays(PIXELS, np.arange(5))


def batches(train: bool, jitter: float = 0.0, normalization: Normalization = AS_IT_IS, **options) -> UpscaledLoader:
    small = DeviceLoader(IMAGES, 3, AS_IT_IS, shuffle=train, **options)
    return UpscaledLoader(small, 224, 256, normalization, jitter=jitter, train=train)


def tensor_of(image: Image.Image) -> torch.Tensor:
    return F.pil_to_tensor(image) / 255


def test_whole_images_as_pillow_enlarges_them():
    """Up to Pillow's rounding to whole gray levels, once in each direction."""
    pillow = v2.Compose([v2.Resize(256, interpolation=BICUBIC), v2.CenterCrop(224)])
    ours = torch.cat([batch.images for batch in batches(train=False).epoch()])
    theirs = torch.stack([tensor_of(pillow(Image.fromarray(pixels))) for pixels in PIXELS])
    assert (ours - theirs).abs().max() < 1.5 / 255


def test_crops_as_pillow_enlarges_them():
    ours = batches(train=True)
    views = ours._draw(np.random.default_rng([0, 3, 1]))
    assert views.flipped.any()
    seen = set()
    for batch in ours.epoch(3):
        for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
            (top, left), (height, width) = views.top_left[:, index].tolist(), views.extent[:, index].tolist()
            crop = Image.fromarray(PIXELS[index]).crop((left, top, left + width, top + height))
            theirs = tensor_of(crop.resize((224, 224), Image.Resampling.BICUBIC))
            theirs = theirs.flip(-1) if views.flipped[index] else theirs
            assert (image - theirs).abs().max() < 1.5 / 255
            seen.add(index)
    assert len(seen) == len(PIXELS)


def test_crops_are_drawn_as_torchvision_draws_them():
    """The same shares of the area and the same ratios of the sides, on average, and always within the image."""
    (top, left), (height, width) = draw_crops(np.random.default_rng(0), 4000, 32, 32)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 32).all()
    assert (left + width <= 32).all()
    torch.manual_seed(0)
    image = torch.empty(3, 32, 32)
    drawn = [v2.RandomResizedCrop(224).make_params([image]) for _ in range(4000)]
    their_height, their_width = np.array([(crop["height"], crop["width"]) for crop in drawn]).T
    assert (height * width).mean() == pytest.approx((their_height * their_width).mean(), rel=0.03)
    assert np.log(height / width).std() == pytest.approx(np.log(their_height / their_width).std(), rel=0.05)


def test_jitter_is_torchvisions():
    images = torch.rand(2, 3, 6, 6)
    factors = torch.tensor([[0.7, 1.0], [1.3, 1.0], [0.6, 1.0]])
    ours = jittered(images, factors, [2, 0, 1])
    theirs = F.adjust_contrast(F.adjust_brightness(F.adjust_saturation(images[0], 0.6), 0.7), 1.3)
    torch.testing.assert_close(ours[0], theirs)
    torch.testing.assert_close(ours[1], images[1])


def test_epochs_differ_and_repeat_and_shares_add_up():
    def epoch(number: int, **options) -> torch.Tensor:
        return torch.cat([batch.images for batch in batches(True, 0.4, NORMALIZATION, **options).epoch(number)])

    assert torch.equal(epoch(0), epoch(0))
    assert not torch.equal(epoch(0), epoch(1))
    whole = next(batches(True, 0.4).epoch(0)).images
    halves = [next(batches(True, 0.4, rank=rank, world_size=2).epoch(0)).images for rank in range(2)]
    torch.testing.assert_close(torch.cat(halves), whole)


def test_images_on_disk(pets):
    """Bicubic, at the size that is asked for; training images vary in color too."""
    images = load_oxford_pets(pets, download=False).train.take(np.arange(3))
    options = {"size": 64, "interpolation": BICUBIC}
    (batch,) = ImageFileLoader(images, 4, AS_IT_IS, **options).epoch()
    pillow = v2.Compose([v2.Resize(73, interpolation=BICUBIC), v2.CenterCrop(64)])
    theirs = torch.stack([tensor_of(pillow(Image.open(file).convert("RGB"))) for file in images.files])
    torch.testing.assert_close(batch.images, theirs)
    plain, varied = (
        next(ImageFileLoader(images, 4, AS_IT_IS, train=True, jitter=jitter, **options).epoch()).images
        for jitter in (0.0, 0.4)
    )
    assert plain.shape == varied.shape == (3, 3, 64, 64)
    assert not torch.equal(plain, varied)


def test_pets(pets):
    data = load_oxford_pets(pets, download=False)
    assert (data.num_classes, len(data.train), len(data.test)) == (37, 74, 37)
    assert data.content.startswith("synthetic dataset")
    for part in (data.train, data.test):
        assert set(part.targets) == set(range(37))
        for file, target in zip(part.files, part.targets, strict=True):
            assert file.name.rpartition("_")[0] == data.classes[target]


def again(folder: Path, source: str, target: str) -> None:
    """The last line of one list, once more at the end of another."""
    line = (folder / f"annotations/{source}.txt").read_text().splitlines()[-1]
    with open(folder / f"annotations/{target}.txt", "a") as file:
        file.write(f"{line}\n")


def untaught(folder: Path) -> None:
    """The first breed is left to the test split alone."""
    file = folder / "annotations/trainval.txt"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("Generated_000_")]
    file.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "annotations/test.txt").write_text(""), "names no images"),
        (lambda folder: (folder / "annotations/test.txt").write_text("x y\n"), "not a list of Oxford-IIIT Pet"),
        (lambda folder: (folder / "annotations/trainval.txt").unlink(), "cannot read"),
        (lambda folder: again(folder, "test", "test"), r"annotations/test.txt has \S+_\d+ 2 times: once is right"),
        (lambda folder: again(folder, "trainval", "trainval"), r"annotations/trainval.txt has \S+_\d+ 2 times"),
        (lambda folder: again(folder, "trainval", "test"), r"annotations has \S+_\d+.jpg 2 times"),
        (untaught, "no training images of the class Generated_000, which would be counted and never learned"),
        (lambda folder: (folder / "annotations/test.txt").write_text("nobody_1 1 1 1\n"), "an image that is not there"),
        (lambda folder: (folder / "annotations/test.txt").write_text("../x 1 1 1\n"), r"has ../x, which is no name"),
        (
            lambda folder: (folder / "annotations/test.txt").write_text("/etc/x 1 1 1\n"),
            r"has /etc/x, which is no name",
        ),
        (lambda folder: (folder / "images").rename(folder / "pictures"), "is not in"),
    ],
)
def test_damaged_pets(spoil, message, tmp_path, pets):
    shutil.copytree(pets / "oxford-iiit-pet", tmp_path / "oxford-iiit-pet")
    spoil(tmp_path / "oxford-iiit-pet")
    with pytest.raises(UserError, match=message):
        load_oxford_pets(tmp_path, download=False)


def flags(dataset: str, root: Path) -> DataFlags:
    return DataFlags(str(root), True, False, dataset=dataset, batch_size=8, image_size=64, workers=0)


@pytest.mark.parametrize("name", ["oxford-iiit", "oxfird-iiit"])
def test_both_spellings(name, pets):
    assert load_data(flags(name, pets)).name == "oxford-iiit"


def test_images_that_are_skipped_leave_each_part_and_class_some(tmp_path, pets):
    write_dogs(tmp_path, *DOGS)
    shutil.copytree(pets / "oxford-iiit-pet", tmp_path / "oxford-iiit-pet")
    pug = tmp_path / "dogs/pug/a_pug_1_0.jpg"
    pug.write_bytes(b"")
    with pytest.raises(UserError, match="no training images of the class pug"):
        load_dogs(tmp_path, skip_bad=True)
    write_dogs(tmp_path, pug.stem)
    (tmp_path / "dogs/pug/a_pug_7_1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="dogs: no validation images"):
        load_dogs(tmp_path, skip_bad=True)
    for file in (tmp_path / "oxford-iiit-pet/images").glob("Generated_000_*"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match="no training images of the class Generated_000"):
        load_oxford_pets(tmp_path, download=False, skip_bad=True)


def write_dogs(root: Path, *names: str) -> None:
    """Images in the published layout, each in the directory of its breed."""
    for name in names:
        file = root / "dogs" / name.split("_")[1] / f"{name}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(file)


DOGS = ("a_border_collie_1_0", "b_border_collie_2_0", "a_pug_1_0", "a_pug_7_1", "b_pug_8_2", "a_border_collie_9_2")


def test_dogs(tmp_path):
    """Breeds are classes, whatever set or directory they come from; groups are the parts."""
    write_dogs(tmp_path, *DOGS)
    data = load_dogs(tmp_path)
    assert data.classes == ("border_collie", "pug")
    for part, names in ((data.train, DOGS[:3]), (data.validation, DOGS[3:4]), (data.test, DOGS[4:])):
        found = dict(zip((file.stem for file in part.files), part.targets.tolist(), strict=True))
        assert found == {name: int("pug" in name) for name in names}
    assert train_and_validation(data) == (data.train, data.validation)
    assert data.describe()["validation_images"] == 1


def test_breeds_that_are_numbers(tmp_path):
    write_dogs(tmp_path, *(f"0_{breed}_1_{group}" for breed in (2, 10, 0, 1) for group in (0, 1, 2)))
    assert load_dogs(tmp_path).classes == ("0", "1", "2", "10")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no images in"),
        (DOGS[:4], r"no test images \(group 2\)"),
        ((*DOGS, "a_poodle_1_2"), r"no training images \(group 0\) of the breed poodle"),
        ((*DOGS, "a_pug_1_3"), "a_pug_1_3.jpg is not named as in"),
        ((*DOGS, "a_pug_1"), "a_pug_1.jpg is not named as in"),
    ],
)
def test_dogs_that_cannot_be_read(names, message, tmp_path):
    write_dogs(tmp_path, *names)
    with pytest.raises(UserError, match=message):
        load_dogs(tmp_path)


def test_the_split_is_one_tenth_and_always_the_same():
    images = ImageArrays(np.arange(100).reshape(-1, 1, 1, 1), np.zeros(100, int))
    (train, held_out), again = split(images), split(images)
    assert (len(train), len(held_out)) == (90, 10)
    assert set(train.pixels.flat) | set(held_out.pixels.flat) == set(range(100))
    assert np.array_equal(held_out.pixels, again[1].pixels)
    assert not np.array_equal(held_out.pixels.ravel(), np.arange(90, 100))


@pytest.mark.parametrize("dataset", ["cifar-10", "oxford-iiit"])
def test_the_batch_size_is_a_processs(dataset, pets, generated_data):
    """Two processes see twice as many images before an update, in half as many steps, and all that both can share."""
    root = generated_data if dataset == "cifar-10" else pets
    asked = flags(dataset, root)
    data = load_data(asked)
    one = make_batches(asked, data, Runtime(torch.device("cpu")))
    two = [make_batches(asked, data, Runtime(torch.device("cpu"), rank=rank, world_size=2)) for rank in range(2)]
    for part, batches in one.items():
        shared = two[0][part].samples
        assert batches.samples - shared == (batches.samples % 16 if part == "train" and batches.samples % 16 < 4 else 0)
        assert [len(batches), len(two[0][part])] == [-(-batches.samples // 8), -(-shared // 16)]
        shares = [next(rank[part].epoch()) for rank in two]
        assert {share.global_size for share in shares} == {min(16, batches.samples)}
        if part == "train":
            assert [len(share.images) for share in shares] == [8, 8]
        together = torch.cat([share.indices for share in shares]).tolist()
        first = [index for batch in list(batches.epoch())[:2] for index in batch.indices.tolist()]
        assert together == first
