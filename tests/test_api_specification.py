"""Every parameter of OpenAI's chat completions, as the SDK types it: honoured, or refused by name.

A new version of the SDK with a new field fails here until somebody has decided about it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from fakes import FakeEngine, chat, post_chat
from openai.types.chat import (
    chat_completion_content_part_param,
    chat_completion_message_param,
    chat_completion_stream_options_param,
    completion_create_params,
)

from server.api.fields.sampling import SamplingFields, StreamOptions
from server.api.openai.chat_request import ChatRequest

FIELDS = set(get_type_hints(completion_create_params.CompletionCreateParamsBase)) | {"stream"}
DOCS = (Path(__file__).resolve().parents[1] / "docs" / "api.md").read_text(encoding="utf-8")

# A value of each field that is not honoured, which asks for something.
REFUSED: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "function_call": {"name": "f"},
    "functions": [{"name": "f"}],
    "modalities": ["text", "audio"],
    "moderation": {"model": "omni"},
    "web_search_options": {},
}
# Hints: a value of each that asks for something.
IGNORED: dict[str, Any] = {
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "service_tier": "flex",
    "store": True,
    "verbosity": "low",
}
IN_STREAMS = {"include_obfuscation": True}
IN_PARTS = {"prompt_cache_breakpoint": {"mode": "explicit"}}


def refused_as(body: dict[str, Any]) -> tuple[str, str]:
    response = post_chat(FakeEngine(), body)
    error = response.json()["error"]
    assert response.status_code == 400
    return error["code"], error["param"]


def test_no_field_is_undecided() -> None:
    honoured = set(ChatRequest.model_fields)
    assert FIELDS - honoured - set(REFUSED) - set(IGNORED) == set()
    assert honoured & (set(REFUSED) | set(IGNORED)) == set(), "decided twice"
    streams = set(
        get_type_hints(chat_completion_stream_options_param.ChatCompletionStreamOptionsParam)
    )
    assert streams == set(StreamOptions.model_fields) | set(IN_STREAMS)


@pytest.mark.parametrize("field", REFUSED)
def test_what_is_not_honoured_is_refused_by_name(field: str) -> None:
    assert field in FIELDS
    assert refused_as(chat(**{field: REFUSED[field]})) == ("unsupported_parameter", field)


@pytest.mark.parametrize("field", IGNORED)
def test_a_hint_is_ignored_and_reported(field: str) -> None:
    assert ignored(chat(**{field: IGNORED[field]})) == field


def test_so_is_what_stands_deeper() -> None:
    for field, value in IN_STREAMS.items():
        body = chat(stream=True, stream_options={field: value})
        assert ignored(body) == f"stream_options.{field}"
    for field, value in IN_PARTS.items():
        body = chat([{"type": "text", "text": "a", field: value}])
        assert ignored(body) == f"messages[].content[].{field}"


def ignored(body: dict[str, Any]) -> str:
    response = post_chat(FakeEngine(), body)
    assert response.status_code == 200, response.text
    return response.headers["x-llava-ignored"]


@pytest.mark.parametrize("field", sorted(FIELDS - {"messages", "model"}))
def test_null_is_the_default_of_every_field(field: str) -> None:
    assert post_chat(FakeEngine(), chat(**{field: None})).status_code == 200


@pytest.mark.parametrize("field", sorted(FIELDS | set(SamplingFields.model_fields)))
def test_every_field_is_in_the_documentation(field: str) -> None:
    assert f"`{field}`" in DOCS


def test_no_field_of_a_message_is_undecided() -> None:
    known = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal"}
    refused = {"audio", "function_call"}
    for message in get_args(chat_completion_message_param.ChatCompletionMessageParam):
        assert set(get_type_hints(message)) - known - refused == set()
    for part in get_args(chat_completion_content_part_param.ChatCompletionContentPartParam):
        kinds = {"type", "text", "image_url", "file", "input_audio", "refusal"}
        assert set(get_type_hints(part)) - kinds - set(IN_PARTS) == set()


def test_numbers_that_json_has_not_are_refused() -> None:
    for number in ("NaN", "Infinity", "-Infinity"):
        body = json.dumps(chat()).replace("{", f'{{"temperature": {number}, ', 1)
        assert post_chat_raw(body) == ("invalid_json", None)
    for field in ("temperature", "top_p", "presence_penalty", "repeat_penalty", "mirostat_tau"):
        body = json.dumps(chat()).replace("{", f'{{"{field}": 1e999, ', 1)
        assert post_chat_raw(body) == ("invalid_value", field)
    body = json.dumps(chat()).replace("{", '{"logit_bias": {"1": -1e999}, ', 1)
    assert post_chat_raw(body) == ("invalid_value", "logit_bias")


def post_chat_raw(body: str) -> tuple[str, str | None]:
    from fakes import call

    from server.api.app import create_app
    from server.api.options import ApiOptions

    headers = {"content-type": "application/json"}
    app = create_app(FakeEngine(), ApiOptions())
    response = call(app, "POST", "/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == 400
    error = response.json()["error"]
    return error["code"], error["param"]
