"""What an answer must look like, under the names of vLLM, SGLang and Ollama."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import FakeEngine, call, chat, post_chat
from llguidance import LLMatcher, LLTokenizer

from server.api.app import create_app
from server.api.options import ApiOptions
from server.grammar import choice_grammar, client_grammar, regex_grammar
from server.messages.sampling import Grammar, GrammarKind

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOKENS = LLTokenizer("byte")


def fits(grammar: Grammar, text: str) -> bool:
    """Whether llguidance takes ``text`` as a whole."""
    matcher = LLMatcher(TOKENS, LLMatcher.grammar_from_lark(grammar.text), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = TOKENS.tokenize_str(text)
    if matcher.validate_tokens(tokens) < len(tokens):
        return False
    matcher.consume_tokens(tokens)
    return bool(matcher.is_accepting())


def grammar_of(**fields: Any) -> Grammar:
    engine = FakeEngine()
    answer = post_chat(engine, chat(**fields))
    assert answer.status_code == 200, answer.text
    grammar = engine.sampling[0].grammar
    assert grammar is not None
    return grammar


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_json": SCHEMA}, "guided_json"),
        ({"guided_json": json.dumps(SCHEMA)}, "guided_json"),
        ({"structured_outputs": {"json": SCHEMA}}, "structured_outputs.json"),
        ({"structured_outputs": {"json_object": True}}, "structured_outputs.json_object"),
        ({"format": SCHEMA}, "format"),
        ({"format": "json"}, "format"),
        ({"json_schema": json.dumps(SCHEMA)}, "json_schema"),
    ],
)
def test_schemas(fields: dict[str, Any], param: str) -> None:
    grammar = grammar_of(**fields)
    assert (grammar.kind, grammar.param) == (GrammarKind.JSON_SCHEMA, param)


@pytest.mark.parametrize(
    ("fields", "good", "bad"),
    [
        ({"guided_regex": "[0-9]{3}"}, "123", "12a"),
        ({"regex": "^a/b$"}, "a/b", "a/c"),
        ({"structured_outputs": {"regex": r"\d+\.\d"}}, "1.5", "1x5"),
        ({"guided_choice": ["red", "redder"]}, "redder", "blue"),
        ({"structured_outputs": {"choice": ['a\n"b', "é"]}}, 'a\n"b', "a"),
        ({"guided_grammar": 'root ::= "x" [0-9]'}, "x1", "xx"),
        ({"structured_outputs": {"grammar": '?start: "x" /[0-9]/'}}, "x1", "xx"),
        ({"ebnf": 'root ::= "yes" | "no"'}, "no", "maybe"),
    ],
)
def test_grammars_regular_expressions_and_choices(
    fields: dict[str, Any], good: str, bad: str
) -> None:
    grammar = grammar_of(**fields)
    assert fits(grammar, good)
    assert not fits(grammar, bad)


def test_one_constraint_under_two_names_is_one() -> None:
    text = 'start: "x"'
    fields = {"guided_grammar": text, "structured_outputs": {"grammar": text}}
    assert fits(grammar_of(**fields), "x")


def test_every_api_that_takes_constraints_has_them() -> None:
    for path, body in (
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/responses", {"input": "a"}),
    ):
        engine = FakeEngine()
        app = create_app(engine, ApiOptions())
        assert call(app, "POST", path, json={**body, "guided_choice": ["x"]}).status_code == 200
        grammar = engine.sampling[0].grammar
        assert grammar is not None
        assert fits(grammar, "x")
    engine = FakeEngine()
    form = {"type": "json_schema", "schema": SCHEMA}
    messages = [{"role": "user", "content": "a"}]
    body = {"model": "x", "max_tokens": 5, "messages": messages, "output_format": form}
    app = create_app(engine, ApiOptions())
    assert call(app, "POST", "/v1/messages", json=body).status_code == 200
    grammar = engine.sampling[0].grammar
    assert grammar is not None
    assert grammar.param == "output_format.schema"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_json": SCHEMA, "guided_regex": "a"}, "guided_regex"),
        ({"regex": "a", "response_format": {"type": "json_object"}}, "regex"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": 5}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": [1]}, "guided_choice[0]"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs"),
        ({"guided_grammar": "start: <|im_end|>"}, "guided_grammar"),
        ({"guided_grammar": "root ::= <x>"}, "guided_grammar"),
        ({"ebnf": 'start: %json {"a": '}, "ebnf"),
        ({"ebnf": "start: %json " + json.dumps({"enum": [{}] * 6000})}, "ebnf"),
        ({"ebnf": "start: a\n" + "".join(f"a{n}: b\n" for n in range(1001))}, "ebnf"),
        ({"regex": "x" * 200_000}, "regex"),
        ({"format": "xml"}, "format"),
    ],
)
def test_what_is_refused_is_named(fields: dict[str, Any], param: str) -> None:
    answer = post_chat(FakeEngine(), chat(**fields))
    assert answer.status_code == 400
    found = answer.json()["error"]["param"].partition(".json")[0]
    assert found == param


def test_what_only_looks_like_a_token_or_a_rule_is_none() -> None:
    text = 'start: "<|im_end|>" /<b>/ A // <c>\nA: "::="\n'
    assert fits(client_grammar(text, "g"), "<|im_end|><b>::=")


def test_signs_in_texts_mean_nothing() -> None:
    for text in ('a"b', "a\\b", "a/b", "a\nb", "😀", "{{}}", "%json"):
        assert fits(choice_grammar([text, "z"], "c"), text)
    assert fits(regex_grammar("a\nb", "r"), "a\nb")
    assert fits(regex_grammar(r"x\$", "r"), "x$")
