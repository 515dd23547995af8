"""What all entry points share: one-line errors, and how paths are found."""

from __future__ import annotations

import argparse
import difflib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from common.errors import TrainingError, UserError, is_out_of_memory, memory_shortage

REPOSITORY = Path(__file__).resolve().parent.parent


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

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            misspelt = unknown[0].partition("=")[0]
            close = difflib.get_close_matches(misspelt, self._option_string_actions, n=1) if misspelt[0] == "-" else []
            hint = f": did you mean '{close[0]}'?" if close else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return found

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def positive(text: str) -> int:
    """Type of a flag: an integer from 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return int(text)


def natural(text: str) -> int:
    """Type of a flag: an integer from 0 that fits into 64 bits."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 2^63")
    return int(text)


def is_inside(path: str) -> bool:
    """Whether a path that somebody chose as a name stays below the directory that it is appended to."""
    parts = Path(path).parts
    return path.isprintable() and not Path(path).is_absolute() and ".." not in parts


def plain_name(text: str) -> str:
    """Type of a flag: one part of a path, which names what a script writes."""
    if text in ("", ".", "..") or "/" in text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not a plain name: it names files, and a / or .. would move them")
    return text


def inner_name(text: str) -> str:
    """Type of a flag: a name, or several with / between them, of what lies in a directory given elsewhere."""
    if text in ("", ".") or not is_inside(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a plain name: it names a file in a directory given elsewhere"
        )
    return text


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


def entry_point(main: Callable[[], None]) -> Callable[[], None]:
    """Turn exceptions into exit codes: 2 and one line for bad input, 1 for training that failed, 130 when stopped."""

    @functools.wraps(main)
    def run() -> None:
        signal.signal(signal.SIGTERM, _stop)
        try:
            main()
            if "RANK" in os.environ:
                _exit(0)
        except UserError as error:
            _leave(f"error: {error}", 2)
        except TrainingError as error:
            _leave(f"error: {error}", 1)
        except KeyboardInterrupt as advice:  # how to go on, from whoever knows
            _leave("; ".join(["stopped", *map(str, advice.args)]), 130)
        except BrokenPipeError:
            os._exit(141)  # the reader of our output has gone; nothing can be said any more
        except Exception as error:
            if is_out_of_memory(error):  # outside of training, which says itself what to lower
                advice = "take a smaller batch size or image size, fewer workers or processes, or more memory"
                _leave(f"error: {memory_shortage(error)}; {advice}", 1)
            if isinstance(error, OSError):  # such as a full disk
                _leave(f"error: {error}", 1)
            raise

    return run


def _stop(signal_number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _leave(message: str, code: int) -> NoReturn:
    if os.environ.get("RANK", "0") == "0":  # one process of a distributed run speaks for all
        print(" ".join(message.split()), file=sys.stderr, flush=True)
    _exit(code)


def _exit(code: int) -> NoReturn:
    if "RANK" in os.environ:
        # a thread without Python frames, very likely one of gloo's, now and then aborts such a process while the
        # interpreter is taken down, although all its work is done and saved
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def find_path(path: str | Path, paper: str) -> Path:
    """Resolve a published path: against the working directory, then the paper's directory, then the repository root.

    Returns:
        The first that exists; where none does, the one in the working directory.
    """
    candidates = [Path.cwd() / path, REPOSITORY / paper / path, REPOSITORY / path]
    return next((c for c in candidates if c.exists()), candidates[0])
