"""YAML as configurations have it, read within bounds: what is hostile or mistaken is refused in one line, at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError

# Published configurations have some hundred lines, a depth of three or four, and hardly ever an anchor.
MAX_LENGTH, MAX_DEPTH, MAX_VALUES, MAX_SCALAR = 1 << 15, 32, 1 << 12, 1000

TAG = "tag:yaml.org,2002:"
MERGE = f"{TAG}merge"

# What is a number here. YAML 1.1 also has dates, times (12:30 is 750) and leading zeros (010 is 8): they are text.
_NUMBERS = {
    f"{TAG}int": re.compile(r"[-+]?(0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"),
    f"{TAG}float": re.compile(
        r"([-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+][0-9]+)?|[-+]?\.inf|\.nan)$", re.I
    ),
}


def _resolvers() -> dict[str, list[tuple[str, Any]]]:
    """By its first character, what a word without quotes may be."""
    return {
        first: [(tag, _NUMBERS.get(tag, pattern)) for tag, pattern in known if tag != f"{TAG}timestamp"]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _BoundedLoader(yaml.SafeLoader):
    """Plain values only, no deeper and no larger (with anchors written out) than a configuration can be."""

    yaml_implicit_resolvers = _resolvers()

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.count = 0
        self.sizes: dict[int, int] = {}  # of finished nodes with all below them, by id

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            node = super().compose_node(parent, index)
            if id(node) not in self.sizes:
                raise ValueError(f"line {mark.line + 1}: an anchor refers to itself")
            return node
        self.depth += 1
        self.count += 1
        mark = self.peek_event().start_mark
        if self.depth > MAX_DEPTH:
            raise ValueError(f"line {mark.line + 1}: nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        self.sizes[id(node)] = size = 1 + sum(self.sizes[id(part)] for part in _parts(node))
        if max(size, self.count) > MAX_VALUES:
            raise ValueError(f"line {mark.line + 1}: more than {MAX_VALUES} values, anchors written out")
        if isinstance(node, yaml.ScalarNode) and len(node.value) > MAX_SCALAR:
            raise ValueError(f"line {mark.line + 1}: a value of {len(node.value)} characters")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"line {line}: a key that is no word")
            # as values: 16 and 0x10 are one key
            name = ("<<",) if key.tag == MERGE else self.construct_object(key)
            if name in lines:
                raise ValueError(f"the key '{key.value[:80]}' stands twice, in lines {lines[name]} and {line}")
            lines[name] = line
        return super().construct_mapping(node, deep=deep)


def _parts(node: yaml.Node | None) -> list[yaml.Node]:
    """What a node holds."""
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def read_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: not YAML, a key that stands twice, or more than a configuration can be; one line.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"{len(text)} characters are more than a configuration has ({MAX_LENGTH})")
    try:
        loader = _BoundedLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:300]) from error
    except (KeyError, OverflowError, RecursionError, TypeError) as error:
        raise ValueError(f"a value that cannot be read ({error})") from error


def read_yaml_file(path: str | Path) -> Any:
    """The value of a YAML file.

    Raises:
        UserError: unreadable, not YAML, a key that stands twice, or more than a configuration can be.
    """
    try:
        with open(path, "rb") as file:
            return read_yaml(file.read(4 * MAX_LENGTH + 1).decode())
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
