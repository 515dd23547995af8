"""The data that a plan needs: there already, written, or fetched."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError

# data set -> (its folder below the directory of data sets, the generated set in its layout)
_LAYOUTS = {"cifar100": ("cifar-100-python", "cifar-100")}


def data_directory(root: Path, generated: bool) -> Path:
    """Where the data sets of a budget lie."""
    return root / "generated" if generated else root


def is_present(dataset: str, directory: Path) -> bool:
    return (directory / _LAYOUTS[dataset][0]).is_dir()


def provide(dataset: str, directory: Path, generated: bool) -> str | None:
    """Write or fetch a data set that is absent.

    Returns:
        Why that was not possible, or None.
    """
    if is_present(dataset, directory):
        return None
    # both need PyTorch, whose import takes seconds
    from common.data import load_dataset
    from common.data.synthetic import write_generated

    try:
        if generated:
            print(f"writing the generated set to {directory}")
            write_generated(directory, _LAYOUTS[dataset][1])
        else:
            print(f"fetching {dataset} to {directory}")
            load_dataset(dataset, directory)
    except UserError as error:
        return str(error)
    return None
