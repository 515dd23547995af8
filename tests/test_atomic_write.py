"""Files that are there whole or not at all."""

import os

from common.atomic_write import write_text_atomically


def test_content_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    file, steps = tmp_path / "file", []
    rename = os.replace
    monkeypatch.setattr(os, "fsync", lambda number: steps.append(("synced", os.fstat(number).st_ino)))
    monkeypatch.setattr(os, "replace", lambda *names: steps.append(("renamed", None)) or rename(*names))
    write_text_atomically(file, "text")
    assert steps == [("synced", file.stat().st_ino), ("renamed", None)]
