"""Anthropic's Messages API: what goes to the template, what comes back, what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest
from fakes import FakeEngine, call, data_url, engine_ready
from pydantic import TypeAdapter
from tool_templates import HERMES

from server.api.app import create_app
from server.api.options import ApiOptions
from server.api.shapes.anthropic import AnthropicEvent, AnthropicMessage
from server.errors import EngineUnavailable
from server.messages import FinishReason

PATH = "/v1/messages"
USER = {"role": "user", "content": "Hello"}
PNG = data_url().partition(",")[2]
EVENT: TypeAdapter[Any] = TypeAdapter(AnthropicEvent)
TOOL = {"name": "weather", "input_schema": {"type": "object"}}
CALLED = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"town": "Bonn"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}


def body(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": "any", "max_tokens": 50, "messages": [*(messages or (USER,))], **fields}


def post(
    engine: FakeEngine, request: Any, path: str = PATH, headers: Any = None, **options: Any
) -> httpx.Response:
    app = create_app(engine, ApiOptions(**options))
    return call(app, "POST", path, json=request, headers=headers)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    found = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
        EVENT.validate_python(found[-1])
    return found


def test_a_message_in_one_piece() -> None:
    engine = FakeEngine()
    response = post(engine, body(system="Be brief.", stop_sequences=["END"], top_k=3))
    assert response.status_code == 200
    answer = response.json()
    TypeAdapter(AnthropicMessage).validate_python(answer)
    assert answer.pop("id").startswith("msg_")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "fake-llava",
        "content": [{"type": "text", "text": "A red circle."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 3,
        },
    }
    assert response.headers["request-id"] == response.headers["x-request-id"]
    assert engine.prompt() == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    sampling = engine.sampling[0]
    assert (sampling.max_tokens, sampling.stop, sampling.top_k) == (50, ("END",), 3)
    assert sampling.temperature == 1.0


def test_events_come_in_anthropic_s_order() -> None:
    found = events(post(FakeEngine(), body(stream=True)))
    assert [event["type"] for event in found] == [
        "message_start",
        "ping",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert found[0]["message"]["content"] == []
    assert found[0]["message"]["usage"]["input_tokens"] == 10
    assert found[2]["content_block"] == {"type": "text", "text": ""}
    assert "".join(e["delta"]["text"] for e in found[3:6]) == "A red circle."
    assert found[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert found[-2]["usage"]["output_tokens"] == 3


def test_a_silent_stream_has_pings_of_anthropic_s_kind() -> None:
    engine = FakeEngine(texts=("x", "y"), token_seconds=0.3)
    answer = post(engine, body(stream=True), sse_ping_interval=0.05)
    kinds = [event["type"] for event in events(answer)]
    assert kinds.count("ping") > 1


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ({"type": "base64", "media_type": "image/png", "data": PNG}, "source.data"),
        ({"type": "url", "url": data_url()}, "source.url"),
    ],
)
def test_pictures_by_base64_and_url(source: dict[str, Any], field: str) -> None:
    engine = FakeEngine()
    content = [{"type": "text", "text": "Look:"}, {"type": "image", "source": source}]
    response = post(engine, body({"role": "user", "content": content}))
    assert response.status_code == 200, response.text
    assert "Look:[255, 0, 0]\n" in engine.prompt()
    assert response.json()["images"][0]["tokens"] == 64
    key = field.partition(".")[2]
    content[1] = {"type": "image", "source": {**source, key: "data:image/png;base64,AAAA"}}
    error = post(FakeEngine(), body({"role": "user", "content": content})).json()["error"]
    assert error["param"] == f"messages[0].content[1].{field}"


def test_pictures_by_upload() -> None:
    engine = FakeEngine()
    app = create_app(engine, ApiOptions())
    sent = {"file": ("a.png", base64.b64decode(PNG)), "purpose": (None, "vision")}
    file_id = call(app, "POST", "/v1/files", files=sent).json()["id"]
    block = {"type": "image", "source": {"type": "file", "file_id": file_id}}
    assert call(app, "POST", PATH, json=body({"role": "user", "content": [block]})).is_success
    assert "[255, 0, 0]" in engine.prompt()


def test_turns_of_one_role_are_one_turn() -> None:
    engine = FakeEngine()
    post(engine, body(USER, {"role": "user", "content": "again"}))
    assert engine.prompt().startswith("<|im_start|>user\nHello\nagain<|im_end|>")


def test_calls_and_results_reach_the_template() -> None:
    engine = FakeEngine(ready=engine_ready(chat_template=HERMES))
    picture = {"type": "image", "source": {"type": "url", "url": data_url()}}
    result = {**RESULT, "content": [{"type": "text", "text": "see"}, picture], "is_error": True}
    said = {"type": "text", "text": "Wait."}
    response = post(
        engine,
        body(
            USER,
            {"role": "assistant", "content": [said, CALLED]},
            {"role": "user", "content": [result, {"type": "text", "text": "So?"}]},
            tools=[TOOL],
            tool_choice={"type": "none"},
        ),
    )
    assert response.status_code == 200, response.text
    prompt = engine.prompt()
    assert 'Wait.<tool_call>\n{"name": "weather", "arguments": {"town": "Bonn"}}' in prompt
    assert "<tool_response>\nError:\nsee[255, 0, 0]\n\n</tool_response>" in prompt
    assert "<|im_start|>user\nSo?<|im_end|>" in prompt


def test_tokens_are_counted() -> None:
    engine = FakeEngine()
    picture = {"type": "image", "source": {"type": "url", "url": data_url()}}
    request = {"model": "any", "messages": [{"role": "user", "content": [picture]}]}
    response = post(engine, request, f"{PATH}/count_tokens")
    assert response.json() == {"input_tokens": 74}
    assert not engine.parts


@pytest.mark.parametrize(
    ("finish", "stop", "max_tokens", "reason"),
    [
        (FinishReason.STOP, None, 50, "end_turn"),
        (FinishReason.STOP, "END", 50, "stop_sequence"),
        (FinishReason.LENGTH, None, 3, "max_tokens"),
        (FinishReason.LENGTH, None, 50, "model_context_window_exceeded"),
    ],
)
def test_why_it_stopped(
    finish: FinishReason, stop: str | None, max_tokens: int, reason: str
) -> None:
    engine = FakeEngine(finish=finish, stop=stop)
    whole = post(engine, body(max_tokens=max_tokens)).json()
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, stop)
    streamed = events(post(engine, body(max_tokens=max_tokens, stream=True)))
    assert streamed[-2]["delta"] == {"stop_reason": reason, "stop_sequence": stop}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"temperature": 1.1}, "temperature"),
    ({"top_k": "3"}, "top_k"),
    ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
    ({"container": "c"}, "container"),
    ({"stop_sequences": [""]}, "stop_sequences[0]"),
    ({"tools": [{**TOOL, "name": "not a name"}]}, "tools[0].name"),
    ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    ({"tools": [{**TOOL, "input_schema": {"type": "array"}}]}, "tools[0].input_schema.type"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED)
def test_what_is_refused_is_named(fields: dict[str, Any], param: str) -> None:
    response = post(FakeEngine(), body(**fields))
    assert response.status_code == 400
    answer = response.json()
    assert answer["type"] == "error"
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["param"] == param
    assert answer["request_id"] == response.headers["request-id"]


@pytest.mark.parametrize(
    ("role", "block", "param"),
    [
        ("user", {"type": "document", "source": {}}, "messages[0].content[0].source.type"),
        (
            "user",
            {"type": "document", "source": {"type": "base64", "data": "JVBE"}},
            "messages[0].content[0].source.type",
        ),
        ("user", {"type": "container_upload"}, "messages[0].content[0].type"),
        ("user", CALLED, "messages[0].content[0]"),
        ("assistant", RESULT, "messages[0].content[0]"),
        ("user", {"type": "text", "text": "a\0b"}, "messages[0].content[0].text"),
        ("user", {"type": "image", "source": {"type": "x"}}, "messages[0].content[0].source.type"),
        ("user", {"text": "no type"}, "messages[0].content[0].type"),
    ],
)
def test_a_block_that_is_refused_is_named(role: str, block: Any, param: str) -> None:
    response = post(FakeEngine(), body({"role": role, "content": [block]}))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_every_error_has_anthropic_s_shape() -> None:
    lost = post(FakeEngine(error=EngineUnavailable("gone")), body())
    assert lost.status_code == 503
    assert lost.json()["error"]["type"] == "overloaded_error"
    wrong = post(FakeEngine(), body(), api_keys=("k",))
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (401, "authentication_error")
    none = post(FakeEngine(), body(), f"{PATH}/batches")
    assert (none.status_code, none.json()["error"]["type"]) == (404, "not_found_error")
    app = create_app(FakeEngine(), ApiOptions())
    broken = call(app, "POST", PATH, content=b"{", headers={"content-type": "application/json"})
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_json")
    elsewhere = call(app, "GET", "/v1/nothing").json()
    assert "type" not in elsewhere


def test_threads_are_refused_so_that_clients_go_on_without() -> None:
    error = post(FakeEngine(), body(thread={"type": "create"})).json()["error"]
    assert error["param"] == "thread"
    assert error["details"]["error_code"] == "thread_unsupported_request"


def test_an_error_in_a_stream_is_an_event() -> None:
    engine = FakeEngine(error=EngineUnavailable("gone"), error_after=1)
    last = events(post(engine, body(stream=True)))[-1]
    assert last["type"] == "error"
    assert last["error"]["type"] == "overloaded_error"
    assert last["error"]["message"] == "gone"


def test_no_parameter_of_the_sdk_is_ignored() -> None:
    """All of anthropic 2.12's ``MessageCreateParams``, its beta ones, and those it has dropped."""
    from server.api.anthropic.request import MessagesRequest
    from server.api.fields.policy_table import names

    known = {
        *("max_tokens", "messages", "model", "cache_control", "container", "diagnostics"),
        *("inference_geo", "metadata", "output_config", "service_tier", "speed", "stream"),
        *("stop_sequences", "system", "thinking", "tool_choice", "tools", "user_profile_id"),
        *("workspace_id", "temperature", "top_p", "top_k", "mcp_servers", "context_management"),
        *("output_format", "billing_policy", "compaction", "fallback_credit_token", "fallbacks"),
        "thread",
    }
    assert known <= {*MessagesRequest.model_fields, *names("messages")}
    # The template's switches are ours: the SDK has no field for them.
    assert set(MessagesRequest.model_fields) <= known | {"chat_template_kwargs"}


def test_documents_and_results_of_searches_are_read() -> None:
    engine = FakeEngine()
    picture = {"type": "image", "source": {"type": "url", "url": data_url()}}
    source = {"type": "content", "content": [{"type": "text", "text": "page one"}, picture]}
    document = {"type": "document", "source": source, "title": "T", "context": "C"}
    summary = {"type": "compaction", "content": "what was said"}
    response = post(engine, body({"role": "user", "content": [summary, document]}))
    assert response.status_code == 200, response.text
    assert "what was said\nT\nC\npage one" in engine.prompt()
    assert "[255, 0, 0]" in engine.prompt()


def test_a_message_of_thoughts_alone_is_no_message() -> None:
    engine = FakeEngine()
    thoughts = [
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "redacted_thinking", "data": "x"},
    ]
    response = post(engine, body(USER, {"role": "assistant", "content": thoughts}, USER))
    assert response.status_code == 200
    assert "hm" not in engine.prompt()
    assert "assistant\n<|im_end|>" not in engine.prompt()


def test_a_tool_that_is_no_function_cannot_be_demanded() -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    error = post(FakeEngine(), body(tools=tools, tool_choice={"type": "any"})).json()["error"]
    assert error["param"] == "tool_choice"
