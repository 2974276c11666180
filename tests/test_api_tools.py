"""Functions in chat completions: told, forced by grammar, and read from the answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import FakeEngine, call, chat, engine_ready, image_part, post_chat
from pydantic import TypeAdapter
from tool_templates import BY_STYLE

from server.api.app import create_app
from server.api.options import ApiOptions
from server.api.shapes.openai import ChatChunk, ChatCompletion
from server.messages import FinishReason
from server.messages.sampling import GrammarKind

CHUNK: TypeAdapter[Any] = TypeAdapter(ChatChunk)
SCHEMA = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
OTHER = {"type": "function", "function": {"name": "time"}}
ANSWER = (
    "Let me",
    " see.\n<tool",
    '_call>\n{"name": "wea',
    'ther", "arguments": {"town',
    '": "Bonn"}}\n</tool_call>\n<tool_call>{"name": "time", "arguments": {}',
    "}\n</tool_call>",
)


def body(**fields: Any) -> dict[str, Any]:
    return chat(**{"tools": [TOOL, OTHER], **fields})


def chunks(text: str) -> list[dict[str, Any]]:
    *events, done = text.strip().split("\n\n")
    assert done == "data: [DONE]"
    found = [json.loads(event.removeprefix("data: ")) for event in events]
    for chunk in found:
        CHUNK.validate_python(chunk)
    return [choice for chunk in found for choice in chunk["choices"]]


def test_calls_are_told_beside_the_content() -> None:
    answer = post_chat(FakeEngine(texts=ANSWER), body()).json()
    TypeAdapter(ChatCompletion).validate_python(answer)
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    first, second = choice["message"]["tool_calls"]
    assert first["type"] == "function"
    assert first["function"] == {"name": "weather", "arguments": '{"town": "Bonn"}'}
    assert second["function"] == {"name": "time", "arguments": "{}"}
    assert first["id"].startswith("call_")
    assert first["id"] != second["id"]


def test_a_call_alone_has_no_content() -> None:
    calls = ('<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>',)
    (choice,) = post_chat(FakeEngine(texts=calls), body()).json()["choices"]
    assert choice["message"]["content"] is None


def test_streamed_calls_come_as_openai_s_do() -> None:
    found = chunks(post_chat(FakeEngine(texts=ANSWER), body(stream=True)).text)
    deltas = [choice["delta"] for choice in found]
    assert deltas[0] == {"role": "assistant", "content": None}
    assert "".join(delta.get("content") or "" for delta in deltas) == "Let me see."
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    first_id = calls[0].pop("id")
    assert first_id.startswith("call_")
    weather = {"index": 0, "type": "function", "function": {"name": "weather", "arguments": ""}}
    assert calls[0] == weather
    assert calls[1:3] == [
        {"index": 0, "function": {"arguments": '{"town'}},
        {"index": 0, "function": {"arguments": '": "Bonn"}'}},
    ]
    assert (calls[3]["index"], calls[3]["function"]["name"]) == (1, "time")
    assert calls[4] == {"index": 1, "function": {"arguments": "{}"}}
    assert [choice["finish_reason"] for choice in found if choice["finish_reason"]] == [
        "tool_calls"
    ]


def test_an_answer_cut_in_a_call_ends_for_its_length() -> None:
    engine = FakeEngine(texts=ANSWER[:4], finish=FinishReason.LENGTH)
    (choice,) = post_chat(engine, body()).json()["choices"]
    assert choice["finish_reason"] == "length"
    (cut,) = choice["message"]["tool_calls"]
    assert cut["function"] == {"name": "weather", "arguments": '{"town'}


def test_a_conversation_with_calls_and_results_goes_on() -> None:
    engine = FakeEngine(ready=engine_ready(chat_template=BY_STYLE["hermes"]))
    calls = [
        {"id": "a", "type": "function", "function": {"name": "time", "arguments": "{}"}},
        {"id": "b", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
    ]
    messages = [
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "b", "content": [image_part()]},
        {"role": "tool", "tool_call_id": "a", "content": "noon"},
    ]
    response = post_chat(engine, {"messages": messages, "tools": [TOOL]})
    assert response.status_code == 200, response.text
    prompt = engine.prompt()
    assert prompt.index('"name": "time", "arguments": {}') < prompt.index("[255, 0, 0]")
    assert "<tool_response>\nnoon\n</tool_response>" in prompt


@pytest.mark.parametrize(
    ("choice", "triggers", "told"),
    [
        ("auto", ("<tool_call>",), ["weather", "time"]),
        (None, ("<tool_call>",), ["weather", "time"]),
        ("required", (), ["weather", "time"]),
        ({"type": "function", "function": {"name": "time"}}, (), ["time"]),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "time"}}],
                },
            },
            ("<tool_call>",),
            ["time"],
        ),
    ],
)
def test_the_choice_becomes_a_grammar(
    choice: Any, triggers: tuple[str, ...], told: list[str]
) -> None:
    engine = FakeEngine()
    assert post_chat(engine, body(tool_choice=choice)).status_code == 200
    grammar = engine.sampling[0].grammar
    assert grammar is not None
    assert (grammar.kind, grammar.triggers) == (GrammarKind.LARK, triggers)
    assert [name for name in ("weather", "time") if f'\\"{name}\\"' in grammar.text] == told
    assert engine.prompt().count('"name": "') == 3  # two functions, and how to call them


@pytest.mark.parametrize("fields", [{"tool_choice": "none"}, {"tools": []}])
def test_no_choice_leaves_text_alone(fields: dict[str, Any]) -> None:
    engine = FakeEngine(texts=ANSWER)
    (choice,) = post_chat(engine, body(**fields)).json()["choices"]
    assert choice["message"]["content"] == "".join(ANSWER)
    assert choice["finish_reason"] == "stop"
    assert engine.sampling[0].grammar is None
    assert "weather" not in engine.prompt()


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


PARAMETERS = "tools[0].function.parameters"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "custom"}], "tool_choice": "required"}, "tool_choice"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [OTHER, OTHER]}, "tools[1].function.name"),
    ({"tools": [OTHER] * 129}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "any"}, "tool_choice"),
    ({"tools": [OTHER], "tool_choice": {"type": "custom"}}, "tool_choice.type"),
    (
        {"tools": [OTHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
        "tool_choice.function.name",
    ),
    ({"tools": [OTHER], "grammar": 'root ::= "a"'}, "grammar"),
    *(
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": p}}]}, where)
        for p, where in (
            ("x", PARAMETERS),
            ({"type": "string"}, f"{PARAMETERS}.type"),
            (nested(60), PARAMETERS),
            ({"enum": [{}] * 6000}, PARAMETERS),
        )
    ),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED)
def test_what_is_refused_is_named(fields: dict[str, Any], param: str) -> None:
    response = post_chat(FakeEngine(), chat(**fields))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x"}, "tool_call_id"),
        ({"role": "user", "content": "x", "tool_call_id": "a"}, "tool_call_id"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "tool_calls"),
        ({"role": "system"}, "content"),
        ({"role": "user", "tool_calls": []}, "content"),
        ({"role": "assistant", "tool_calls": [{}]}, "tool_calls[0].id"),
        (
            {
                "role": "assistant",
                "tool_calls": [{**CALL, "function": {"name": "f", "arguments": 5}}],
            },
            "tool_calls[0].function.arguments",
        ),
        ({"role": "assistant", "content": [image_part()]}, "content[0]"),
    ],
)
def test_a_message_that_is_refused_is_named(message: dict[str, Any], param: str) -> None:
    result = {"role": "tool", "tool_call_id": "a", "content": "x"}
    messages = [{"role": "assistant", "tool_calls": [CALL]}, result, message]
    response = call(
        create_app(FakeEngine(), ApiOptions()),
        "POST",
        "/v1/chat/completions",
        json={"messages": messages},
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == f"messages[2].{param}"


@pytest.mark.parametrize("message", [{}, {"content": None}, {"content": None, "tool_calls": []}])
def test_an_answer_that_said_nothing_is_an_empty_one(message: dict[str, Any]) -> None:
    engine = FakeEngine()
    user = {"role": "user", "content": "x"}
    messages = [user, {"role": "assistant", **message}, user]
    assert post_chat(engine, {"messages": messages}).status_code == 200
    assert "<|im_start|>assistant\n<|im_end|>" in engine.prompt()
