"""HTML and SVG elements that are well formed and escaped because there is no other way to write one."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_VOID = {"link", "meta"}


class Html(str):
    """Text that is markup already and is not escaped again."""


def tag(name: str, /, *children: str | None, **attributes: str | bool | None) -> Html:
    """An element.

    Args:
        name: of the element.
        children: elements, or texts, which are escaped; None is left out.
        attributes: a trailing underscore is dropped (`class_`), others become hyphens; True stands for an attribute
            without a value, False and None for none.
    """
    opening = name
    for key, value in attributes.items():
        if value is not None and value is not False:
            key = key.rstrip("_").replace("_", "-")
            opening += f" {key}" if value is True else f' {key}="{escape(str(value))}"'
    if name in _VOID:
        return Html(f"<{opening}>")
    return Html(f"<{opening}>{join(*children)}</{name}>")


def join(*children: str | None) -> Html:
    """Elements and texts one after the other."""
    return Html("".join(c if isinstance(c, Html) else escape(c) for c in children if c is not None))


def table_header(left: Sequence[str], right: Sequence[str]) -> Html:
    """Names of columns: those of words, then those of numbers."""
    cells = [*(tag("th", name) for name in left), *(tag("th", name, class_="number") for name in right)]
    return tag("thead", tag("tr", *cells))
