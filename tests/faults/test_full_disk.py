"""No room on the disk, wherever something is written: what was there stays, nothing half written is believed."""

import errno
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from common.atomic_write import copy_atomically, write_text_atomically
from common.errors import TrainingError, UserError
from common.pictures import new_figure, write_svg
from common.plan.search import _lend
from common.plan.tasks import State, Task
from common.results.page import write_page
from common.results.report import make_report
from common.training.checkpoints import save_checkpoint
from common.training.runs import write_json
from edkd.engine.worklog import write_worklog
from tests.faults.test_plan import run
from tests.plan.test_tasks import make

OLD = "what was there before"


# what writes a file
PLACES: dict[str, Callable[[Path], object]] = {
    "text": lambda file: write_text_atomically(file, "new" * 10_000),
    "text beside another writer's": lambda file: write_text_atomically(file, "new" * 10_000, writer="7"),
    "a copy": lambda file: copy_atomically(Path(__file__), file),
    "JSON": lambda file: write_json(file, list(range(10_000))),
    "a checkpoint": lambda file: save_checkpoint({"epoch": 1}, file),
    "a picture": lambda file: write_svg(new_figure(1, 1), file),
    "the page": lambda file: write_page(make_report([], [], []), file),
    "the worklog": lambda file: write_worklog(file, [], 3),
}


@pytest.fixture
def full(monkeypatch):
    """From now on the first half of what a file is to hold finds room on the disk, or a number says why none does."""

    def fill(number: int = errno.ENOSPC) -> None:
        def write(path: Path, content: bytes) -> None:
            with open(path, "wb") as file:
                file.write(content[: len(content) // 2])
            raise OSError(number, "no room", str(path))

        def opened(path: Path, mode: str, **options: Any) -> IO[bytes]:
            return HalfFull(path, number) if mode == "wb" else open(path, mode, **options)

        monkeypatch.setattr(Path, "write_bytes", write)
        monkeypatch.setattr(Path, "write_text", lambda path, text, *_, **__: write(path, text.encode()))
        monkeypatch.setattr("shutil.copy2", lambda source, path: write(path, Path(source).read_bytes()))
        monkeypatch.setattr("common.training.checkpoints.open", opened, raising=False)

    return fill


class HalfFull(io.FileIO):
    """A file that has room for half of the first part alone."""

    def __init__(self, path: Path, number: int) -> None:
        super().__init__(path, "wb")
        self.number = number

    def write(self, data: Any) -> int:
        if self.tell():
            raise OSError(self.number, "no room", self.name)
        return super().write(data[: len(data) // 2])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("place", PLACES)
def test_what_was_there_stays(place, number, full, tmp_path):
    file = tmp_path / "file"
    file.write_text(OLD)
    full(number)
    kind = UserError if number in (errno.EROFS, errno.EACCES) else TrainingError
    with pytest.raises(kind, match=f"cannot write {file} .no room.; what was there before is untouched"):
        PLACES[place](file)
    assert file.read_text() == OLD
    assert list(tmp_path.iterdir()) == [file]


# ---------------------------------------------------------------------------------------------------------- the plan


def test_a_copy_that_found_no_room_is_made_again(full, monkeypatch, tmp_path):
    file = "experiments/budgets.json"
    task = make(tmp_path, copy_files=(("copy.json", file),))
    full()
    with pytest.raises(TrainingError):
        task.prepare()
    monkeypatch.undo()
    task.prepare()
    assert json.loads((task.workspace / "copy.json").read_text())


def test_a_teacher_that_found_no_room_in_a_search_is_lent_again(full, monkeypatch, tmp_path):
    directory, place = tmp_path / "run", tmp_path / "elsewhere/run"
    directory.mkdir()
    (directory / "run.json").write_text("{}")
    full()
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("other file systems")))
    with pytest.raises(TrainingError):
        _lend(directory, place)
    monkeypatch.undo()
    _lend(directory, place)
    assert (place / "run.json").read_text() == "{}"


def test_a_run_that_cannot_be_prepared_or_remembered_fails_by_name(monkeypatch, tmp_path):
    for moment, words in (("prepare", "cannot be started: no room"), ("finish", "it ended well, but no room")):

        def fail(*_: object) -> None:
            raise TrainingError("no room")

        with monkeypatch.context() as patched:
            patched.setattr(Task, moment, fail)
            runner, (first, second) = run(tmp_path / moment, 0)
        assert runner.outcome.failed == {first: words}
        assert second in runner.outcome.blocked


@pytest.mark.parametrize("content", ["", "{", '["--deep', "null", "[" * 100_000, "\0" * 10])
def test_what_a_plan_has_half_written_is_no_reason_to_end(content, tmp_path):
    task = make(tmp_path, trains=False)
    task.prepare()
    task.finish()
    assert task.state() is State.DONE
    task.log.with_suffix(".done").write_text(content)
    assert task.state() is State.TO_DO
