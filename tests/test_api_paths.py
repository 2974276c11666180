"""Paths and methods as clients of other servers spell them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fakes import FakeEngine, call, chat, serving
from fastapi import FastAPI

from server.api.app import create_app
from server.api.middleware.paths import served
from server.api.options import ApiOptions

GETS = ["/v1/models", "/v1/memory", "/props", "/health", "/metrics", "/docs", "/openapi.json", "/"]


def app_of(**options: Any) -> FastAPI:
    return create_app(FakeEngine(), ApiOptions(**options))


@pytest.mark.parametrize("path", GETS)
def test_head_is_get_without_its_body(path: str) -> None:
    app = app_of()
    got, head = call(app, "GET", path), call(app, "HEAD", path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


def test_head_over_a_connection_that_is_used_again() -> None:
    with serving(FakeEngine()) as url, httpx.Client(base_url=url) as client:
        head = client.head("/v1/models")
        assert head.status_code == 200
        assert int(head.headers["content-length"]) > 100
        assert client.get("/v1/models").json()["object"] == "list"
        missing = client.head("/v1/files/file-1")
        assert (missing.status_code, missing.content) == (404, b"")
        assert client.post("/v1/chat/completions", json=chat()).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/chat/completions",
        "/chat/completions/",
        "/v1/v1/chat/completions",
    ],
)
def test_a_base_url_that_is_not_quite_right_is_served(path: str) -> None:
    answer = call(app_of(), "POST", path, json=chat())
    assert answer.status_code == 200
    assert answer.json()["object"] == "chat.completion"


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/v1", "/v1"),
        ("/v1/", "/v1"),
        ("/models", "/v1/models"),
        ("/models/a/b", "/v1/models/a/b"),
        ("/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/responses/resp_1", "/v1/responses/resp_1"),
        ("/files", "/v1/files"),
        ("/v1/models/a/b", "/v1/models/a/b"),
        ("/modelsx", "/modelsx"),
        ("/embeddings", "/v1/embeddings"),
        ("/health/", "/health"),
    ],
)
def test_the_path_that_is_meant(given: str, path: str) -> None:
    assert served(given) == path


def test_a_key_is_asked_for_however_the_path_is_spelled() -> None:
    app = app_of(api_keys=("k",))
    for path in ("/models", "//v1/models", "/v1/models/", "/docs/../v1/models", "/x/docs/"):
        assert call(app, "GET", path).status_code == 401, path
    assert call(app, "GET", "/health/").status_code == 200


def test_messages_without_v1_answer_errors_as_anthropic_does() -> None:
    answer = call(app_of(), "POST", "/messages", json={})
    assert answer.json()["type"] == "error"
    assert answer.headers["request-id"] == answer.json()["request_id"]


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "/api/chat", "this server has POST /v1/chat/completions"),
        ("POST", "/api/generate", "this server has POST /v1/completions"),
        ("POST", "/completion", "this server has POST /v1/completions"),
        ("GET", "/api/tags", "this server has GET /v1/models"),
        ("GET", "/nothing", "GET /docs shows what there is"),
    ],
)
def test_a_path_of_another_server_names_ours(method: str, path: str, words: str) -> None:
    answer = call(app_of(), method, path, json={} if method == "POST" else None)
    assert answer.status_code == 404
    assert words in answer.json()["error"]["message"]


def test_a_wrong_method_names_the_right_one() -> None:
    answer = call(app_of(), "GET", "/v1/chat/completions")
    assert answer.status_code == 405
    assert "send POST" in answer.json()["error"]["message"]
