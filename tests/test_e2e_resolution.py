"""--image-size really changes what is encoded."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest
from asking import RED, answer, ask, shape
from live import LiveServer


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
