"""Image files: which there are in a folder, what is in them, and a digest of them that is computed once."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from common.command_line import is_inside, printable
from common.data.cache import cached
from common.errors import TrainingError, UserError, first_line, is_damage, is_out_of_memory
from common.safe_json import open_at_once

if TYPE_CHECKING:
    from PIL import Image

# what torchvision's ImageFolder reads
SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
MOST_PIXELS = 1 << 26  # of an image; more is a decompression bomb
NARROWEST = 1 / 100  # shorter by longer side; to resize the shorter side of others would take any amount of memory
SIXTEEN_BITS = ("PNG", "PPM")  # formats in which Pillow's mode "I" holds numbers up to 65535
TIFF_BITS, TIFF_PHOTOMETRIC = 258, 262  # tags
# why a file cannot be read now, which says nothing about it
OF_THE_MACHINE = {
    *(errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EINTR),
    *(errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH),
}

Members = list[tuple[Path, int]]
"""Image files with their classes."""


def list_images(folder: Path, ignored: Counter[str]) -> list[Path]:
    """The images in a folder and all folders below it, links followed, sorted.

    Args:
        folder: where they are; nothing is found where it is no folder.
        ignored: counts what is left out, by kind.
    """
    files, places, seen = [], [folder] if folder.is_dir() else [], set()
    while places:
        place = places.pop()
        identity = (state := os.stat(place)).st_dev, state.st_ino
        if identity in seen:  # links in a circle
            continue
        seen.add(identity)
        with os.scandir(place) as entries:
            for entry in entries:
                suffix = os.path.splitext(entry.name)[1].lower()
                if entry.name.startswith("."):
                    ignored["hidden"] += 1
                elif _leads_to(entry.is_dir):
                    places.append(Path(entry.path))
                elif suffix not in SUFFIXES:
                    ignored[suffix or "without a suffix"] += 1
                elif not _leads_to(entry.is_file):
                    ignored["links to nowhere, pipes and the like"] += 1
                else:
                    files.append(Path(entry.path))
    return sorted(files)


def _leads_to(kind: Callable[[], bool]) -> bool:
    """`DirEntry.is_dir` or `is_file`, which fail for a link to itself."""
    try:
        return kind()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False


def describe_ignored(folder: Path, ignored: Counter[str]) -> tuple[str, ...]:
    """A line for the log about files that were left out; none where none was."""
    if not ignored:
        return ()
    kinds = ", ".join(f"{count} {kind}" for kind, count in ignored.most_common())
    return (
        f"{printable(folder)}: {ignored.total()} files ignored ({kinds}): images are {', '.join(sorted(SUFFIXES))}",
    )


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Without Pillow's warnings, about what `read_image` refuses, or does as it should be; not while threads run."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def read_image(file: Path) -> Image.Image:
    """Decode an image to RGB, as torchvision does, but for deep gray images, which keep their brightness.

    Numbers of 16 bits are brought to 8. Transparency is dropped; of several frames the first is taken.

    Raises:
        UserError: unreadable, damaged, too large, or of a mode without defined brightness; names the file.
        TrainingError, MemoryError: what is wrong is with this machine, not with the file.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with open_at_once(file) as stream:
            image = Image.open(stream)
            _require_size(image.size)
            return _to_rgb(image)
    except Exception as error:
        if isinstance(error, UnidentifiedImageError):
            raise _unreadable(file, "it is no image of a known format") from error
        if isinstance(error, OSError) and error.errno is not None:
            raise _failed_to_read(file, error) from error
        if isinstance(error, OSError | UserError) or is_damage(error):
            raise _unreadable(file, first_line(error)) from error
        raise


def _unreadable(file: Path, why: str) -> UserError:
    return UserError(f"cannot read image {printable(file)}: {why}")


def _failed_to_read(file: Path, error: OSError) -> Exception:
    """What to raise where the system does not give a file's content: a file is bad only where it is to blame."""
    if is_out_of_memory(error):
        return MemoryError(*error.args)
    unreadable = _unreadable(file, error.strerror or first_line(error))
    return TrainingError(*unreadable.args) if error.errno in OF_THE_MACHINE else unreadable


def _require_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MOST_PIXELS:
        raise UserError(f"it is {width}x{height}, more than {MOST_PIXELS} pixels")
    if min(size) < NARROWEST * max(size):
        raise UserError(f"it is {width}x{height}, too narrow to be an image to learn from")


def _to_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BITS):
        return Image.fromarray(_in_8_bits(image)).convert("RGB")
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise UserError(
            f"its pixels are of mode {image.mode} (Pillow), whose brightness has no defined range: convert it"
        )
    return image.convert("RGB")


