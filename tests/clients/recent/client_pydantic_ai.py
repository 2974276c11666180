"""pydantic-ai: agents over chat completions, the Responses API and Anthropic's."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, Literal

import pytest
from anthropic import AsyncAnthropic
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

QUESTION = "What colour is the circle?"
SETTINGS: Any = {"temperature": 0, "max_tokens": 200, "parallel_tool_calls": False}


class Report(BaseModel):
    """Report the colour."""

    colour: Literal["red", "green", "blue"]


@pytest.fixture(params=["chat", "responses", "anthropic"])
def model(request: Any, url: str) -> Any:
    if request.param == "anthropic":
        client = AsyncAnthropic(base_url=url, api_key="unused", max_retries=0)
        return AnthropicModel("demo", provider=AnthropicProvider(anthropic_client=client))
    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="unused")
    kind = OpenAIChatModel if request.param == "chat" else OpenAIResponsesModel
    return kind("demo", provider=provider)


@pytest.fixture
def asked(png: str) -> Any:
    return [BinaryContent(base64.b64decode(png), media_type="image/png"), QUESTION]


def test_text(model: Any, asked: Any) -> None:
    answer = Agent(model).run_sync(asked, model_settings=SETTINGS)
    assert "red" in answer.output
    assert answer.usage.output_tokens > 0


def test_stream(model: Any, asked: Any) -> None:
    async def go() -> str:
        async with Agent(model).run_stream(asked, model_settings=SETTINGS) as stream:
            return "".join([text async for text in stream.stream_text(delta=True)])

    assert "red" in asyncio.run(go())


def test_output_by_a_tool(model: Any, asked: Any) -> None:
    agent = Agent(model, output_type=ToolOutput(Report))
    assert isinstance(agent.run_sync(asked, model_settings=SETTINGS).output, Report)


def test_output_by_a_schema(url: str, asked: Any) -> None:
    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="unused")
    for kind in (OpenAIChatModel, OpenAIResponsesModel):
        agent = Agent(kind("demo", provider=provider), output_type=NativeOutput(Report))
        assert isinstance(agent.run_sync(asked, model_settings=SETTINGS).output, Report)
