"""Calls of functions by the real engine: the grammar holds, whatever the model would say."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import httpx
import jsonschema_rs
import openai
import pytest
from live import LiveServer

PLACES = ["left", "right", "top"]
SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"type": "string", "maxLength": 6},
        "place": {"enum": PLACES},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["colour", "place", "count"],
}


def tool(name: str, schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema, **more}}


TOOLS = [tool("report", SCHEMA), tool("stop", {"type": "object", "properties": {}})]
MESSAGES = [{"role": "user", "content": "What colour is the circle?"}]


def ask(demo: LiveServer, **fields: Any) -> httpx.Response:
    body = {"messages": MESSAGES, "tools": TOOLS, "max_tokens": 300, "temperature": 0, **fields}
    return httpx.post(f"{demo.url}/v1/chat/completions", json=body, timeout=60)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "report"}}]
)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_required_call_is_a_valid_one(demo: LiveServer, choice: Any, seed: int) -> None:
    answer = ask(demo, tool_choice=choice, temperature=1, seed=seed, parallel_tool_calls=False)
    assert answer.status_code == 200, answer.text
    (given,) = answer.json()["choices"]
    assert given["finish_reason"] == "tool_calls"
    assert given["message"]["content"] is None
    (called,) = given["message"]["tool_calls"]
    schemas = {each["function"]["name"]: each["function"]["parameters"] for each in TOOLS}
    if choice != "required":
        assert called["function"]["name"] == "report"
    arguments = json.loads(called["function"]["arguments"])
    jsonschema_rs.validate(schemas[called["function"]["name"]], arguments)


def test_a_model_that_may_call_answers_all_the_same(demo: LiveServer) -> None:
    with_tools = ask(demo, max_tokens=40).json()["choices"][0]
    assert with_tools["finish_reason"] in ("stop", "length")
    assert with_tools["message"]["content"]


def test_a_choice_of_json_or_call(demo: LiveServer) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    (given,) = ask(demo, response_format=form).json()["choices"]
    if given["message"].get("tool_calls"):
        text = given["message"]["tool_calls"][0]["function"]["arguments"]
    else:
        text = given["message"]["content"]
    jsonschema_rs.validate({"type": "object"}, json.loads(text))


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "object", "properties": {"a": {"type": "strng"}}}, "a.type"),
        ({"type": "object", "properties": {"a": {"$ref": "http://a.test/"}}}, "a.$ref"),
        ({"type": "object", "properties": {"a": {"uniqueItems": True}}}, "a.uniqueItems"),
    ],
)
def test_what_cannot_be_enforced_is_named(
    demo: LiveServer, schema: dict[str, Any], place: str
) -> None:
    param = f"tools[1].function.parameters.properties.{place}"
    relaxed = ask(demo, tools=[TOOLS[1], tool("bad", schema)], max_tokens=5)
    assert relaxed.status_code == 200, relaxed.text
    assert unquote(relaxed.headers["x-llava-relaxed"]) == param
    refused = ask(demo, tools=[TOOLS[1], tool("bad", schema, strict=True)], max_tokens=5)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param


def test_openai_s_client_gathers_a_streamed_call(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="demo",
        messages=MESSAGES,  # type: ignore[arg-type]
        tools=[tool("report", {**SCHEMA, "additionalProperties": False}, strict=True)],  # type: ignore[list-item]
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=300,
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    (called,) = final.choices[0].message.tool_calls or ()
    arguments: Any = called.function.parsed_arguments
    assert arguments["place"] in PLACES
