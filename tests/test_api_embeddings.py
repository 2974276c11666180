"""/v1/embeddings: every form of an input, normalisation, and what is refused."""

from __future__ import annotations

import base64
import re
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from fakes import FakeEngine, call, data_url, image_part, serving, text_part

from server.api.app import create_app
from server.api.openai.embeddings import normalized
from server.api.options import ApiOptions
from server.errors import ContextLengthExceeded
from server.messages import ImageInput, LiteralText, Pooling, TokenIds
from server.prompt import MARKER

PATH = "/v1/embeddings"


def post(body: Any, engine: FakeEngine | None = None) -> httpx.Response:
    return call(create_app(engine or FakeEngine(), ApiOptions()), "POST", PATH, json=body)


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_openai_client_gets_unit_vectors(encoding: Any) -> None:
    more: dict[str, Any] = {"encoding_format": encoding} if encoding else {}
    with serving(FakeEngine()) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="x") as sdk:
        reply = sdk.embeddings.create(model="any", input=["a", "b"], **more)
    assert [each.index for each in reply.data] == [0, 1]
    assert reply.usage.total_tokens == 10
    found: Any = reply.data[0].embedding
    if encoding == "base64":
        found = np.frombuffer(base64.b64decode(found), "<f4")
    assert list(found[:2]) == pytest.approx([0.6, 0.8])
    assert len(found) == 192


PICTURE = image_part()
HIDDEN, PROJECTOR = Pooling.HIDDEN, Pooling.PROJECTOR


@pytest.mark.parametrize(
    ("given", "kinds", "pooled"),
    [
        ("a", [[LiteralText]], [HIDDEN]),
        ([5, 6], [[TokenIds]], [HIDDEN]),
        ([[5, 6], "a"], [[TokenIds], [LiteralText]], [HIDDEN, HIDDEN]),
        (PICTURE, [[ImageInput]], [PROJECTOR]),
        ([PICTURE, "a"], [[ImageInput], [LiteralText]], [PROJECTOR, HIDDEN]),
        ({"content": [PICTURE, PICTURE]}, [[ImageInput, ImageInput]], [PROJECTOR]),
        ({"content": [PICTURE, text_part("")]}, [[ImageInput]], [PROJECTOR]),
        ({"content": [PICTURE, text_part("a")]}, [[ImageInput, LiteralText]], [HIDDEN]),
        ({"content": "a"}, [[LiteralText]], [HIDDEN]),
        (
            {"prompt_string": f"a {MARKER}", "multimodal_data": [data_url()]},
            [[str, ImageInput]],
            [HIDDEN],
        ),
        (text_part("a"), [[LiteralText]], [HIDDEN]),
    ],
)
def test_every_form_of_an_input_reaches_the_engine(given: Any, kinds: Any, pooled: Any) -> None:
    engine = FakeEngine()
    response = post({"input": given}, engine)
    assert response.status_code == 200, response.text
    assert len(response.json()["data"]) == len(kinds)
    found = [[type(part) for part in parts] for parts in engine.parts]
    assert sorted(map(str, found)) == sorted(map(str, kinds))
    assert sorted(engine.pooled) == sorted(pooled)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": ["a", ""]}, "input[1]", "invalid_value"),
        ({"input": 5}, "input", "invalid_value"),
        ({"input": [[594]]}, "input[0][0]", "invalid_value"),
        ({"input": ["a"] * 2049}, "input", "invalid_value"),
        ({"input": "a", "dimensions": 5}, "dimensions", "unsupported_parameter"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "invalid_value"),
        (
            {"input": {"content": [{"type": "unknown"}]}},
            "input.content[0].type",
            "invalid_value",
        ),
        (
            {"input": [{"content": [{"type": "input_audio"}]}]},
            "input[0].content[0].type",
            "unsupported_parameter",
        ),
        (
            {"input": {"content": [{"type": "image_url", "image_url": "data:,x"}]}},
            "input.content[0].image_url",
            "unsupported_image_format",
        ),
        (
            {"input": [{"type": "image_url", "image_url": {"url": "data:,x"}}]},
            "input[0].image_url.url",
            "unsupported_image_format",
        ),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(body: Any, param: str, code: str) -> None:
    response = post(body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


def test_dimensions_that_are_the_model_s_own_are_taken() -> None:
    assert post({"input": "a", "dimensions": 192}).status_code == 200


def test_too_long_input_is_named() -> None:
    engine = FakeEngine(error=ContextLengthExceeded("too long", param="messages"))
    error = post({"input": ["a", "b"]}, engine).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["param"].startswith("input[")


def test_tokens_and_pictures_are_counted() -> None:
    app = create_app(FakeEngine(), ApiOptions())
    assert call(app, "POST", PATH, json={"input": ["a", PICTURE]}).status_code == 200
    metrics = call(app, "GET", "/metrics").text
    assert re.search(r"llava_prompt_tokens_total\{[^}]*\} 74.0", metrics)
    assert re.search(r"llava_image_tokens_total\{[^}]*\} 64.0", metrics)


def test_norms_are_llama_cpp_s() -> None:
    vector = np.array([3.0, -4.0], np.float32)
    assert list(normalized(vector, -1)) == [3.0, -4.0]
    assert list(normalized(vector, 0)) == pytest.approx([0.75, -1.0])
    assert list(normalized(vector, 1)) == pytest.approx([3 / 7, -4 / 7])
    assert list(normalized(vector, 2)) == pytest.approx([0.6, -0.8])
    assert list(normalized(vector, 3)) == pytest.approx(vector / 91 ** (1 / 3))
    assert list(normalized(np.zeros(2, np.float32), 2)) == [0.0, 0.0]
    assert np.isfinite(normalized(np.array([1e30, 1e30], np.float32), 64)).all()


def test_llama_server_s_content_gets_its_shape() -> None:
    picture = {"prompt_string": f"{MARKER}\n", "multimodal_data": [data_url().partition(",")[2]]}
    engine = FakeEngine()
    answer = post({"content": [{"prompt_string": "a red circle"}, picture]}, engine).json()
    assert [each["index"] for each in answer] == [0, 1]
    assert [len(each["embedding"]) for each in answer] == [1, 1]
    assert answer[0]["embedding"][0][:2] == pytest.approx([0.6, 0.8])
    assert post({"content": "a"}).json()[0]["index"] == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": "a", "content": "a"}, "content"),
        ({"content": [{"prompt_string": 5}]}, "content[0].prompt_string"),
        ({"content": ["a", ""]}, "content[1]"),
    ],
)
def test_what_is_wrong_with_either_is_named(body: dict[str, Any], param: str) -> None:
    answer = post(body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
