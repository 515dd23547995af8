"""A run's directory: its lock, `run.json`, `metrics.jsonl`, log and TensorBoard events, the same for all papers."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from common.command_line import REPOSITORY
from common.errors import UserError
from common.hardware import cpu_name
from common.safe_json import read_json_text
from common.training.checkpoints import write_atomically


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, readable by people."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n"))


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        UserError: absent, not JSON, or with a key that stands twice.
    """
    try:
        return read_json_text(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def is_done(path: Path) -> bool:
    """Whether the run in directory `path` came to its end."""
    try:
        return read_json(path / "run.json")["status"] == "done"
    except (UserError, KeyError, TypeError):
        return False


def _script() -> str:
    """The running script, as it is called from inside its paper's directory."""
    script = Path(sys.argv[0]).resolve()
    inside = script.relative_to(REPOSITORY).parts[1:] if script.is_relative_to(REPOSITORY) else ()
    return "/".join(inside) or script.name


class RunDirectory:
    """The files of one run. Only the main process of a distributed run has one.

    Args:
        path: directory of the run; made when absent.
        record: what `run.json` says about the run from the start (paper, settings, data, budget ...).
        events: directory of TensorBoard events.
        log_file: receives the lines of `log`.
        history: what `metrics.jsonl` begins with: the epochs that the run goes on from.

    Raises:
        UserError: the directory cannot be written, or another run is using it.
    """

    def __init__(
        self, path: Path, record: dict[str, Any], *, events: Path, log_file: Path, history: Sequence[dict] = ()
    ) -> None:
        self.path = path
        self.metrics_file = path / "metrics.jsonl"
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = open(path / ".lock", "w")  # noqa: SIM115 - held as long as the run lives
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._log_file = open(log_file, "a", buffering=1)  # noqa: SIM115
        except BlockingIOError as error:
            raise UserError(f"another run is writing to {path}; wait for it or give another directory") from error
        except OSError as error:
            raise UserError(f"cannot write to {error.filename or path} ({error.strerror})") from error
        self.record = {
            **record,
            "command": [_script(), *sys.argv[1:]],
            "directory": os.getcwd(),
            **_provenance(),
            "status": "running",
            "started": _now(),
        }
        self._save()
        lines = "".join(json.dumps(line) + "\n" for line in history)
        write_atomically(self.metrics_file, lambda temporary: temporary.write_text(lines))
        self._events_directory, self._first_epoch = events, len(history)
        self._events = None

    def _save(self) -> None:
        write_json(self.path / "run.json", self.record)

    def log(self, message: str) -> None:
        """One line for people: to the terminal, above the progress bar, and to the log file."""
        tqdm.write(message, file=sys.stdout)
        sys.stdout.flush()
        self._log_file.write(f"{_now()} {message}\n")

    def log_epoch(self, line: dict[str, Any]) -> None:
        """Append one epoch (`line["epoch"]` counts from 0) to `metrics.jsonl` and TensorBoard."""
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._events = SummaryWriter(str(self._events_directory), purge_step=self._first_epoch)
        with open(self.metrics_file, "a") as file:
            file.write(json.dumps(line) + "\n")
        for key, value in line.items():
            if key != "epoch" and isinstance(value, int | float):
                self._events.add_scalar(key, value, line["epoch"])

    def update(self, **fields: Any) -> None:
        """Change the record on disk."""
        self.record.update(fields)
        self._save()

    def close(self, status: str, **fields: Any) -> None:
        """Write the last state of the record (`done`, `failed` or `stopped`) and let the directory go."""
        self.update(status=status, finished=_now(), **fields)
        if self._events is not None:
            self._events.close()
        self._log_file.close()
        self._lock.close()


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _provenance() -> dict[str, Any]:
    """Code, software and hardware that a run stands on."""
    cuda = torch.cuda.is_available()
    return {
        "commit": _commit(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda},
        "hardware": {
            "host": platform.node(),
            "cpu": cpu_name(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if cuda else None,
        },
    }


def _commit() -> str:
    """Commit of the code, with `-dirty` where files differ from it; "unknown" in neither a checkout nor an archive."""
    git = ["git", "-C", str(REPOSITORY), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return _archived_commit(REPOSITORY / ".git_archival.txt")


def _archived_commit(file: Path) -> str:
    """The commit that `git archive` wrote into `file`; whether somebody changed the archive's files is not known."""
    try:
        commit = file.read_text().removeprefix("commit: ").strip()
    except OSError:
        return "unknown"
    return commit[:12] if re.fullmatch(r"[0-9a-f]{40}", commit) else "unknown"
