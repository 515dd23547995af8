"""What all entry points share: one-line errors, and how paths are found."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import functools
import hashlib
import inspect
import io
import itertools
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from common.errors import TrainingError, UserError, is_out_of_memory, memory_shortage
from common.interrupts import leave_imports

MOST_NAME_BYTES = 200  # of a name in a directory; file systems have 255, and what lies beside it has longer names
LONGEST_LINE = 2000  # characters of an error
LARGEST_COUNT, LARGEST_NUMBER = 10**6, 1e12  # in flags and keys: more is a slip, and overflows somewhere
SMALLEST_NUMBER = 1 / LARGEST_NUMBER  # above 0: less divides to infinity somewhere
# what is wrong with a path that somebody gave
NO_WAY = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.ENXIO),
}
REPOSITORY = Path(__file__).resolve().parent.parent

T = TypeVar("T")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names a flag's default where it has one to name and its text does not do so itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.default is None or action.default is False or action.default in ("", [])
        if nothing or "default" in (action.help or ""):
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
    """argparse, with an error of one line and help that names the defaults."""

    def __init__(self, **kwargs) -> None:
        kwargs.setdefault("formatter_class", _HelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        found, unknown = self.parse_known_args(args, namespace or argparse.Namespace())
        if unknown:
            misspelled = unknown[0].partition("=")[0]
            close = (
                difflib.get_close_matches(misspelled, self._option_string_actions, n=1) if misspelled[0] == "-" else []
            )
            hint = f": did you mean '{close[0]}'?" if close else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return found

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        words = [_with_home(word) for word in (sys.argv[1:] if args is None else args)]
        self._refuse_empty(words)
        return super().parse_known_args(words, namespace or argparse.Namespace())

    def _refuse_empty(self, words: Sequence[str]) -> None:
        """An empty word or path is a variable that nobody has set; flags with a type of their own say so themselves."""
        has_paths = any(not action.option_strings and action.type is Path for action in self._actions)
        for before, word in itertools.pairwise(["", *words]):
            flag, equals, value = word.partition("=")
            action = self._option_string_actions.get(flag if equals else before)
            if (value if equals else word) == "":
                if action is not None and action.nargs in (None, "?") and action.type in (None, Path):
                    self.error(f"argument {flag if equals else before}: its value is empty")
                if action is None and has_paths and not equals:
                    self.error("a path is empty")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def _with_home(word: str) -> str:
    """`--flag=~/place` as shells pass on `--flag ~/place`."""
    flag, equals, value = word.partition("=")
    return f"{flag}={os.path.expanduser(value)}" if flag[:1] == "-" and equals and value[:1] == "~" else word


def settings_from(kind: type[T], args: argparse.Namespace) -> T:
    """A dataclass with the values of the flags that its fields are named after."""
    return kind(**{name: getattr(args, name) for name in inspect.signature(kind).parameters})


def whole_number(low: int, high: int = LARGEST_COUNT) -> Callable[[str], int]:
    """Type of a flag: an integer from `low` to `high`."""

    def read(text: str) -> int:
        value = int(text) if re.fullmatch(r"[+-]?[0-9]{1,19}", text) else None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text[:40]} is not {_kind(low, high)}")
        return value

    return read


def _kind(low: int, high: int) -> str:
    names = {(1, LARGEST_COUNT): "a positive number", (0, LARGEST_COUNT): "a number from 0"}
    beyond = f" up to {high}" if high == LARGEST_COUNT else ""
    return names.get((low, high), f"a number from {low} to {high}") + (beyond if (low, high) in names else "")


positive_int, nonnegative_int = whole_number(1), whole_number(0)
thread_count = process_count = whole_number(1, 1024)  # of one machine; far more end a process by a signal
seed_number = whole_number(0, 2**63 - 1)


def real_number(low: float, high: float = LARGEST_NUMBER) -> Callable[[str], float]:
    """Type of a flag: a number from `low` to `high`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text[:40]} is not a number from {low:g} to {high:g}")
        return value

    return read


positive_float = real_number(SMALLEST_NUMBER)
momentum_number, decay_factor = real_number(0, 1 - 1e-6), real_number(SMALLEST_NUMBER, 1)


def nonnegative_float(text: str) -> float:
    """Type of a flag: 0, or a positive number."""
    value = real_number(0)(text)
    if 0 < value < SMALLEST_NUMBER:
        raise argparse.ArgumentTypeError(f"{text[:40]} is not a number to compute with: give 0, or {SMALLEST_NUMBER:g}")
    return value


