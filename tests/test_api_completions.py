"""/v1/completions: every form of a prompt, several answers, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from fakes import FakeEngine, call, data_url, engine_ready, serving

from server.api.app import create_app
from server.api.options import ApiOptions
from server.errors import ContextLengthExceeded, EngineUnavailable
from server.messages import ImageInput, TokenIds
from server.prompt import MARKER

PATH = "/v1/completions"


def post(body: Any, engine: FakeEngine | None = None) -> httpx.Response:
    app = create_app(engine or FakeEngine(), ApiOptions())
    return call(app, "POST", PATH, json=body)


def test_completion_is_openai_s() -> None:
    usage: Any = {"include_usage": True}
    with (
        serving(FakeEngine()) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none") as sdk,
    ):
        whole = sdk.completions.create(model="any", prompt="A picture of", max_tokens=8)
        chunks = list(
            sdk.completions.create(model="any", prompt="x", stream=True, stream_options=usage)
        )
    assert whole.object == "text_completion"
    assert whole.choices[0].text == "A red circle."
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.total_tokens == 13
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "A red circle."
    assert chunks[-1].usage is not None
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a", [("a",)]),
        ([5, 6], [(TokenIds((5, 6)),)]),
        ([5, "a", "b", 6], [(TokenIds((5,)), "a", "b", TokenIds((6,)))]),
        (["a", "b"], [("a",), ("b",)]),
        ([[5, 6], "a"], [(TokenIds((5, 6)),), ("a",)]),
        ({"prompt_string": "a"}, [("a",)]),
        ([{"prompt_string": "a"}, [7]], [("a",), (TokenIds((7,)),)]),
    ],
)
def test_every_form_of_a_prompt_reaches_the_engine(prompt: Any, parts: Any) -> None:
    engine = FakeEngine()
    response = post({"prompt": prompt}, engine)
    assert response.status_code == 200, response.text
    assert sorted(map(str, engine.parts)) == sorted(map(str, parts))
    choices = response.json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(parts)))


def test_pictures_stand_where_their_markers_are() -> None:
    engine = FakeEngine()
    red, blue = data_url((255, 0, 0)), data_url((0, 0, 255)).partition(",")[2]
    prompt = {"prompt_string": f"a {MARKER} b {MARKER}", "multimodal_data": [red, blue]}
    response = post({"prompt": prompt}, engine)
    assert response.status_code == 200, response.text
    assert engine.prompt(0) == "a [255, 0, 0] b [0, 0, 255]"
    assert len(response.json()["images"]) == 2
    assert response.json()["usage"]["prompt_tokens_details"]["image_tokens"] == 128


def test_marker_without_pictures_is_text() -> None:
    engine = FakeEngine()
    assert post({"prompt": f"a {MARKER}"}, engine).status_code == 200
    assert engine.parts == [(f"a {MARKER}",)]


def test_several_prompts_and_answers_are_counted_and_seeded() -> None:
    engine = FakeEngine()
    response = post({"prompt": ["a", "b"], "n": 2, "seed": 7}, engine).json()
    assert [choice["index"] for choice in response["choices"]] == [0, 1, 2, 3]
    assert {choice["text"] for choice in response["choices"]} == {"A red circle."}
    assert response["usage"] == {
        "prompt_tokens": 20,
        "completion_tokens": 12,
        "total_tokens": 32,
        "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 0},
    }
    assert sorted(params.seed or 0 for params in engine.sampling) == [7, 7, 8, 8]
    assert len(set(engine.ids)) == 4


def test_answers_are_streamed_side_by_side() -> None:
    engine = FakeEngine(token_seconds=0.01)
    with serving(engine) as url:
        text = httpx.post(url + PATH, json={"prompt": ["a", "b"], "stream": True}).text
    lines = text.strip().split("\n\n")
    assert lines.pop() == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines]
    for index in (0, 1):
        mine = [chunk for chunk in chunks if chunk["index"] == index]
        assert "".join(chunk["text"] for chunk in mine) == "A red circle."
        assert [chunk["finish_reason"] for chunk in mine][-1] == "stop"
    assert engine.most_running == 2


@pytest.mark.parametrize("stream", [False, True])
def test_echo_puts_the_prompt_in_front(stream: bool) -> None:
    response = post({"prompt": [72, 105, " you "], "echo": True, "stream": stream})
    if stream:
        events = response.text.split("\n\n")[:-2]
        found = [json.loads(event[6:])["choices"][0]["text"] for event in events]
        assert found[0] == "Hi you "
        assert "".join(found) == "Hi you A red circle."
    else:
        assert response.json()["choices"][0]["text"] == "Hi you A red circle."


def test_sixteen_tokens_unless_more_are_asked_for() -> None:
    asked = []
    for more in ({}, {"max_tokens": 40}, {"n_predict": 50}, {"n_predict": -1}):
        engine = FakeEngine()
        assert post({"prompt": "a", **more}, engine).status_code == 200
        asked.append(engine.sampling[0].max_tokens)
    assert asked == [16, 40, 50, None]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": None}, "prompt", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [[]]}, "prompt[0]", "invalid_value"),
        ({"prompt": 5}, "prompt", "invalid_value"),
        ({"prompt": [True]}, "prompt[0]", "invalid_value"),
        ({"prompt": [1, -1]}, "prompt[1]", "invalid_value"),
        ({"prompt": [1, 594]}, "prompt[1]", "invalid_value"),
        ({"prompt": ["a", [594]]}, "prompt[1][0]", "invalid_value"),
        ({"prompt": "a\0"}, "prompt", "invalid_value"),
        ({"prompt": ["a"] * 129}, "prompt", "invalid_value"),
        ({"prompt": ["a"] * 65, "n": 2}, "n", "invalid_value"),
        ({"prompt": "a", "suffix": "b"}, "suffix", "unsupported_parameter"),
        ({"prompt": "a", "best_of": 2}, "best_of", "unsupported_parameter"),
        (
            {"prompt": "a", "stream": True, "prompt_logprobs": 1},
            "prompt_logprobs",
            "unsupported_parameter",
        ),
        ({"prompt": "a", "stream_options": {}}, "stream_options", "invalid_value"),
        (
            {"prompt": {"prompt_string": "a", "multimodal_data": [data_url()]}},
            "prompt.multimodal_data",
            "invalid_value",
        ),
        (
            {"prompt": {"prompt_string": MARKER, "multimodal_data": ["malformed"]}},
            "prompt.multimodal_data[0]",
            "invalid_image",
        ),
        (
            {"prompt": ["a", {"prompt_string": MARKER, "multimodal_data": "x"}]},
            "prompt[1].multimodal_data",
            "invalid_value",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(body: Any, param: str, code: str) -> None:
    engine = FakeEngine()
    response = post(body, engine)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert engine.ids == []


def test_neutral_values_are_taken() -> None:
    body = {"prompt": "a", "suffix": "", "best_of": 1, "n": 1, "logprobs": None, "user": "me"}
    assert post(body).status_code == 200


def test_model_that_cannot_see_says_so() -> None:
    engine = FakeEngine(ready=engine_ready(vision=None))
    prompt = {"prompt_string": MARKER, "multimodal_data": [data_url()]}
    error = post({"prompt": prompt}, engine).json()["error"]
    assert error["code"] == "vision_not_available"


def test_prompt_that_is_too_long_ends_all_of_its_request() -> None:
    engine = FakeEngine(error=ContextLengthExceeded("too long", param="messages"))
    response = post({"prompt": ["a", "b", "c"]}, engine)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"
    assert engine.running == 0


def test_error_of_one_answer_ends_the_stream_with_it() -> None:
    engine = FakeEngine(error=EngineUnavailable("lost"), error_after=2)
    with serving(engine) as url:
        text = httpx.post(url + PATH, json={"prompt": ["a", "b"], "stream": True}).text
    *_, last, done, _ = text.split("\n\n")
    assert json.loads(last[6:])["error"]["code"] == "engine_unavailable"
    assert done == "data: [DONE]"
    assert engine.running == 0


def test_pictures_are_not_lost_between_prompts() -> None:
    engine = FakeEngine()
    prompts = [{"prompt_string": MARKER, "multimodal_data": [data_url((0, c, 0))]} for c in (1, 2)]
    assert post({"prompt": prompts}, engine).status_code == 200
    greens = {part.rgb[1] for parts in engine.parts for part in parts if type(part) is ImageInput}
    assert greens == {1, 2}
