"""markitdown: describes pictures through an OpenAI client."""

from __future__ import annotations

import os

import openai
from markitdown import MarkItDown


def test_a_picture_becomes_markdown(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
    converter = MarkItDown(llm_client=client, llm_model="demo", llm_prompt="Describe the picture.")
    found = converter.convert(os.environ["LLAVA_TEST_PICTURE"])
    assert "red" in found.text_content
