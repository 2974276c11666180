"""The table of fields that change nothing and of demands that are not met, in every API."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import httpx
import pytest
from fakes import FakeEngine, call, engine_ready
from fastapi import FastAPI

from scripts import document_fields
from server.api.app import create_app
from server.api.fields import policy
from server.api.fields.policy_table import TABLE, Api, Rule
from server.api.options import ApiOptions

USER = {"role": "user", "content": "Hello"}
BODIES: dict[Api, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [USER]}),
    "completions": ("/v1/completions", {"prompt": "Hello"}),
    "responses": ("/v1/responses", {"input": "Hello"}),
    "messages": ("/v1/messages", {"model": "x", "max_tokens": 5, "messages": [USER]}),
    "embeddings": ("/v1/embeddings", {"input": "Hello"}),
}
TOOL: dict[Api, dict[str, Any]] = {
    "responses": {"type": "function", "name": "f", "parameters": {"type": "object"}},
    "messages": {"name": "f", "input_schema": {"type": "object"}},
}


def post(api: Api, **fields: Any) -> httpx.Response:
    path, body = BODIES[api]
    return call(app_of_all(), "POST", path, json={**body, **fields})


@cache
def app_of_all() -> FastAPI:
    return create_app(FakeEngine(), ApiOptions())


def body_with(api: Api, name: str, value: object) -> dict[str, Any]:
    """A body's field that has ``value`` at the table's place ``name``."""
    top, _, rest = name.partition(".")
    if not rest:
        return {name: value}
    if top == "tools[]":
        return {"tools": [{**TOOL[api], rest: value}]}
    if top == "stream_options":
        return {"stream": True, "stream_options": {rest: value}}
    if name.startswith("messages[].content[]."):
        part = {"type": "text", "text": "a", rest.rpartition(".")[2]: value}
        return {"messages": [{"role": "user", "content": [part]}]}
    if top == "messages[]":
        return {"messages": [{**USER, rest: value}]}
    return {top: {rest: value}}


CASES = [(api, rule) for api, rules in TABLE.items() for rule in rules.values()]
IGNORED = [case for case in CASES if not case[1].refused]
REFUSED = [case for case in CASES if case[1].refused]


def name_of(value: object) -> str:
    return value.name if isinstance(value, Rule) else str(value)


@pytest.mark.parametrize(("api", "rule"), IGNORED, ids=name_of)
def test_a_hint_of_any_value_changes_nothing_and_is_reported(api: Api, rule: Rule) -> None:
    for value in ({"a": [None]}, True):
        response = post(api, **body_with(api, rule.name, value))
        assert response.status_code == 200, response.text
        assert response.headers["x-llava-ignored"] == rule.name


@pytest.mark.parametrize(("api", "rule"), REFUSED, ids=name_of)
def test_a_demand_is_refused_and_says_what_to_do(api: Api, rule: Rule) -> None:
    response = post(api, **body_with(api, rule.name, {"asks": "for something"}))
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"] == rule.name.replace("[]", "[0]")
    assert rule.why in error["message"]
    for value in rule.neutral or (None,):
        assert post(api, **body_with(api, rule.name, value)).status_code == 200, value


@pytest.mark.parametrize("api", BODIES)
def test_a_name_that_nobody_knows_is_ignored_and_reported(api: Api) -> None:
    response = post(api, x_session="1", **{"a\r\nset-cookie": "x"}, nothing=None)
    assert response.status_code == 200
    assert response.headers["x-llava-ignored"] == "x_session"


@pytest.mark.parametrize("name", ["guided_xml", "json_grammar", "output_schema", "constraints"])
def test_a_name_that_nobody_knows_is_refused_if_it_looks_like_a_constraint(name: str) -> None:
    response = post("chat", **{name: "x"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, name)
    assert "response_format" in response.json()["error"]["message"]


def test_a_hint_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    policy._LOGGED.discard("service_tier")
    with caplog.at_level(logging.INFO, policy.__name__):
        post("chat", service_tier="flex")
        post("responses", service_tier="flex")
    found = [each.getMessage() for each in caplog.records if each.name == policy.__name__]
    reason = "which is ignored: all requests are alike"
    assert found == [f"requests have the field service_tier, {reason}"]


def test_what_asks_for_nothing_is_not_reported() -> None:
    assert "x-llava-ignored" not in post("chat", service_tier=None, temperature=0).headers


def test_a_refusal_shows_a_short_value() -> None:
    message = post("chat", skip_special_tokens=False).json()["error"]["message"]
    assert message.startswith("skip_special_tokens is not supported with the value false: ")


def test_the_table_is_in_the_documentation() -> None:
    page = document_fields.PAGE.read_text(encoding="utf-8")
    assert page == document_fields.page(page), "run python -m scripts.document_fields"


def test_ollama_s_paths_and_pictures_get_a_hint() -> None:
    app = create_app(FakeEngine(), ApiOptions())
    for path in ("/api/chat", "/api/generate", "/api/tags"):
        answer = call(app, "POST", path, json={})
        assert answer.status_code == 404
        assert "this server has" in answer.json()["error"]["message"]
    message = {**USER, "images": ["aGk="]}
    answer = post("chat", messages=[message])
    assert answer.json()["error"]["param"] == "messages[0].images"
    assert "image_url" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", {"messages": [USER]}),
        ("/v1/v1/chat/completions", {"messages": [USER]}),
        ("/chat/completions/input_tokens", {"messages": [USER]}),
        ("/completions", {"prompt": "a"}),
        ("/responses", {"input": "a"}),
        ("/messages", {"model": "x", "max_tokens": 5, "messages": [USER]}),
        ("/v1/v1/messages", {"model": "x", "max_tokens": 5, "messages": [USER]}),
        ("/embeddings", {"input": "a"}),
        ("/embedding", {"content": "a"}),
    ],
)
def test_base_urls_with_and_without_v1(path: str, body: dict[str, Any]) -> None:
    app = create_app(FakeEngine(), ApiOptions(api_keys=("k",)))
    assert call(app, "POST", path, json=body).status_code == 401
    answer = call(app, "POST", path, json=body, headers={"authorization": "Bearer k"})
    assert answer.status_code == 200, answer.text


def test_what_probes_of_other_servers_ask() -> None:
    app = create_app(FakeEngine(), ApiOptions())
    assert call(app, "GET", "/v1/health").json()["status"] == "ok"
    assert call(app, "GET", "/version").json().keys() == {"version"}
    caps = call(app, "GET", "/props").json()["chat_template_caps"]
    assert caps["supports_tools"] is True


@pytest.mark.parametrize("vision", [True, False])
def test_models_say_what_clients_read(vision: bool) -> None:
    ready = engine_ready() if vision else engine_ready(vision=None)
    app = create_app(FakeEngine(ready=ready), ApiOptions())
    model = call(app, "GET", "/v1/models").json()["data"][0]
    assert model["max_model_len"] == model["context_length"] == model["meta"]["n_ctx_seq"]
    assert ("image" in model["architecture"]["input_modalities"]) is vision
    headers = {"anthropic-version": "2023-06-01"}
    listed = call(app, "GET", "/v1/models", headers=headers).json()
    assert listed["has_more"] is False
    assert listed["first_id"] == listed["last_id"] == model["id"]
    one = listed["data"][0]
    assert (one["type"], one["display_name"]) == ("model", model["id"])
    assert call(app, "GET", f"/v1/models/{model['id']}", headers=headers).json() == one
