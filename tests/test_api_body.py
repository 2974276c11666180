"""Bodies that are malformed, odd, large or random: nothing a client sends is an error of ours."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import FakeEngine, call, chat, engine_ready, post_chat
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import data_url, encode
from PIL import Image

from server.api.app import create_app
from server.api.http.body import _quick
from server.api.options import ApiOptions

RAW = {
    "empty": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "NaN": b'{"messages": [], "temperature": NaN}',
    "infinity": b'{"messages": [], "temperature": -Infinity}',
    "twice": b'{"messages": [], "n": 1, "n": 1}',
    "not UTF-8": b'{"messages": "\xff"}',
    "deep": b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "many digits": b'{"messages": [], "seed": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("name", RAW)
def test_bad_json_is_the_client_s_fault(name: str) -> None:
    app = create_app(FakeEngine(), ApiOptions())
    response = call(app, "POST", "/v1/chat/completions", content=RAW[name])
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize(
    "content", [b'"\\ud800"', b'[{"type": "text", "text": "\\udfff"}]', b"1e999", b"{}"]
)
def test_odd_json_is_the_client_s_fault(content: bytes) -> None:
    app = create_app(FakeEngine(), ApiOptions())
    raw = b'{"messages": [{"role": "user", "content": ' + content + b"}]}"
    response = call(app, "POST", "/v1/chat/completions", content=raw)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("messages[0].content")


def test_overflowing_number_is_the_client_s_fault() -> None:
    app = create_app(FakeEngine(), ApiOptions())
    raw = b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}'
    response = call(app, "POST", "/v1/chat/completions", content=raw)
    assert response.json()["error"]["param"] == "temperature"


def test_body_over_the_limit() -> None:
    app = create_app(FakeEngine(), ApiOptions(max_body_bytes=1000))
    raw = json.dumps(chat("x" * 1000)).encode()
    response = call(app, "POST", "/v1/chat/completions", content=raw)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"
    small = call(app, "POST", "/v1/chat/completions", json=chat("x"))
    assert small.status_code == 200


def test_millions_of_parts_are_refused() -> None:
    response = post_chat(FakeEngine(), chat([{"type": "text", "text": ""}] * 10_001))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages"


def test_large_body_is_served() -> None:
    engine = FakeEngine()
    assert post_chat(engine, chat("x" * 500_000)).status_code == 200
    assert len(engine.prompt()) > 500_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["messages", "temperature", "stop", "stream_options", "max_tokens", "metadata", "tools"]
MESSAGE = st.fixed_dictionaries(
    {}, optional={"role": st.sampled_from(["user", "assistant", "x"]) | JSON, "content": JSON}
)
PARTS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "image_url"])}, optional={"text": JSON, "image_url": JSON}
    )
)


APP = create_app(FakeEngine(), ApiOptions())


@settings(max_examples=120)
@given(
    body=st.dictionaries(st.sampled_from(KEYS), JSON),
    messages=JSON
    | st.lists(MESSAGE, max_size=3)
    | PARTS.map(lambda parts: [{"role": "user", "content": parts}]),
)
def test_no_json_is_an_error_of_ours(body: dict[str, Any], messages: Any) -> None:
    raw = json.dumps({**body, "messages": messages}).encode("utf-8", "replace")
    response = call(APP, "POST", "/v1/chat/completions", content=raw)
    assert response.status_code in (200, 400), response.text


@pytest.mark.parametrize(
    ("content", "quick"),
    [
        (b"[]", True),
        (b"[" * 60_000, True),
        (b'{"url": "' + b"A" * 200_000 + b'"}', True),
        (b'{"url": "' + b"A" * 300_000 + b'"}', False),
        (b"[" * 100_000, False),
        (b"[" + b"1," * 50_000 + b"1]", False),
        (b'{"a": ' * 20_000, False),
        (b'"' + b"\\n" * 50_000 + b'"', False),
    ],
)
def test_what_takes_long_to_parse_is_parsed_in_a_thread(content: bytes, quick: bool) -> None:
    assert _quick(content) is quick


@pytest.mark.parametrize("piece", [b"1,", b"[],", b'{"a":1},', b"[["])
def test_more_values_than_a_parser_is_given(piece: bytes) -> None:
    """It would keep all other threads waiting: 3 s for 64 MiB."""
    app = create_app(FakeEngine(), ApiOptions())
    raw = b'{"tokens": [' + piece * 500_000 + b"1]}"
    response = call(app, "POST", "/detokenize", content=raw)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (413, "request_too_large")
    assert "400,000 JSON values" in error["message"]


def test_as_many_token_ids_as_the_context_holds_are_read() -> None:
    raw = json.dumps({"tokens": [1] * 500_000}).encode()
    app = create_app(FakeEngine(ready=engine_ready(n_ctx=1_000_000)), ApiOptions())
    assert call(app, "POST", "/detokenize", content=raw).status_code == 200


def test_long_texts_large_tools_and_pictures_are_ordinary() -> None:
    text = "Well, as I said: it is {so}, [is it not]? " * 20_000
    assert post_chat(FakeEngine(), chat(text)).status_code == 200
    properties = {f"field {number}": {"type": "string"} for number in range(100)}
    function = {"name": "f", "parameters": {"type": "object", "properties": properties}}
    body = chat("Hello", tools=[{"type": "function", "function": function}])
    assert post_chat(FakeEngine(), body).status_code == 200
    noise = Image.effect_noise((2000, 1500), 90).convert("RGB")
    url = data_url(encode(noise, "PNG", compress_level=1))
    assert len(url) > 4_000_000
    part = {"type": "image_url", "image_url": {"url": url}}
    assert post_chat(FakeEngine(), chat([part])).status_code == 200


def test_many_long_numbers_are_not_computed() -> None:
    app = create_app(FakeEngine(), ApiOptions())
    raw = b'{"tokens": [' + b"12345678901234567890," * 20_000 + b"9" * 4000 + b"]}"
    response = call(app, "POST", "/detokenize", content=raw)
    assert response.status_code == 400
    assert "more than 100 digits" in response.json()["error"]["message"]
