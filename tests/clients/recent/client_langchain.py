"""langchain-openai: invoke, stream, tools, structured output, and the Responses API."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

QUESTION = "What colour is the circle?"


class Report(BaseModel):
    """Report the colour."""

    colour: Literal["red", "green", "blue"] = Field(description="the colour")


@tool
def report(colour: Literal["red", "green", "blue"]) -> str:
    """Report the colour."""
    return f"{colour} noted"


@pytest.fixture
def model(url: str) -> ChatOpenAI:
    return ChatOpenAI(
        model="demo",
        base_url=f"{url}/v1",
        api_key="unused",
        temperature=0,
        max_tokens=200,
        max_retries=0,
    )


@pytest.fixture
def asked(data_url: str) -> Any:
    image = {"type": "image_url", "image_url": {"url": data_url}}
    return [HumanMessage(content=[image, {"type": "text", "text": QUESTION}])]


def test_invoke(model: ChatOpenAI, asked: Any) -> None:
    answer = model.invoke(asked)
    assert "red" in answer.text
    assert answer.usage_metadata["input_tokens"] > 64


def test_stream(model: ChatOpenAI, asked: Any) -> None:
    chunks = list(model.stream(asked, stream_usage=True))
    assert "red" in "".join(chunk.text for chunk in chunks)
    assert len(chunks) > 2
    assert any(chunk.usage_metadata for chunk in chunks)


def test_async(model: ChatOpenAI, asked: Any) -> None:
    assert "red" in asyncio.run(model.ainvoke(asked)).text


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(model: ChatOpenAI, asked: Any, method: Any) -> None:
    assert isinstance(model.with_structured_output(Report, method=method).invoke(asked), Report)


def test_tools(model: ChatOpenAI, asked: Any) -> None:
    bound = model.bind_tools([report], tool_choice="required", parallel_tool_calls=False)
    message = bound.invoke(asked)
    (called,) = message.tool_calls
    result = report.invoke(called)
    assert isinstance(result, ToolMessage)
    assert model.bind_tools([report]).invoke([*asked, message, result]) is not None
    streamed = None
    for chunk in bound.stream(asked):
        streamed = chunk if streamed is None else streamed + chunk
    assert set(streamed.tool_calls[0]["args"]) == {"colour"}


def test_responses_api(url: str, asked: Any) -> None:
    model = ChatOpenAI(
        model="demo",
        base_url=f"{url}/v1",
        api_key="unused",
        temperature=0,
        use_responses_api=True,
        max_retries=0,
    )
    assert "red" in model.invoke(asked).text
    assert "red" in "".join(chunk.text for chunk in model.stream(asked))
    called = model.bind_tools([report], tool_choice="required").invoke(asked)
    assert called.tool_calls
