"""The Markdown pages of the repository, the commands on them, and how to type these in miniature."""

from __future__ import annotations

import dataclasses
import functools
import glob
import json
import re
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path

import yaml

from benchmarks.overflow import script_module
from common.command_line import REPOSITORY
from common.plan.budgets import load_budget
from common.plan.plan import PlannedRun, load_plan

PAPERS = ("tfkd", "edkd", "mtkd_rl", "mlkd")

# what runs, environments and datasets leave in a used checkout
NOT_OURS = {".git", ".venv", "venv", ".ci", "data", "results", "output", "models", "checkpoint", "node_modules"}

BUDGET = load_budget("smoke")  # with whose flags the plan's commands are small
# and the others: script -> flags
STEP = ["-b", "4", "-e", "1", "--limit-train-batches", "1", "--limit-eval-batches", "1"]
SMALL = {
    "common.data.synthetic": ["--train-per-class", "10", "--test-per-class", "5"],
    "train_teacher.py": STEP,
    "mlkd.py": STEP,
    "analyze.py": ["-b", "2", "--limit-eval-batches", "1", "--train-images", "4"],
}

# A network of 236 million parameters, whose checkpoints take seconds and gigabytes, and one of its family
SMALLER = {"resnetv2_152x2_bit": "resnetv2_50x1_bit"}

# Networks that have hardly trained have hardly any batch-norm statistics, and each layer may enlarge what the one
# before gave; rounding, which differs between processors, then decides whether a loss is finite. Those of commands in
# miniature are below 2,000.
LARGEST_LOSS = 1e5


def pages() -> list[Path]:
    """The Markdown pages of the repository; in a checkout those that git knows or would take."""
    git = ["git", "-C", str(REPOSITORY), "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    try:
        names = subprocess.run(git, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):  # an unpacked archive
        found = (file.relative_to(REPOSITORY) for file in REPOSITORY.rglob("*.md"))
        names = [str(file) for file in found if not NOT_OURS & set(file.parts[:-1])]
    return [REPOSITORY / name for name in sorted(set(names)) if (REPOSITORY / name).is_file()]


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        page: below the repository.
        words: Python and a script or `-m` and a module, or another program.
    """

    page: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def paper(self) -> str:
        return Path(self.page).parts[0]

    @property
    def script(self) -> str:
        """Below the paper's directory, or a module's name."""
        return self.words[2] if self.words[1] == "-m" else self.words[1]

    @property
    def module(self) -> str:
        """What to import for it, and to call the `main` of."""
        if self.words[1] == "-m":
            is_package = (REPOSITORY / self.script.replace(".", "/")).is_dir()
            return f"{self.script}.__main__" if is_package else self.script
        return script_module(REPOSITORY / self.paper / self.script)

    @property
    def run(self) -> PlannedRun | None:
        """The run of the plan that it is, which a README may resume or put in another's place."""
        words = self.words[1:]
        return _planned().get((self.paper, words[:-1] if words[-1] in ("--resume", "--overwrite") else words))

    @property
    def small(self) -> tuple[list[str], dict[str, str]]:
        """Flags that keep it small, and keys of its configuration: as overrides these name the run's directory."""
        flags = BUDGET.flags_of(self.run.name) if self.run else SMALL[self.script]
        if "--cfg" not in self.words:
            return flags, {}
        pairs = {key.replace("--epochs", "SOLVER.EPOCHS"): value for key, value in _pairs(flags)}
        keys = {key: value for key, value in pairs.items() if not key.startswith("--")}
        return [word for key, value in pairs.items() if key not in keys for word in (key, value)], keys

    def arguments(self, directory: Path, data: Path) -> list[str]:
        """What follows the script in `directory`, in miniature; a shell replaces patterns of paths by what is there."""
        if self.words[1] == "-m":
            return [*self.words[3:], *self.small[0]]
        given = [SMALLER.get(word, word) for word in self.words[2:]]
        words = [word for each in given for word in sorted(glob.glob(each, root_dir=directory)) or [each]]
        flags, keys = self.small
        again = [word for key, value in keys.items() if key in words for word in (key, value)]
        place = [] if "--data-dir" in words else ["--data-dir", str(data)]
        return [*words, *again, *flags, *place, "--device", "cpu"]


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    return list(zip(words[::2], words[1::2], strict=True))


@functools.cache
def _planned() -> dict[tuple[str, tuple[str, ...]], PlannedRun]:
    return {(run.paper, run.command): run for run in load_plan()}


def commands(page: str) -> list[Command]:
    """The commands of a page, in its order: those of code blocks, and within lines those that begin as commands do."""
    text = (REPOSITORY / page).read_text()
    found = []
    for block, code in re.findall(r"```\w*\n(.*?)```|`([^`\n]+)`", text, flags=re.DOTALL):
        lines = (block or code).replace("\\\n", " ").splitlines()
        found += [words for line in lines if _is_command(words := _words(line))]
    return [Command(page, tuple(words)) for words in found]


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a line of another language
        return []


def _is_command(words: list[str]) -> bool:
    programs = ("python", "python3", "pip", "pip3", "torchrun", "bash", "sh", "git")
    return bool(words) and (re.match(r"\./\w+\.sh$", words[0]) is not None or (words[0] in programs and len(words) > 1))


def write_small_settings(commands: Iterable[Command], directory: Path) -> None:
    """Copies of the parameters and configurations that commands name, with what the budget sets in them."""
    for command in commands:
        run, (_, keys) = command.run, command.small
        if run and run.parameters:
            file = Path(run.parameters, "params.json")
            content = {**json.loads((REPOSITORY / file).read_text()), **BUDGET.overrides(run.name)}
            _write(directory / file, json.dumps(content))
        if keys:
            file = command.words[command.words.index("--cfg") + 1]
            content = yaml.safe_load((REPOSITORY / command.paper / file).read_text())
            for name, value in keys.items():
                *sections, key = name.split(".")
                functools.reduce(lambda place, section: place.setdefault(section, {}), sections, content)[key] = (
                    yaml.safe_load(value)
                )
            _write(directory / file, yaml.safe_dump(content))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
