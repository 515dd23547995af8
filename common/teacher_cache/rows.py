"""A file of rows that several runs fill together, of which every row vouches for itself.

A header of one block, then as many places as there may be rows, each of a row's bytes, their checksum and a mark. What
was never written is a hole that takes no space on the disk and reads as zeros, which no mark is. So a row counts only
if its own checksum, which the place enters as well, says so: whatever a killed process, a lost power supply, another
writer or a damaged disk leave behind reads as "not there" and is written again.

The file is read and written at positions, through the pages that all runs share, and not mapped: in a mapping, a file
that somebody has truncated, a full disk or a bad sector end the process by a signal instead of an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.safe_json import read_json_text

VERSION = 1
SUFFIX = ".rows"
HEADER_BYTES = 4096
_MAGIC = b"teacher logits\n"
_MARK = 0x5EED0001  # of a written row
_CHECK_BYTES = 8


class RowFileError(Exception):
    """A file that is none of these, or one that cannot be opened; says what is wrong."""


def header_bytes(header: dict[str, Any]) -> bytes:
    """The first block of a file: what it is, the length and checksum of the header's JSON, and that.

    Raises:
        RowFileError: more than a block holds.
    """
    text = json.dumps({"version": VERSION, **header}, sort_keys=True).encode()
    block = _MAGIC + struct.pack("<II", len(text), zlib.crc32(text)) + text
    if len(block) > HEADER_BYTES:
        raise RowFileError(f"its header needs {len(block)} bytes")
    return block.ljust(HEADER_BYTES, b"\0")


def parse_header(block: bytes) -> dict[str, Any]:
    """The header in a file's first block.

    Raises:
        RowFileError: there is none of this version.
    """
    start = len(_MAGIC) + 8
    if len(block) < start or not block.startswith(_MAGIC):
        raise RowFileError("it does not begin as such a file does")
    length, checksum = struct.unpack("<II", block[len(_MAGIC) : start])
    text = block[start : start + length]
    if len(block) < HEADER_BYTES or len(text) != length or zlib.crc32(text) != checksum:
        raise RowFileError("its header is damaged")
    try:
        header = read_json_text(text.decode())
        version = header["version"]
        rows, row_bytes = header["rows"], header["row_bytes"]
    except (ValueError, KeyError, TypeError) as error:
        raise RowFileError("its header is not that of such a file") from error
    if version != VERSION:
        raise RowFileError(f"it is of version {version!r:.20}, and not {VERSION}")
    if not (type(rows) is int and type(row_bytes) is int and rows > 0 and row_bytes > 0):
        raise RowFileError("its header has no sizes")
    return header


def file_bytes(rows: int, row_bytes: int) -> int:
    """Size of a file that is full."""
    return HEADER_BYTES + rows * (row_bytes + _CHECK_BYTES)


class RowFile:
    """An open file of rows.

    Args:
        path: of the file.
        header: of a new file, with `rows` (how many there may be) and `row_bytes` (of each) in it. A file that is there
            must have the same; any other is replaced. None opens what is there, for reading alone.

    Attributes:
        header: the file's.
        replaced: why a file that was there has been replaced; None where none was.

    Raises:
        RowFileError: to be read, and none of these.
        OSError: it cannot be made or opened.
    """

    def __init__(self, path: Path, header: dict[str, Any] | None = None) -> None:
        self.path, self.replaced = path, None
        self._file = -1
        if header is None:
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe is not waited for
            self.header = self._own_header()
        else:
            self._open_or_create(header)
            self.header = {"version": VERSION, **header}
        self.rows, self.row_bytes = self.header["rows"], self.header["row_bytes"]
        self._place_bytes = self.row_bytes + _CHECK_BYTES

    def _own_header(self) -> dict[str, Any]:
        state = os.fstat(self._file)
        try:
            if not stat.S_ISREG(state.st_mode):
                raise RowFileError("it is no plain file")
            header = parse_header(os.pread(self._file, HEADER_BYTES, 0))
            if file_bytes(header["rows"], header["row_bytes"]) > state.st_size:
                raise RowFileError("it is shorter than its header says (a run makes it whole again)")
        except RowFileError:
            self.close()
            raise
        return header

    def _open_or_create(self, header: dict[str, Any]) -> None:
        wanted = header_bytes(header)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(3):  # whoever is first creates it; somebody may delete it meanwhile
            try:
                self._file = os.open(self.path, os.O_RDWR)
            except FileNotFoundError:
                self._create(wanted, file_bytes(header["rows"], header["row_bytes"]))
                continue
            problem = self._problem_with(wanted)
            if problem is None:
                return
            self.close()
            self.replaced = problem
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        raise OSError(f"{self.path} is replaced again and again")

    def _problem_with(self, wanted: bytes) -> str | None:
        """Why the open file cannot be gone on with; None where it can."""
        block = os.pread(self._file, HEADER_BYTES, 0)
        if block == wanted:
            return None
        try:
            parse_header(block)
        except RowFileError as error:
            return str(error)
        return "it holds something else"

    def _create(self, header: bytes, size: int) -> None:
        """Make an empty file that is there whole or not at all; another run may be quicker."""
        partial = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}.partial")
        try:
            with open(partial, "xb") as file:
                file.write(header)
                file.truncate(size)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(partial, self.path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        self.close()

    def __deepcopy__(self, memo: dict) -> RowFile:
        return self  # a file, not a value

    def read(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of these numbers.

        Args:
            numbers: int64, [n], each below `rows`.

        Returns:
            The rows' bytes, uint8, [n, row_bytes], and which of them are there, [n]; the others are zero.

        Raises:
            OSError: the disk does not give them.
        """
        content = np.zeros((len(numbers), self.row_bytes), np.uint8)
        there = np.zeros(len(numbers), bool)
        size, length = self._place_bytes, self.row_bytes
        for position in np.argsort(numbers):  # along the disk
            number = int(numbers[position])
            place = os.pread(self._file, size, HEADER_BYTES + number * size)
            if len(place) == size and place[length:] == _check(number, place[:length]):
                content[position] = np.frombuffer(place, np.uint8, length)
                there[position] = True
        return content, there

    def write(self, numbers: np.ndarray, content: np.ndarray) -> None:
        """Put rows in their places.

        Args:
            numbers: int64, [n].
            content: uint8, [n, row_bytes].

        Raises:
            OSError: the disk is full, for example.
        """
        for number, row in zip(numbers.tolist(), content, strict=True):
            data = row.tobytes()
            place = data + _check(number, data)
            if os.pwrite(self._file, place, HEADER_BYTES + number * self._place_bytes) != len(place):
                raise OSError(f"{self.path}: a row was written in part")

    def written(self) -> tuple[np.ndarray, np.ndarray]:
        """Which rows are there.

        Returns:
            Numbers of the rows that are there, and of those that were written and are damaged.

        Raises:
            OSError: the disk does not give them.
        """
        there, damaged = [], []
        length = self.row_bytes
        for first, places in self._places():
            for i in np.flatnonzero(places.any(axis=1)).tolist():
                place = places[i].tobytes()
                vouched = place[length:] == _check(first + i, place[:length])
                (there if vouched else damaged).append(first + i)
        return np.array(there, np.int64), np.array(damaged, np.int64)

    def count_marks(self) -> int:
        """How many rows are there, without a look at their checksums.

        Raises:
            OSError: the disk does not give them.
        """
        mark = np.frombuffer(struct.pack("<I", _MARK), np.uint8)
        return sum(int((places[:, -4:] == mark).all(axis=1).sum()) for _, places in self._places())

    def _places(self) -> Iterator[tuple[int, np.ndarray]]:
        """Number of the first row of a stretch, and its places, uint8, [m, bytes]; without those that are empty."""
        size = self._place_bytes
        stretch = max(1, min(1 << 14, (1 << 26) // size))
        for first in range(0, self.rows, stretch):
            data = os.pread(self._file, min(stretch, self.rows - first) * size, HEADER_BYTES + first * size)
            places = np.frombuffer(data, np.uint8, len(data) // size * size).reshape(-1, size)
            if places.any():
                yield first, places


def _check(number: int, data: bytes) -> bytes:
    """Checksum of a row at its place, and the mark."""
    return struct.pack("<II", zlib.crc32(data, zlib.crc32(struct.pack("<q", number))), _MARK)
