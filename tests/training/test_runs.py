"""What a run's record says of the code that it ran, and what a run leaves as it was."""

import threading

import pytest

from common.command_line import REPOSITORY
from common.training import runs
from common.training.checkpoints import CheckpointFiles
from common.training.runs import RunDirectory, RunFiles, _archived_commit
from tests.run_records import make_record

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("content", "known"),
    [
        (f"commit: {COMMIT}\n", COMMIT[:12]),
        ("commit: $Format:%H$\n", "unknown"),
        ("", "unknown"),
        ("commit: x", "unknown"),
    ],
)
def test_an_archive_knows_its_commit(tmp_path, content, known):
    file = tmp_path / ".git_archival.txt"
    file.write_text(content)
    assert _archived_commit(file) == known


def test_archives_get_the_file_filled_in():
    assert (REPOSITORY / ".git_archival.txt").read_text() == "commit: $Format:%H$\n"
    assert ".git_archival.txt export-subst" in (REPOSITORY / ".gitattributes").read_text().splitlines()


def test_without_git_the_archive_is_asked(tmp_path, monkeypatch):
    (tmp_path / ".git_archival.txt").write_text(f"commit: {COMMIT}\n")
    monkeypatch.setattr(runs, "REPOSITORY", tmp_path)
    assert runs._commit() == COMMIT[:12]
    (tmp_path / ".git_archival.txt").unlink()
    assert runs._commit() == "unknown"


def test_what_fails_in_threads_is_told_as_before_once_a_run_has_ended(tmp_path):
    before = threading.excepthook
    files = RunFiles(tmp_path, CheckpointFiles(tmp_path / "last", None), tmp_path / "events", tmp_path / "log")
    run = RunDirectory(files, make_record(), {"device": "cpu", "amp": "off"})
    run.log_scalars({"x": 1.0}, 0)
    assert threading.excepthook is not before
    run.close("done")
    assert threading.excepthook is before
