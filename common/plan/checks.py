"""Whether scripts would refuse their commands, asked of the scripts before any run starts (`--check-settings`).

`python -m common.plan.checks` executes scripts one after another in one process: importing PyTorch takes longer than
the checks of a hundred commands.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.command_line import REPOSITORY
from common.errors import UserError
from common.plan.tasks import Task

FLAG = "--check-settings"


def require_accepted(tasks: Sequence[Task]) -> None:
    """Let the scripts read the commands of tasks, without data and teachers; nothing is written beside the tasks.

    Without PyTorch nothing is asked: a dry run works before anything is installed.

    Raises:
        UserError: one is refused; names the task, with what its script says.
    """
    if importlib.util.find_spec("torch") is None:
        return
    with tempfile.TemporaryDirectory() as root:
        tried = [dataclasses.replace(task, home=Path(root, str(i)), depends_on=()) for i, task in enumerate(tasks)]
        for task in tried:
            task.prepare()
        commands = [[str(task.workspace), *task.command[1:], FLAG] for task in tried]
        asked = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps(commands),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )
        if asked.returncode:
            raise UserError(f"the commands cannot be checked: {_last_line(asked.stderr) or asked.returncode}")
    if found := json.loads(asked.stdout):
        number, message = found
        raise UserError(f"{tasks[number].name}: {message.replace(f'{tried[number].workspace}/', '')}")


def first_refused(commands: Sequence[Sequence[str]]) -> tuple[int, str] | None:
    """Number of the first command that its script refuses, and what that says; None where all are accepted.

    Args:
        commands: of each the working directory, the script and its arguments.
    """
    for number, (workspace, *command) in enumerate(commands):
        if message := _refusal(workspace, command):
            return number, message
    return None


def _refusal(workspace: str, command: list[str]) -> str | None:
    """What a script says against its arguments."""
    os.chdir(workspace)
    sys.argv = command
    errors, code = io.StringIO(), None
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        except Exception as error:  # of somebody's own code, which would end the run as well
            code = f"{type(error).__name__}: {error}"
    if code in (0, None):
        return None
    said = _last_line(errors.getvalue()) or f"{code}"
    return said.removeprefix("error: ")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


if __name__ == "__main__":
    found = first_refused(json.load(sys.stdin))
    print(json.dumps(found))
