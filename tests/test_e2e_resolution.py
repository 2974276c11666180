"""--image-size and detail really change what is encoded; settings without effect are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import openai
import pytest
from asking import RED, answer, ask, data_url, shape
from live import ROOT, LiveServer


@pytest.mark.parametrize(("size", "tokens"), [(84, 36), (168, 144)])
def test_the_resolution_changes_the_tokens_and_the_model_still_sees(
    tmp_path: Path, size: int, tokens: int
) -> None:
    with (
        LiveServer(tmp_path, "--image-size", str(size)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused") as client,
    ):
        reply = ask(client, shape("circle", RED), "What colour is the circle?")
        assert reply.usage.prompt_tokens_details.image_tokens == tokens
        assert reply.model_extra["images"][0]["encoded"] == {"width": size, "height": size}
        assert "red" in answer(client, shape("circle", RED), "What colour is the circle?")
        (model,) = client.models.list().data
        vision = model.model_extra["meta"]["vision"]
        assert (vision["image_size"], vision["native_image_size"]) == (size, 112)


def test_low_detail_takes_a_quarter_of_the_tokens(client: openai.OpenAI) -> None:
    replies = {}
    for detail in ("low", "high", "auto"):
        picture = {"url": data_url(shape("circle", RED)), "detail": detail}
        content = [
            {"type": "image_url", "image_url": picture},
            {"type": "text", "text": "What colour is the circle?"},
        ]
        replies[detail] = client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": content}],  # type: ignore[list-item, misc]
            temperature=0,
            max_tokens=16,
        )
    for detail, tokens, side in (("low", 16, 4), ("high", 64, 8), ("auto", 64, 8)):
        usage = replies[detail].usage.prompt_tokens_details
        (image,) = replies[detail].model_extra["images"]
        assert usage.image_tokens == image["tokens"] == tokens
        assert image["grid"] == {"width": side, "height": side}
        assert image["encoded"] == {"width": 112, "height": 112}
        assert image["detail"] == ("low" if detail == "low" else "high")
    texts = [replies[detail].choices[0].message.content for detail in ("high", "auto")]
    assert texts[0] == texts[1]


def test_a_setting_without_effect_ends_the_start(tmp_path: Path) -> None:
    flags = ["--port", "0", "--image-max-edge", "64", "--cache-dir", str(tmp_path)]
    command = [sys.executable, "-m", "server", "serve", *flags]
    ended = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    last = ended.stderr.strip().splitlines()[-1]
    assert "--image-max-edge: this tower sees every picture as one square of 112 px" in last
