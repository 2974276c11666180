"""What is refused, and by which name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import FakeEngine, call, chat, engine_ready, image_part, post_chat, text_part

from server.api.app import create_app
from server.api.options import ApiOptions
from server.images.options import ImageLimits, ImageOptions

PICTURE = "messages[0].content[0]"


def refusal(body: Any, **options: Any) -> tuple[int, str | None, str | None]:
    engine = FakeEngine()
    app = create_app(engine, ApiOptions(**options))
    # json.dumps writes lone surrogates as escapes, which httpx's json= would refuse to send.
    response = call(app, "POST", "/v1/chat/completions", content=json.dumps(body))
    assert engine.ids == [], "the engine must not see what is refused"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    return response.status_code, error["code"], error["param"]


UNSUPPORTED = {
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy"},
    "web_search_options": {},
    "lora": [{"id": 0, "scale": 1}],
}


@pytest.mark.parametrize("field", UNSUPPORTED)
def test_unsupported_parameter_is_refused_by_name(field: str) -> None:
    body = chat(**{field: UNSUPPORTED[field]})
    assert refusal(body) == (400, "unsupported_parameter", field)


def test_true_is_not_one() -> None:
    assert refusal(chat(n=True)) == (400, "invalid_value", "n")
    assert refusal(chat(best_of=True)) == (400, "unsupported_parameter", "best_of")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "function", "content": "x", "name": "f"}, "messages[1].role"),
        ({"role": "assistant", "audio": {"id": "a"}}, "messages[1].audio"),
        ({"role": "user", "content": "x", "images": ["aGk="]}, "messages[1].images"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "messages[1].content[0].type"),
        (
            {"role": "user", "content": [{"type": "file", "file": {"file_data": "data:,a"}}]},
            "messages[1].content[0].file",
        ),
    ],
)
def test_unsupported_message_is_refused_by_name(message: Any, param: str) -> None:
    messages = [{"role": "user", "content": "Hi"}, message]
    assert refusal({"messages": messages}) == (400, "unsupported_parameter", param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"min_p": -1}, "min_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_k": -2}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"bad_words": [""]}, "bad_words[0]"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 1.1, "repeat_penalty": 1.2}, "repetition_penalty"),
        ({"n": 1, "n_cmpl": 2}, "n_cmpl"),
        ({"n_probs": 21}, "n_probs"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"stop": ["x"] * 257}, "stop"),
        ({"stop": ["x" * 500] * 17}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"stop": 5}, "stop"),
        ({"n_predict": 0, "max_tokens": 1}, "n_predict"),
        ({"n_predict": 3, "max_tokens": 2}, "n_predict"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"repeat_last_n": -2}, "repeat_last_n"),
        ({"mirostat": 3}, "mirostat"),
        ({"dry_sequence_breakers": []}, "dry_sequence_breakers"),
        ({"dry_sequence_breakers": [""]}, "dry_sequence_breakers[0]"),
        ({"dry_sequence_breakers": ["x" * 15] * 3}, "dry_sequence_breakers"),
        ({"samplers": ["infill"]}, "samplers[0]"),
        ({"samplers": "kz"}, "samplers[1]"),
        ({"samplers": []}, "samplers"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"5": True}}, "logit_bias"),
        ({"logit_bias": {"5": "1"}}, "logit_bias"),
        ({"logit_bias": [[5]]}, "logit_bias"),
        ({"logit_bias": [[-1, 0]]}, "logit_bias"),
        ({"logit_bias": [[True, 0]]}, "logit_bias"),
        ({"logit_bias": [["", 0]]}, "logit_bias"),
        ({"logit_bias": 5}, "logit_bias"),
        ({"ignore_eos": 1}, "ignore_eos"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"grammar": 'root ::= "\0"'}, "grammar"),
        ({"grammar": 5}, "grammar"),
        ({"json_schema": 5}, "json_schema"),
        ({"json_schema": {}, "grammar": "root ::= ."}, "grammar"),
        ({"json_schema": {}, "response_format": {"type": "json_object"}}, "json_schema"),
        ({"grammar": "root ::= .", "response_format": {"type": "json_object"}}, "grammar"),
        ({"response_format": "json_object"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
            "response_format.json_schema.name",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"enum": ["x" * 200_000]}},
                }
            },
            "response_format.json_schema.schema",
        ),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"metadata": [1]}, "metadata"),
        ({"model": 5}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
    ],
)
def test_wrong_value_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refusal(chat(**fields)) == (400, "invalid_value", param)


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ({"role": "robot", "content": "x"}, "invalid_value", "messages[0].role"),
        ({"content": "x"}, "missing_required_parameter", "messages[0].role"),
        ({"role": "user"}, "missing_required_parameter", "messages[0].content"),
        ({"role": "user", "content": None}, "missing_required_parameter", "messages[0].content"),
        ({"role": "user", "content": 5}, "invalid_value", "messages[0].content"),
        ({"role": "user", "content": "a\0b"}, "invalid_value", "messages[0].content"),
        ({"role": "user", "content": ["x"]}, "invalid_value", PICTURE),
        ({"role": "user", "content": [{}]}, "missing_required_parameter", f"{PICTURE}.type"),
        ({"role": "user", "content": [{"type": "x"}]}, "invalid_value", f"{PICTURE}.type"),
        ({"role": "user", "content": [{"type": ["x"]}]}, "invalid_value", f"{PICTURE}.type"),
        (
            {"role": "user", "content": [{"type": "text"}]},
            "missing_required_parameter",
            f"{PICTURE}.text",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": 1}]},
            "invalid_value",
            f"{PICTURE}.text",
        ),
        (
            {"role": "user", "content": [{"type": "image_url"}]},
            "missing_required_parameter",
            f"{PICTURE}.image_url",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "missing_required_parameter",
            f"{PICTURE}.image_url.url",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": 7}]},
            "invalid_value",
            f"{PICTURE}.image_url",
        ),
        (
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "x", "detail": "max"}}],
            },
            "invalid_value",
            f"{PICTURE}.image_url.detail",
        ),
    ],
)
def test_wrong_message_is_refused_by_its_path(message: Any, code: str, param: str) -> None:
    assert refusal({"messages": [message]}) == (400, code, param)


def test_no_messages() -> None:
    assert refusal({}) == (400, "missing_required_parameter", "messages")


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:image/png;base64,AAAA", "unsupported_image_format"),
        ("data:image/png;base64,!!!", "invalid_image"),
        ("http://169.254.169.254/", "unsupported_image_url"),
        ("file:///etc/passwd", "unsupported_image_url"),
    ],
)
def test_bad_picture_is_refused_by_its_path(url: str, code: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    param = "messages[0].content[2].image_url.url"
    body = chat([text_part("a"), image_part(), part])
    assert refusal(body) == (400, code, param)
    plain = chat([{"type": "image_url", "image_url": url}])
    assert refusal(plain) == (400, code, f"{PICTURE}.image_url")


def test_too_many_pictures_and_pictures_of_the_assistant() -> None:
    images = ImageOptions(limits=ImageLimits(max_images=2))
    body = chat([image_part()] * 3)
    expected = (400, "too_many_images", "messages[0].content[2].image_url.url")
    assert refusal(body, images=images) == expected
    said = {"messages": [{"role": "assistant", "content": [image_part()]}]}
    assert refusal(said) == (400, "invalid_image", PICTURE)


def test_picture_on_a_text_model_is_refused_and_text_works() -> None:
    engine = FakeEngine(ready=engine_ready(vision=None))
    response = post_chat(engine, chat([text_part("a"), image_part()]))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "messages[0].content[1].image_url.url"
    assert "--mmproj" in error["message"]
    assert post_chat(engine, chat()).status_code == 200


def test_conversation_that_the_template_refuses() -> None:
    source = (
        "{% for m in messages %}{% if m.content == 'a' %}{{ raise_exception('no') }}{% endif %}"
    )
    source += "{{ m.content }}{% endfor %}"
    body = {"messages": [{"role": "user", "content": "a"}]}
    assert refusal(body, chat_template=source) == (400, "invalid_conversation", "messages")
