"""The file of rows: what is in it counts, and nothing else, whatever happened to it."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from common.teacher_cache.rows import HEADER_BYTES, RowFile, RowFileError, file_bytes, header_bytes, parse_header

HEADER = {"rows": 500, "row_bytes": 40, "key": {"weights": "a"}}
PLACE = 48  # a row, its checksum and mark


def rows_of(numbers: np.ndarray, salt: int = 0) -> np.ndarray:
    """What the test writes at these numbers."""
    random = np.random.default_rng(salt)
    return random.integers(0, 256, (500, 40), np.uint8)[numbers]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "below" / "a.rows"


def test_what_was_written_is_read_in_any_order(path):
    file = RowFile(path, HEADER)
    numbers = np.array([3, 499, 0, 77])
    file.write(numbers, rows_of(numbers))
    asked = np.array([77, 5, 0, 499, 3, 498])
    content, there = RowFile(path, HEADER).read(asked)
    assert there.tolist() == [True, False, True, True, True, False]
    assert (content[there] == rows_of(asked[there])).all()
    assert not content[~there].any()


def test_rows_of_zeros_count_as_well_as_others(path):
    """A hole reads as zeros, too, and does not."""
    file = RowFile(path, HEADER)
    file.write(np.array([7]), np.zeros((1, 40), np.uint8))
    assert file.read(np.array([6, 7]))[1].tolist() == [False, True]


def test_an_empty_file_takes_no_space(path):
    RowFile(path, {**HEADER, "rows": 10**6})
    assert path.stat().st_size == file_bytes(10**6, 40)
    assert path.stat().st_blocks * 512 < 10**5


@pytest.mark.parametrize("byte", [0, 17, 39, 40, 43, 44, 47])
def test_a_flipped_bit_anywhere_in_a_row_is_noticed(path, byte):
    file = RowFile(path, HEADER)
    numbers = np.arange(3)
    file.write(numbers, rows_of(numbers))
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES + PLACE + byte] ^= 1
    path.write_bytes(content)
    again = RowFile(path, HEADER)
    assert again.read(numbers)[1].tolist() == [True, False, True]
    there, damaged = again.written()
    assert (there.tolist(), damaged.tolist()) == ([0, 2], [1])


def test_a_row_at_another_place_does_not_count(path):
    file = RowFile(path, HEADER)
    file.write(np.array([0]), rows_of(np.array([0])))
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES + PLACE : HEADER_BYTES + 2 * PLACE] = content[HEADER_BYTES : HEADER_BYTES + PLACE]
    path.write_bytes(content)
    assert RowFile(path, HEADER).read(np.arange(2))[1].tolist() == [True, False]


@pytest.mark.parametrize("size", [HEADER_BYTES, HEADER_BYTES + PLACE, HEADER_BYTES + PLACE + 1, HEADER_BYTES + 95])
def test_a_truncated_file_has_what_is_left_and_is_filled_again(path, size):
    file = RowFile(path, HEADER)
    numbers = np.arange(4)
    file.write(numbers, rows_of(numbers))
    os.truncate(path, size)  # under the hands of a run that uses it
    _, there = file.read(numbers)
    assert there.tolist() == [i < (size - HEADER_BYTES) // PLACE for i in range(4)]
    file.write(numbers[~there], rows_of(numbers[~there]))
    content, there = RowFile(path, HEADER).read(numbers)
    assert there.all()
    assert (content == rows_of(numbers)).all()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda content: b"", "does not begin"),
        (lambda content: content[:100], "damaged"),
        (lambda content: b"something else" + content[14:], "does not begin"),
        (lambda content: content[:60] + b"\xff" + content[61:], "damaged"),
        (lambda content: header_bytes({**HEADER, "key": {"weights": "b"}}) + content[HEADER_BYTES:], "something else"),
    ],
)
def test_what_is_not_this_file_is_replaced(path, change, why):
    file = RowFile(path, HEADER)
    numbers = np.arange(4)
    file.write(numbers, rows_of(numbers))
    path.write_bytes(change(path.read_bytes()))
    again = RowFile(path, HEADER)
    assert why in again.replaced
    assert not again.read(numbers)[1].any()
    again.write(numbers, rows_of(numbers))
    assert RowFile(path, HEADER).replaced is None
    assert (RowFile(path, HEADER).read(numbers)[0] == rows_of(numbers)).all()


def test_a_file_of_another_version_is_replaced_and_not_read(path, monkeypatch):
    monkeypatch.setattr("common.teacher_cache.rows.VERSION", 2)
    RowFile(path, HEADER)
    monkeypatch.undo()
    with pytest.raises(RowFileError, match="version 2, and not 1"):
        RowFile(path)
    assert "version 2" in RowFile(path, HEADER).replaced
    assert RowFile(path).header["key"] == {"weights": "a"}


@pytest.mark.parametrize("content", [b"", b"\0" * HEADER_BYTES, b"teacher logits\n" + b"\xff" * 100])
def test_headers_that_are_none(content):
    with pytest.raises(RowFileError):
        parse_header(content)


def test_a_directory_in_its_place(path):
    path.mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        RowFile(path, HEADER)


def _fill_until_killed(path, seed: int) -> None:
    file = RowFile(path, HEADER)
    random = np.random.default_rng(seed)
    while True:
        numbers = random.permutation(500)[:50]
        file.write(numbers, rows_of(numbers))


def test_two_writers_at_once_killed_at_any_moment(path):
    """Both fill the same file; after SIGKILL every row that counts is right."""
    context = multiprocessing.get_context("fork")
    for round_ in range(3):
        writers = [context.Process(target=_fill_until_killed, args=(path, 10 * round_ + i)) for i in range(2)]
        for writer in writers:
            writer.start()
        while not path.exists() or not len(RowFile(path, HEADER).written()[0]):
            time.sleep(0.001)
        time.sleep(0.01 * round_)
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
    there, damaged = RowFile(path).written()
    assert len(there) > 50
    assert len(damaged) == 0
    assert (RowFile(path).read(there)[0] == rows_of(there)).all()
    assert not list(path.parent.glob("*.partial"))


def test_a_row_torn_in_the_middle_does_not_count(path):
    """What a power cut may leave: the first half is new, the second is old."""
    file = RowFile(path, HEADER)
    new, old = rows_of(np.array([9]), salt=1), rows_of(np.array([9]), salt=2)
    file.write(np.array([9]), old)
    place = HEADER_BYTES + 9 * PLACE
    content = bytearray(path.read_bytes())
    content[place : place + 20] = new[0, :20].tobytes()
    path.write_bytes(content)
    assert not RowFile(path, HEADER).read(np.array([9]))[1].any()


def test_a_full_disk_is_an_error_and_leaves_what_is_there(path, monkeypatch):
    file = RowFile(path, HEADER)
    file.write(np.array([1]), rows_of(np.array([1])))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        file.write(np.array([2]), rows_of(np.array([2])))
    assert file.read(np.array([1, 2]))[1].tolist() == [True, False]
