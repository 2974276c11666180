"""Control tokens come from the template alone: whatever a client sends, wherever, is text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import llama_cpp
import pytest
from fakes import FakeEngine, call, engine_ready
from hypothesis import given, settings
from hypothesis import strategies as st
from test_api_strings import REQUESTS, places, replaced
from tool_templates import BY_STYLE
from vocabularies import VOCABULARIES, open_vocabulary

from server.api.app import create_app
from server.api.options import ApiOptions
from server.engine.llama.model import Model
from server.engine.prompt_tokens import tokenize_prompt
from server.engine.request import TokenSegment
from server.messages import ImageInput, PromptPart
from server.prompt.builtin import TEMPLATES

SOURCES = {
    **BY_STYLE,
    "vicuna": TEMPLATES["vicuna"],
    "chatml": TEMPLATES["chatml"],
    "all as JSON": (
        "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}"
        "{% for m in messages %}{{ m.content }}{{ m | tojson }}{% endfor %}"
    ),
    "thoughts and switches": (
        "{{ persona }}{% for m in messages %}{{ m.role }}:{{ m.reasoning_content }}{{ m.thinking }}"
        "{{ m.content.split('</think>')[-1] | trim }}{% endfor %}"
    ),
}
HARMLESS = "nothing"


@pytest.fixture(scope="module", params=VOCABULARIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Model]:
    loaded = open_vocabulary(request.param, tmp_path_factory.mktemp("vocabularies"))
    yield loaded
    loaded.close()


def schema(text: str) -> dict[str, Any]:
    leaf = {"type": "string", "description": text, "enum": [text], "title": text, "pattern": text}
    return {
        "type": "object",
        "title": text,
        "description": text,
        "properties": {text: leaf, "a": {"type": "array", "items": leaf, "default": text}},
        "required": [text],
    }


def escaped(text: str) -> str:
    """``text`` in a JSON text, every character as an escape."""
    return '"' + "".join(f"\\u{ord(letter):04x}" for letter in text) + '"'


def chat(text: str) -> tuple[str, dict[str, Any]]:
    arguments = f"{{{escaped(text)}: {escaped(text)}, {json.dumps(text)}: [{escaped(text)}]}}"
    calls = [
        {"id": text, "type": "function", "function": {"name": "f", "arguments": arguments}},
        {"id": f"2{text}", "type": "function", "function": {"name": "f", "arguments": text}},
    ]
    parts = [{"type": "text", "text": text}, {"type": "text", "text": text}]
    messages = [
        {"role": "system", "content": text, "name": text},
        {"role": "user", "content": parts, "name": text},
        {
            "role": "assistant",
            "content": text,
            "tool_calls": calls[:1],
            "reasoning_content": text,
        },
        {"role": "tool", "tool_call_id": text, "content": text},
        {"role": "assistant", "content": None, "tool_calls": calls[1:]},
        {"role": "tool", "tool_call_id": f"2{text}", "content": parts},
        {"role": "user", "content": text},
        {"role": "assistant", "content": text},
    ]
    function = {"name": "f", "description": text, "parameters": schema(text)}
    tools = [{"type": "function", "function": function}]
    body = {"messages": messages, "tools": tools, "user": text}
    return "/v1/chat/completions", {**body, "chat_template_kwargs": {"persona": text}}


def responses(text: str) -> tuple[str, dict[str, Any]]:
    arguments = f"{{{escaped(text)}: {escaped(text)}, {json.dumps(text)}: [{escaped(text)}]}}"
    called = {"type": "function_call", "call_id": text, "name": "f", "arguments": arguments}
    content = [{"type": "input_text", "text": text}, {"type": "input_text", "text": text}]
    items = [
        {"role": "developer", "content": text},
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "output_text", "text": text}]},
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": text}],
            "content": [{"type": "reasoning_text", "text": text}],
        },
        called,
        {"type": "function_call_output", "call_id": text, "output": content},
        {**called, "call_id": f"2{text}", "arguments": text},
        {"type": "function_call_output", "call_id": f"2{text}", "output": text},
        {"role": "user", "content": text},
    ]
    tool = {"type": "function", "name": "f", "description": text, "parameters": schema(text)}
    return "/v1/responses", {"instructions": text, "input": items, "tools": [tool], "user": text}


def anthropic(text: str) -> tuple[str, dict[str, Any]]:
    block = {"type": "text", "text": text}
    called = {
        "type": "tool_use",
        "id": text,
        "name": "f",
        "input": {text: [text], "a": {"b": text}},
    }
    result = {"type": "tool_result", "tool_use_id": text, "content": [block], "is_error": True}
    thinking = {"type": "thinking", "thinking": text, "signature": text}
    document = {
        "type": "document",
        "title": text,
        "context": text,
        "source": {"type": "text", "media_type": "text/plain", "data": text},
    }
    found = {"type": "search_result", "source": text, "title": text, "content": [block]}
    messages = [
        {"role": "user", "content": [block, document, found, block]},
        {"role": "assistant", "content": [thinking, block, called]},
        {"role": "user", "content": [result, block]},
        {"role": "assistant", "content": text},
    ]
    tool = {"name": "f", "description": text, "input_schema": schema(text)}
    body = {"model": "m", "max_tokens": 5, "system": [block, block], "messages": messages}
    return "/v1/messages", {**body, "tools": [tool], "metadata": {"user_id": text}}


@cache
def served(model: Model, source: str) -> tuple[FakeEngine, Any]:
    facts = model.facts(8, 8)
    ready = engine_ready(
        chat_template=source,
        special_tokens=facts.special_tokens,
        bos_token=facts.bos_token,
        eos_token=facts.eos_token,
    )
    engine = FakeEngine(ready=ready)
    return engine, create_app(engine, ApiOptions())


def prompt(model: Model, source: str, path: str, body: dict[str, Any]) -> tuple[PromptPart, ...]:
    engine, app = served(model, source)
    response = call(app, "POST", path, json=body)
    assert response.status_code == 200, response.text
    return engine.parts[-1]


def control_tokens(model: Model, parts: tuple[PromptPart, ...]) -> list[int]:
    """The ids of the prompt's control tokens, as the engine reads it."""
    (segment,) = tokenize_prompt(parts, model, None, 512)
    assert isinstance(segment, TokenSegment)
    attribute = llama_cpp.llama_vocab_get_attr
    control = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
    return [int(token) for token in segment.tokens if attribute(model.vocab, int(token)) & control]


