"""What pairs of a weak and a strong view cost: with and without the strong one, and one image at a time with Pillow.

`python -m benchmarks.pairs` takes CIFAR-100 from data/, or random images where it is absent. It prints two ratios: of
pairs to weak views alone, both from `common.data.DeviceLoader`, and to the plain published way, in which worker
processes do the same with Pillow.
"""

from __future__ import annotations

import math
import random

import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torchvision import transforms

from benchmarks.loader import training_images
from benchmarks.plain import normalized, plain_loader
from benchmarks.timing import interleave, report
from common.command_line import ArgumentParser, cli_main, nonnegative_int, positive_int, thread_count
from common.data import Augmentation, DeviceLoader, Normalization, RandAugment
from common.data.rand_augment import GRAY, MIDDLE, Operation

CROP_FLIP = Augmentation(padding=4, flip=True)


def plain_strong(image: Image.Image, strong: RandAugment) -> Image.Image:
    """The operations of a strong view on one image."""
    for operation in random.choices(strong.operations, k=strong.count):
        image = _operate(image, operation, random.uniform(operation.low, operation.high))
    return _operate(image, Operation("Cutout"), random.uniform(0, strong.cutout))


def _operate(image: Image.Image, operation: Operation, magnitude: float) -> Image.Image:
    name = operation.name
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return getattr(ImageEnhance, name)(image).enhance(magnitude)
    if name in ("AutoContrast", "Equalize", "Invert"):
        return getattr(ImageOps, name.lower())(image)
    if name == "Rotate":
        return image.rotate(magnitude)
    if name == "Posterize":
        return ImageOps.posterize(image, int(magnitude))
    if name == "Solarize":
        return ImageOps.solarize(image, math.ceil(magnitude))
    if name == "SolarizeAdd":
        return ImageOps.solarize(image.point(lambda value: value + magnitude), MIDDLE)
    if name == "Cutout":
        side, (x, y) = magnitude * image.width, (random.uniform(0, size) for size in image.size)
        box = (
            max(0, x - side / 2),
            max(0, y - side / 2),
            min(image.width, x + side / 2),
            min(image.height, y + side / 2),
        )
        ImageDraw.Draw(image).rectangle(box, GRAY)
        return image
    matrix = {
        "ShearX": (1, magnitude, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, magnitude, 1, 0),
        "TranslateX": (1, 0, magnitude * image.width, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, magnitude * image.height),
    }[name]
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


@cli_main
def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=positive_int, default=64)
    parser.add_argument("--workers", type=nonnegative_int, default=2, help="worker processes of the plain loader")
    parser.add_argument("--rounds", type=positive_int, default=9)
    parser.add_argument("--threads", type=thread_count, help="CPU threads of our loader")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, normalization, strong = training_images(), Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), RandAugment()
    size = images.pixels.shape[1]
    weak_steps = transforms.Compose([transforms.RandomCrop(size, padding=4), transforms.RandomHorizontalFlip()])
    tensor = normalized(normalization)

    def pair(image: Image.Image) -> torch.Tensor:
        return torch.stack([tensor(weak_steps(image)), tensor(plain_strong(weak_steps(image), strong))])

    plain = plain_loader(images, normalization, CROP_FLIP, args.batch_size, args.workers, pair)
    options = {"augmentation": CROP_FLIP, "shuffle": True}
    single = DeviceLoader(images, args.batch_size, normalization, device, **options)
    paired = DeviceLoader(images, args.batch_size, normalization, device, strong=strong, **options)

    def epoch_of(batches: DeviceLoader) -> int:
        return sum(len(batch.images) for batch in batches.epoch())

    ours = {"weak alone": lambda: epoch_of(single), "weak and strong": lambda: epoch_of(paired)}
    report(f"pairs against weak views alone, batch {args.batch_size}", interleave(ours, args.rounds))
    sides = {
        "Pillow, DataLoader": lambda: sum(len(next(plain)[0].to(device)) for _ in range(40)),
        "common.data.DeviceLoader": ours["weak and strong"],
    }
    report(f"pairs, batch {args.batch_size}, {args.workers} workers", interleave(sides, args.rounds))


if __name__ == "__main__":
    main()
