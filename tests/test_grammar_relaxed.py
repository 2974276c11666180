"""What cannot be enforced: dropped for that property alone, or refused for a strict client."""

from __future__ import annotations

import json
import logging
from typing import Any

import jsonschema
import pytest
from fakes import FakeEngine, chat, post_chat
from grammar_walks import COMPILER, accepts, walk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_grammar_schema import TREE, schemas

from server.api.http import record
from server.errors import RequestError
from server.grammar import schema_grammar
from server.messages import Admitted
from server.messages.sampling import Grammar
from server.tools import Tool
from server.tools.grammar import with_tools
from server.tools.style import HERMES
from server.tools.tool import make_toolbox

FIELD = "response_format.json_schema.schema"
PARAM = "tools[1].function.parameters"
EMAIL = (
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+"
    r"[A-Za-z]{2,}$"
)
A = {"type": "boolean"}


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


# A schema, what of it has to go, a text that still fits, and one that still does not.
CASES: dict[str, tuple[Any, list[str], str, str]] = {
    "zod's email": (
        of(to={"type": "string", "pattern": EMAIL}),
        [".properties.to.pattern"],
        '{"to": "x"}',
        '{"to": 1}',
    ),
    "a word boundary": (
        of(a={"type": "string", "pattern": r"\bword\b"}, b={"type": "string", "pattern": "^x$"}),
        [".properties.a.pattern"],
        '{"a": "y", "b": "x"}',
        '{"a": "y", "b": "y"}',
    ),
    "a back-reference": (
        of(a={"type": "string", "pattern": r"^(a|b)\1$", "maxLength": 2}),
        [".properties.a.pattern"],
        '{"a": "ab"}',
        '{"a": "abc"}',
    ),
    "JavaScript's any": (
        of(a={"pattern": "[^]"}),
        [".properties.a.pattern"],
        '{"a": "x"}',
        '{"b": "x"}',
    ),
    "two patterns of one kind": (
        of(a={"pattern": "(?=x)"}, b={"pattern": "(?=x)"}, c={"type": "string", "pattern": "^z$"}),
        [".properties.a.pattern", ".properties.b.pattern"],
        '{"a": "x", "b": "y", "c": "z"}',
        '{"a": "x", "b": "y", "c": "x"}',
    ),
    "an empty enum": (
        of(a={"type": "string", "enum": []}, b=A),
        [".properties.a"],
        '{"a": "x", "b": true}',
        '{"a": 1, "b": true}',
    ),
    "no type of JSON's": (of(a={"type": "file"}), [".properties.a.type"], '{"a": 1}', '{"b": 1}'),
    "capitals": (
        {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}, "required": ["a"]},
        [],
        '{"a": "x"}',
        '{"a": 1}',
    ),
    "a format": (
        of(a={"type": "string", "format": "entity_id"}),
        [".properties.a.format"],
        '{"a": "x"}',
        '{"a": 1}',
    ),
    "a set": (
        of(a={"type": "array", "items": A, "uniqueItems": True}),
        [".properties.a.uniqueItems"],
        '{"a": [true, true]}',
        '{"a": [1]}',
    ),
    "a record of short names": (
        {"type": "object", "propertyNames": {"maxLength": 3}, "additionalProperties": A},
        [".propertyNames"],
        '{"x": true}',
        '{"x": 1}',
    ),
    "alternatives that overlap": (
        of(a={"oneOf": [{"type": "integer"}, {"type": "number"}]}),
        [".properties.a.oneOf"],
        '{"a": 1.5}',
        '{"a": "x"}',
    ),
    "not": (of(a={"type": "boolean", "not": {"const": True}}), [".properties.a.not"],
            '{"a": true}', '{"a": 1}'),
    "if": (
        {**of(a=A), "if": {"required": ["a"]}, "then": {}},
        [".if", ".then"],
        '{"a": true}',
        '{"a": 1}',
    ),
    "nothing that fits": (
        of(a={"type": "string", "minLength": 5, "maxLength": 2}, b=A),
        [".properties.a"],
        '{"a": "", "b": true}',
        '{"a": 1, "b": true}',
    ),
    "a reference to elsewhere": (
        of(a={"$ref": "https://192.0.2.1/x"}, b=A),
        [".properties.a.$ref"],
        '{"a": 1, "b": true}',
        '{"a": 1, "b": 1}',
    ),
    "pydantic's Decimal": (
        of(a={"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^(?!^[-+.]*$)\d*$"}]}),
        [".properties.a.anyOf[1].pattern"],
        '{"a": "x"}',
        '{"a": true}',
    ),
    "properties that are called like keywords": (
        of(pattern=A, format=A, oneOf=A, x={"format": "zip"}),
        [".properties.x.format"],
        '{"pattern": true, "format": true, "oneOf": true, "x": 1}',
        '{"pattern": 1, "format": true, "oneOf": true, "x": 1}',
    ),
    "values that are no schema's": (
        of(a={"type": "string", "maxLength": "5"}),
        [".properties.a.maxLength"],
        '{"a": "x"}',
        '{"a": 1}',
    ),
}  # fmt: skip


