"""Tells whether a Python has what the repository needs, and gives it that.

    python scripts/environment.py check             exit code 0: yes; 3: the packages, but not this checkout; 1: no
    python scripts/environment.py create DIRECTORY  makes a virtual environment with all of requirements.txt
    python scripts/environment.py add REQUIREMENT.. installs more into this Python

Standard library only, because nothing else can be taken for granted. What goes wrong is said in one line.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).resolve().parent.parent
READY, MISSING, NOT_INSTALLED = 0, 1, 3

# Disk space in GB: measured for the CUDA builds that pip takes on Linux; elsewhere PyTorch has no CUDA libraries
SPACE = 5.6 if sys.platform == "linux" else 1.5
SPACE_BESIDE_TORCH = 0.5
MINUTES = "5 to 20 minutes"
GB = 1e9

# What pip or venv says -> what is wrong and what to do; the first that is found counts
PROBLEMS = {
    r"No space left on device|Errno 28|Disk quota exceeded|Errno 122": "the disk is full: {space}; make room, or have "
    "TMPDIR (for downloads) and PIP_CACHE_DIR point to where there is some, then give the same command again",
    r"externally-managed-environment": "{python} belongs to the operating system, which installs packages itself: "
    "give the same command in a virtual environment (python3 -m venv .venv && source .venv/bin/activate)",
    r"CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerificationError": "the package index shows a certificate that this "
    "machine does not trust: let PIP_CERT name your network's certificate, then give the same command again",
    r"ConnectionError|NewConnection|ConnectTimeout|ReadTimeout|Max retries|ProxyError|getaddrinfo|name resolution|"
    r"Connection (?:refused|broken|reset)|Network is unreachable|connection broken": "the package index cannot be "
    "reached: go online (behind a proxy set HTTPS_PROXY, for an index of your own PIP_INDEX_URL), then give the same "
    "command again",
    r"requirement (?P<what>\S+) \(from versions: none\)": "the package index has nothing for {what}: it cannot be "
    "reached (go online; behind a proxy set HTTPS_PROXY, for an index of your own PIP_INDEX_URL), or it has no build "
    "for Python {version} on {platform} (3.10 to 3.13 have one); then give the same command again",
    r"No matching distribution found for (?P<what>\S+)": "there is no build of {what} for Python {version} on "
    "{platform}: install a Python that has one (3.10 to 3.13) and give the same command again",
    r"Read-only file system|Permission denied|Errno 13|Errno 30": "cannot write {what}: make it writable, or let "
    "KD_ENVIRONMENT name a directory elsewhere for the virtual environment",
    r"No module named (?:pip|ensurepip|venv)\b|ensurepip is not available": "{python} lacks the modules that make "
    "virtual environments: install them (Debian, Ubuntu: apt install python{version}-venv) or another Python",
}


def fail(message: str) -> NoReturn:
    sys.exit(f"error: {message}")


def requirements() -> list[str]:
    """The packages of requirements.txt, without the repository itself."""
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith(("#", "-"))]


def is_met(requirement: str) -> bool:
    """Whether the package is here in a version within the bounds (`>=` and `<`, as in requirements.txt)."""
    name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
    bounds = requirement[len(name) :]
    try:
        version = _numbers(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False
    compare = {">=": version.__ge__, "<": version.__lt__}
    return all(compare[sign](_numbers(bound)) for sign, bound in re.findall(r"(>=|<)\s*([\w.]+)", bounds))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", re.split(r"[^\d.]", version, maxsplit=1)[0]))


def check() -> int:
    """How much of what is needed this Python has: `READY`, `NOT_INSTALLED` (packages only) or `MISSING`."""
    if sys.version_info < (3, 10) or not all(map(is_met, requirements())):
        return MISSING
    found = importlib.util.find_spec("common")
    places = [Path(place).resolve() for place in (found and found.submodule_search_locations) or ()]
    return READY if REPOSITORY / "common" in places else NOT_INSTALLED


def create(directory: Path) -> None:
    """Make a virtual environment, or complete one, after saying how much disk and time that takes."""
    if (venv := _first_missing("venv", "ensurepip")) is not None:
        _explain(f"No module named {venv}")
    parent = next(place for place in directory.absolute().parents if place.is_dir())
    if not os.access(directory if directory.is_dir() else parent, os.W_OK):
        _explain("Permission denied", what=directory)
    python = directory / "bin" / "python"
    works = _succeeds(python, "-c", "")
    announce(directory, parent, python if works else None)
    # one whose Python has gone is made again; a directory that is none is left as it is
    again = ["--clear"] if not works and (directory / "pyvenv.cfg").is_file() else []
    command = [sys.executable, "-m", "venv", *again, directory]
    made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if made.returncode:
        _explain(made.stdout, what=directory)
    # an editable installation writes into the checkout; where that cannot be, the scripts find it by PYTHONPATH
    here = ["-e", str(REPOSITORY)] if os.access(REPOSITORY, os.W_OK) else []
    install(str(python), [*requirements(), *here])


def add(arguments: list[str]) -> None:
    """Install more into this Python, and say how much disk and time that takes where it lacks requirements."""
    if not all(map(is_met, requirements())):
        announce(Path(sys.prefix), Path(sys.prefix), Path(sys.executable))
    install(sys.executable, arguments)


def announce(directory: Path, place: Path, python: Path | None) -> None:
    """Say what installing the requirements takes, or leave where the disk has not that much.

    Args:
        directory: of the environment, for the messages.
        place: a directory on its disk.
        python: of the environment, if there is one; it may have PyTorch.
    """
    has_torch = python and _succeeds(python, "-c", "import importlib.util as u; u.find_spec('torch').loader")
    space, free = SPACE_BESIDE_TORCH if has_torch else SPACE, shutil.disk_usage(place).free / GB
    if free < space:
        fail(
            f"the disk is full: {directory} takes up to {space:g} GB, and {free:.1f} GB are free there; "
            "make room, or let KD_ENVIRONMENT name a directory elsewhere"
        )
    print(f"installing PyTorch and the other packages of requirements.txt into {directory}, once")
    print(
        f"  up to {space:g} GB of disk ({free:.1f} GB are free) and {MINUTES}; Ctrl-C stops, the same command resumes",
        flush=True,
    )


def _succeeds(*command: str | Path) -> bool:
    try:
        return not subprocess.run(command, capture_output=True).returncode
    except OSError:
        return False


def _first_missing(*modules: str) -> str | None:
    return next((name for name in modules if importlib.util.find_spec(name) is None), None)


def install(python: str, arguments: list[str]) -> None:
    """`pip install`, of which a person sees one line of progress; all of it is kept where it fails."""
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *arguments]
    lines, shown = [], ""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with subprocess.Popen(command, env=environment, **pipes) as pip:
        for line in pip.stdout or ():
            lines.append(line)
            if (progress := _progress(line)) and progress != shown:
                _show(progress)
                shown = progress
    _show("")
    if pip.returncode:
        _explain("".join(lines), python=python)


def _progress(line: str) -> str:
    """What a line of pip's says to people: what it is at, and nothing for all other lines."""
    if "Retrying (" in line:
        return "no answer from the package index, trying again"
    known = r"\s*((?:Collecting|Downloading|Building|Preparing|Installing) .*)"
    return found.group(1) if (found := re.match(known, line)) else ""


