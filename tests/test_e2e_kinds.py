"""Four kinds of models through the whole house, beside llama-cpp-python's own chat handler."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import llama_cpp
import pytest
from asking import data_url
from kinds import noise
from live import LiveServer
from llama_cpp.llama_chat_format import MTMDChatHandler
from PIL import Image

from scripts.synthetic.tiny import write_tiny

KINDS = ["llava-1.5", "llava-1.6", "gemma3", "qwen2vl"]
STEPS = 24


def drawing(kind: str, name: str) -> Image.Image:
    """LLaVA-1.5's in the tower's own size, so that nobody has to resize it."""
    image = noise(name, *((56, 56) if kind == "llava-1.5" else (150, 100)))
    return Image.frombytes("RGB", (image.width, image.height), image.rgb)


def body(kind: str, name: str, before: str = "", **options: Any) -> dict[str, Any]:
    picture = {"type": "image_url", "image_url": {"url": data_url(drawing(kind, name))}}
    content = [picture, {"type": "text", "text": before + "say what this is"}]
    message = {"role": "user", "content": content}
    return {"messages": [message], "temperature": 0, "max_tokens": STEPS, **options}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def files(kind: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_tiny(tmp_path_factory.mktemp(f"e2e-{kind}"), kind)


@pytest.fixture(scope="module")
def server(files: tuple[Path, Path]) -> Iterator[LiveServer]:
    model, mmproj = files
    flags = ["--model", str(model), "--mmproj", str(mmproj), "--llava-fix", "off"]
    with LiveServer(model.parent, *flags, "--threads", "1", "--image-max-side", "1000") as running:
        yield running


def ask(server: LiveServer, asked: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=asked, timeout=60)
    assert answer.status_code == 200, answer.text
    reply: dict[str, Any] = answer.json()
    return reply


def text(reply: dict[str, Any]) -> str:
    content: str = reply["choices"][0]["message"]["content"]
    return content


def plain(answer: str) -> str:
    """Without what is no UTF-8, which is dropped there and replaced here, and without the space
    that the vocabulary writes before the first word.
    """
    return answer.replace("\ufffd", "").removeprefix(" ")


def test_the_server_says_what_llama_cpp_python_s_handler_says(
    kind: str, files: tuple[Path, Path], server: LiveServer
) -> None:
    """The same files, the same messages, the template of the file; LLaVA's faults left in."""
    model, mmproj = map(str, files)
    handler = MTMDChatHandler(clip_model_path=mmproj, verbose=False, use_gpu=False)
    # The handler turns flash attention off in the tower, unless the language model has it on;
    # llama.cpp's own choice, and ours, is to use it where it can.
    options = {"n_ctx": 4096, "n_threads": 1, "flash_attn": True, "verbose": False}
    llama = llama_cpp.Llama(model, chat_handler=handler, **options)
    try:
        answers = []
        for name in "ab":
            # The server writes it after each of LLaVA's pictures: so LLaVA was trained.
            gap = "\n" if kind.startswith("llava") else ""
            theirs = llama.create_chat_completion(**body(kind, name, gap), repeat_penalty=1.0)
            answers.append(plain(text(ask(server, body(kind, name)))))
            # Theirs goes on for a token or two where the last one is half a character.
            assert plain(text(theirs)).startswith(answers[-1])  # type: ignore[arg-type]
        assert answers[0] != answers[1]
        assert min(map(len, answers)) > STEPS / 2
    finally:
        llama.close()


def test_usage_counts_and_the_log_tell_the_same(kind: str, server: LiveServer) -> None:
    asked = body(kind, "c", max_tokens=2)
    reply = ask(server, asked)
    (image,) = reply["images"]
    tokens = reply["usage"]["prompt_tokens"]
    assert reply["usage"]["prompt_tokens_details"]["image_tokens"] == image["tokens"]
    counted = httpx.post(f"{server.url}/v1/chat/completions/input_tokens", json=asked).json()
    assert counted["input_tokens"] == tokens
    assert f"encoded image to {image['tokens']} tokens" in server.log
    assert image["tiles"] == (5 if kind == "llava-1.6" else 1)
    facts = httpx.get(f"{server.url}/v1/models").json()["data"][0]["meta"]["vision"]
    assert (facts["non_causal"], facts["mrope"]) == (kind == "gemma3", kind == "qwen2vl")
    assert ("attended to in both directions" in server.log) == (kind == "gemma3")


def test_streams_and_leavers(kind: str, server: LiveServer) -> None:
    """One leaves in the middle; eight others ask about the same picture at once."""
    asked = body(kind, "d", stream=True, max_tokens=2000)
    url = f"{server.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=asked, timeout=60) as response:
        for line in response.iter_lines():
            if "delta" in line and '"content"' in line:
                break
    alone = text(ask(server, body(kind, "d")))
    assert {text(ask(server, body(kind, "d"))) for _ in range(3)} == {alone}
    assert ask(server, body(kind, "d"))["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_bounds_of_a_tower_of_any_size(tmp_path: Path) -> None:
    """Qwen2-VL: what is counted is what is encoded, within what the operator allows."""
    model, mmproj = write_tiny(tmp_path, "qwen2vl")
    files = ["--model", str(model), "--mmproj", str(mmproj), "--threads", "1"]
    bounds = ["--image-min-tokens", "12", "--image-max-tokens", "30", "--image-max-edge", "200"]
    with LiveServer(tmp_path, *files, *bounds, "--image-max-side", "2000") as server:
        for size in ((30, 30), (150, 100), (1200, 400), (300, 900)):
            buffer = io.BytesIO()
            Image.effect_noise(size, 80).convert("RGB").save(buffer, "PNG")
            asked = body("qwen2vl", "a", max_tokens=1)
            url = data_url(Image.open(buffer))
            asked["messages"][0]["content"][0]["image_url"]["url"] = url
            reply = ask(server, asked)
            (image,) = reply["images"]
            grid = image["grid"]
            assert image["tokens"] == grid["width"] * grid["height"]
            assert 12 <= image["tokens"] <= 30, size
            assert max(image["resized"].values()) <= 200
            details = reply["usage"]["prompt_tokens_details"]
            assert details["image_tokens"] == image["tokens"]
