"""Oxford-IIIT Pet (Parkhi et al., "Cats and Dogs", CVPR 2012) in its published layout."""

from __future__ import annotations

from pathlib import Path

from common.data.datasets import Dataset, describe_provenance
from common.data.download import fetch_archive
from common.data.image_files import ImageFiles
from common.data.images import Members, check_splits_nonempty, fingerprint, require_names, without_bad
from common.errors import UserError
from common.safe_json import read_text

FOLDER = "oxford-iiit-pet"
COUNTS = (3680, 3669)  # published images for training and testing
_URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/{}.tar.gz"
_MD5 = {"images": "5c4f3ee8e5d25df40f4fd59a7f44e54c", "annotations": "95a8c909bbe2e81eed6a22bccdf3f68f"}


def load_oxford_pets(root: Path, *, download: bool = True, skip_bad: bool = False) -> Dataset[ImageFiles]:
    """The 37 breeds: `root/oxford-iiit-pet/images/<Breed>_<n>.jpg`, `annotations/{trainval,test}.txt`.

    Args:
        root: directory of datasets.
        download: fetch what is absent.
        skip_bad: leave out images that cannot be read.

    Raises:
        UserError: absent, or lists that are not the published kind.
    """
    folder = root / FOLDER
    for split, md5 in _MD5.items():
        if not (folder / split).is_dir():
            name = f"Oxford-IIIT Pet ({split})"
            fetch_archive(_URL.format(split), md5, folder, split, name, layout=FOLDER, download=download)
    train, test = (_read_list(folder, split) for split in ("trainval", "test"))
    require_names((file.name for file, _ in (*train, *test)), folder / "annotations")
    names: dict[int, str] = {}
    for file, target in (*train, *test):
        names.setdefault(target, file.name.rpartition("_")[0])
    if sorted(names) != list(range(len(names))):
        raise UserError(f"{folder / 'annotations'}: the class numbers do not run from 1 to {len(names)}")
    published = (len(train), len(test)) == COUNTS
    content = "published layout and counts" if published else "other content in the published layout"
    parts, skipped = without_bad(root, FOLDER, (train, test), skip=skip_bad)
    digest, classes = fingerprint(root, FOLDER, parts), tuple(names[i] for i in range(len(names)))
    check_splits_nonempty(folder, classes, parts)
    described = describe_provenance(folder, content)
    train_images, test_images = map(ImageFiles.of, parts)
    return Dataset("oxford-iiit", train_images, test_images, classes, described, digest, messages=skipped)


def _read_list(folder: Path, split: str) -> Members:
    """The images that `annotations/<split>.txt` names, a line each: name, class from 1, and more."""
    path = folder / "annotations" / f"{split}.txt"
    try:
        rows = [line.split() for line in read_text(path).splitlines() if line and not line.startswith("#")]
        members = [(folder / "images" / f"{row[0]}.jpg", int(row[1]) - 1) for row in rows]
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    except (ValueError, IndexError) as error:
        raise UserError(f"{path} is not a list of Oxford-IIIT Pet (name, class from 1, ...)") from error
    if not members:
        raise UserError(f"{path} names no images")
    require_names((row[0] for row in rows), path)
    missing = next((file for file, _ in members if not file.is_file()), None)
    if missing is not None:
        raise UserError(f"{path} names an image that is not there: {missing}")
    return members
