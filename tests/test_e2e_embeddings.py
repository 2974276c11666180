"""Vectors of the demo model: the projector's as trained, the hidden states' as llama.cpp gives."""

from __future__ import annotations

import re
import threading
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from asking import BLUE, RED, data_url, shape
from live import LiveServer
from numpy.typing import NDArray
from PIL import Image


def vectors(demo: LiveServer, given: Any, timeout: float = 60, **more: Any) -> NDArray[np.float32]:
    body = {"input": given, "embd_normalize": -1, **more}
    response = httpx.post(f"{demo.url}/v1/embeddings", json=body, timeout=timeout)
    assert response.status_code == 200, response.text
    return np.array([each["embedding"] for each in response.json()["data"]], np.float32)


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def picture(image: Image.Image) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(image)}}


def test_texts_have_vectors_of_their_own_and_the_same_ones_again(demo: LiveServer) -> None:
    one, same, other = vectors(demo, ["a red circle", "a red circle", "what is at the top?"])
    assert cosine(one, same) > 0.99999
    assert cosine(one, other) < 0.999
    assert np.isfinite(one).all()
    long = vectors(demo, "a red circle and a blue square " * 20)[0]
    again = vectors(demo, "a red circle and a blue square " * 20)[0]
    assert cosine(long, again) > 0.99999, "in pieces, whatever stands in the cache"


def test_token_ids_are_the_same_as_their_text(demo: LiveServer) -> None:
    body = {"content": "a red circle", "add_special": True}
    tokens = httpx.post(f"{demo.url}/tokenize", json=body).json()["tokens"]
    text, ids = vectors(demo, ["a red circle", tokens])
    assert cosine(text, ids) > 0.99999


def test_pictures_alone_are_the_mean_of_the_projector_s_rows(demo: LiveServer) -> None:
    red, blue, both = vectors(
        demo,
        [
            picture(shape("circle", RED)),
            picture(shape("circle", BLUE)),
            {"content": [picture(shape("circle", RED)), picture(shape("circle", BLUE))]},
        ],
    )
    assert cosine(red, blue) < 0.999
    np.testing.assert_allclose(both, (red + blue) / 2, rtol=1e-4, atol=1e-4)


def test_picture_and_text_in_both_forms_agree(demo: LiveServer) -> None:
    url = data_url(shape("circle", RED))
    text = {"type": "text", "text": "What is this?"}
    parts, prompt, alone = vectors(
        demo,
        [
            {"content": [{"type": "image_url", "image_url": url}, text]},
            {"prompt_string": "<__media__>What is this?", "multimodal_data": [url]},
            "What is this?",
        ],
    )
    assert cosine(parts, prompt) > 0.99999
    assert cosine(parts, alone) < 0.999


def test_openai_client_and_usage(demo: LiveServer, client: openai.OpenAI) -> None:
    reply = client.embeddings.create(model="demo", input="a red circle")
    assert np.linalg.norm(reply.data[0].embedding) == pytest.approx(1.0, abs=1e-5)
    body = {"content": "a red circle", "add_special": True}
    tokens = httpx.post(f"{demo.url}/tokenize", json=body).json()["tokens"]
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == len(tokens)


def test_answers_are_not_changed_by_vectors_beside_them(
    demo: LiveServer, client: openai.OpenAI
) -> None:
    def ask() -> str:
        reply = client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "What is a circle?"}],
            temperature=0,
            max_tokens=24,
        )
        return reply.choices[0].message.content or ""

    expected = ask()
    done = threading.Event()

    def embed() -> None:
        while not done.is_set():
            vectors(demo, ["some text to embed " * 10] * 4)

    thread = threading.Thread(target=embed)
    thread.start()
    try:
        assert {ask() for _ in range(4)} == {expected}
    finally:
        done.set()
        thread.join()


def test_too_long_text_is_400_and_the_next_one_works(demo: LiveServer) -> None:
    response = httpx.post(f"{demo.url}/v1/embeddings", json={"input": ["ok", "word " * 50_000]})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input[1]"
    assert len(vectors(demo, "ok")) == 1


def test_a_lone_new_picture_is_answered_on_an_idle_server(demo: LiveServer) -> None:
    for number in range(3):
        image = Image.new("RGB", (64, 64), (number, 77, 201))
        assert np.isfinite(vectors(demo, picture(image), timeout=20)).all()
    page = httpx.get(f"{demo.url}/metrics").text
    assert re.search(r"^llava_num_requests_running\S* 0.0$", page, re.MULTILINE)
