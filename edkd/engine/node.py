"""A small typed configuration tree: `node.A.B` reads, `node.A = Node()` declares, `merge_*` overrides values."""

from __future__ import annotations

import ast
import contextlib
import copy
import difflib
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError
from common.safe_yaml import MAX_SCALAR, read_yaml, read_yaml_file


class UndeclaredKeyError(AttributeError, KeyError):
    """Somebody reads a key that the configuration does not have, as an attribute or as an item."""

    __str__ = Exception.__str__  # a KeyError puts its message in quotes


class Node(dict):
    """Keys with values or further nodes; a value that is merged in takes the type of the declared default.

    Like those of mdistiller (yacs) it is a dictionary whose keys are attributes as well. What they accept is
    accepted: a list for a tuple and the other way round, text that reads as a Python value, anything for a default of
    None, and None for anything.

    Args:
        init_dict: keys declared at once, with values or further dictionaries.
        new_allowed: True lets files and command lines bring keys that nobody declared here.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Node:
        node = super().__new__(cls)
        for name, value in {"_frozen": False, "_new_allowed": False, "_free": set(), "_several": set()}.items():
            object.__setattr__(node, name, value)
        return node

    def __init__(self, init_dict: Mapping[str, Any] | None = None, new_allowed: bool = False) -> None:
        super().__init__()
        self.set_new_allowed(new_allowed)
        for key, value in (init_dict or {}).items():
            self[key] = Node(value) if isinstance(value, Mapping) and not isinstance(value, Node) else value

    def __missing__(self, key: str) -> Any:
        raise UndeclaredKeyError(f"no configuration key '{key}' here: {', '.join(self) or 'none are declared'}")

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):  # copying and pickling ask for dunder names
            raise AttributeError(key)
        return self[key]

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        if self._frozen:
            raise AttributeError(f"the configuration is frozen; '{key}' cannot be set")
        if key not in self and value is None:
            self._free.add(key)
        super().__setitem__(key, value)

    def one_or_several(self, *keys: str) -> None:
        """Let these keys hold a word or a list of words."""
        self._several.update(keys)

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Pairs of dotted key and value, depth first."""
        for key, value in self.items():
            if isinstance(value, Node):
                yield from ((f"{key}.{rest}", leaf) for rest, leaf in value.leaves())
            else:
                yield key, value

    def as_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries."""
        return {k: v.as_dict() if isinstance(v, Node) else v for k, v in self.items()}

    def dump(self) -> str:
        """As YAML."""
        return yaml.safe_dump(_without_tuples(self.as_dict()))

    def clone(self) -> Node:
        """An independent copy that can be changed."""
        twin = type(self)(new_allowed=self._new_allowed)
        twin._free.update(self._free)
        twin._several.update(self._several)
        for key, value in self.items():
            dict.__setitem__(twin, key, value.clone() if isinstance(value, Node) else copy.deepcopy(value))
        return twin

    @contextlib.contextmanager
    def standing_for(self, other: Node) -> Iterator[Node]:
        """Within it these keys have the values of `other` and cannot be changed; gives a copy with their own."""
        own, frozen = self.clone(), self._frozen
        self._become(other)
        self.freeze()
        try:
            yield own
        finally:
            self._become(own)
            self.freeze(frozen)

    def _become(self, other: Node) -> None:
        for key in self.keys() - other.keys():
            del self[key]
        for key, value in other.items():
            if isinstance(value, Node) and isinstance(self.get(key), Node):
                self[key]._become(value)  # who holds a group has the same one
            else:
                dict.__setitem__(self, key, copy.deepcopy(value))

    def __deepcopy__(self, memo: dict) -> Node:
        twin = self.clone()
        twin.freeze(self._frozen)
        return twin

    def freeze(self, frozen: bool = True) -> None:
        """Forbid changes, here and below."""
        object.__setattr__(self, "_frozen", frozen)
        for value in self.values():
            if isinstance(value, Node):
                value.freeze(frozen)

    def defrost(self) -> None:
        """Allow changes again, here and below."""
        self.freeze(False)

    def is_frozen(self) -> bool:
        return self._frozen

    def set_new_allowed(self, allowed: bool) -> None:
        """Whether files and command lines may bring keys that nobody declared here."""
        object.__setattr__(self, "_new_allowed", allowed)

    def is_new_allowed(self) -> bool:
        return self._new_allowed

    def merge_from_other_cfg(self, other: Mapping[str, Any]) -> None:
        """Override values by those of another configuration."""
        self.merge_from_mapping(other)

    def merge_from_file(self, path: str | Path) -> None:
        """Override values by those of a YAML file.

        Raises:
            UserError: unreadable, not YAML, unknown keys, values of a wrong type.
        """
        self.merge_from_mapping(read_file(path), f"{path}: ")

    def merge_from_mapping(self, content: Mapping[str, Any], where: str = "") -> None:
        """Override values by those of nested dictionaries.

        Args:
            content: keys with values or further dictionaries.
            where: begins the message of an error.

        Raises:
            UserError: unknown keys, values of a wrong type.
        """
        self._merge(content, [], where)

    def merge_from_list(self, words: Sequence[str]) -> None:
        """Override values by `KEY VALUE KEY VALUE ...` of a command line.

        Raises:
            UserError: an odd number of words, unknown keys, values of a wrong type.
        """
        if len(words) % 2:
            raise UserError(f"overrides are pairs of KEY VALUE, but '{words[-1]}' has no value")
        for key, text in zip(words[::2], words[1::2], strict=True):
            content: Any = text
            for part in reversed(key.split(".")):
                content = {part: content}
            self._merge(content, [], "")

    def _merge(self, content: Mapping, above: list[str], where: str, root: Node | None = None) -> None:
        root = self if root is None else root
        for key, value in content.items():
            name = ".".join([*above, str(key)])
            if key not in self and not self._new_allowed:
                while isinstance(value, dict) and value:  # name the whole key, not only its unknown group
                    name, value = f"{name}.{next(iter(value))}", next(iter(value.values()))
                raise UserError(f"{where}unknown key '{name}'{_suggestion(name, root)}")
            default = self.get(key)
            if not isinstance(default, Node):
                setattr(self, key, self._accepted(key, value, f"{where}{name}"))
            elif isinstance(value, Mapping):
                default._merge(value, [*above, str(key)], where, root)
            elif value is not None:  # a group's head with nothing below it
                below = ", ".join(f"{name}.{k}" for k in default)
                raise UserError(f"{where}'{name}' is a group of keys ({below}), not a value")

    def _accepted(self, key: str, value: Any, name: str) -> Any:
        """A value as `key` holds it."""
        if key in self._several:
            words = coerce(value, [""], name) if _is_list(value) else coerce(value, "", name)
            return words[0] if isinstance(words, list) and len(words) == 1 else words
        default = None if key in self._free else self.get(key)
        return Node(value) if default is None and isinstance(value, Mapping) else coerce(value, default, name)


def read_file(path: str | Path) -> dict[str, Any]:
    """The keys of a YAML file with their values.

    Raises:
        UserError: unreadable, not YAML, no keys, or more than a configuration can be.
    """
    content = read_yaml_file(path)
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not keys with values")
    return content or {}


def _suggestion(name: str, root: Node) -> str:
    group = name.rpartition(".")[0]

    def likeness(key: str) -> float:
        in_group = bool(group) and key.startswith(f"{group}.")
        return difflib.SequenceMatcher(None, name, key).ratio() + 0.5 * in_group

    nearest = max((key for key, _ in root.leaves()), key=likeness)
    if nearest == name:  # one word of a file
        return f": write it as {name.replace('.', ': {')}: ...{'}' * name.count('.')}"
    return f": did you mean '{nearest}'?" if likeness(nearest) > 0.5 else ""


def coerce(value: Any, default: Any, name: str) -> Any:
    """`value` in the type of `default`; text is read as a Python or YAML value, and then `1e-4` is a number.

    Raises:
        UserError: it cannot be read as that type.
    """
    kind = type(default)
    if isinstance(value, str) and (kind is not str or value == "None"):
        value = _read_text(value)
    if isinstance(value, int) and abs(value) >= LARGEST:
        raise _wrong_type(value, default, name)
    if value is None or (default is None and isinstance(value, PLAIN)):
        return _entry(value, [], name)
    if kind is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    if kind in (int, float) and (number := _number(value)) is not None and (kind is float or _is_whole(number)):
        return kind(number)
    if isinstance(default, list | tuple):
        if isinstance(value, str) and "," in value:  # 150,180,210
            value = [word.strip() for word in value.split(",")]
        if isinstance(value, list | tuple):
            return type(default)(_entry(entry, default, name) for entry in value)
    if type(value) is kind:
        return value
    raise _wrong_type(value, default, name)


def _without_tuples(value: Any) -> Any:
    """As YAML knows it, which has lists alone."""
    if isinstance(value, dict):
        return {key: _without_tuples(entry) for key, entry in value.items()}
    return [_without_tuples(entry) for entry in value] if isinstance(value, list | tuple) else value


EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+")  # 1e-4, which YAML 1.1 reads as text
PLAIN = (str, int, float, bool, list, tuple)
LARGEST = 2**63


def _entry(value: Any, default: list | tuple, name: str) -> Any:
    """An entry of a list or tuple: a word where the default has words, a number where it has numbers."""
    kinds = {type(entry) for entry in default}
    if isinstance(value, list | tuple):
        return type(value)(_entry(entry, [], name) for entry in value)
    if value is None or not kinds or not kinds <= {int, float, str}:
        return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value
    if kinds == {str}:
        return coerce(value, "", name)
    number = _number(_read_text(value) if isinstance(value, str) else value)
    if number is None:
        raise _wrong_type(value, default[0], name)
    if kinds == {float}:
        return float(number)
    return int(number) if kinds == {int} and _is_whole(number) else number


def _number(value: Any) -> int | float | None:
    """A number, also one that YAML 1.1 reads as text; None where there is none, or an integer beyond all use."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, float) or abs(value) < LARGEST else None


def _is_whole(number: int | float) -> bool:
    return abs(number) < LARGEST and number == int(number)


def _read_text(text: str) -> Any:
    """What text says as a Python value (`(32, 32)`, `1e-4`, `None`), else as YAML; the text itself where neither."""
    if not (text := text.strip()):
        return text
    with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = ast.literal_eval(text) if len(text) <= MAX_SCALAR else text
        if value is None or isinstance(value, PLAIN):
            return value
    with contextlib.suppress(ValueError):
        return read_yaml(text)
    return text


def _is_list(value: Any) -> bool:
    """Whether a value, or what its text says, is several."""
    return isinstance(value, list | tuple) or (isinstance(value, str) and ("," in value or value.startswith("[")))


def _wrong_type(value: Any, default: Any, name: str) -> UserError:
    where, colon, key = name.rpartition(": ")
    shown, kind = _SHORT.repr(value), type(default).__name__
    return UserError(f"{where}{colon}'{key}' is {shown}, not of type {kind} (its default is {_SHORT.repr(default)})")


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
