"""The Responses API: what goes to the template, what comes back, and in which order."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fakes import FakeEngine, call, data_url, engine_ready
from fastapi import FastAPI
from pydantic import TypeAdapter
from tool_templates import HERMES

from server.api.app import create_app
from server.api.options import ApiOptions
from server.api.shapes.responses import ResponseEvent, ResponseObject
from server.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineUnavailable,
    LlavaError,
    Overloaded,
    RequestError,
)
from server.messages import FinishReason

PATH = "/v1/responses"
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseEvent)
IMAGE = {"type": "input_image", "image_url": data_url(), "detail": "auto"}
CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"a":1}'}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "42"}


def app_of(engine: FakeEngine, **options: Any) -> FastAPI:
    return create_app(engine, ApiOptions(**options))


def post(engine: FakeEngine, given: Any = "Hello", **fields: Any) -> httpx.Response:
    return call(app_of(engine), "POST", PATH, json={"input": given, **fields})


def user(*content: dict[str, Any] | str) -> dict[str, Any]:
    parts = [{"type": "input_text", "text": c} if isinstance(c, str) else c for c in content]
    return {"role": "user", "content": parts}


def events(response: httpx.Response) -> list[dict[str, Any]]:
    found = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == len(found)
        EVENT.validate_python(event)
        found.append(event)
    return found


def test_a_response_in_one_piece() -> None:
    engine = FakeEngine()
    answer = post(engine, instructions="Be brief.", max_output_tokens=7, metadata={"a": "b"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    TypeAdapter(ResponseObject).validate_python(body)
    assert body["id"].startswith("resp_")
    assert (body["status"], body["model"], body["error"]) == ("completed", "fake-llava", None)
    (message,) = body["output"]
    assert message["id"].startswith("msg_")
    assert (message["type"], message["role"], message["status"]) == (
        "message",
        "assistant",
        "completed",
    )
    text = {"type": "output_text", "text": "A red circle.", "annotations": [], "logprobs": []}
    assert message["content"] == [text]
    assert body["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, "image_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 13,
    }
    assert (body["metadata"], body["max_output_tokens"], body["store"]) == ({"a": "b"}, 7, True)
    assert engine.prompt() == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert engine.sampling[0].max_tokens == 7


def test_events_come_in_openai_s_order() -> None:
    found = events(post(FakeEngine(), stream=True))
    assert [event["type"] for event in found] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert found[0]["response"]["status"] == "in_progress"
    assert found[0]["response"]["usage"] is None
    assert found[2]["item"]["content"] == []
    assert "".join(event["delta"] for event in found[4:7]) == "A red circle."
    assert found[7]["text"] == "A red circle."
    assert found[9]["item"] == found[-1]["response"]["output"][0]
    assert {event["item_id"] for event in found[3:9]} == {found[2]["item"]["id"]}
    assert found[-1]["response"]["usage"]["total_tokens"] == 13


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_that_is_cut_is_incomplete(stream: bool) -> None:
    answer = post(FakeEngine(finish=FinishReason.LENGTH), stream=stream)
    body = events(answer)[-1]["response"] if stream else answer.json()
    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["output"][0]["status"] == "incomplete"
    if stream:
        assert events(answer)[-1]["type"] == "response.incomplete"


def test_an_answer_without_text_is_an_empty_message() -> None:
    body = post(FakeEngine(texts=("",))).json()
    assert body["output"][0]["content"][0]["text"] == ""


def test_pictures_stand_where_they_are_written() -> None:
    engine = FakeEngine()
    answer = post(engine, [user("Look:", IMAGE, "What is it?")])
    assert "user\nLook:[255, 0, 0]\nWhat is it?" in engine.prompt()
    assert answer.json()["usage"]["input_tokens_details"]["image_tokens"] == 64
    assert answer.json()["images"][0]["tokens"] == 64
    wrong = post(FakeEngine(), [user("x"), user({**IMAGE, "image_url": "data:,"})])
    assert wrong.json()["error"]["param"] == "input[1].content[0].image_url"


def test_a_conversation_of_items_reaches_the_template() -> None:
    engine = FakeEngine(ready=engine_ready(chat_template=HERMES))
    seen = {**OUTPUT, "output": [{"type": "input_text", "text": "see"}, IMAGE]}
    items = [
        {"type": "message", "role": "developer", "content": "Be brief."},
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]},
        CALL,
        seen,
    ]
    answer = post(engine, items, instructions="Be kind.")
    assert answer.status_code == 200, answer.text
    prompt = engine.prompt()
    assert prompt.startswith("<|im_start|>system\nBe kind.\nBe brief.<|im_end|>")
    assert 'Wait.<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>' in prompt
    assert "<tool_response>\nsee[255, 0, 0]\n\n</tool_response>" in prompt


def test_a_response_is_continued_by_its_id() -> None:
    engine = FakeEngine()
    app = app_of(engine)
    first = call(app, "POST", PATH, json={"input": [user("Look:", IMAGE)], "instructions": "A"})
    second = call(
        app,
        "POST",
        PATH,
        json={"input": "Sure?", "previous_response_id": first.json()["id"], "stream": True},
    )
    last = events(second)[-1]["response"]
    assert last["previous_response_id"] == first.json()["id"]
    third = call(app, "POST", PATH, json={"input": "Ok", "previous_response_id": last["id"]})
    assert third.status_code == 200
    assert engine.prompt() == (
        "<|im_start|>user\nLook:[255, 0, 0]\n<|im_end|>\n"
        "<|im_start|>assistant\nA red circle.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n"
        "<|im_start|>assistant\nA red circle.<|im_end|>\n"
        "<|im_start|>user\nOk<|im_end|>\n<|im_start|>assistant\n"
    )


def test_stored_responses_are_read_listed_and_forgotten() -> None:
    app = app_of(FakeEngine())
    items = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    made = call(app, "POST", PATH, json={"input": items}).json()
    path = f"{PATH}/{made['id']}"
    assert call(app, "GET", path).json() == made
    listed = call(app, "GET", f"{path}/input_items?order=asc&limit=1").json()
    assert [item["content"][0]["text"] for item in listed["data"]] == ["one"]
    assert listed["has_more"]
    rest = call(app, "GET", f"{path}/input_items?order=asc&after={listed['last_id']}").json()
    assert [item["content"][0]["text"] for item in rest["data"]] == ["two"]
    assert not rest["has_more"]
    assert call(app, "POST", f"{path}/cancel").status_code == 400
    assert call(app, "GET", f"{path}?stream=true").json()["error"]["param"] == "stream"
    assert call(app, "DELETE", path).json()["deleted"]
    for method, where in (("GET", path), ("DELETE", path), ("POST", f"{path}/cancel")):
        gone = call(app, method, where)
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "response_not_found")
    lost = call(app, "POST", PATH, json={"input": "x", "previous_response_id": made["id"]})
    assert lost.status_code == 400
    assert lost.json()["error"]["code"] == "previous_response_not_found"
    assert lost.json()["error"]["param"] == "previous_response_id"


def test_what_is_not_to_be_stored_is_not() -> None:
    app = app_of(FakeEngine())
    made = call(app, "POST", PATH, json={"input": "x", "store": False}).json()
    assert made["store"] is False
    assert call(app, "GET", f"{PATH}/{made['id']}").status_code == 404


def test_the_store_forgets_what_was_used_longest_ago() -> None:
    app = app_of(FakeEngine(), responses_max_count=2)
    ids = [call(app, "POST", PATH, json={"input": "x"}).json()["id"] for _ in range(2)]
    assert call(app, "GET", f"{PATH}/{ids[0]}").status_code == 200
    call(app, "POST", PATH, json={"input": "x"})
    assert call(app, "GET", f"{PATH}/{ids[0]}").status_code == 200
    assert call(app, "GET", f"{PATH}/{ids[1]}").status_code == 404
    small = app_of(FakeEngine(), responses_max_bytes=1000)
    made = call(small, "POST", PATH, json={"input": "x"}).json()
    assert call(small, "GET", f"{PATH}/{made['id']}").status_code == 404


def test_input_is_counted() -> None:
    engine = FakeEngine()
    answer = call(app_of(engine), "POST", f"{PATH}/input_tokens", json={"input": [user(IMAGE)]})
    assert answer.json() == {
        "object": "response.input_tokens",
        "input_tokens": 74,
        "text_tokens": 10,
        "image_tokens": 64,
    }
    assert not engine.parts


def test_an_error_in_a_stream_is_an_event_that_sdks_raise() -> None:
    engine = FakeEngine(error=EngineUnavailable("gone"), error_after=1)
    error, failed = events(post(engine, stream=True))[-2:]
    assert error["type"] == "error"
    assert error["message"] == error["error"]["message"] == "gone"
    # Codex reads this one, and asks six times where it is missing.
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": "gone"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestError("no token is left"), "invalid_prompt"),
        (DeadlineExceeded("too long"), "invalid_prompt"),
        (ContextLengthExceeded("too long"), "context_length_exceeded"),
        (Overloaded("full"), "rate_limit_exceeded"),
    ],
)
def test_a_failed_stream_has_a_code_that_says_whether_to_ask_again(
    error: LlavaError, code: str
) -> None:
    last = events(post(FakeEngine(error=error, error_after=1), stream=True))[-1]
    assert last["response"]["error"] == {"code": code, "message": error.message}


def test_a_silent_stream_repeats_that_the_response_is_in_progress() -> None:
    engine = FakeEngine(texts=("x",), token_seconds=0.3)
    app = app_of(engine, sse_ping_interval=0.1)
    answer = call(app, "POST", PATH, json={"input": "a", "stream": True})
    kinds = [event["type"] for event in events(answer)]
    assert kinds.count("response.in_progress") > 1
    assert ": ping" not in answer.text
    assert kinds[-1] == "response.completed"


TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
SCHEMA = {"type": "json_schema", "name": "x"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id"),
    ({"input": [{"type": "unheard_of"}]}, "input[0].type"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [user({"type": "input_file", "file_id": "x"})]}, "input[0].content[0].type"),
    ({"input": [user({"type": "input_image"})]}, "input[0].content[0]"),
    ({"input": [{"role": "assistant", "content": [IMAGE]}]}, "input[0].content[0]"),
    ({"input": [{**CALL, "arguments": 5}]}, "input[0].arguments"),
    ({"background": True}, "background"),
    ({"conversation": "c"}, "conversation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"n": 2}, "n"),
    ({"text": {"format": SCHEMA}}, "text.format"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice.name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "mcp"}}, "tool_choice.type"),
    ({"temperature": 3}, "temperature"),
    ({"max_output_tokens": 5, "max_tokens": 6}, "max_tokens"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED)
def test_what_is_refused_is_named(fields: dict[str, Any], param: str) -> None:
    response = call(app_of(FakeEngine()), "POST", PATH, json={"input": "x", **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_no_parameter_of_the_sdk_is_ignored() -> None:
    from openai.types.responses import response_create_params as params

    from server.api.fields.policy_table import names
    from server.api.responses.request import ResponsesRequest

    known = {*ResponsesRequest.model_fields, *names("responses")}
    asked = set()
    for kind in (params.ResponseCreateParamsNonStreaming, params.ResponseCreateParamsStreaming):
        asked |= kind.__required_keys__ | kind.__optional_keys__
    assert len(asked) > 25
    assert asked <= known


def test_items_of_other_tools_are_read_as_functions() -> None:
    engine = FakeEngine(ready=engine_ready(chat_template=HERMES))
    given = [
        user("hi"),
        {"type": "apply_patch_call", "call_id": "a", "operation": {"type": "create_file"}},
        {"type": "apply_patch_call_output", "call_id": "a", "output": {"status": "done"}},
        {"type": "shell_call", "action": {"commands": ["ls"]}},
    ]
    answer = post(engine, given)
    assert answer.status_code == 200, answer.text
    assert '{"name": "apply_patch", "arguments": {"type": "create_file"}}' in engine.prompt()
    assert '{"status": "done"}' in engine.prompt()
    assert answer.headers["x-llava-ignored"] == "input[].shell_call"


def test_an_item_of_a_stored_response_is_found_by_its_id() -> None:
    engine = FakeEngine()
    app = app_of(engine)
    first = call(app, "POST", PATH, json={"input": "What is there?"}).json()
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    thought = {"type": "item_reference", "id": "rs_1"}
    body = {"input": [user("What is there?"), thought, reference, user("And?")]}
    second = call(app, "POST", PATH, json=body)
    assert second.status_code == 200, second.text
    assert "<|im_start|>assistant\nA red circle.<|im_end|>" in engine.prompt(-1)
    listed = call(app, "GET", f"{PATH}/{second.json()['id']}/input_items?order=asc").json()["data"]
    assert [item["role"] for item in listed] == ["user", "assistant", "user"]


def test_metadata_and_user_may_have_any_form() -> None:
    body = {"input": "a", "metadata": {"a": None, "b": 1, "c": "x"}, "user": {"id": 1}}
    answer = call(app_of(FakeEngine()), "POST", PATH, json=body).json()
    assert answer["metadata"] == {"b": "1", "c": "x"}
    assert answer["user"] == '{"id": 1}'
