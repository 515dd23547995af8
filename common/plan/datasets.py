"""The data that a plan needs: there already, written, or fetched."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from common.errors import UserError
from common.locks import LOCK, locked
from common.plan.budgets import Budget


@dataclasses.dataclass(frozen=True)
class _Layout:
    """A dataset: its folder below the directory of datasets, the synthetic dataset in its layout, its images for
    training and for testing."""

    folder: str
    generated: str
    published_images: tuple[int, int]
    generated_images: tuple[int, int]


_LAYOUTS = {
    "cifar100": _Layout("cifar-100-python", "cifar-100", (50_000, 10_000), (10_000, 2_000)),
    "cifar10": _Layout("cifar-10-batches-py", "cifar-10", (50_000, 10_000), (5_000, 1_000)),
    "oxford-iiit-pet": _Layout("oxford-iiit-pet", "oxford-iiit-pet", (3_680, 3_669), (370, 185)),
}


def data_directory(root: Path, budget: Budget) -> Path:
    """Where the datasets of a budget lie."""
    return root / budget.folder if budget.generated else root


def images_of(dataset: str, budget: Budget) -> tuple[int, int]:
    """Training and test images of the published, or of the synthetic dataset."""
    layout = _LAYOUTS[dataset]
    if dataset in budget.images:
        classes, train, test = budget.images[dataset]
        return classes * train, classes * test
    return layout.generated_images if budget.generated else layout.published_images


def is_present(dataset: str, directory: Path) -> bool:
    return (directory / _LAYOUTS[dataset].folder).is_dir()


def ensure_dataset(dataset: str, directory: Path, budget: Budget) -> str | None:
    """Write or fetch a dataset that is absent.

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
        if budget.generated:
            print(f"writing a synthetic {dataset} to {directory}")
            classes, train, test = budget.images.get(dataset, (None, None, None))
            directory.mkdir(parents=True, exist_ok=True)
            with locked(directory / LOCK):
                if not is_present(dataset, directory):  # else another plan has just written it
                    write_generated(directory, _LAYOUTS[dataset].generated, train, test, classes=classes)
        else:
            print(f"fetching {dataset} to {directory}")
            if dataset == "oxford-iiit-pet":
                load_oxford_pets(directory)
            else:
                load_dataset(dataset, directory)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"cannot write {error.filename or directory} ({error.strerror})"
    return None
