"""A small typed configuration tree: `node.A.B` reads, `node.A = Node()` declares, `merge_*` overrides values."""

from __future__ import annotations

import contextlib
import copy
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError


class Node:
    """Keys with values or further nodes. A value that is merged in takes the type of the declared default."""

    def __init__(self) -> None:
        object.__setattr__(self, "_entries", {})
        object.__setattr__(self, "_frozen", False)

    def __getattr__(self, key: str) -> Any:
        entries = self.__dict__.get("_entries", {})
        if key.startswith("__") or key not in entries:  # copying and pickling ask for dunder names
            raise AttributeError(f"no configuration key '{key}' here: {', '.join(entries) or 'none are declared'}")
        return entries[key]

    def __setattr__(self, key: str, value: Any) -> None:
        if self._frozen:
            raise AttributeError(f"the configuration is frozen; '{key}' cannot be set")
        self._entries[key] = value

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def items(self) -> Iterator[tuple[str, Any]]:
        """Pairs of dotted key and value, depth first."""
        for key, value in self._entries.items():
            if isinstance(value, Node):
                yield from ((f"{key}.{rest}", leaf) for rest, leaf in value.items())
            else:
                yield key, value

    def as_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries."""
        return {k: v.as_dict() if isinstance(v, Node) else v for k, v in self._entries.items()}

    def clone(self) -> Node:
        """An independent copy that can be changed."""
        twin = type(self)()
        for key, value in self._entries.items():
            twin._entries[key] = value.clone() if isinstance(value, Node) else copy.deepcopy(value)
        return twin

    def freeze(self) -> None:
        """Forbid changes, here and below."""
        object.__setattr__(self, "_frozen", True)
        for value in self._entries.values():
            if isinstance(value, Node):
                value.freeze()

    def merge_from_file(self, path: str | Path) -> None:
        """Override values by those of a YAML file.

        Raises:
            UserError: unreadable, not YAML, unknown keys, values of a wrong type.
        """
        try:
            content = yaml.safe_load(Path(path).read_text())
        except OSError as error:
            raise UserError(f"cannot read {path} ({error.strerror})") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not valid YAML: {error}") from error
        if content is not None and not isinstance(content, dict):
            raise UserError(f"{path} holds a {type(content).__name__}, not keys with values")
        self._merge(content or {}, [], f"{path}: ")

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

    def _merge(self, content: dict, above: list[str], where: str, root: Node | None = None) -> None:
        root = root or self
        for key, value in content.items():
            name = ".".join([*above, str(key)])
            if key not in self._entries:
                while isinstance(value, dict) and value:  # name the whole key, not only its unknown group
                    name, value = f"{name}.{next(iter(value))}", next(iter(value.values()))
                raise UserError(f"{where}unknown key '{name}'{_suggestion(name, root)}")
            default = self._entries[key]
            if not isinstance(default, Node):
                setattr(self, key, coerce(value, default, f"{where}{name}"))
            elif isinstance(value, dict):
                default._merge(value, [*above, str(key)], where, root)
            else:
                below = ", ".join(f"{name}.{k}" for k in default._entries)
                raise UserError(f"{where}'{name}' is a group of keys ({below}), not a value")


def _suggestion(name: str, root: Node) -> str:
    group = name.rpartition(".")[0]

    def likeness(key: str) -> float:
        in_group = bool(group) and key.startswith(f"{group}.")
        return difflib.SequenceMatcher(None, name, key).ratio() + 0.5 * in_group

    nearest = max((key for key, _ in root.items()), key=likeness)
    return f": did you mean '{nearest}'?" if likeness(nearest) > 0.5 else ""


def coerce(value: Any, default: Any, name: str) -> Any:
    """`value` in the type of `default`; text is read as YAML, and then `1e-4` is a number.

    Raises:
        UserError: it cannot be read as that type.
    """
    kind = type(default)
    if isinstance(value, str) and kind is not str:
        with contextlib.suppress(yaml.YAMLError):  # stays text, which is then of a wrong type
            value = yaml.safe_load(value)
    if kind is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    if kind in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)  # YAML 1.1 reads `1e-4` as text
        except (TypeError, ValueError):
            pass
        else:
            if kind is float or number.is_integer():
                return kind(number)
    if kind is list:
        if isinstance(value, str) and "," in value:  # 150,180,210
            value = [word.strip() for word in value.split(",")]
        if isinstance(value, list | tuple):
            return [coerce(entry, default[0], name) for entry in value] if default else list(value)
    if type(value) is kind:
        return value
    raise UserError(f"'{name}' is {value!r}, not of type {kind.__name__} (its default is {default!r})")
