"""Small experiments, and the project's scripts run on them in real processes.

A process is forked from one that has imported everything already, which spares each the seconds that importing takes;
from there on it is as if the script had been started from a shell: its own working directory, output, signals and
exit code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import itertools
import json
import multiprocessing
import os
import pkgutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parent.parent
EXPERIMENTS = REPOSITORY / "experiments"

PATIENCE = 600  # seconds; far more than anything here takes, also on a machine that has much else to do

_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(
    [
        *(
            "tests.processes",
            "tfkd.main",
            "tfkd.evaluate",
            "edkd.tools.train",
            "mtkd_rl.train_student_rl",
            "mlkd.train",
        ),
        *("torch._dynamo", "torch.utils.tensorboard"),
    ]
)


# --------------------------------------------------------------------------------------------------------- experiments

CNN = "base_experiments/base_cnn_low_rate"
SELF_TAUGHT_CNN = "kd_experiments/cnn_distill/cnn_self_teacher"
SMALL = {"batch_size": 50, "num_epochs": 4, "num_channels": 4, "dataset": "cifar10"}


class Workspace:
    """A directory with experiments of its own, small ones, and a dataset.

    Args:
        root: holds `experiments/`; scripts run in it.
        data: directory of datasets.
    """

    def __init__(self, root: Path, data: Path) -> None:
        self.root, self.data = root, data
        self.root.mkdir(parents=True)

    def experiment(self, name: str, **changes: Any) -> Path:
        """A copy of the repository's `experiments/<name>`, made small, with `changes`; None removes a key."""
        params = {**json.loads((EXPERIMENTS / name / "params.json").read_text()), **SMALL, **changes}
        directory = self.root / "experiments" / name
        directory.mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in params.items() if value is not None}
        (directory / "params.json").write_text(json.dumps(kept))
        return directory

    def arguments(self, experiment: str, *flags: str) -> list[str]:
        """Flags that run the experiment on this workspace's data, on the CPU, without network."""
        where = ["--model_dir", f"experiments/{experiment}", "--data-dir", str(self.data), "--no-download"]
        return [*where, "--device", "cpu", *flags]

    def start(
        self, experiment: str, *flags: str, script: str = "tfkd.main", overwrite: bool = True, **options: Any
    ) -> Process:
        """Start a script on an experiment, in place of what it left there before; `options` are those of `Process`."""
        if overwrite and script == "tfkd.main" and "--resume" not in flags:
            flags = (*flags, "--overwrite")
        return Process(script, self.arguments(experiment, *flags), self.root, **options)

    def run(self, experiment: str, *flags: str, **options: Any) -> Ended:
        """Run a script on an experiment to its end."""
        return self.start(experiment, *flags, **options).wait()

    def run_distributed(
        self, size: int, experiment: str, *flags: str, prepare: Callable[[], None] | None = None, **options: Any
    ) -> list[Ended]:
        """Run a script in `size` processes that work together; `prepare` is called in each."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
        processes = [
            self.start(
                experiment,
                *flags,
                environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"},
                prepare=prepare,
                **options,
            )
            for rank in range(size)
        ]
        return [process.wait() for process in processes]


def snapshot(directory: Path) -> dict[str, bytes | None]:
    """Every file below `directory` with its content, every directory with None."""
    paths = sorted(directory.rglob("*"))
    return {str(p.relative_to(directory)): p.read_bytes() if p.is_file() else None for p in paths}


def metrics(directory: Path) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl`, without what depends on time."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def record(directory: Path) -> dict[str, Any]:
    """`run.json`."""
    return json.loads((directory / "run.json").read_text())


def checkpoint(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def lose_checkpoint(path: Path, by: str, setting: str) -> None:
    """Let it be "absent", "half of it", or "of another run", whose `setting` is another one."""
    if by == "absent":
        path.unlink()
    elif by == "half of it":
        path.write_bytes(b"half of it")
    else:
        found = checkpoint(path)
        found["training"]["settings"][setting] = 2
        torch.save(found, path)


TIMES = ("seconds", "images_per_second")


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two checkpoints, or other nested contents, are not the same bit for bit; times do not count."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        return [] if same else [where]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for key in a if key not in TIMES for d in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{where}/{i}")]
    return [] if a == b else [where]


# ----------------------------------------------------------------------------------------------------------- processes


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a script ended: its exit code (minus the signal that killed it) and what it wrote."""

    code: int
    stdout: str
    stderr: str


class Process:
    """A script that runs in a process of its own.

    Args:
        script: module of the script.
        arguments: its command line.
        directory: its working directory.
        environment: additions to the environment.
        prepare: called in the process ahead of the script, to break something; pickled by name.
    """

    _numbers = itertools.count()

    def __init__(
        self,
        script: str,
        arguments: list[str],
        directory: Path,
        *,
        environment: dict[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        number = next(self._numbers)
        self.outputs = [directory.with_name(f"{directory.name}.{number}.{name}") for name in ("stdout", "stderr")]
        self.process = _FORKED.Process(
            target=_run_script, args=(script, arguments, directory, self.outputs, environment or {}, prepare)
        )
        self.process.start()

    def wait(self, seconds: float = PATIENCE) -> Ended:
        """Wait for the end.

        Raises:
            TimeoutError: it goes on for longer than `seconds`; it is killed.
        """
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"still running after {seconds} s: {self._outputs()}")
        return Ended(self.process.exitcode, *self._outputs())

    def _outputs(self) -> list[str]:
        return [file.read_text() if file.exists() else "" for file in self.outputs]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; no harm when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Wait until `condition` holds; says whether it did so before the process ended."""
        return wait_for(condition, self.process.is_alive)


def wait_for(condition: Callable[[], bool], alive: Callable[[], bool], interval: float = 0.002) -> bool:
    """Wait until `condition` holds; says whether it did so while `alive`."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if not alive():
            return False
        if time.monotonic() > end:
            raise TimeoutError(f"nothing happened for {PATIENCE} s")
        time.sleep(interval)
    return True


def _run_script(
    script: str,
    arguments: list[str],
    directory: Path,
    outputs: list[Path],
    environment: dict[str, str],
    prepare: Callable[[], None] | None,
) -> None:
    spare_the_disk()
    multiprocessing.set_start_method(None, force=True)  # the platform's own again, not that of this process
    gc.freeze()  # collecting garbage would look through, and so copy, all that the server has imported
    for number, file in enumerate(outputs, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(directory)
    os.environ.update(environment)
    sys.argv = [f"{script.rpartition('.')[2]}.py", *arguments]
    sys.orig_argv = [sys.executable, "-m", script, *arguments]  # what `launch_processes` starts again
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    main = importlib.import_module(script).main
    if prepare is not None:
        prepare()
    main()


def children_of(pid: int) -> list[int]:
    """The processes that a process, or a thread of it, has started, as Linux lists them."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def spare_the_disk() -> None:
    """What this process writes need not reach the disk: tests kill processes, and cut no power."""
    os.fsync = lambda file: None


def kill_self() -> None:
    """SIGKILL: nothing of this process runs after it."""
    os.kill(os.getpid(), signal.SIGKILL)


def before_call(function: str, number: int, do: Callable[[], None]) -> None:
    """From now on, call `do` ahead of the `number`-th call (from 1) of `function`, a dotted name."""
    name, _, attribute = function.rpartition(".")
    owner = pkgutil.resolve_name(name)
    original = getattr(owner, attribute)
    calls = itertools.count(1)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            do()
        return original(*args, **kwargs)

    setattr(owner, attribute, wrapped)