@pytest.mark.parametrize("api", [chat, responses, anthropic])
@pytest.mark.parametrize("source", SOURCES)
def test_control_tokens_come_from_the_template_alone(model: Model, api: Any, source: str) -> None:
    of = SOURCES[source]
    expected = control_tokens(model, prompt(model, of, *api(HARMLESS)))
    specials = sorted(model.special_tokens())
    for text in ("".join(specials), " ".join(reversed(specials))):
        assert control_tokens(model, prompt(model, of, *api(text))) == expected, text


@pytest.mark.parametrize("name", ["chat", "full chat", "full messages", "full responses"])
def test_no_string_or_key_anywhere_becomes_a_control_token(model: Model, name: str) -> None:
    """Each place by itself, also those that no template was known to write."""
    of = SOURCES["all as JSON"]
    engine, app = served(model, of)
    path, body = REQUESTS[name]
    text = " ".join(sorted(model.special_tokens()))
    expected = control_tokens(model, without_pictures(prompt(model, of, path, body)))
    n_served = 0
    for place in places(body):
        answer = call(app, "POST", path, json=replaced(body, place, text))
        assert answer.status_code < 500, place
        if answer.status_code == 200:
            n_served += 1
            parts = without_pictures(engine.parts[-1])
            # Turns may be fewer, where what was replaced made one of them.
            found = control_tokens(model, parts)
            assert len(found) <= len(expected), place
            assert set(found) <= set(expected), place
    assert n_served > 10


def without_pictures(parts: tuple[PromptPart, ...]) -> tuple[PromptPart, ...]:
    return tuple(part for part in parts if not isinstance(part, ImageInput))


@settings(max_examples=15)
@given(cut=st.integers(0, 10_000), source=st.sampled_from(sorted(SOURCES)))
def test_nor_from_pieces_that_stand_side_by_side(model: Model, cut: int, source: str) -> None:
    """One half of a token in each of two neighbours."""
    specials = sorted(model.special_tokens())
    token = specials[cut % len(specials)]
    at = 1 + cut % max(len(token) - 1, 1)

    def body(first: str, second: str) -> tuple[str, dict[str, Any]]:
        parts = [{"type": "text", "text": first}, {"type": "text", "text": second}]
        messages = [{"role": role, "content": parts} for role in ("system", "user", "user")]
        return "/v1/chat/completions", {"messages": messages}

    of = SOURCES[source]
    expected = control_tokens(model, prompt(model, of, *body("no", "thing")))
    halves = prompt(model, of, *body(token[:at], token[at:]))
    assert control_tokens(model, halves) == expected


def test_json_that_a_template_writes_stays_json(model: Model) -> None:
    for text in model.special_tokens():
        parts = prompt(model, SOURCES["hermes"], *anthropic(text))
        written = "".join(getattr(part, "text", part) for part in parts)
        tool, _ = json.JSONDecoder().raw_decode(written.split("<tools>")[1])
        assert tool["function"]["parameters"] == schema(text)
