"""What a run's record says of the code that it ran."""

import pytest

from common.command_line import REPOSITORY
from common.training import runs
from common.training.runs import _archived_commit

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
