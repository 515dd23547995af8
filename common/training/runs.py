"""A run's directory: its lock, `run.json`, `metrics.jsonl`, log and TensorBoard events, the same for all papers."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from common.atomic_write import write_text_atomically
from common.checkout import git
from common.command_line import REPOSITORY, printable
from common.errors import TrainingError, UserError
from common.hardware import cpu_name
from common.locks import LOCK, take_lock
from common.run_record import METRICS, NAME, SET_ASIDE, SKIPPED, Computing, RunRecord, Segment, read_record
from common.training.checkpoints import CheckpointFiles

# A signal in the middle of what is written to TensorBoard can keep its thread from hearing that there is more, the end
# included: it looks again after so long, and its end is waited for. TensorBoard's default is two minutes.
EVENTS_SECONDS = 1


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, readable by people.

    Raises:
        UserError: it cannot be written.
        TrainingError: there is no room for it, or it has a number that is not finite, which JSON does not know.
    """
    try:
        text = json.dumps(content, indent=2, allow_nan=False)
    except ValueError as error:
        raise TrainingError(
            f"cannot write {path} (a number is not finite); what was there before is untouched"
        ) from error
    write_text_atomically(path, text + "\n")


def _script() -> str:
    """The running script, as it is called from inside its paper's directory."""
    script = Path(sys.argv[0]).resolve()
    inside = script.relative_to(REPOSITORY).parts[1:] if script.is_relative_to(REPOSITORY) else ()
    return "/".join(inside) or script.name


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """Where a run writes.

    Attributes:
        directory: holds `run.json` and `metrics.jsonl`.
        checkpoints: the network's, under its paper's published names.
        events: directory of TensorBoard events.
        log: receives the lines for people.
        others: what the run writes besides, or everything that belongs to it where other runs share `directory`.
        shared: whether they do.
    """

    directory: Path
    checkpoints: CheckpointFiles
    events: Path
    log: Path
    others: tuple[Path, ...] = ()
    shared: bool = False

    @property
    def written(self) -> list[Path]:
        """The files that a run writes, but for its log."""
        last, best, snapshots = self.checkpoints.last, self.checkpoints.best, self.checkpoints.snapshots
        files = [self.directory / NAME, self.directory / METRICS, last, best, *snapshots, *self.others]
        return [path for path in files if path is not None]

    def existing(self) -> list[Path]:
        """What an earlier run has left in these places."""
        found = [path for path in self.written if path.is_file()]
        found += [self.events] if self.events.is_dir() and self.events != self.directory else []
        if not self.shared and self.directory.is_dir():
            found += [path for path in self.directory.iterdir() if path.name not in (LOCK, SET_ASIDE)]
        return list(dict.fromkeys(found))

    def require_places(self, *, set_aside: bool) -> None:
        """Check, before anything is written, that nothing of another kind is where the run will write.

        Args:
            set_aside: what an earlier run has left will be moved away.

        Raises:
            UserError: a directory or a pipe where a file goes, something else where a directory goes, a name that is
                not UTF-8, which neither TensorBoard nor the log can write, or one by which no table would find the run.
        """
        if (name := self.directory.name) in SKIPPED:
            raise UserError(
                f"cannot write to {self.directory}: tables skip directories called {name}; give another name"
            )
        for path in (self.directory, self.events, self.log):
            if (shown := printable(path)) != str(path):
                raise UserError(f"cannot write to {shown}: its name is not UTF-8")
        moved = self.existing() if set_aside else []
        for path in (*self.written, self.log, self.directory / LOCK):
            if path not in moved and (path.is_dir() or path.is_fifo()):
                kind = "directory" if path.is_dir() else "pipe"
                raise UserError(f"cannot write {path} (Is a {kind}): move it away")
        for path in (self.directory, self.events):
            there = next(place for place in (path, *path.parents) if os.path.lexists(place))
            if there not in moved and not there.is_dir():
                what = "it" if there == path else there
                raise UserError(f"cannot write to {path} ({what} is no directory): move it away")


