"""Haystack: both of its chat generators, and its embedder."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from haystack.components.embedders import OpenAITextEmbedder
from haystack.components.generators.chat import (
    OpenAIChatGenerator,
    OpenAIResponsesChatGenerator,
)
from haystack.dataclasses import ChatMessage, ImageContent
from haystack.tools import create_tool_from_function
from haystack.utils import Secret
from pydantic import BaseModel


class Report(BaseModel):
    """Report the colour."""

    colour: Literal["red", "green", "blue"]


def count_shapes(colour: Annotated[Literal["red", "blue"], "the colour"]) -> str:
    """How many shapes of a colour there are."""
    return f"one {colour} circle"


@pytest.fixture
def asked(png: str) -> Any:
    picture = ImageContent(base64_image=png, mime_type="image/png", detail="auto")
    return [ChatMessage.from_user(content_parts=[picture, "What colour is the circle?"])]


@pytest.fixture(params=[OpenAIChatGenerator, OpenAIResponsesChatGenerator])
def make(request: Any, url: str) -> Any:
    def made(format_name: str = "", **settings: Any) -> Any:
        if format_name:
            chat = request.param is OpenAIChatGenerator
            settings["response_format" if chat else "text_format"] = Report
        return request.param(
            api_key=Secret.from_token("unused"),
            model="demo",
            api_base_url=f"{url}/v1",
            max_retries=0,
            generation_kwargs={"temperature": 0, **settings},
        )

    return made


def test_a_picture(make: Any, asked: Any) -> None:
    reply = make().run(messages=asked)["replies"][0]
    assert "red" in reply.text
    assert reply.meta["usage"]["total_tokens"] > 64


def test_stream(make: Any, asked: Any) -> None:
    pieces: list[str] = []
    make().run(messages=asked, streaming_callback=lambda chunk: pieces.append(chunk.content))
    assert "red" in "".join(pieces)


def test_structured_output(make: Any, asked: Any) -> None:
    reply = make("report").run(messages=asked)["replies"][0]
    assert Report.model_validate_json(reply.text)


def test_functions(make: Any, asked: Any) -> None:
    tool = create_tool_from_function(count_shapes)
    generator = make(tool_choice="required", parallel_tool_calls=False)
    reply = generator.run(messages=asked, tools=[tool])["replies"][0]
    assert reply.tool_calls[0].arguments["colour"] in ("red", "blue")


def test_embeddings(url: str) -> None:
    embedder = OpenAITextEmbedder(
        api_key=Secret.from_token("unused"), model="demo", api_base_url=f"{url}/v1"
    )
    assert len(embedder.run("a red circle")["embedding"]) > 10
