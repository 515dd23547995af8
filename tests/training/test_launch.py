"""A script starts itself once per device."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.processes import PATIENCE, REPOSITORY

SCRIPT = """
import os, pathlib, signal, sys, time
from common.training.launch import is_launched, launch_processes

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
if not is_launched():
    launch_processes({arguments})
rank = os.environ["RANK"]
"""
SHARE = """
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
pathlib.Path(f"rank{rank}").write_text(" ".join([*sys.argv[1:], *(os.environ[name] for name in names)]))
"""
WAIT = """
def stop(*_):
    pathlib.Path(f"stopped{rank}").touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
pathlib.Path(f"waits{rank}").touch()
time.sleep(600)
"""


@pytest.fixture
def start(tmp_path):
    """Starts a script that launches two processes, each of which does `then`."""
    started = []

    def start(then: str, arguments: str = "2", flags: tuple[str, ...] = ()) -> subprocess.Popen:
        (tmp_path / "script.py").write_text(SCRIPT.format(arguments=arguments) + then)
        environment = {key: value for key, value in os.environ.items() if key != "RANK"}
        started.append(
            subprocess.Popen(
                [sys.executable, "script.py", *flags],
                cwd=tmp_path,
                env={**environment, "PYTHONPATH": str(REPOSITORY)},
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_each_process_knows_its_place(start, tmp_path):
    assert start(SHARE, flags=("--flag", "a b")).wait(PATIENCE) == 0
    (first, port), (second, same_port) = [(tmp_path / f"rank{r}").read_text().rsplit(" ", 1) for r in (0, 1)]
    assert (first, second) == ("--flag a b 0 0 2 127.0.0.1", "--flag a b 1 1 2 127.0.0.1")
    assert port == same_port


def test_one_machine_of_several(start, tmp_path):
    arguments = "2, master=('10.0.0.1', 4000), first_rank=2, world_size=6"
    assert start(SHARE, arguments).wait(PATIENCE) == 0
    assert (tmp_path / "rank3").read_text() == "3 1 6 10.0.0.1 4000"


@pytest.mark.slow
def test_a_failure_stops_the_others(start, tmp_path):
    fail = "if rank == '1':\n    while not pathlib.Path('waits0').exists(): time.sleep(0.01)\n    sys.exit(2)\n"
    assert start(fail + WAIT).wait(PATIENCE) == 2
    assert (tmp_path / "stopped0").exists()


def test_stopping_the_first_stops_all(start, tmp_path):
    process = start(WAIT)
    while not all((tmp_path / f"waits{rank}").exists() for rank in (0, 1)):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) != 0
    assert all((tmp_path / f"stopped{rank}").exists() for rank in (0, 1))
