"""Bad input gets a 400 that names the field, and the next request works."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from asking import BLUE, RED, answer, ask, data_url, shape
from live import DEMO, LiveServer
from PIL import Image

URL = "messages[0].content[0].image_url.url"


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and has no pixels to speak of."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64))


def as_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def truncated_jpeg() -> bytes:
    buffer = io.BytesIO()
    noise = Image.effect_noise((200, 200), 90).convert("RGB")
    noise.save(buffer, "JPEG")
    return buffer.getvalue()[: buffer.tell() // 2]


def picture_message(url: str) -> dict[str, Any]:
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is this?"},
    ]
    return {"messages": [{"role": "user", "content": content}]}


BAD = {
    "bad base64": (picture_message("data:image/png;base64,@@@@"), URL),
    "not a picture": (picture_message(as_url(b"<html>nothing to see</html>")), URL),
    "truncated JPEG": (picture_message(as_url(truncated_jpeg())), URL),
    "bomb header": (picture_message(as_url(png_header(20_000, 20_000))), URL),
    "a web address": (picture_message("http://169.254.169.254/latest"), URL),
    "a local file": (picture_message("file:///etc/passwd"), URL),
    "no messages": ({}, "messages"),
    "empty messages": ({"messages": []}, "messages"),
    "unknown role": ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
    "functions": (
        {"messages": [{"role": "user", "content": "hi"}], "functions": [{"name": "f"}]},
        "functions",
    ),
    "hot": ({"messages": [{"role": "user", "content": "hi"}], "temperature": 9}, "temperature"),
    "too many pictures": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": data_url(shape("circle", RED))}}
                    ]
                    * 17,
                }
            ]
        },
        None,
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_input_is_refused_and_the_next_request_works(
    client: openai.OpenAI, demo: LiveServer, name: str, stream: bool
) -> None:
    body, param = BAD[name]
    reply = httpx.post(f"{demo.url}/v1/chat/completions", json={**body, "stream": stream})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error.keys() >= {"message", "type", "param", "code"}
    if param is not None:
        assert error["param"] == param
    assert "red" in answer(client, shape("circle", RED), "What colour is the circle?")


def test_a_prompt_beyond_the_context_is_refused_before_any_byte(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as raised:
            ask(client, shape("circle", RED), "word " * 9000, stream=stream)
        assert raised.value.code == "context_length_exceeded"
        assert "64 of pictures" in raised.value.message
        assert "8192" in raised.value.message
    assert "blue" in answer(client, shape("circle", BLUE), "What colour is the circle?")


@pytest.fixture(scope="module")
def text_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The demo's language model without its mmproj."""
    flags = ("--model", str(DEMO / "llava-demo-q8_0.gguf"), "--no-mmproj", "--api-key", "secret")
    with LiveServer(tmp_path_factory.mktemp("text"), *flags) as server:
        yield server


def test_a_text_only_model_refuses_pictures_and_answers_text(text_only: LiveServer) -> None:
    with openai.OpenAI(base_url=f"{text_only.url}/v1", api_key="secret") as client:
        with pytest.raises(openai.BadRequestError, match="mmproj"):
            ask(client, shape("circle", RED), "What is this?")
        assert answer(client, "Hello!")


def test_a_wrong_key_is_refused_and_health_is_open(text_only: LiveServer) -> None:
    with (
        openai.OpenAI(base_url=f"{text_only.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        answer(client, "Hello!")
    assert httpx.get(f"{text_only.url}/health").json() == {"status": "ok"}