def call_of(schema: Any, *, strict: bool = False) -> Grammar:
    """The grammar of answers that call a good function or one with ``schema``."""
    good = Tool("good", None, of(), "tools[0].function.parameters")
    tools = [good, Tool("other", None, schema, PARAM, strict)]
    grammar = with_tools(None, make_toolbox(tools, "required", parallel=False), HERMES)
    assert grammar is not None
    return grammar


def relaxed(grammar: Grammar, param: str) -> list[str]:
    places = COMPILER.matcher(grammar).relaxed
    assert all(place.startswith(param) for place in places)
    return [place.removeprefix(param) for place in places]


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_enforced_is_dropped_for_that_property_alone(name: str) -> None:
    schema, places, good, bad = CASES[name]
    grammar = schema_grammar(schema, FIELD, strict=False)
    assert relaxed(grammar, FIELD) == places
    assert accepts(grammar, good)
    assert not accepts(grammar, bad)


@pytest.mark.parametrize("name", CASES)
def test_one_bad_tool_leaves_the_others_alone(name: str) -> None:
    schema, places, good, bad = CASES[name]
    grammar = call_of(schema)
    assert relaxed(grammar, PARAM) == places
    assert accepts(grammar, HERMES.write([("good", "{}")]))
    assert accepts(grammar, HERMES.write([("other", good)]))
    assert not accepts(grammar, HERMES.write([("other", bad)]))


@pytest.mark.parametrize("param", [FIELD, PARAM])
def test_a_format_that_is_only_a_name_is_an_annotation_to_strict_clients_too(param: str) -> None:
    schema = CASES["a format"][0]
    grammar = schema_grammar(schema, FIELD) if param == FIELD else call_of(schema, strict=True)
    assert relaxed(grammar, param) == [".properties.a.format"]


REFUSED = [name for name, (_, places, *_) in CASES.items() if places and "format" not in places[0]]


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("as_tool", [False, True])
def test_a_strict_client_is_refused_with_the_place(name: str, as_tool: bool) -> None:
    schema, places, _, _ = CASES[name]
    grammar = call_of(schema, strict=True) if as_tool else schema_grammar(schema, FIELD)
    with pytest.raises(RequestError) as refused:
        COMPILER.matcher(grammar)
    param = (PARAM if as_tool else FIELD) + places[0]
    assert refused.value.param == param
    assert refused.value.message.startswith(f"{param}: ")
    assert "regex parse error" not in refused.value.message


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(schema=schemas, seed=st.integers(0, 2**32))
def test_no_schema_of_a_tool_refuses_a_request(schema: Any, seed: int) -> None:
    schema = {**schema, "$defs": {"leaf": {"type": "integer"}, "tree": TREE}, "type": "object"}
    grammar = call_of(schema)
    dropped = relaxed(grammar, PARAM)
    text = walk(grammar, seed)
    if text is None or dropped:
        return
    called = json.loads(text.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    if called["name"] == "other":
        jsonschema.validate(called["arguments"], schema, jsonschema.Draft202012Validator)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(schema=schemas)
def test_what_is_dropped_is_what_a_strict_client_is_refused_for(schema: Any) -> None:
    schema = {**schema, "$defs": {"leaf": {"type": "integer"}, "tree": TREE}}
    try:
        dropped = relaxed(schema_grammar(schema, FIELD, strict=False), FIELD)
    except RequestError:
        dropped = ["all"]
    try:
        COMPILER.matcher(schema_grammar(schema, FIELD))
        strict = None
    except RequestError as refused:
        strict = refused
    assert (strict is None) == all(place.endswith(".format") for place in dropped)


@pytest.mark.parametrize("kind", ["any", "file", None, "OBJECT", ["object", "null"]])
def test_a_function_takes_an_object_whatever_its_schema_s_type_says(kind: Any) -> None:
    assert accepts(call_of({"type": kind}), HERMES.write([("other", "{}")]))


def test_a_schema_that_nothing_helps_is_any_object_for_a_tool_and_refused_for_a_text() -> None:
    schema = {"$ref": "#"}
    assert relaxed(call_of(schema), PARAM) == [""]
    assert accepts(call_of(schema), HERMES.write([("other", '{"x": 1}')]))
    with pytest.raises(RequestError, match="no text fits"):
        COMPILER.matcher(schema_grammar(schema, FIELD, strict=False))


class Relaxing(FakeEngine):
    async def _outputs(self, parts: Any, request_id: str) -> Any:
        async for output in super()._outputs(parts, request_id):
            if isinstance(output, Admitted):
                yield Admitted(request_id, 10, 0, ("tools[0].a.pattern", "tools[1].ü,.format"))
            else:
                yield output


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_dropped_stands_in_a_header_and_once_in_the_log(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    record._log_relaxed.cache_clear()
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            response = post_chat(Relaxing(), chat(stream=stream))
        header = response.headers["x-llava-relaxed"]
        assert header == "tools[0].a.pattern, tools[1].%C3%BC%2C.format"
    assert caplog.text.count("tools[0].a.pattern") == 1
    assert "x-llava-relaxed" not in post_chat(FakeEngine(), chat()).headers
