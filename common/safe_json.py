"""JSON from files that anybody may have written: what is hostile or mistaken is refused in one line, at once.

A key that stands twice in one object is refused, where Python would take the last; so are numbers that JSON has not.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from common.errors import UserError

MAX_BYTES, MAX_DEPTH = 1 << 26, 64  # far more than any record, plan or parameter file has

# strings, with the colon that makes one a key, and what opens and closes
_TOKENS = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?|[{}\[\]]')


def open_at_once(path: Path | str) -> BinaryIO:
    """A file to read; a pipe, which would be waited for, is an empty one."""
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def read_text(path: Path | str) -> str:
    """The text of a file, in UTF-8 with or without a byte order mark.

    Raises:
        OSError: it cannot be opened, or is no plain file; a pipe or a device is not waited for.
        ValueError: it is not UTF-8, or longer than any file that is read here.
    """
    with open_at_once(path) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(None, "not a plain file", str(path))
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES >> 20} MiB")
    return content.decode("utf-8-sig")


def read_json_file(path: Path | str) -> Any:
    """The value of a JSON file.

    Raises:
        UserError: absent, not JSON, or with a key that stands twice.
    """
    try:
        return read_json_text(read_text(path))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


@contextlib.contextmanager
def of_its_shape(path: Path | str, kind: str) -> Iterator[None]:
    """Within it, what a file's values make fail is said of the file: valid JSON, but something else than expected.

    Args:
        path: of the file.
        kind: what it was to be, such as "plan".

    Raises:
        UserError: something was not there, or of another type.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        why = f"it lacks the key {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path} is no {kind} ({' '.join(why.split())[:200]})") from error


def read_json_text(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: not JSON, nested too deeply, a number that is not finite or longer than 64 bits, or a key that
            stands twice, with the lines of both; one line.
    """
    repeated = False

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        content = dict(pairs)
        repeated = repeated or len(content) < len(pairs)
        return content

    try:
        content = json.loads(
            text.removeprefix("\ufeff"),
            object_pairs_hook=members,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_refuse_constant,
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _require_depth(content)
    if repeated:
        key, first, second = _repeated_key(text)
        raise ValueError(f"the key '{key[:80]}' stands twice, in lines {first} and {second}")
    return content


def _integer(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**64:
        raise ValueError(f"the number {text:.24}{'...' * (len(text) > 24)} does not fit into 64 bits")
    return value


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"the number {text:.24} is not finite")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number of JSON's")


def _require_depth(content: Any) -> None:
    """Raises:
    ValueError: containers within containers, more than `MAX_DEPTH`.
    """
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for container in level
            if isinstance(container, dict | list)
            for inner in (container.values() if isinstance(container, dict) else container)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _repeated_key(text: str) -> tuple[str, int, int]:
    """The first key of a valid JSON text that stands twice in one object, and the lines of both."""
    lines: list[dict[str, int]] = []  # of the keys of each container that is open
    for token in _TOKENS.finditer(text):
        string, colon = token.groups()
        if string is None:
            if token[0] in "{[":
                lines.append({})
            else:
                lines.pop()
        elif colon:
            key, line = json.loads(string), text.count("\n", 0, token.start()) + 1
            if key in lines[-1]:
                return key, lines[-1][key], line
            lines[-1][key] = line
    raise AssertionError("no key stands twice")
