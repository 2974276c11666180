"""JSON schemas that the compiler cannot take as they are: what is at fault, and the rest of them.

One tool's pattern must not take all others away. So of a schema that is not strict, the keyword at
fault is dropped, for that property alone; a strict one is refused with its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from server.errors import RequestError
from server.messages.sampling import SchemaRule

# Says why a schema cannot be compiled, "" where it can.
Reason = Callable[[Any], str]

_MOST_DROPPED = 64
_MOST_TRIES = 500
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_ONES = (
    "items", "additionalProperties", "additionalItems", "contains", "not", "if", "then", "else",
    "propertyNames", "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip
# What the compiler says, and the keyword and the value that it speaks of.
_UNKNOWN_KEYS = re.compile(r"Unimplemented keys: (\[.*?\])")
_VALUES = (
    (re.compile(r"Unknown format: (.+)"), "format"),
    (re.compile(r"Invalid type: (.+)"), "type"),
    (re.compile(r"(?:Resource|Pointer) '(?:json-schema:///)?#?(.+?)'"), "$ref"),
)
_REGEX = re.compile(r"\bregex\b")
_MULTIPLE = re.compile(r"\bmultiple of\b")
_IMPOSSIBLE = re.compile(r"required property '(.*)' is unsatisfiable")


@dataclass(slots=True, frozen=True)
class _Place:
    """A keyword's place, or a property's: ``node[key]`` in the schema, ``path`` in words."""

    path: str
    node: dict[str, Any]
    key: str
    is_property: bool = False


def settled(rule: SchemaRule, reason_of: Reason) -> tuple[SchemaRule, tuple[str, ...]]:
    """``rule`` with a schema that compiles, and the places of what had to be dropped for that.

    Raises:
        RequestError: it does not compile and is strict, or nothing that can be dropped helps.
    """
    schema = json.loads(rule.text)
    reason_of, reason = _sparing(reason_of), reason_of(schema)
    dropped: list[str] = []
    while reason:
        place = _culprit(schema, reason, reason_of)
        # To JSON schema a format is an annotation, unless it is one that we can enforce.
        strict = rule.strict and (place is None or place.key != "format")
        lost = place is None or len(dropped) >= _MOST_DROPPED
        if strict or (lost and not rule.droppable):
            raise refusal(rule.param + (place.path if place else ""), reason)
        if place is None or lost:
            return replace(rule, text='{"type": "object"}'), (rule.param,)
        _drop(place)
        dropped.append(rule.param + place.path)
        reason = reason_of(schema)
    return replace(rule, text=json.dumps(schema, ensure_ascii=False)), tuple(dropped)


def refusal(param: str, reason: str) -> RequestError:
    """The error for what the compiler says of the field ``param``."""
    lines = reason.strip().splitlines() or ["it cannot be compiled"]
    # An expression's error shows the expression first.
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    first = (errors[-1] if errors else lines[0])[:300]
    if first.startswith("NoExtension"):
        first = "no text fits it"
    elif "coerce_one_of" in first:
        first = "the alternatives of oneOf overlap; write anyOf"
    param = param[:200]
    return RequestError(
        f"{param}: the grammar is not supported: {first}", param=param, code="invalid_grammar"
    )


def _sparing(reason_of: Reason) -> Reason:
    """``reason_of``, which after many questions answers that all is well."""
    left = iter(range(_MOST_TRIES))
    return lambda schema: reason_of(schema) if next(left, None) is not None else ""


def _culprit(schema: Any, reason: str, reason_of: Reason) -> _Place | None:
    meant = [place for place in _keywords(schema) if _is_meant(place, reason)]
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    for place in meant:
        if len(meant) == 1 or reason_of({place.key: place.node[place.key], **shared}):
            return place
    return meant[0] if meant else _impossible(schema, reason, shared, reason_of)


def _impossible(
    schema: Any, reason: str, shared: dict[str, Any], reason_of: Reason
) -> _Place | None:
    """The property that no value fits, where the reason is one."""
    found = _IMPOSSIBLE.search(reason)
    if found is None:
        return None
    for place in _keywords(schema):
        named = place.node[place.key]
        if place.key != "properties" or not isinstance(named, dict) or found[1] not in named:
            continue
        one = {"type": "object", "properties": {found[1]: named[found[1]]}, "required": [found[1]]}
        if reason_of({**one, **shared}):
            return _Place(f"{place.path}.{found[1]}", named, found[1], is_property=True)
    return None


def _is_meant(place: _Place, reason: str) -> bool:
    key, value = place.key, place.node[place.key]
    if keys := _UNKNOWN_KEYS.search(reason):
        return key in json.loads(keys[1])
    for pattern, word in _VALUES:
        if found := pattern.search(reason):
            return key == word and found[1].strip() in str(value)
    if _IMPOSSIBLE.search(reason):
        return False
    if _REGEX.search(reason.splitlines()[0]) and key in ("pattern", "patternProperties"):
        return True
    if _MULTIPLE.search(reason) and key == "multipleOf":
        return True
    return re.search(rf"(?<![\w$]){re.escape(key)}(?!\w)", reason.splitlines()[0]) is not None


def _keywords(root: Any) -> Iterator[_Place]:
    """All keywords of a schema and of those within it, the outer ones first."""
    todo: list[tuple[str, Any]] = [("", root)]
    while todo:
        path, node = todo.pop(0)
        if isinstance(node, dict):
            for key in list(node):
                yield _Place(f"{path}.{key}", node, key)
                todo += _within(f"{path}.{key}", key, node.get(key))


def _within(path: str, key: str, value: Any) -> Iterable[tuple[str, Any]]:
    if key in _MAPS and isinstance(value, dict):
        return [(f"{path}.{name}", each) for name, each in value.items()]
    if (key in _LISTS or key == "items") and isinstance(value, list):
        return [(f"{path}[{number}]", each) for number, each in enumerate(value)]
    return [(path, value)] if key in _ONES else ()


def _drop(place: _Place) -> None:
    """Without the keyword; what of it can be kept is kept."""
    node, key = place.node, place.key
    value = node[key]
    if place.is_property:
        # In its place: the answer's properties come in the schema's order.
        kind = value.get("type") if isinstance(value, dict) else None
        node[key] = {"type": kind} if isinstance(kind, str) else {}
        return
    del node[key]
    if key == "oneOf" and "anyOf" not in node and isinstance(value, list):
        node["anyOf"] = value
    elif key == "patternProperties" and node.get("additionalProperties") is False:
        del node["additionalProperties"]
