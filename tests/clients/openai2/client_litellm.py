"""litellm: completions, streams, tools, and its OpenAI route."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import litellm
import pytest

QUESTION = "What colour is the circle?"
TOOL = {
    "type": "function",
    "function": {
        "name": "report",
        "parameters": {
            "type": "object",
            "properties": {"colour": {"type": "string", "enum": ["red", "green", "blue"]}},
            "required": ["colour"],
        },
    },
}


@pytest.fixture
def options(url: str, data_url: str) -> dict[str, Any]:
    content = [
        {"type": "image_url", "image_url": {"url": data_url}},
        {"type": "text", "text": QUESTION},
    ]
    return {
        "model": "openai/demo",
        "api_base": f"{url}/v1",
        "api_key": "unused",
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": 200,
        "num_retries": 0,
    }


def test_completion(options: dict[str, Any]) -> None:
    answer = litellm.completion(**options)
    assert "red" in answer.choices[0].message.content
    assert answer.usage.prompt_tokens > 64


def test_stream(options: dict[str, Any]) -> None:
    chunks = list(litellm.completion(**options, stream=True))
    assert "red" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_tools(options: dict[str, Any]) -> None:
    answer = litellm.completion(**options, tools=[TOOL], tool_choice="required")
    called = answer.choices[0].message.tool_calls[0]
    assert json.loads(called.function.arguments)["colour"] in ("red", "green", "blue")
    chunks = list(litellm.completion(**options, tools=[TOOL], tool_choice="required", stream=True))
    built = litellm.stream_chunk_builder(chunks)
    assert json.loads(built.choices[0].message.tool_calls[0].function.arguments)


def test_async(options: dict[str, Any]) -> None:
    answer = asyncio.run(litellm.acompletion(**options))
    assert "red" in answer.choices[0].message.content


def test_responses(options: dict[str, Any], data_url: str) -> None:
    content = [
        {"type": "input_image", "image_url": data_url},
        {"type": "input_text", "text": QUESTION},
    ]
    answer = litellm.responses(
        model="openai/demo",
        api_base=options["api_base"],
        api_key="unused",
        input=[{"role": "user", "content": content}],
        temperature=0,
    )
    assert "red" in answer.output[0].content[0].text


def test_anthropic_route(options: dict[str, Any], url: str) -> None:
    answer = litellm.completion(**{**options, "model": "anthropic/demo", "api_base": url})
    assert "red" in answer.choices[0].message.content


def test_error(options: dict[str, Any]) -> None:
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(**{**options, "temperature": 9})
