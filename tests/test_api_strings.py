"""No string in any field is an error of ours: each string of rich requests is replaced in turn."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fakes import FakeEngine, call, chat, data_url
from fastapi import FastAPI

from server import errors
from server.api.app import create_app
from server.api.options import ApiOptions

SCHEMA = {
    "type": "object",
    "description": "what it is",
    "properties": {
        "colour": {"type": "string", "enum": ["red", "blue"], "description": "a colour"},
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "day": {"type": "string", "format": "date"},
        "kind": {"const": "x"},
        "other": {"$ref": "#/$defs/other"},
    },
    "required": ["colour"],
    "$defs": {"other": {"type": "string"}},
}
IMAGE = {"type": "image_url", "image_url": {"url": data_url(), "detail": "low"}}
CHAT: dict[str, Any] = {
    "model": "demo",
    "messages": [
        {"role": "system", "content": "Be brief.", "name": "operator"},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, IMAGE]},
        {
            "role": "assistant",
            "content": "calling",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"colour": "red"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
        {"role": "user", "content": "And now?"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {"name": "f", "description": "does it", "parameters": SCHEMA},
        }
    ],
    "tool_choice": "auto",
    "stop": ["END"],
    "user": "me",
    "metadata": {"key": "value"},
    "safety_identifier": "id",
    "prompt_cache_key": "key",
    "logit_bias": {"1": 1},
    "max_tokens": 3,
}
FORM = {"type": "json_schema", "json_schema": {"name": "n", "description": "d", "schema": SCHEMA}}
MESSAGES: dict[str, Any] = {
    "model": "demo",
    "max_tokens": 3,
    "system": [{"type": "text", "text": "Be brief."}],
    "metadata": {"user_id": "me"},
    "stop_sequences": ["END"],
    "tools": [{"name": "f", "description": "does it", "input_schema": SCHEMA}],
    "tool_choice": {"type": "auto"},
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hi"},
                {
                    "type": "image",
                    "source": {
                        "type": "base64",
                        "media_type": "image/png",
                        "data": data_url().partition(",")[2],
                    },
                },
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {"colour": "red"}}],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "done"}],
        },
    ],
}
RESPONSES: dict[str, Any] = {
    "model": "demo",
    "instructions": "Be brief.",
    "max_output_tokens": 3,
    "metadata": {"key": "value"},
    "user": "me",
    "safety_identifier": "id",
    "prompt_cache_key": "key",
    "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "c1",
            "name": "f",
            "arguments": '{"a": "b"}',
        },
        {"type": "function_call_output", "call_id": "c1", "output": "done"},
        {"role": "user", "content": [{"type": "input_image", "image_url": data_url()}]},
    ],
}
FULL_CHAT: dict[str, Any] = {
    "messages": [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": data_url()},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Hi"}, {"type": "refusal", "refusal": "no"}],
            "reasoning_content": "I think.",
        },
        {"role": "user", "content": "And now?"},
    ],
    "chat_template_kwargs": {"persona": "a"},
    "reasoning_effort": "low",
    "service_tier": "auto",
    "modalities": ["text"],
    "stream_options": {"include_usage": True},
    "stream": True,
    "dry_sequence_breakers": ["\n"],
    "prediction": {"type": "content", "content": "a"},
    "max_tokens": 3,
}
CHOSEN: dict[str, Any] = {
    **{key: value for key, value in CHAT.items() if key != "logit_bias"},
    "tool_choice": {"type": "function", "function": {"name": "f"}},
}
FULL_MESSAGES: dict[str, Any] = {
    **MESSAGES,
    "tool_choice": {"type": "tool", "name": "f"},
    "service_tier": "auto",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral", "ttl": "5m"}},
                {
                    "type": "document",
                    "title": "a title",
                    "context": "some",
                    "source": {"type": "text", "media_type": "text/plain", "data": "words"},
                },
                {
                    "type": "search_result",
                    "source": "here",
                    "title": "a title",
                    "content": [{"type": "text", "text": "found"}],
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I think.", "signature": "s"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": ["b", {"c": "d"}]}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "content": [{"type": "text", "text": "done"}],
                    "is_error": True,
                }
            ],
        },
    ],
}
FULL_RESPONSES: dict[str, Any] = {
    "input": [
        {"type": "message", "role": "developer", "content": "Be brief.", "id": "msg_1"},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_2",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hi", "annotations": []}],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "so"}],
            "content": [{"type": "reasoning_text", "text": "I think."}],
        },
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "c1",
            "output": [{"type": "input_text", "text": "done"}],
        },
        {"role": "user", "content": "And now?"},
    ],
    "tools": [{"type": "function", "name": "f", "description": "does it", "parameters": SCHEMA}],
    "tool_choice": {"type": "function", "name": "f"},
    "reasoning": {"effort": "low"},
    "include": ["reasoning.encrypted_content"],
    "truncation": "disabled",
    "service_tier": "auto",
    "metadata": {"key": "value"},
    "stream": True,
    "max_output_tokens": 16,
}
TOOLS = [{"type": "function", "name": "f", "description": "does it", "parameters": SCHEMA}]
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "stream": ("/v1/chat/completions", {**chat(), "stream": True, "user": "me"}),
    "format": ("/v1/chat/completions", {**chat(), "response_format": FORM}),
    "schema": ("/v1/chat/completions", {**chat(), "json_schema": SCHEMA}),
    "grammar": ("/v1/chat/completions", {**chat(), "grammar": 'root ::= "a"'}),
    "count": ("/v1/chat/completions/input_tokens", CHAT),
    "template": ("/apply-template", CHAT),
    "completion": ("/v1/completions", {"prompt": ["a", "b"], "stop": "END", "user": "me"}),
    "mixed": ("/v1/completions", {"prompt": [1, "a"], "echo": True, "model": "demo"}),
    "pictures": (
        "/v1/completions",
        {"prompt": {"prompt_string": "<__media__>", "multimodal_data": [data_url()]}},
    ),
    "embeddings": ("/v1/embeddings", {"input": ["a", IMAGE], "model": "demo", "user": "me"}),
    "responses": ("/v1/responses", RESPONSES),
    "responses tools": ("/v1/responses", {"input": "a", "tools": TOOLS, "stream": True}),
    "responses count": ("/v1/responses/input_tokens", {"input": "a", "tools": TOOLS}),
    "messages": ("/v1/messages", MESSAGES),
    "messages stream": ("/v1/messages", {**MESSAGES, "stream": True}),
    "messages count": (
        "/v1/messages/count_tokens",
        {key: value for key, value in MESSAGES.items() if key != "max_tokens"},
    ),
    "full chat": ("/v1/chat/completions", FULL_CHAT),
    "chosen function": ("/v1/chat/completions", CHOSEN),
    "full messages": ("/v1/messages", FULL_MESSAGES),
    "full responses": ("/v1/responses", FULL_RESPONSES),
    "tokenize": ("/tokenize", {"content": "a"}),
    "vLLM's tokenize": ("/tokenize", {"prompt": "a", "model": "demo"}),
    "embedding of parts": (
        "/v1/embeddings",
        {"input": [{"content": [{"type": "text", "text": "a"}, IMAGE]}]},
    ),
    "inspect": ("/v1/images/inspect", {"url": data_url()}),
}
# Each of them by itself in a place of its own would take minutes.
ODD = (
    "\x01\x1b[31m\x7f\x85 \u202e\u2066abc\u2069 a\r\nx-injected: 1\n\n \u2028\ufeff\uffff\U0010ffff"
)
SYNTAX = "{{ x }}{% y %}%s{0}${z} <|im_end|><s>[INST]<image><__media__> ../../etc/passwd"
STRINGS = {"surrogate": "\ud800", "NUL": "a\x00b", "odd": ODD, "empty": "", "syntax": SYNTAX}
LONG = "a" * 1_000_000


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where strings stand; a key of an object is its path with None behind it."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from places(each, (*path, number))
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from places(each, (*path, key))
            yield (*path, key, "KEY")


def replaced(body: dict[str, Any], path: tuple[str | int, ...], text: str) -> dict[str, Any]:
    found: Any = copy.deepcopy(body)
    inner, last = found, path[-1]
    if last == "KEY":
        for step in path[:-2]:
            inner = inner[step]
        inner[text] = inner.pop(path[-2])
    else:
        for step in path[:-1]:
            inner = inner[step]
        inner[last] = text
    return found  # type: ignore[no-any-return]


def post(app: FastAPI, path: str, body: dict[str, Any]) -> httpx.Response:
    raw = json.dumps(body).encode()
    return call(app, "POST", path, content=raw, headers={"content-type": "application/json"})


def check(answer: httpx.Response, what: object) -> None:
    assert answer.status_code < 500, (what, answer.text[:500])
    assert "x-injected" not in answer.headers, what
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert error["code"], (what, error)
        assert error["message"], what
        assert len(error["message"]) < 3000, (what, len(error["message"]))
        for name in ("Part", "Strict", "instance of", "pydantic"):
            assert name not in error["message"], (what, error)
    else:
        assert '"error"' not in answer.text or '"error":null' in answer.text, (what, answer.text)


def test_each_request_is_served_as_it_stands() -> None:
    app = create_app(FakeEngine(), ApiOptions())
    for name, (path, body) in REQUESTS.items():
        answer = post(app, path, body)
        assert answer.status_code == 200, (name, answer.text)
        check(answer, name)


@pytest.mark.parametrize("name", REQUESTS)
def test_no_string_in_any_place_is_an_error_of_ours(name: str) -> None:
    app = create_app(FakeEngine(), ApiOptions())
    path, body = REQUESTS[name]
    for place in places(body):
        for kind, text in STRINGS.items():
            check(post(app, path, replaced(body, place, text)), (name, place, kind))
    assert post(app, path, body).status_code == 200


@pytest.mark.parametrize("name", REQUESTS)
def test_a_megabyte_of_one_letter_is_none_either(name: str) -> None:
    app = create_app(FakeEngine(), ApiOptions())
    path, body = REQUESTS[name]
    for place in places(body):
        answer = post(app, path, replaced(body, place, LONG))
        check(answer, (name, place))


@pytest.mark.parametrize("text", ["", "   ", "\u202e", "{0}%s", "../..", "\u00e9" * 3000])
def test_paths_queries_and_headers_are_strings_too(text: str) -> None:
    app = create_app(FakeEngine(), ApiOptions())
    for path in ("/v1/models/", "/v1/files/", "/v1/responses/"):
        answer = call(app, "GET", httpx.URL(f"http://x{path}").copy_with(path=path + text).path)
        assert answer.status_code < 500, path
    for query in ("after", "limit", "order", "purpose"):
        answer = call(app, "GET", "/v1/files", params={query: text})
        assert answer.status_code < 500, query
    for header in ("x-request-id", "traceparent", "authorization", "content-type"):
        answer = call(
            app, "POST", "/v1/chat/completions", json=chat(), headers={header: text.encode()}
        )
        assert answer.status_code < 500, header


def test_every_error_has_a_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert errors.RequestError in kinds
    for kind in kinds:
        if issubclass(kind, errors.LlavaError):
            assert kind("x").code, kind
            assert kind("x", code="mine").code == "mine"
