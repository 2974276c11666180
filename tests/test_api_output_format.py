"""What is asked for beside plain text: a form that the answer must have, and log-probabilities."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import FakeEngine, chat, post_chat

from server.messages.sampling import Grammar, GrammarKind

OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}}
# What is left open is closed: a model held to the letter would invent properties.
CLOSED = {**OBJECT, "additionalProperties": False}


def grammar_of(**fields: Any) -> Grammar | None:
    engine = FakeEngine()
    assert post_chat(engine, chat(**fields)).status_code == 200
    return engine.sampling[0].grammar


def wrapped(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, **more}}


@pytest.mark.parametrize(
    ("fields", "schema", "param"),
    [
        ({"response_format": wrapped(OBJECT)}, CLOSED, "response_format.json_schema.schema"),
        (
            {"response_format": wrapped(OBJECT, strict=True, description="d")},
            CLOSED,
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": wrapped(None)},
            {"type": "object"},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_object"}}, {"type": "object"}, "response_format"),
        (
            {"response_format": {"type": "json_object", "schema": OBJECT}},
            CLOSED,
            "response_format.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "schema": OBJECT}},
            CLOSED,
            "response_format.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": OBJECT}}},
            CLOSED,
            "response_format.json_schema.schema",
        ),
        ({"json_schema": OBJECT}, CLOSED, "json_schema"),
        ({"json_schema": {}}, {"type": "object"}, "json_schema"),
        ({"json_schema": True}, {}, "json_schema"),
        ({"json_schema": OBJECT, "response_format": {"type": "text"}}, CLOSED, "json_schema"),
    ],
)
def test_schemas_reach_the_engine(fields: dict[str, Any], schema: Any, param: str) -> None:
    grammar = grammar_of(**fields)
    assert grammar is not None
    assert (grammar.kind, grammar.param) == (GrammarKind.JSON_SCHEMA, param)
    assert json.loads(grammar.schemas[0].text) == schema


def test_grammars_reach_the_engine() -> None:
    grammar = grammar_of(grammar='root ::= "a"')
    assert grammar is not None
    assert (grammar.kind, grammar.param) == (GrammarKind.LARK, "grammar")


@pytest.mark.parametrize(
    "fields", [{}, {"grammar": ""}, {"grammar": None}, {"response_format": {"type": "text"}}]
)
def test_nothing_asked_is_no_grammar(fields: dict[str, Any]) -> None:
    assert grammar_of(**fields) is None


def test_logprobs_of_a_whole_answer_have_openais_shape() -> None:
    engine = FakeEngine(texts=("Hé", "!"))
    answer = post_chat(engine, chat(logprobs=True, top_logprobs=1)).json()
    assert engine.sampling[0].logprobs == 1
    top = [{"token": "\ufffd", "logprob": -1.0, "bytes": [0xF0]}]
    assert answer["choices"][0]["logprobs"] == {
        "content": [
            {"token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169], "top_logprobs": top},
            {"token": "!", "logprob": -0.5, "bytes": [33], "top_logprobs": top},
        ],
        "refusal": None,
    }


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_as_many_are_asked_of_the_engine(fields: dict[str, Any], count: int | None) -> None:
    engine = FakeEngine()
    answer = post_chat(engine, chat(**fields)).json()
    assert engine.sampling[0].logprobs == count
    assert (answer["choices"][0]["logprobs"] is None) == (count is None)


def test_logprobs_come_with_the_text_of_a_stream() -> None:
    engine = FakeEngine(texts=("a", "b"))
    lines = post_chat(engine, chat(stream=True, logprobs=True)).text.split("\n\n")
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    told = [
        (chunk["choices"][0]["delta"].get("content"), chunk["choices"][0]["logprobs"])
        for chunk in chunks
    ]
    tokens = [[one["token"] for one in logprobs["content"]] for _, logprobs in told if logprobs]
    assert tokens == [["a"], ["b"]]
    assert [text for text, logprobs in told if logprobs] == ["a", "b"]
