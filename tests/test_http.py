"""HTTP's own part: methods, media types, malformed requests, comments in silent streams."""

from __future__ import annotations

import json
import socket

import httpx
import openai
import pytest
from fakes import FakeEngine, call, chat, serving

from server.api.app import create_app
from server.api.options import ApiOptions

PATH = "/v1/chat/completions"


def raw(url: str, request: bytes) -> tuple[str, dict[str, str], bytes]:
    """What comes back for bytes that no client library would send: status, headers, body."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:
        line.sendall(request)
        answer = b""
        while chunk := line.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return status, dict(line.split(": ", 1) for line in lines), body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 100_000, "HTTP/1.1 431 "),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (
            b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: br\r\n\r\n",
            "HTTP/1.1 501 Not Implemented",
        ),
    ],
)
def test_what_is_no_http_is_answered_in_our_shape(request_: bytes, status: str) -> None:
    with serving(FakeEngine()) as url:
        line, headers, body = raw(url, request_)
        assert httpx.get(url + "/health").status_code == 200
    assert line.startswith(status)
    assert headers["x-request-id"].startswith("req-")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "invalid_http"


@pytest.mark.parametrize("order", [1, -1])
def test_a_body_with_a_length_and_chunks_is_refused_with_all_behind_it(order: int) -> None:
    hidden = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    lines = [b"content-length: %d" % (5 + len(hidden)), b"transfer-encoding: chunked"][::order]
    head = [f"POST {PATH} HTTP/1.1".encode(), b"host: x", *lines, b"", b"0\r\n\r\n"]
    with serving(FakeEngine()) as url:
        line, headers, body = raw(url, b"\r\n".join(head) + hidden)
    assert line.startswith("HTTP/1.1 400")
    assert headers["connection"] == "close"
    assert b"HTTP/1.1" not in body, "the hidden request is not served"
    message = json.loads(body)["error"]["message"]
    assert "content-length and transfer-encoding" in message


def test_a_malformed_head_request_gets_a_head_alone() -> None:
    head = b"HEAD /health HTTP/1.1", b"host: x", b"transfer-encoding: chunked", b"content-length: 5"
    sent = b"\r\n".join((*head, b"", b""))
    with serving(FakeEngine()) as url:
        line, headers, body = raw(url, sent)
    assert line.startswith("HTTP/1.1 400")
    assert int(headers["content-length"]) > 0
    assert body == b""


def test_broken_chunks_of_a_body_harm_nobody() -> None:
    request = (
        f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\nZZZ\r\n"
    )
    with serving(FakeEngine()) as url:
        raw(url, request.encode())
        assert httpx.post(url + PATH, json=chat()).status_code == 200


def test_wrong_method_is_told_the_right_ones() -> None:
    app = create_app(FakeEngine(), ApiOptions())
    for method, path, allow in (
        ("PUT", "/v1/files", "GET, HEAD, POST"),
        ("POST", "/v1/files/file-1", "DELETE, GET, HEAD"),
        ("GET", PATH, "POST"),
    ):
        response = call(app, method, path)
        assert response.status_code == 405
        assert response.headers.get_list("allow") == [allow]
        assert response.json()["error"]["code"] == "method_not_allowed"
        assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json5"]
)
def test_body_of_another_type_is_415(kind: str) -> None:
    app = create_app(FakeEngine(), ApiOptions())
    response = call(app, "POST", PATH, content=json.dumps(chat()), headers={"content-type": kind})
    assert response.status_code == 415
    assert response.json()["error"]["code"] == "unsupported_media_type"


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/x+json", None]
)
def test_json_by_any_of_its_names_is_taken(kind: str | None) -> None:
    app = create_app(FakeEngine(), ApiOptions())
    headers = {"content-type": kind} if kind else {}
    response = call(app, "POST", PATH, content=json.dumps(chat()).encode(), headers=headers)
    assert response.status_code == 200


def test_compressed_body_is_415() -> None:
    app = create_app(FakeEngine(), ApiOptions())
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert call(app, "POST", PATH, content=b"x", headers=headers).status_code == 415


def test_silent_stream_is_kept_alive_by_comments() -> None:
    engine = FakeEngine(texts=("A ", "cat"), token_seconds=0.5)
    with serving(engine, sse_ping_interval=0.05) as url:
        text = httpx.post(url + PATH, json=chat(stream=True)).text
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
            stream = sdk.chat.completions.create(
                model="any", messages=[{"role": "user", "content": "Hi"}], stream=True
            )
            answer = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert answer == "A cat", "OpenAI's client passes over comments"
    role, first, second = text.index('"role"'), text.index('"A "'), text.index('"cat"')
    for start, end in ((role, first), (first, second)):
        assert text.count(": ping\n\n", start, end) >= 2
    assert text.endswith("data: [DONE]\n\n")
    assert ": ping" not in text[second:]


@pytest.mark.parametrize("path", [PATH, "/v1/completions"])
def test_request_may_ask_for_no_comments(path: str) -> None:
    engine = FakeEngine(token_seconds=0.2)
    body = {"stream": True, "sse_ping_interval": -1}
    body |= chat() if path == PATH else {"prompt": "a"}
    with serving(engine, sse_ping_interval=0.05) as url:
        assert ": ping" not in httpx.post(url + path, json=body).text


@pytest.mark.parametrize("interval", [0.0, -1.0, 60.0])
def test_no_comments_where_none_are_due(interval: float) -> None:
    engine = FakeEngine(token_seconds=0.05)
    with serving(engine, sse_ping_interval=interval) as url:
        assert ": ping" not in httpx.post(url + PATH, json=chat(stream=True)).text
