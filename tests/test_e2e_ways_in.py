"""Uploads, counting and inspection against the demo model: what is foretold is what happens."""

from __future__ import annotations

import io
from typing import Any

import httpx
import openai
from asking import BLUE, RED, shape, user
from live import LiveServer


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    shape("circle", colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_upload_is_seen_as_the_same_picture_sent_along(client: openai.OpenAI) -> None:
    question = "What colour is the circle?"
    uploaded = client.files.create(file=("red.png", png(RED)), purpose="vision")
    parts: Any = [
        {"type": "file", "file": {"file_id": uploaded.id}},
        {"type": "text", "text": question},
    ]
    sent_along: Any = user(shape("circle", RED), question)
    replies = [
        client.chat.completions.create(
            model="demo", messages=[message], temperature=0, max_tokens=16
        )
        for message in ({"role": "user", "content": parts}, sent_along)
    ]
    assert replies[0].choices[0].message.content == replies[1].choices[0].message.content
    assert client.files.delete(uploaded.id).deleted


def test_counts_and_inspections_agree_with_what_is_used(
    demo: LiveServer, client: openai.OpenAI
) -> None:
    message: Any = user(shape("circle", BLUE), "What is this?", shape("square", RED))
    body = {"model": "demo", "messages": [message], "max_tokens": 1}
    counted = httpx.post(f"{demo.url}/v1/chat/completions/input_tokens", json=body).json()
    reply: Any = client.chat.completions.create(**body)  # type: ignore[call-overload]
    details = reply.usage.prompt_tokens_details
    assert counted["input_tokens"] == reply.usage.prompt_tokens
    assert counted["image_tokens"] == details.image_tokens
    assert counted["text_tokens"] == reply.usage.prompt_tokens - details.image_tokens
    found = httpx.post(f"{demo.url}/v1/images/inspect", files={"file": ("a.png", png(BLUE))}).json()
    assert found["tokens"] * 2 == details.image_tokens
    present = [each for each in found["resolutions"] if each["image_size"] == found["image_size"]]
    assert [each["tokens"] for each in present] == [found["tokens"]]


def test_a_count_may_exceed_the_context(demo: LiveServer) -> None:
    body = {"messages": [{"role": "user", "content": "word " * 20_000}]}
    answer = httpx.post(f"{demo.url}/v1/chat/completions/input_tokens", json=body)
    assert answer.status_code == 200
    assert answer.json()["input_tokens"] > 8192


def test_inner_addresses_are_not_fetched(demo: LiveServer) -> None:
    for url in (f"{demo.url}/health", "http://169.254.169.254/", "http://[::1]/"):
        answer = httpx.post(f"{demo.url}/v1/images/inspect", json={"url": url})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] in (
            "image_address_not_allowed",
            "image_url_not_allowed",
        )
