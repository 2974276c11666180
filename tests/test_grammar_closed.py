"""Objects are closed where that takes nothing away that a schema demands."""

from __future__ import annotations

from typing import Any

import pytest

from server.grammar.schema import closed

A: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}
SHUT = {**A, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (A, SHUT),
        ({**A, "required": ["a"]}, {**SHUT, "required": ["a"]}),
        ({"type": "array", "items": A}, {"type": "array", "items": SHUT}),
        ({"anyOf": [A, {"type": "null"}]}, {"anyOf": [SHUT, {"type": "null"}]}),
        (
            {"properties": {"x": {"$ref": "#/$defs/A"}}, "$defs": {"A": A}},
            {
                "properties": {"x": {"$ref": "#/$defs/A"}},
                "$defs": {"A": SHUT},
                "additionalProperties": False,
            },
        ),
        ({"properties": {"properties": A}}, None),
    ],
)
def test_what_is_left_open_is_closed(schema: Any, expected: Any) -> None:
    before = repr(schema)
    shut = {"properties": {"properties": SHUT}, "additionalProperties": False}
    assert closed(schema) == (expected or shut)
    assert repr(schema) == before


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"type": "object"},
        {**A, "additionalProperties": True},
        {**A, "additionalProperties": {"type": "integer"}},
        {**A, "required": ["b"]},
        {**A, "required": "a"},
        {**A, "minProperties": 2},
        {**A, "patternProperties": {"^x": {}}},
        {"allOf": [A, {"properties": {"b": {}}}]},
        {"properties": {"x": {"allOf": [{"$ref": "#/$defs/A"}]}}, "$defs": {"A": A}},
        {"$ref": "#/$defs/A", "required": ["b"], "$defs": {"A": A}},
        {**A, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"enum": [{"properties": {}}]},
    ],
)
def test_what_may_not_be_closed_stays(schema: Any) -> None:
    assert closed(schema) == schema
