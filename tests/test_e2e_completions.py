"""/v1/completions on the demo model: the same prompt in every form gives the same answer."""

from __future__ import annotations

import base64
import io
import itertools
import json
from typing import Any

import httpx
import openai
import pytest
from asking import RED, ask, shape
from live import LiveServer
from PIL import Image


def post(demo: LiveServer, path: str, body: Any) -> Any:
    response = httpx.post(demo.url + path, json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def encoded(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_text_and_tokens_and_templates_agree(demo: LiveServer, client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "What is a circle?"}]
    prompt = post(demo, "/apply-template", {"messages": messages})["prompt"]
    tokens = post(demo, "/tokenize", {"content": prompt, "add_special": True})["tokens"]
    asked = {"temperature": 0, "max_tokens": 12}
    chat = client.chat.completions.create(model="demo", messages=messages, **asked)  # type: ignore[call-overload]
    body = {"prompt": [prompt, tokens, {"prompt_string": prompt}], **asked}
    answer = post(demo, "/v1/completions", body)
    texts = {choice["text"] for choice in answer["choices"]}
    assert texts == {chat.choices[0].message.content}
    assert answer["usage"]["prompt_tokens"] == 3 * len(tokens)


def test_picture_is_seen_as_in_a_chat(demo: LiveServer, client: openai.OpenAI) -> None:
    picture = shape("circle", RED)
    chat = ask(client, picture, "What colour is it?", max_tokens=16)
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": f"data:;base64,{encoded(picture)}"}},
                {"type": "text", "text": "What colour is it?"},
            ],
        }
    ]
    prompt = post(demo, "/apply-template", {"messages": messages})["prompt"]
    body = {
        "prompt": {"prompt_string": prompt, "multimodal_data": [encoded(picture)]},
        "temperature": 0,
        "max_tokens": 16,
    }
    answer = post(demo, "/v1/completions", body)
    assert answer["choices"][0]["text"] == chat.choices[0].message.content
    assert answer["usage"]["prompt_tokens"] == chat.usage.prompt_tokens
    assert answer["images"][0]["tokens"] > 0
    assert answer["timings"]["predicted_n"] == answer["usage"]["completion_tokens"]


def test_each_answer_has_a_seed_of_its_own(demo: LiveServer) -> None:
    body = {"prompt": "a", "n": 4, "seed": 3, "temperature": 2, "max_tokens": 12}
    choices = post(demo, "/v1/completions", body)["choices"]
    assert len({choice["text"] for choice in choices}) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_have_the_older_shape(demo: LiveServer, stream: bool) -> None:
    body = {"prompt": "What is a circle?", "temperature": 0, "max_tokens": 6, "logprobs": 2}
    whole = post(demo, "/v1/completions", body)["choices"][0]["logprobs"]
    assert len(whole["tokens"]) == len(whole["token_logprobs"]) > 1
    for token, logprob, top in zip(
        whole["tokens"], whole["token_logprobs"], whole["top_logprobs"], strict=True
    ):
        assert logprob <= 0
        assert len(top) == 2
        assert max(top, key=lambda each: top[each]) == token, "greedy takes the likeliest"
    starts = whole["text_offset"]
    assert starts[0] == 0
    assert [b - a for a, b in itertools.pairwise(starts)] == [len(t) for t in whole["tokens"][:-1]]
    if stream:
        with httpx.stream("POST", f"{demo.url}/v1/completions", json={**body, "stream": True}) as r:
            lines = [line[6:] for line in r.iter_lines() if line.startswith("data: {")]
        found = [json.loads(line)["choices"][0]["logprobs"] for line in lines]
        assert [token for each in found for token in each["tokens"]] == whole["tokens"]


def test_grammar_is_kept_to(demo: LiveServer) -> None:
    body = {"prompt": "x", "grammar": 'root ::= "red" | "blue"', "max_tokens": 20, "n": 3}
    texts = {choice["text"] for choice in post(demo, "/v1/completions", body)["choices"]}
    assert texts <= {"red", "blue"}


def test_too_long_prompt_names_the_field(demo: LiveServer) -> None:
    response = httpx.post(f"{demo.url}/v1/completions", json={"prompt": "word " * 100_000})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
