"""CIFAR-10 and CIFAR-100 in their published "python version" (Krizhevsky, 2009)."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
from pathlib import Path

import numpy as np

from common.data.cache import cached
from common.data.datasets import Dataset, ImageArrays, describe_provenance
from common.data.download import fetch_archive
from common.errors import UserError, first_line, is_damage, is_out_of_memory
from common.pickled_bytes import latin_1


@dataclasses.dataclass(frozen=True)
class _Release:
    """One published archive: where it is, what it unpacks to, and the MD5 of each file in it."""

    url: str
    md5: str
    folder: str
    train: dict[str, str]
    test: dict[str, str]
    meta: str
    label_key: str
    names_key: str


_RELEASES = {
    "cifar100": _Release(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        folder="cifar-100-python",
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        meta="meta",
        label_key="fine_labels",
        names_key="fine_label_names",
    ),
    "cifar10": _Release(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        meta="batches.meta",
        label_key="labels",
        names_key="label_names",
    ),
}


def load(name: str, root: Path, *, download: bool = True) -> Dataset[ImageArrays]:
    """Read `cifar10` or `cifar100` below `root`; fetch it when absent and `download`.

    Raises:
        UserError: files absent, truncated, or not in CIFAR's layout.
    """
    release = _RELEASES[name]
    folder = root / release.folder
    if not folder.is_dir():
        fetch_archive(
            release.url,
            release.md5,
            root,
            release.folder,
            name,
            layout=name.replace("cifar", "cifar-"),
            download=download,
        )
    sources = [folder / file for file in (*release.train, *release.test, release.meta)]
    arrays = cached(root, name, sources, lambda: _decode_release(folder, release))
    train, test = (ImageArrays(arrays[f"{split}_pixels"], arrays[f"{split}_targets"]) for split in ("train", "test"))
    digests = dict(zip((*release.train, *release.test), arrays["digests"].tolist(), strict=True))
    return Dataset(name, train, test, tuple(arrays["classes"].tolist()), *_identity(folder, release, digests))


def _decode_release(folder: Path, release: _Release) -> dict[str, np.ndarray]:
    """Pixels and targets of both splits, names of the classes, MD5 of each batch file."""
    digests, arrays = [], {}
    for split, files in (("train", release.train), ("test", release.test)):
        pixels, targets = [], []
        for file in files:
            content = _read_bytes(folder / file)
            digests.append(hashlib.md5(content).hexdigest())
            images, labels = _decode(folder / file, content, release.label_key)
            pixels.append(images)
            targets.append(labels)
        arrays |= {f"{split}_pixels": np.concatenate(pixels), f"{split}_targets": np.concatenate(targets)}
    meta = _unpickle(folder / release.meta, _read_bytes(folder / release.meta))
    if not isinstance(meta, dict) or not isinstance(meta.get(release.names_key), list):
        raise UserError(f"{folder / release.meta}: no list '{release.names_key}'; delete {folder} and fetch it again")
    classes = meta[release.names_key]
    if not all(isinstance(name, str) for name in classes):
        raise UserError(f"{folder / release.meta}: a name in '{release.names_key}' is no text")
    for split in ("train", "test"):
        targets = arrays[f"{split}_targets"]
        if len(targets) and not (targets.min() >= 0 and targets.max() < len(classes)):
            raise UserError(f"{folder}: a label outside the {len(classes)} classes that {release.meta} names")
    return {**arrays, "classes": np.array(classes), "digests": np.array(digests)}


def _identity(folder: Path, release: _Release, digests: dict[str, str]) -> tuple[str, str]:
    """What the files are, in words, and their fingerprint."""
    fingerprint = hashlib.md5("".join(digests[file] for file in sorted(digests)).encode()).hexdigest()
    if digests == {**release.train, **release.test}:
        return "published archive, checksums verified", fingerprint
    return describe_provenance(folder, "other content in the published layout, not the published archive"), fingerprint


def _read_bytes(path: Path) -> bytes:
    if path.is_fifo():  # which would be waited for
        raise UserError(f"cannot read {path} (it is a pipe)")
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}): delete {path.parent} to have it fetched again, "
            "or place the published files there"
        ) from error
    except OSError as error:  # the file may be whole
        if is_out_of_memory(error):
            raise
        raise UserError(f"cannot read {path} ({error.strerror})") from error


def _decode(path: Path, content: bytes, label_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 32, 32, 3] and labels [n] of one batch file."""
    batch = _unpickle(path, content)
    data = batch.get("data") if isinstance(batch, dict) else None
    labels = batch.get(label_key) if isinstance(batch, dict) else None
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise UserError(f"{path}: not a CIFAR file (no uint8 'data' of 3072 columns)")
    if not isinstance(labels, list) or len(labels) != len(data) or not all(map(_is_label, labels)):
        raise UserError(f"{path}: not a CIFAR file ('{label_key}' does not have one label per image)")
    images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.asarray(labels, np.int64)


def _is_label(value: object) -> bool:
    """Whether it is a number that an array holds."""
    return isinstance(value, int) and -(2**63) <= value < 2**63


_ARRAY = "numpy.ndarray"  # in the place of the class, which could be called to allocate what no file fills


def _reconstruct(kind: str, shape: tuple[int, ...], dtype: str | bytes) -> np.ndarray:
    """The empty array that each array in a pickle begins as; its content says how large it gets."""
    if (kind, shape) != (_ARRAY, (0,)):
        raise pickle.UnpicklingError(f"an array begins as {kind!r:.40} of shape {shape!r:.40}")
    return np.empty(0)


_frombuffer = np.empty(0).__reduce_ex__(5)[0]
# All that files in this layout may name, under numpy's names of before and since version 2. The published ones name the
# first three; whoever writes the layout with Python 3 also has bytes, as text to be encoded, and arrays in a buffer.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): np.dtype,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): latin_1,
}


class _ArrayUnpickler(pickle.Unpickler):
    """CIFAR's files are pickles; this one builds arrays and plain containers, imports nothing and runs nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return _ALLOWED[module, name]


def _unpickle(path: Path, content: bytes) -> object:
    try:
        return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:
        if not is_damage(error):
            raise
        raise UserError(
            f"{path} is truncated or not a CIFAR file ({first_line(error)}): delete {path.parent} and fetch it again"
        ) from error
