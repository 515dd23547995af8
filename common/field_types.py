"""Whether what came from a file has the types that a dataclass declares."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any


def require_field_types(instance: Any) -> None:
    """Check the fields of a dataclass by their annotations: plain types, unions, `Any`, lists, tuples of one type,
    dictionaries, typed dictionaries (of which more keys may be there than are declared) and dataclasses.

    Numbers are finite, and a truth value is no number.

    Raises:
        TypeError: names the first field that is of another type.
    """
    for name, annotation in _annotations(type(instance)).items():
        if not _fits(value := getattr(instance, name), annotation):
            raise TypeError(f"its {name} is {value!r:.60}")


@functools.cache
def _annotations(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _fits(value: Any, annotation: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin in (list, tuple):
        return isinstance(value, origin) and all(_fits(item, arguments[0]) for item in value)
    if origin is dict:
        key, content = arguments
        return isinstance(value, dict) and all(_fits(k, key) and _fits(v, content) for k, v in value.items())
    if typing.is_typeddict(annotation):
        declared = _annotations(annotation).items()
        return (
            isinstance(value, Mapping)
            and annotation.__required_keys__ <= value.keys()
            and all(_fits(value[key], inner) for key, inner in declared if key in value)
        )
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if not isinstance(value, annotation):
        return False
    if dataclasses.is_dataclass(annotation):
        require_field_types(value)
    return True
