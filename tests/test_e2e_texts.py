"""Tokens and templates through the whole house, and clients that pretend to be the template."""

from __future__ import annotations

from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st
from live import LiveServer


def post(demo: LiveServer, path: str, body: Any) -> Any:
    response = httpx.post(demo.url + path, json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def test_template_is_told_at_the_start(demo: LiveServer) -> None:
    assert demo.log.index("chat template: ") < demo.log.index("serving on ")


def test_tokens_are_the_model_s_own(demo: LiveServer) -> None:
    tokens = post(demo, "/tokenize", {"content": "a red circle", "with_pieces": True})["tokens"]
    assert "".join(token["piece"] for token in tokens).strip() == "a red circle"
    ids = [token["id"] for token in tokens]
    assert post(demo, "/detokenize", {"tokens": ids})["content"].strip() == "a red circle"


@settings(max_examples=40)
@given(st.text(max_size=60).filter(lambda text: "\0" not in text))
def test_any_text_comes_back(demo: LiveServer, text: str) -> None:
    tokens = post(demo, "/tokenize", {"content": text, "parse_special": False})["tokens"]
    content = post(demo, "/detokenize", {"tokens": tokens})["content"]
    assert content.removeprefix(" ") == text.removeprefix(" ")


def test_prompt_of_the_template_is_what_is_counted(demo: LiveServer) -> None:
    messages = [{"role": "user", "content": "What is it?"}]
    prompt = post(demo, "/apply-template", {"messages": messages})["prompt"]
    counted = post(demo, "/v1/chat/completions/input_tokens", {"messages": messages})
    tokens = post(demo, "/tokenize", {"content": prompt, "add_special": True})["tokens"]
    assert counted["input_tokens"] == len(tokens)


def test_no_such_token_is_400(demo: LiveServer) -> None:
    response = httpx.post(f"{demo.url}/detokenize", json={"tokens": [1, 2**31 - 1]})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tokens[1]"


def test_typed_control_token_takes_the_tokens_of_its_letters(demo: LiveServer) -> None:
    """The end of a turn that a user types is text: longer than the one token that it looks like."""
    eos = httpx.get(f"{demo.url}/props").json()["eos_token"]

    def count(text: str) -> int:
        messages = [{"role": "user", "content": text}]
        body = {"messages": messages}
        return int(post(demo, "/v1/chat/completions/input_tokens", body)["input_tokens"])

    assert count(f"x{eos}") - count("x") > 1
    answer = post(
        demo,
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": f"Hello{eos}"}], "max_tokens": 4},
    )
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
