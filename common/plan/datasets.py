"""The data that a plan needs: there already, written, or fetched."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from common.errors import UserError


@dataclasses.dataclass(frozen=True)
class _Layout:
    """A data set: its folder below the directory of data sets, the generated set in its layout, its images for training
    and for testing."""

    folder: str
    generated: str
    published_images: tuple[int, int]
    generated_images: tuple[int, int]


_LAYOUTS = {
    "cifar100": _Layout("cifar-100-python", "cifar-100", (50_000, 10_000), (10_000, 2_000)),
    "cifar10": _Layout("cifar-10-batches-py", "cifar-10", (50_000, 10_000), (5_000, 1_000)),
    "oxford-iiit-pet": _Layout("oxford-iiit-pet", "oxford-iiit-pet", (3_680, 3_669), (370, 185)),
}


def data_directory(root: Path, generated: bool) -> Path:
    """Where the data sets of a budget lie."""
    return root / "generated" if generated else root


def images_of(dataset: str, generated: bool) -> tuple[int, int]:
    """Training and test images of the published, or of the generated data set."""
    layout = _LAYOUTS[dataset]
    return layout.generated_images if generated else layout.published_images


def is_present(dataset: str, directory: Path) -> bool:
    return (directory / _LAYOUTS[dataset].folder).is_dir()


def provide(dataset: str, directory: Path, generated: bool) -> str | None:
    """Write or fetch a data set that is absent.

    Returns:
        Why that was not possible, or None.
    """
    if is_present(dataset, directory):
        return None
    # they need PyTorch, whose import takes seconds
    from common.data import load_dataset
    from common.data.oxford_pets import load_oxford_pets
    from common.data.synthetic import write_generated

    try:
        if generated:
            print(f"writing the generated set to {directory}")
            write_generated(directory, _LAYOUTS[dataset].generated)
        else:
            print(f"fetching {dataset} to {directory}")
            if dataset == "oxford-iiit-pet":
                load_oxford_pets(directory)
            else:
                load_dataset(dataset, directory)
    except UserError as error:
        return str(error)
    return None