def _show(progress: str) -> None:
    """In a terminal in place of the last one; else only what takes long."""
    if sys.stdout.isatty():
        width = max(20, shutil.get_terminal_size().columns - 3)
        print(f"\r\033[K{progress and '  '}{progress[:width]}", end="", flush=True)
    elif re.match(r"Installing collected|no answer|Downloading .*\([\d.]+ [MG]B\)", progress):
        print(f"  {progress[:100]}", flush=True)


def _explain(said: str, *, what: object = REPOSITORY, python: str = sys.executable) -> NoReturn:
    """Leave with one line for what pip or venv said."""
    for pattern, advice in PROBLEMS.items():
        if found := re.search(pattern, said, flags=re.IGNORECASE):
            facts = {
                "what": what,
                "python": python,
                "version": "{}.{}".format(*sys.version_info),
                "platform": f"{os.uname().sysname} {os.uname().machine}",
                "space": ", ".join(
                    f"{shutil.disk_usage(place).free / GB:.1f} GB are free in {place}"
                    for place in dict.fromkeys((str(REPOSITORY), tempfile.gettempdir()))
                ),
            }
            fail(advice.format(**{**facts, **found.groupdict()}))
    complaints = re.findall(r"^\s*(?:ERROR|error): (.*)", said, flags=re.MULTILINE) or said.strip().splitlines()[-1:]
    with tempfile.NamedTemporaryFile("w", prefix="install-", suffix=".log", delete=False) as log:
        log.write(said)
    fail(f"installing failed: {(complaints or ['pip said nothing'])[0]} (all of it: {log.name})")


def main() -> None:
    order, *arguments = sys.argv[1:] or [""]
    try:
        if order == "check" and not arguments:
            sys.exit(check())
        elif order == "create" and len(arguments) == 1:
            create(Path(arguments[0]))
        elif order == "add" and arguments:
            add(arguments)
        else:
            sys.exit(__doc__)
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes from here", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        _explain(str(error), what=error.filename)


if __name__ == "__main__":
    main()
