"""A prompt's log-probabilities in the shapes of OpenAI and vLLM; vLLM's tokenizer endpoints."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import FakeEngine, call, chat, post_chat

from server.api.app import create_app
from server.api.options import ApiOptions


def post(body: dict[str, Any], engine: FakeEngine | None = None) -> Any:
    return ask("POST", "/v1/completions", {"max_tokens": 3, **body}, engine)


def ask(method: str, path: str, body: Any = None, engine: FakeEngine | None = None) -> Any:
    return call(create_app(engine or FakeEngine(), ApiOptions()), method, path, json=body)


def test_echo_puts_the_prompt_s_tokens_before_the_answer_s() -> None:
    engine = FakeEngine()
    (choice,) = post({"prompt": "Hi", "echo": True, "logprobs": 1}, engine).json()["choices"]
    assert engine.sampling[0].prompt_logprobs == 1
    found = choice["logprobs"]
    assert choice["text"] == "HiA red circle."
    assert found["tokens"] == ["<s>", "H", "i", "A ", "red", " circle."]
    assert found["token_logprobs"] == [None, -2.0, -2.0, -0.5, -0.5, -0.5]
    assert found["text_offset"] == [0, 0, 1, 2, 4, 7]
    assert found["top_logprobs"][:2] == [None, {"a": -0.25}]
    assert "prompt_logprobs" not in choice


def test_a_stream_sends_them_with_the_echo() -> None:
    text = post({"prompt": "Hi", "echo": True, "logprobs": 0, "stream": True}).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    first, second = (event["choices"][0] for event in events[:2])
    assert first["text"] == "Hi"
    assert first["logprobs"]["token_logprobs"] == [None, -2.0, -2.0]
    assert first["logprobs"]["top_logprobs"] == [None, {}, {}]
    assert second["text"] == "A "
    assert second["logprobs"]["text_offset"] == [2]


def test_prompt_logprobs_as_vllm_has_them() -> None:
    (choice,) = post({"prompt": [72, 105], "prompt_logprobs": 2}).json()["choices"]
    first, second, third = choice["prompt_logprobs"]
    assert first is None
    assert choice["text"] == "A red circle."
    assert choice["logprobs"] is None
    assert second["72"] == {"logprob": -2.0, "rank": 3, "decoded_token": "H"}
    assert second["0"] == {"logprob": -0.25, "rank": 1, "decoded_token": "a"}
    assert third.keys() == {"105", "0", "1"}
    answer = post_chat(FakeEngine(), chat(prompt_logprobs=0)).json()
    assert answer["prompt_logprobs"][0] is None
    assert [len(each) for each in answer["prompt_logprobs"][1:3]] == [1, 1]
    assert "prompt_logprobs" not in post_chat(FakeEngine(), chat()).json()


def test_the_larger_count_is_computed_and_each_field_has_its_own() -> None:
    engine = FakeEngine()
    body = {"prompt": "Hi", "echo": True, "logprobs": 1, "prompt_logprobs": 3}
    (choice,) = post(body, engine).json()["choices"]
    assert engine.sampling[0].prompt_logprobs == 3
    assert len(choice["logprobs"]["top_logprobs"][1]) == 1
    assert len(choice["prompt_logprobs"][1]) == 4


@pytest.mark.parametrize(("limit", "most"), [(0, 0), (None, 16), (-1, None), (5, 5)])
def test_max_tokens_may_be_0_in_completions(limit: int | None, most: int | None) -> None:
    engine = FakeEngine()
    assert post({"prompt": "Hi", "max_tokens": limit}, engine).status_code == 200
    assert engine.sampling[0].max_tokens == most


def test_what_cannot_be_streamed_is_refused() -> None:
    refused = post({"prompt": "Hi", "prompt_logprobs": 1, "stream": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt_logprobs")
    refused = post_chat(FakeEngine(), chat(prompt_logprobs=1, stream=True))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt_logprobs")


def test_vllm_s_tokenizer_endpoints() -> None:
    body = {"prompt": "Hi", "return_token_strs": True}
    assert ask("POST", "/tokenize", body).json() == {
        "count": 3,
        "max_model_len": 2048,
        "tokens": [256, 72, 105],
        "token_strs": ["<s>", "H", "i"],
    }
    body = {"prompt": "Hi", "add_special_tokens": False}
    assert ask("POST", "/tokenize", body).json()["tokens"] == [72, 105]
    for wrong in ({}, {"prompt": "a", "content": "b"}):
        assert ask("POST", "/tokenize", wrong).status_code == 400
    info = ask("GET", "/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"]) == ("<s>", "</s>")
    assert "im_start" in info["chat_template"]
