"""Pictures that a tower refuses: a 400 that names the field, and the engine goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from asking import data_url
from live import LiveServer
from PIL import Image

from scripts.synthetic.tiny import write_tiny


def chat(server: LiveServer, *sizes: tuple[int, int], **options: Any) -> httpx.Response:
    pictures = [
        {"type": "image_url", "image_url": {"url": data_url(Image.new("RGB", size, (9, 90, 200)))}}
        for size in sizes
    ]
    content = [{"type": "text", "text": "a"}, *pictures]
    asked = {"messages": [{"role": "user", "content": content}], "max_tokens": 2, **options}
    return httpx.post(f"{server.url}/v1/chat/completions", json=asked, timeout=60)


@pytest.mark.parametrize("kind", ["idefics3", "gemma4"])
def test_a_picture_that_the_tower_refuses_is_named_and_others_go_on(
    kind: str, tmp_path: Path
) -> None:
    model, mmproj = write_tiny(tmp_path, kind)
    with LiveServer(tmp_path, "--model", str(model), "--mmproj", str(mmproj)) as server:
        facts = httpx.get(f"{server.url}/v1/models").json()["data"][0]["meta"]["vision"]
        good = (facts["image_size"],) * 2
        reply = chat(server, good)
        assert reply.status_code == 200, reply.text
        image = reply.json()["images"][0]
        assert image["tokens"] == facts["tokens_per_image"] * image["tiles"]
        for sizes in ([(200, 1)], [good, (200, 1)]):
            refused = chat(server, *sizes)
            error = refused.json()["error"]
            assert refused.status_code == 400, error
            assert error["param"] == f"messages[0].content[{len(sizes)}].image_url.url"
            assert "200 x 1" in error["message"]
            assert error["code"] == "invalid_image"
        assert chat(server, good).status_code == 200
        assert "engine was lost" not in server.log


@pytest.mark.parametrize(("kind", "tokens"), [("gemma3", 16), ("internvl", 4), ("qwen2vl", 16)])
def test_tokens_per_image_is_what_a_picture_takes(kind: str, tokens: int, tmp_path: Path) -> None:
    model, mmproj = write_tiny(tmp_path, kind)
    with LiveServer(tmp_path, "--model", str(model), "--mmproj", str(mmproj)) as server:
        facts = httpx.get(f"{server.url}/v1/models").json()["data"][0]["meta"]["vision"]
        taken = chat(server, (facts["image_size"],) * 2).json()["images"][0]["tokens"]
        assert facts["tokens_per_image"] == taken == tokens
        assert "pooling_type" not in server.log
        assert "n_ctx_train" not in server.log
