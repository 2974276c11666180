"""Objects are closed where that takes nothing away that a schema demands."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.grammar.schema import MAX_TEXT, closed, with_names

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


RECORD: dict[str, Any] = {"type": "object", "additionalProperties": A}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (True, RECORD),
        ({"type": "string"}, RECORD),
        (
            {"type": "string", "enum": ["x", "y"]},
            {**RECORD, "properties": {"x": A, "y": A}, "additionalProperties": False},
        ),
        (
            {"pattern": "^x"},
            {**RECORD, "patternProperties": {"^x": A}, "additionalProperties": False},
        ),
        ({"maxLength": 3}, None),
        ({"enum": ["x", 1]}, None),
        ({"type": "string", "format": "uuid"}, None),
    ],
)
def test_names_are_said_in_words_of_the_compiler(names: Any, expected: Any) -> None:
    record = {**RECORD, "propertyNames": names}
    assert with_names(record) == (expected or record)
    inside = {"type": "object", "properties": {"propertyNames": {"items": record}}}
    found = with_names(inside)["properties"]
    assert found == {"propertyNames": {"items": expected or record}}, "a property of that name"


def test_names_beside_properties_stay() -> None:
    schema = {**A, "propertyNames": {"enum": ["a", "b"]}}
    assert with_names(schema) == schema


def test_records_within_records_do_not_outgrow_memory() -> None:
    schema: Any = {"type": "string"}
    for _ in range(30):
        rule = {"enum": [f"{letter}{'x' * 100}" for letter in "abcdefgh"]}
        schema = {"type": "object", "propertyNames": rule, "additionalProperties": schema}
    assert len(json.dumps(with_names(schema))) < 10 * MAX_TEXT
