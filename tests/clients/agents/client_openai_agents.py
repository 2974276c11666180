"""openai-agents: its default model's settings, functions and structured output, on both APIs."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from agents import (
    Agent,
    ModelSettings,
    Runner,
    function_tool,
    set_default_openai_api,
    set_default_openai_client,
    set_tracing_disabled,
)
from agents.models.openai_chatcompletions import OpenAIChatCompletionsModel
from agents.models.openai_responses import OpenAIResponsesModel
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)
SETTINGS = ModelSettings(temperature=0, max_tokens=200)


class Report(BaseModel):
    """Report the colour."""

    colour: Literal["red", "green", "blue"]


@function_tool
def count_shapes(colour: Literal["red", "blue"]) -> str:
    """How many shapes of a colour there are."""
    return f"one {colour} circle"


@pytest.fixture(params=[OpenAIChatCompletionsModel, OpenAIResponsesModel])
def client(request: Any, url: str) -> Any:
    return request.param, AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)


@pytest.fixture
def asked(data_url: str) -> Any:
    picture = {"type": "input_image", "image_url": data_url, "detail": "auto"}
    text = {"type": "input_text", "text": "What colour is the circle?"}
    return [{"role": "user", "content": [picture, text]}]


def run(agent: Any, given: Any) -> Any:
    return asyncio.run(Runner.run(agent, given, max_turns=2))


@pytest.mark.parametrize("api", ["chat_completions", "responses"])
def test_an_agent_without_a_model(api: Any, url: str, asked: Any) -> None:
    # The SDK then adds reasoning.effort and verbosity by itself.
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
    set_default_openai_client(client, use_for_tracing=False)
    set_default_openai_api(api)
    assert run(Agent("a"), asked).final_output


def test_a_picture(client: Any, asked: Any) -> None:
    kind, sdk = client
    agent = Agent("a", model=kind("demo", sdk), model_settings=SETTINGS)
    answer = run(agent, asked)
    assert "red" in answer.final_output
    assert answer.context_wrapper.usage.output_tokens > 0


def test_structured_output(client: Any, asked: Any) -> None:
    kind, sdk = client
    agent = Agent("a", model=kind("demo", sdk), model_settings=SETTINGS, output_type=Report)
    assert isinstance(run(agent, asked).final_output, Report)


def test_functions(client: Any, asked: Any) -> None:
    kind, sdk = client
    settings = ModelSettings(
        temperature=0, max_tokens=200, tool_choice="required", parallel_tool_calls=False
    )
    agent = Agent(
        "a",
        model=kind("demo", sdk),
        model_settings=settings,
        tools=[count_shapes],
        tool_use_behavior="stop_on_first_tool",
    )
    assert "circle" in str(run(agent, asked).final_output)
