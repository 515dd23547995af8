"""Images per second of the device-resident loader against torchvision's transforms in a DataLoader.

`python -m benchmarks.loader` takes CIFAR-100 from data/, or random images where it is absent (the speed is the same).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.plain import plain_loader
from benchmarks.timing import interleave, report
from common.command_line import REPOSITORY, ArgumentParser, cli_main, nonnegative_int, positive_int, thread_count
from common.data import Augmentation, DeviceLoader, ImageArrays, load_dataset
from common.errors import UserError
from tfkd.experiment import CIFAR


def training_images(root: Path = REPOSITORY / "data") -> ImageArrays:
    """CIFAR-100's training images where they are, else as many random ones."""
    try:
        return load_dataset("cifar100", root, download=False).train
    except UserError:
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (50_000, 32, 32, 3), np.uint8)
        return ImageArrays(pixels, random.integers(0, 100, 50_000))


@cli_main
def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=positive_int, default=128)
    parser.add_argument("--workers", type=nonnegative_int, default=2, help="worker processes of the plain loader")
    parser.add_argument("--rounds", type=positive_int, default=9)
    parser.add_argument("--threads", type=thread_count, help="CPU threads of our loader")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = training_images()
    normalization, tfkd = CIFAR
    for name, augmentation in (("crop, flip, rotation", tfkd), ("crop, flip", Augmentation(padding=4, flip=True))):
        plain = plain_loader(images, normalization, augmentation, args.batch_size, args.workers)
        ours = DeviceLoader(images, args.batch_size, normalization, device, augmentation=augmentation, shuffle=True)

        def plain_batches(plain=plain) -> int:
            return sum(len(next(plain)[0].to(device)) for _ in range(80))

        def our_epoch(ours=ours) -> int:
            return sum(len(batch.images) for batch in ours.epoch())

        rates = interleave(
            {"torchvision, DataLoader": plain_batches, "common.data.DeviceLoader": our_epoch}, args.rounds
        )
        report(f"loader: {name}, batch {args.batch_size}, {args.workers} workers", rates)


if __name__ == "__main__":
    main()
