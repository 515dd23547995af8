"""What an earlier run has left is set aside as a whole, and no run goes where nobody would find it."""

from pathlib import Path

import pytest

from common.errors import UserError
from common.run_record import SKIPPED
from common.training.checkpoints import CheckpointFiles
from common.training.runs import RunFiles, _set_aside


def files_of(directory: Path, *others: Path) -> RunFiles:
    checkpoints = CheckpointFiles(directory / "last", directory / "best.pth")
    return RunFiles(directory, checkpoints, directory / "events", directory / "log", others)


@pytest.mark.parametrize("name", ["best.pth", "last", "run.json", "events"])
def test_files_of_one_name_are_both_set_aside(name, tmp_path):
    """Such as the network of MLKD's run `best`, `models/best.pth`, and `best.pth` in the run's directory."""
    directory = tmp_path / "run"
    directory.mkdir()
    for place in (tmp_path, directory):
        (place / name).write_text(place.name)
    kept = _set_aside(files_of(directory, tmp_path / name))
    assert {file.read_text() for file in kept.iterdir()} == {tmp_path.name, "run"}


@pytest.mark.parametrize("name", SKIPPED)
def test_no_run_is_called_what_tables_skip(name, tmp_path):
    with pytest.raises(UserError, match=f"tables skip directories called {name}; give another name"):
        files_of(tmp_path / name).require_places(set_aside=False)