def _in_8_bits(image: Image.Image) -> np.ndarray:
    """Brightness of a deep gray image; Pillow leaves TIFF's 12 bits and its counting from white as they are."""
    tags = getattr(image, "tag_v2", {})
    (bits,), from_white = tags.get(TIFF_BITS, (16,)), tags.get(TIFF_PHOTOMETRIC) == 0
    most = (1 << bits) - 1
    values = ((np.asarray(image).astype(np.uint32) * 255 + most // 2) // most).astype(np.uint8)
    return 255 - values if from_white else values


def in_threads(function: Callable[[Path], Any], files: Sequence[Path], doing: str) -> Iterable[Any]:
    """`function` of each file, in order, with a progress bar; Pillow and hashlib let threads work at once."""
    with quiet_pillow(), ThreadPoolExecutor() as pool:
        yield from tqdm(pool.map(function, files), total=len(files), desc=doing, unit="img", leave=False, disable=None)


def without_bad(
    root: Path, name: str, parts: Sequence[Members], *, skip: bool
) -> tuple[list[Members], tuple[str, ...]]:
    """The images that can be read, where `skip`; all of them are tried once, and again when one changes.

    Returns:
        The parts, and lines for the log.
    """
    if not skip:
        return list(parts), ()
    files = [file for members in parts for file, _ in members]
    bad = {files[i] for i in cached(root, f"{name}-bad", files, lambda: {"bad": _bad_positions(files)})["bad"].tolist()}
    kept = [[member for member in members if member[0] not in bad] for members in parts]
    first = f"{len(bad)} images cannot be read and are skipped, such as {printable(min(bad))}" if bad else ""
    return kept, (f"{name}: {first}",) if bad else ()


def check_splits_nonempty(
    place: Path, classes: Sequence[str], parts: Sequence[Members], names: Sequence[str] = ("training", "test")
) -> None:
    """Check what is left of a dataset's parts, of which the first is trained on.

    Args:
        place: of the dataset.
        classes: by number.
        parts: each with its images.
        names: of the parts.

    Raises:
        UserError: a split without images, or a class without training images.
    """
    if empty := next((name for name, members in zip(names, parts, strict=True) if not members), None):
        raise UserError(f"{place}: no {empty} images")
    if missing := sorted({*range(len(classes))} - {target for _, target in parts[0]}):
        raise UserError(
            f"{place}: no {names[0]} images of the class {printable(Path(classes[missing[0]]))}, which would be "
            "counted and never learned"
        )


def require_names(entries: Iterable[str], file: Path) -> None:
    """Raises:
    UserError: a list in `file` that has an entry twice, or one that is a path to elsewhere.
    """
    counts = Counter(entries)
    entry, count = next(iter(counts.most_common(1)), ("", 0))
    if count > 1:
        raise UserError(f"{file} has {printable(Path(entry))} {count} times: once is right")
    if (elsewhere := next((name for name in counts if not is_inside(name)), None)) is not None:
        raise UserError(f"{file} has {printable(Path(elsewhere))}, which is no name of what lies below {file.parent}")


def _bad_positions(files: Sequence[Path]) -> np.ndarray:
    def is_bad(file: Path) -> bool:
        try:
            read_image(file)
        except UserError:
            return True
        return False

    return np.flatnonzero(list(in_threads(is_bad, files, "checking images")))


def fingerprint(root: Path, name: str, parts: Sequence[Members]) -> str:
    """Digest of names, classes and contents of images; contents are read again only when a file has changed.

    Args:
        root: directory of datasets.
        name: of the dataset.
        parts: each with its images.
    """
    files = [file for members in parts for file, _ in members]
    contents = cached(root, f"{name}-digest", files, lambda: {"digest": _digests(files)})["digest"].tolist()
    start, digest = len(os.fsencode(root)), hashlib.md5()
    for members in parts:
        digest.update(b"part\n")
        for (file, target), content in zip(members, contents[: len(members)], strict=True):
            digest.update(os.fsencode(file)[start:] + f"\0{target}\0{content}\n".encode())
        contents = contents[len(members) :]
    return digest.hexdigest()


def _digests(files: Sequence[Path]) -> np.ndarray:
    def digest_of(file: Path) -> str:
        try:
            with open_at_once(file) as stream:
                digest = hashlib.md5()
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
                return digest.hexdigest()
        except OSError as error:
            raise _failed_to_read(file, error) from error

    return np.array(list(in_threads(digest_of, files, "reading images")))
