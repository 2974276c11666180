"""JSON schemas: what is written fits them, and what cannot be kept is refused by name."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from grammar_walks import COMPILER, PIECES, accepts, allowed, walk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.errors import RequestError
from server.grammar import lark_grammar, schema_grammar
from server.grammar.schema import schema_rule
from server.messages.sampling import Grammar, SchemaRule

FIELD = "response_format.json_schema.schema"

small = st.integers(-20, 20)
values = st.recursive(
    st.none() | st.booleans() | small | st.text('ab"\\\n é😀', max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2)
    ),
    max_leaves=3,
)


def sometimes(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def typed(name: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return sometimes(**fields).map(lambda rest: {"type": name, **rest})


PATTERNS = ["^a+$", "^[0-9]{3}-[a-z]*$", "b", "^(x|yz)?$", "^\\d\\.\\w$"]
strings = st.one_of(
    typed("string", minLength=st.integers(0, 2), maxLength=st.integers(2, 8)),
    typed(
        "string",
        pattern=st.sampled_from(["^a+$", "^[0-9]{3}-[a-z]*$", "b", "^(x|yz)?$", "^\\d\\.\\w$"]),
    ),
    typed("string", format=st.sampled_from(["date", "time", "date-time", "uuid", "ipv4", "email"])),
)
numbers = st.one_of(
    typed("integer", minimum=st.integers(-20, 0), maximum=st.integers(1, 20)),
    typed("integer", exclusiveMinimum=st.integers(-20, 0), multipleOf=st.integers(1, 7)),
    typed("number", minimum=st.integers(-20, 0), exclusiveMaximum=st.integers(1, 20)),
)
others = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["integer", "null"]}, {}]),
    st.lists(values, min_size=1, max_size=3).map(lambda v: {"enum": v}),
    values.map(lambda value: {"const": value}),
    st.sampled_from([{"$ref": "#/$defs/leaf"}, {"$ref": "#/$defs/tree"}]),
)
names = st.sampled_from(["a", "b", 'q"', "é"])
name_rules: list[Any] = [
    True,
    {},
    {"type": "string"},
    {"enum": ["a", "é"]},
    {"type": "string", "enum": ['q"']},
    {"pattern": "^[ab]$"},
]


def wider(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        typed(
            "object",
            properties=st.dictionaries(names, inner, max_size=3),
            required=st.lists(names, max_size=2, unique=True),
            additionalProperties=st.booleans() | inner,
            patternProperties=st.dictionaries(st.sampled_from(["^x", "y$"]), inner, max_size=1),
        ),
        typed(
            "object",
            propertyNames=st.sampled_from(name_rules),
            additionalProperties=st.booleans() | inner,
            required=st.lists(names, max_size=1),
            maxProperties=st.integers(1, 3),
        ),
        typed("array", items=inner, minItems=st.integers(0, 3), maxItems=st.integers(3, 5)),
        typed("array", prefixItems=several, items=inner, maxItems=st.integers(0, 4)),
        several.map(lambda s: {"anyOf": s}),
        several.map(lambda s: {"allOf": s[:2]}),
    )


unsupported: dict[str, Any] = {
    "not": {"type": "null"},
    "if": {},
    "contains": {},
    "uniqueItems": True,
    "dependentRequired": {"a": ["b"]},
    "propertyNames": {"maxLength": 3},
    "oneOf": [{"type": "integer"}, {"type": "number"}],
    "format": "zip",
    "type": "nope",
    "pattern": "(?=a)b",
    "$ref": "http://192.0.2.1/schema",
}


def spoiled(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    more = st.sampled_from(sorted(unsupported)).map(lambda key: {key: unsupported[key]})
    return st.one_of(*[inner] * 7, st.tuples(inner, more).map(lambda pair: {**pair[0], **pair[1]}))


schemas = spoiled(st.recursive(st.one_of(strings, numbers, others), wider, max_leaves=6))
TREE = {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}


def compiled(schema: Any) -> Grammar | None:
    grammar = schema_grammar(schema, FIELD)
    try:
        COMPILER.matcher(grammar)
    except RequestError as refusal:
        error = refusal
    else:
        return grammar
    assert error.param is not None
    assert error.param.startswith(FIELD)
    assert error.message.startswith(error.param)
    return None


written: list[str] = []


@settings(max_examples=500, suppress_health_check=list(HealthCheck))
@given(schemas, st.integers(0, 2**32))
def test_what_is_written_fits_the_schema_or_the_schema_is_refused(schema: Any, seed: int) -> None:
    schema = {**schema, "$defs": {"leaf": {"type": "integer"}, "tree": TREE}}
    grammar = compiled(schema)
    if grammar is None:
        return
    text = walk(grammar, seed)
    if text is None:
        return  # nothing made it stop; a model has max_tokens
    written.append(text)
    value = json.loads(text)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.validate(value, schema, jsonschema.Draft202012Validator, format_checker=checker)


def test_enough_of_them_were_written() -> None:
    assert not written or len(written) > 100  # none where this test runs alone


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"properties": {"a": {"not": {}}}}, ".properties.a.not"),
        ({"items": {"type": "array", "uniqueItems": True}}, ".items.uniqueItems"),
        ({"anyOf": [{"type": "null"}, {"type": "zip"}]}, ".anyOf[1].type"),
        ({"type": "nope"}, ".type"),
        ({"items": {"$ref": "http://192.0.2.1/schema"}}, ".items.$ref"),
        ({"items": {"$ref": "#/$defs/b"}}, ".items.$ref"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ".oneOf"),
        ({"x-guidance": {"lenient": True}, "not": {}}, ".not"),
        (False, ""),
        ({"enum": []}, ""),
        ({"type": "string", "minLength": 10, "maxLength": 3}, ".minLength"),
        ({"$ref": "#"}, ""),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, ""),
    ],
)
def test_what_is_unsupported_is_named_by_its_place(schema: Any, place: str) -> None:
    with pytest.raises(RequestError) as refused:
        COMPILER.matcher(schema_grammar(schema, FIELD))
    assert refused.value.param == FIELD + place
    assert refused.value.status == 400


def nested(depth: int, kind: str) -> Any:
    schema: Any = {"type": "integer"}
    for _ in range(depth):
        schema = {kind: [schema]} if kind == "anyOf" else {"type": "array", "items": schema}
    return schema


def chain(length: int, **fields: Any) -> Any:
    """References that lead on and on, which the compiler follows recursively."""
    links = {
        f"a{i}": {"properties": {"x": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}]}}}
        for i in range(length)
    }
    return {"$ref": "#/$defs/a0", "$defs": {**links, f"a{length}": {"type": "integer"}}, **fields}


HOSTILE = {
    "deep": nested(2000, "items"),
    "deep alternatives": nested(2000, "anyOf"),
    "as deep as may be": nested(45, "anyOf"),
    "chain": chain(20_000),
    "as long a chain as may be": chain(1100),
    "wide": {"properties": {f"p{i}": {} for i in range(6000)}},
    "long": {"enum": ["x" * 200_000]},
    "a thousand optional properties": {"properties": {f"p{i}": {} for i in range(1000)}},
    "products": {
        "allOf": [
            {"anyOf": [{"properties": {f"{k}{i}": {"type": "null"}}} for k in "pq"]}
            for i in range(24)
        ]
    },
    "expression": {"type": "string", "pattern": "^" + "(a|b|ab)*" * 30 + "$"},
    "repeated expression": {"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"},
    "deep expression": {"type": "string", "pattern": "(" * 5000 + "a" + ")" * 5000},
    "long expression": {"type": "string", "pattern": "^" + "[a-z]x?" * 15_000 + "$"},
    "length": {"type": "string", "minLength": 2**31, "maxLength": 2**40},
    "items": {"type": "array", "minItems": 2**31, "items": {"type": "array", "minItems": 2**31}},
    "factors": {"allOf": [{"type": "integer", "multipleOf": p} for p in (997, 991, 983, 977)]},
    "a factor": {"type": "integer", "multipleOf": 2**31 - 1},
    "a number": {"type": "integer", "minimum": 10**400},
    "a cycle": {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {}]}}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_end_in_a_refusal_at_worst(name: str) -> None:
    try:
        walk(schema_grammar(HOSTILE[name], FIELD), seed=1, steps=100)
    except (RequestError, IndexError):
        return  # IndexError: no token was left to walk on


def test_a_schema_must_be_one() -> None:
    for wrong in (None, 5, "object", [{}]):
        with pytest.raises(RequestError):
            schema_grammar(wrong, FIELD)
    assert accepts(schema_grammar(True, FIELD), '[1, {"a": null}]')


def test_answers_are_read_well_and_have_little_white_space() -> None:
    grammar = schema_grammar({"type": "object", "properties": {"a": {"type": "integer"}}}, FIELD)
    assert accepts(grammar, '{"a": 1}')
    assert accepts(grammar, '{"a":1}')
    assert accepts(grammar, '{\n  "a": 1\n}')
    assert not accepts(grammar, '{  "a": 1}')
    spaced = {
        "type": "object",
        "x-guidance": {"whitespace_flexible": True, "whitespace_pattern": " *"},
    }
    assert not accepts(schema_grammar(spaced, FIELD), "{    }")


def test_a_grammar_of_ours_embeds_schemas_and_waits_for_its_trigger() -> None:
    schema = {"type": "integer"}
    rule = schema_rule("call", schema, "tools[0]")
    text = 'start: "<call>" call "</call>"'
    grammar = lark_grammar(text, "tools", schemas=[rule], triggers=("<call>",))
    matcher = COMPILER.matcher(grammar)
    logits = np.zeros(len(PIECES), np.float32)
    for token in b"Well, <cal":
        matcher.restrict(logits)
        assert not np.isinf(logits).any()
        matcher.accept(token, bytes([token]))
    matcher.accept(ord("l"), b"l")
    assert ord(">") in allowed(matcher)
    matcher.accept(ord(">"), b">")
    assert {PIECES[token][:1] for token in allowed(matcher)} <= set(map(bytes, zip(b"-0123456789")))
    for token in b"12</call>":
        assert not matcher.ended
        assert token in allowed(matcher)
        matcher.accept(token, bytes([token]))
    assert matcher.ended
    with pytest.raises(RequestError):
        lark_grammar("start: a", "tools", schemas=[SchemaRule("a", "x" * 200_000, "tools")])
