"""JSON that people write: a key that stands twice in one object is refused, where Python would take the last."""

from __future__ import annotations

import json
import re
from typing import Any

# strings, with the colon that makes one a key, and what opens and closes
_TOKENS = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?|[{}\[\]]')


def read_json_text(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: not JSON, nested too deeply, or a key that stands twice, with the lines of both; one line.
    """
    repeated = False

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        content = dict(pairs)
        repeated = repeated or len(content) < len(pairs)
        return content

    try:
        content = json.loads(text, object_pairs_hook=members)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if repeated:
        key, first, second = _repeated_key(text)
        raise ValueError(f"the key '{key[:80]}' stands twice, in lines {first} and {second}")
    return content


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
