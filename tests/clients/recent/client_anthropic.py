"""anthropic: messages, streams, tools, structured output, token counts, errors."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import anthropic
import pytest
from pydantic import BaseModel

QUESTION = "What colour is the circle?"
TOOL: Any = {
    "name": "report",
    "description": "Report the colour.",
    "input_schema": {
        "type": "object",
        "properties": {"colour": {"type": "string", "enum": ["red", "green", "blue"]}},
        "required": ["colour"],
    },
}


class Report(BaseModel):
    colour: Literal["red", "green", "blue"]


@pytest.fixture
def client(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="unused", max_retries=0)


@pytest.fixture
def asked(png: str) -> Any:
    source = {"type": "base64", "media_type": "image/png", "data": png}
    content = [{"type": "image", "source": source}, {"type": "text", "text": QUESTION}]
    return [{"role": "user", "content": content}]


def test_message(client: anthropic.Anthropic, asked: Any) -> None:
    message = client.messages.create(model="demo", max_tokens=50, messages=asked)
    assert "red" in message.content[0].text
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) > 64
    counted = client.messages.count_tokens(model="demo", messages=asked)
    total = message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    assert counted.input_tokens == total
    assert message._request_id


def test_stream(client: anthropic.Anthropic, asked: Any) -> None:
    with client.messages.stream(model="demo", max_tokens=50, messages=asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert "red" in text
    assert final.content[0].text == text
    assert final.usage.output_tokens > 0
    assert final.stop_reason == "end_turn"


def test_tools_and_their_results(client: anthropic.Anthropic, asked: Any) -> None:
    options: Any = {"model": "demo", "max_tokens": 200, "tools": [TOOL]}
    choice: Any = {"type": "any", "disable_parallel_tool_use": True}
    message = client.messages.create(messages=asked, tool_choice=choice, **options)
    (use,) = message.content
    assert message.stop_reason == "tool_use"
    assert use.type == "tool_use"
    Report.model_validate(use.input)
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "noted"}
    following = [
        *asked,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    again = client.messages.create(messages=following, **options)
    assert again.content


def test_streamed_tool_use(client: anthropic.Anthropic, asked: Any) -> None:
    with client.messages.stream(
        model="demo",
        max_tokens=200,
        messages=asked,
        tools=[TOOL],
        tool_choice={"type": "tool", "name": "report", "disable_parallel_tool_use": True},
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_message()
    assert "input_json" in kinds
    Report.model_validate(final.content[0].input)


def test_structured_output(client: anthropic.Anthropic, asked: Any) -> None:
    parsed = client.messages.parse(
        model="demo", max_tokens=100, messages=asked, output_format=Report
    )
    assert isinstance(parsed.parsed_output, Report)


def test_tool_runner(client: anthropic.Anthropic, asked: Any) -> None:
    seen = []

    @anthropic.beta_tool
    def report(colour: Literal["red", "green", "blue"]) -> str:
        """Report the colour.

        Args:
            colour: The colour.
        """
        seen.append(colour)
        return "noted"

    runner = client.beta.messages.tool_runner(
        model="demo",
        max_tokens=200,
        messages=asked,
        tools=[report],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        max_iterations=2,
    )
    assert runner.until_done()
    assert seen


def test_errors(client: anthropic.Anthropic, asked: Any) -> None:
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(
            model="demo",
            max_tokens=2000,
            messages=asked,
            extra_body={"container": "c"},
        )
    assert refused.value.body["error"]["param"] == "container"
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.list()


def test_async(url: str, asked: Any) -> None:
    async def go() -> None:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="unused") as client:
            message = await client.messages.create(model="demo", max_tokens=50, messages=asked)
            assert "red" in message.content[0].text
            async with client.messages.stream(
                model="demo", max_tokens=50, messages=asked
            ) as stream:
                assert "red" in await stream.get_final_text()

    asyncio.run(go())