class RunDirectory:
    """The files of one run. Only the main process of a distributed run has one.

    Args:
        files: where they are; the directory is made when absent.
        record: what `run.json` says about the run from the start.
        before: the record that this start has found there, by which it has decided how to go on.
        runtime: what this start's segment says about how it computes.
        history: what `metrics.jsonl` begins with: the epochs that the run goes on from.
        segments: of the starts that computed them.
        set_aside: move away what an earlier run left.

    Raises:
        UserError: the directory cannot be written, or another run is using it.
    """

    def __init__(
        self,
        files: RunFiles,
        record: RunRecord,
        runtime: Computing,
        *,
        before: RunRecord | None = None,
        history: Sequence[dict] = (),
        segments: Sequence[Segment] = (),
        set_aside: bool = False,
    ) -> None:
        self.path = path = files.directory
        self.metrics_file = path / METRICS
        self.set_aside: Path | None = None
        files.require_places(set_aside=set_aside)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(path / LOCK)  # held as long as the run lives
            if read_record(path) != before:
                raise UserError(f"another run has written to {path} while this one began: start it again")
            if set_aside:
                self.set_aside = _set_aside(files)
            # as what is written atomically, whatever the terminal's encoding
            self._log_file = open(files.log, "a", 1, "utf-8", "backslashreplace")  # noqa: SIM115
        except BlockingIOError as error:
            raise UserError(f"another run is writing to {path}; wait for it or give another directory") from error
        except OSError as error:
            raise UserError(f"cannot write to {error.filename or path} ({error.strerror})") from error
        now = _now()
        self.segment = Segment(len(history), 0, now, **_provenance(), runtime=runtime)
        self.record = dataclasses.replace(
            record,
            command=[_script(), *sys.argv[1:]],
            directory=os.getcwd(),
            started=segments[0].started if segments else now,
            epochs_done=len(history),
            segments=[*segments, self.segment],
        )
        self._save()
        write_text_atomically(self.metrics_file, "".join(json.dumps(line) + "\n" for line in history))
        self._events_directory, self._first_epoch = files.events, len(history)
        self._events = None

    def _save(self) -> None:
        write_json(self.path / NAME, self.record.to_json())

    def log(self, message: str) -> None:
        """One line for people: to the terminal, above the progress bar, and to the log file."""
        tqdm.write(message, file=sys.stdout)
        sys.stdout.flush()
        self._log_file.write(f"{_now()} {message}\n")

    def log_epoch(self, line: dict[str, Any]) -> None:
        """Append one epoch (`line["epoch"]` counts from 0) to `metrics.jsonl` and TensorBoard."""
        with open(self.metrics_file, "a") as file:
            file.write(json.dumps(line) + "\n")
        self.log_scalars({key: value for key, value in line.items() if key != "epoch"}, line["epoch"])

    def log_scalars(self, scalars: Mapping[str, Any], epoch: int) -> None:
        """Numbers for TensorBoard; what is none is left out."""
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._hook_before, threading.excepthook = threading.excepthook, _report_thread
            self._events = SummaryWriter(
                str(self._events_directory), purge_step=self._first_epoch, flush_secs=EVENTS_SECONDS
            )
        for key, value in scalars.items():
            if isinstance(value, int | float):
                self._events.add_scalar(key, value, epoch)

    def update(self, *, execution: dict[str, Any] | None = None, **fields: Any) -> None:
        """Change the record on disk.

        Args:
            execution: how this segment's steps and evaluation really run.
            fields: of the record.
        """
        for name, value in fields.items():
            setattr(self.record, name, value)
        self.segment.epochs = self.record.epochs_done - self.segment.first_epoch
        self.segment.execution = execution or self.segment.execution
        self._save()

    @contextlib.contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Within it, what fails or is stopped is written down, and the directory let go."""
        try:
            yield
        except BaseException as error:
            self.close("stopped" if isinstance(error, KeyboardInterrupt) else "failed", error=str(error) or None)
            raise

    def close(self, status: str, **fields: Any) -> None:
        """Write the last state of the record (`done`, `failed` or `stopped`) and let the directory go.

        Where a run failed, nothing here takes the place of its error: on a full disk, nothing can be written any more.
        """
        with contextlib.ExitStack() as stack:
            if status != "done":
                stack.enter_context(contextlib.suppress(OSError, UserError, TrainingError))
            stack.callback(self._lock.close)
            stack.callback(self._close_log)
            self.update(status=status, finished=_now(), **fields)

    def _close_log(self) -> None:
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()
            threading.excepthook = self._hook_before
        with contextlib.suppress(OSError):
            self._log_file.close()


def _report_thread(failure: threading.ExceptHookArgs) -> None:
    """What failed in a thread, but for TensorBoard's, whose errors come up again where it is written to."""
    if type(failure.thread).__module__.partition(".")[0] != "tensorboard":
        threading.__excepthook__(failure)


def _set_aside(files: RunFiles) -> Path | None:
    """Move what an earlier run has left to a directory of its own below its directory; None where it left nothing."""
    if not (existing := files.existing()):
        return None
    place = files.directory / SET_ASIDE / datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%S_%f")
    place.mkdir(parents=True)
    # the record goes last: where this is interrupted, what is left is still known as that run's
    for path in sorted(existing, key=lambda path: path.name == NAME):
        target = place / path.name
        if os.path.lexists(target):  # of the same name, from another directory
            target = place / f"{path.parent.name}_{path.name}"
        os.replace(path, target)
    return place


def _now() -> str:
    """In milliseconds: tables order runs by it, and small ones start within the same second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")


def _provenance() -> dict[str, Any]:
    """Code, software and hardware that a segment stands on."""
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
    try:
        return git(REPOSITORY, "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*").strip()
    except (OSError, subprocess.SubprocessError):
        return _archived_commit(REPOSITORY / ".git_archival.txt")


def _archived_commit(file: Path) -> str:
    """The commit that `git archive` wrote into `file`; whether somebody changed the archive's files is not known."""
    try:
        commit = file.read_text().removeprefix("commit: ").strip()
    except OSError:
        return "unknown"
    return commit[:12] if re.fullmatch(r"[0-9a-f]{40}", commit) else "unknown"
