"""LlamaIndex's OpenAI-like LLM: chat with pictures, streams, tools, structured output."""

# No postponed annotations: LlamaIndex makes a model of a function's own ones.
import base64
from typing import Any, Literal

import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

QUESTION = "What colour is the circle?"


class Report(BaseModel):
    """Report the colour."""

    colour: Literal["red", "green", "blue"]


@pytest.fixture
def model(url: str) -> OpenAILike:
    return OpenAILike(
        model="demo",
        api_base=f"{url}/v1",
        api_key="unused",
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=2048,
        max_tokens=200,
        temperature=0,
        max_retries=0,
    )


@pytest.fixture
def asked(png: str) -> Any:
    blocks = [ImageBlock(image=base64.b64decode(png)), TextBlock(text=QUESTION)]
    return [ChatMessage(role="user", blocks=blocks)]


def test_chat(model: OpenAILike, asked: Any) -> None:
    assert "red" in str(model.chat(asked).message.content)


def test_stream(model: OpenAILike, asked: Any) -> None:
    deltas = [chunk.delta for chunk in model.stream_chat(asked)]
    assert "red" in "".join(delta or "" for delta in deltas)


def test_complete(model: OpenAILike) -> None:
    assert model.complete("Hello").text


def test_tools(model: OpenAILike, asked: Any) -> None:
    def report(colour: Literal["red", "green", "blue"]) -> str:
        """Report the colour."""
        return colour

    tool = FunctionTool.from_defaults(report)
    answer = model.chat_with_tools([tool], chat_history=asked, tool_required=True)
    (called, *_) = model.get_tool_calls_from_response(answer)
    assert called.tool_kwargs["colour"] in ("red", "green", "blue")


def test_structured_output(model: OpenAILike, asked: Any) -> None:
    answer = model.as_structured_llm(Report).chat(asked)
    assert isinstance(answer.raw, Report)
