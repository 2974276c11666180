"""Log-probabilities of prompts on the demo model, asked for as lm-evaluation-harness does."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from live import LiveServer

TEXT = "USER: What is a circle? ASSISTANT:"


def post(demo: LiveServer, path: str, body: dict[str, Any]) -> Any:
    response = httpx.post(f"{demo.url}{path}", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def tokens_of(demo: LiveServer, text: str) -> list[int]:
    found = post(demo, "/tokenize", {"prompt": text, "add_special_tokens": True})
    assert found["count"] == len(found["tokens"])
    return list(found["tokens"])


def generated(demo: LiveServer, ids: list[int]) -> tuple[list[int], list[float]]:
    """A greedy answer's tokens and their log-probabilities."""
    body = {"prompt": ids, "max_tokens": 8, "temperature": 0, "logprobs": 0}
    choice = post(demo, "/v1/completions", body)["choices"][0]
    body = {"prompt": TEXT + choice["text"], "return_token_strs": True}
    found = post(demo, "/tokenize", body)
    count = len(choice["logprobs"]["tokens"])
    assert found["token_strs"][-count:] == choice["logprobs"]["tokens"]
    return found["tokens"][-count:], choice["logprobs"]["token_logprobs"]


@pytest.mark.parametrize("most", [0, 1])
def test_loglikelihood_of_a_greedy_answer_is_that_of_its_generation(
    demo: LiveServer, most: int
) -> None:
    """local-completions, multiple_choice: context and continuation as token ids, echoed."""
    context = tokens_of(demo, TEXT)
    continuation, expected = generated(demo, context)
    body = {
        "model": "demo",
        "prompt": [*context, *continuation],
        "temperature": 0,
        "max_tokens": most,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    answer = post(demo, "/v1/completions", body)
    found = answer["choices"][0]["logprobs"]
    end = len(found["token_logprobs"]) - most
    assert end == len(context) + len(continuation)
    assert answer["usage"]["completion_tokens"] == most
    logprobs = found["token_logprobs"][len(context) : end]
    assert logprobs == pytest.approx(expected, abs=0.15), "but for the size of batches"
    tops = found["top_logprobs"][len(context) : end]
    tokens = found["tokens"][len(context) : end]
    assert all(token == max(top, key=top.get) for token, top in zip(tokens, tops, strict=True))


def test_a_worse_continuation_is_less_likely(demo: LiveServer) -> None:
    """Several prompts in one request, as text."""
    choices = [f"{TEXT} a round shape", f"{TEXT} xq xq xq xq"]
    body = {"prompt": choices, "max_tokens": 0, "logprobs": 1, "echo": True}
    answer = post(demo, "/v1/completions", body)
    start = len(tokens_of(demo, TEXT))
    sums = [sum(each["logprobs"]["token_logprobs"][start:]) for each in answer["choices"]]
    assert sums[0] > sums[1]
    assert [each["text"] for each in answer["choices"]] == choices
    for each in answer["choices"]:
        assert each["logprobs"]["token_logprobs"][0] is None
        offsets = each["logprobs"]["text_offset"]
        assert offsets == sorted(offsets)
        for token, offset in list(zip(each["logprobs"]["tokens"], offsets, strict=True))[3:]:
            assert each["text"].startswith(token, offset)


def test_long_prompts_and_chats_have_them_too(demo: LiveServer) -> None:
    text = "a red circle and a blue square " * 40
    ids = tokens_of(demo, text)
    assert len(ids) > 64
    body = {"prompt": text, "max_tokens": 1, "prompt_logprobs": 0, "temperature": 0}
    choice = post(demo, "/v1/completions", body)["choices"][0]
    assert [list(each) for each in choice["prompt_logprobs"][1:]] == [[str(i)] for i in ids[1:]]
    again = post(demo, "/v1/completions", body)["choices"][0]
    for one, two in zip(again["prompt_logprobs"][1:], choice["prompt_logprobs"][1:], strict=True):
        assert one.keys() == two.keys()
        for token in one:
            assert one[token]["logprob"] == pytest.approx(two[token]["logprob"], abs=0.15)
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "prompt_logprobs": 1}
    found = post(demo, "/v1/chat/completions", chat)["prompt_logprobs"]
    assert found[0] is None
    ranks = [min(token["rank"] for token in each.values()) for each in found[1:]]
    assert set(ranks) == {1}


def test_pictures_are_refused_by_name(demo: LiveServer) -> None:
    pixel = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # noqa: E501
    part = {"type": "image_url", "image_url": {"url": pixel}}
    body = {"messages": [{"role": "user", "content": [part]}], "prompt_logprobs": 1}
    response = httpx.post(f"{demo.url}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt_logprobs"
