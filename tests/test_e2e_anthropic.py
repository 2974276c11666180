"""Anthropic's Messages API through a real server and a real engine; its SDK is in tests/clients."""

from __future__ import annotations

import json
from typing import Any

import httpx
from asking import RED, data_url, shape
from live import LiveServer

PNG = data_url(shape("circle", RED)).partition(",")[2]
SOURCE = {"type": "base64", "media_type": "image/png", "data": PNG}
ASK = {"type": "text", "text": "What colour is the circle?"}
CONTENT = [{"type": "image", "source": SOURCE}, ASK]
COLOURS = ["red", "green", "blue"]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": COLOURS}},
    "required": ["colour"],
}


def post(demo: LiveServer, **fields: Any) -> httpx.Response:
    body = {"model": "any", "max_tokens": 200, "temperature": 0, **fields}
    body.setdefault("messages", [{"role": "user", "content": CONTENT}])
    return httpx.post(f"{demo.url}/v1/messages", json=body, timeout=60)


def test_a_picture_is_seen_and_counted(demo: LiveServer) -> None:
    answer = post(demo).json()
    assert "red" in answer["content"][0]["text"]
    assert answer["stop_reason"] == "end_turn"
    counted = httpx.post(
        f"{demo.url}/v1/messages/count_tokens",
        json={"model": "any", "messages": [{"role": "user", "content": CONTENT}]},
    ).json()["input_tokens"]
    used = answer["usage"]
    assert used["input_tokens"] + used["cache_read_input_tokens"] == counted
    again = post(demo).json()["usage"]
    assert again["cache_read_input_tokens"] >= 64


def test_a_stop_sequence_is_told(demo: LiveServer) -> None:
    answer = post(demo, stop_sequences=["red"]).json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "red")
    assert "red" not in answer["content"][0]["text"]


def test_a_streamed_call_is_valid(demo: LiveServer) -> None:
    tools = [{"name": "report", "input_schema": SCHEMA}]
    choice = {"type": "any", "disable_parallel_tool_use": True}
    text = post(demo, tools=tools, tool_choice=choice, stream=True).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    assert [event["type"] for event in events if "delta" not in event["type"]] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_stop",
        "message_stop",
    ]
    pieces = [e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta"]
    assert json.loads("".join(pieces))["colour"] in COLOURS
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
