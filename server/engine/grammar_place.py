"""Where in a schema that stands which its compiler complains of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

# What the compiler says, and the keyword and the value that it speaks of.
_KEYS = re.compile(r"Unimplemented keys: (\[.*?\])")
_VALUES = (
    (re.compile(r"Unknown format: (.+)"), "format"),
    (re.compile(r"Invalid type: (.+)"), "type"),
    (re.compile(r"(?:Resource|Pointer) '(?:json-schema:///)?#?(.+?)'"), "$ref"),
)
_WORDS = ("oneOf", "minProperties", "maxProperties", "patternProperties", "pattern", "multipleOf")


def place(schema: str, reason: str) -> str:
    """A path like ``.properties.a.not``, or nothing where it cannot be told."""
    is_meant = _condition(reason)
    if is_meant is None:
        return ""
    found = (path for path, key, value in _entries(json.loads(schema)) if is_meant(key, value))
    return next(found, "")


def _condition(reason: str) -> Callable[[str, Any], bool] | None:
    if keys := _KEYS.search(reason):
        unknown = set(json.loads(keys[1]))
        return lambda key, _: key in unknown
    for pattern, word in _VALUES:
        if found := pattern.search(reason):
            text = found[1].strip()
            return lambda key, value: key == word and text in str(value)
    named = [word for word in _WORDS if re.search(rf"\b{word}\b", reason)]
    return (lambda key, _: key in named) if named else None


def _entries(root: Any) -> Iterator[tuple[str, str, Any]]:
    todo: list[tuple[str, Any]] = [("", root)]
    while todo:
        path, node = todo.pop(0)
        if isinstance(node, list):
            todo += [(f"{path}[{number}]", child) for number, child in enumerate(node)]
        elif isinstance(node, dict):
            for key, value in node.items():
                yield f"{path}.{key}", key, value
                todo.append((f"{path}.{key}", value))