def byte_count(text: str) -> int:
    """Type of a flag: bytes, as a number alone or one with K, M, G or T (powers of 1024): 4G, 1.5GB."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?) ?([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: give bytes, or a number with K, M, G or T (4G)")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def output_file(beginning: str) -> Callable[[str], Path]:
    """Type of a flag: a file to write, in a directory that is there; what cannot be is said before any work.

    Args:
        beginning: of what is written. A file that is there is replaced only where it begins so: it is an earlier one.
    """

    def read(text: str) -> Path:
        if not text:
            raise argparse.ArgumentTypeError("its value is empty")
        path = Path(text).resolve()  # a link stays one
        if path.exists() and not path.is_file():
            kind = "directory" if path.is_dir() else "pipe" if path.is_fifo() else "device"
            raise argparse.ArgumentTypeError(f"{text} is a {kind}: give a file")
        if not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"{text} cannot be written: there is no directory {Path(text).parent}")
        if path.exists():
            with open(path, "rb") as file:
                there = file.read(len(beginning.encode()))
            if there not in (b"", beginning.encode()):
                raise argparse.ArgumentTypeError(
                    f"{text} is another kind of file, which would be lost: give a new name"
                )
        return path

    return read


def is_inside(path: str) -> bool:
    """Whether a path that somebody chose as a name stays below the directory that it is appended to."""
    parts = Path(path).parts
    return path.isprintable() and not Path(path).is_absolute() and ".." not in parts


def shortened(name: str, most: int = MOST_NAME_BYTES) -> str:
    """A name of at most `most` bytes: as it is, or its beginning and a digest of all of it."""
    content = os.fsencode(name)
    if len(content) <= most:
        return name
    digest = hashlib.sha256(content).hexdigest()[:12]
    return f"{content[: most - 13].decode(errors='ignore')}-{digest}"


def plain_name(text: str) -> str:
    """Type of a flag: one part of a path, which names what a script writes."""
    if text in ("", ".", "..") or "/" in text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not a plain name: it names files, and a / or .. would move them")
    return _of_a_length(text)


def _of_a_length(text: str) -> str:
    if any(len(os.fsencode(part)) > MOST_NAME_BYTES for part in text.split("/")):
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r}... is longer than a file's name: {MOST_NAME_BYTES} bytes at most"
        )
    return text


def inner_name(text: str) -> str:
    """Type of a flag: a name, or several with / between them, of what lies in a directory given elsewhere."""
    if text in ("", ".") or not is_inside(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a plain name: it names a file in a directory given elsewhere"
        )
    return _of_a_length(text)


def printable(path: Path) -> str:
    """A path for people: bytes of names that are not UTF-8, which no text file can hold, as `\\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def nearest(name: str, names: Iterable[str], listed: str) -> str:
    """What to say about a name that there is not: those most like it, and how to see all.

    Names that go on where the given one ends come first: `a/b_inferred` is nearer to `a/b` than `a/c` is.

    Args:
        name: what was given.
        names: all that there are.
        listed: a command that lists them.
    """
    by_case = {known.lower(): known for known in names}  # what differs in case alone is the nearest of all
    matches = difflib.get_close_matches(name.lower(), by_case, n=len(by_case) or 1, cutoff=0.5)
    matches.sort(key=lambda key: not key.startswith(name.lower()))
    close = [by_case[key] for key in matches[:3]]
    others = f"also near: {', '.join(close[1:])}; " if close[1:] else ""
    return f"did you mean '{close[0]}'? ({others}`{listed}` lists all)" if close else f"`{listed}` lists all"


def cli_main(main: Callable[[], None]) -> Callable[[], None]:
    """Turn exceptions into exit codes: 2 and one line for bad input, 1 for training that failed, 130 when stopped."""

    @functools.wraps(main)
    @_signals_stop()
    def run() -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a character is no reason to end
                stream.reconfigure(errors="backslashreplace")
        try:
            main()
            if "RANK" in os.environ:
                _exit(0)
        except UserError as error:
            _exit_with_error(f"error: {error}", 2)
        except TrainingError as error:
            _exit_with_error(f"error: {error}", 1)
        except KeyboardInterrupt as advice:  # how to go on, from whoever knows
            _exit_with_error("; ".join(["stopped", *map(str, advice.args)]), 130)
        except BrokenPipeError:
            os._exit(141)  # the reader of our output has gone; nothing can be said any more
        except Exception as error:
            if is_out_of_memory(error):  # outside of training, which says itself what to lower
                advice = "take a smaller batch size or image size, fewer workers or processes, or more memory"
                _exit_with_error(f"error: {memory_shortage(error)}; {advice}", 1)
            if isinstance(error, OSError):  # such as a full disk, or a path that leads nowhere
                _exit_with_error(f"error: {error}", 2 if error.errno in NO_WAY else 1)
            raise

    return run


@contextlib.contextmanager
def _signals_stop() -> Iterator[None]:
    """Within it, signals that ask for an end are as Ctrl-C."""
    heard = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is leave_imports:  # all is imported
        heard.append(signal.SIGINT)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        heard.append(signal.SIGHUP)
    with signals_handled(heard, _stop):
        yield


@contextlib.contextmanager
def signals_handled(numbers: Iterable[signal.Signals], handler: Callable[[int, object], None]) -> Iterator[None]:
    """Within it, signals go to `handler`; after it, where they went before."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _stop(signal_number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _exit_with_error(message: str, code: int) -> NoReturn:
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    if os.environ.get("RANK", "0") == "0" or not several:  # one process of a distributed run speaks for all
        with contextlib.suppress(OSError, ValueError):  # somebody may have closed it
            sys.stdout.flush()  # where both go to one file, the error is its last line
        print(_one_line(message), file=sys.stderr, flush=True)
    _exit(code)


def _one_line(message: str) -> str:
    """A message for a terminal, whatever names stand in it: without characters that steer one, and not endless."""
    words = " ".join(message.split())
    if len(words) > LONGEST_LINE:
        words = f"{words[: LONGEST_LINE // 2]} ... {words[-LONGEST_LINE // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


def _exit(code: int) -> NoReturn:
    if "RANK" in os.environ:
        # a thread without Python frames, very likely one of gloo's, now and then aborts such a process while the
        # interpreter is taken down, although all its work is done and saved
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def resolve_path(path: str | Path, paper: str) -> Path:
    """Resolve a published path: against the working directory, then the paper's directory, then the repository root.

    Returns:
        The first that exists, be it a link to nowhere; where none does, the one in the working directory.
    """
    path = os.path.expanduser(path)
    candidates = [Path.cwd() / path, REPOSITORY / paper / path, REPOSITORY / path]
    return next((c for c in candidates if os.path.lexists(c)), candidates[0])
