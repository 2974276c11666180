"""OpenAI's Python SDK, sync and async, with every helper that reads, parses or streams.

What is seen here stands in docs/clients.md. The other clients are in tests/clients.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any, Literal

import openai
import pytest
from asking import BLUE, RED, data_url, shape, user
from live import LiveServer
from pydantic import BaseModel

QUESTION = "What colour is the circle?"
ASK: Any = [user(shape("circle", RED), QUESTION)]
INPUT: Any = [
    {
        "role": "user",
        "content": [
            {"type": "input_image", "image_url": data_url(shape("circle", RED)), "detail": "auto"},
            {"type": "input_text", "text": QUESTION},
        ],
    }
]


class Report(BaseModel):
    """What the model is made to say."""

    colour: Literal["red", "green", "blue"]


SCHEMA = {**Report.model_json_schema(), "additionalProperties": False}
CHAT_TOOL: Any = {
    "type": "function",
    "function": {"name": "Report", "parameters": SCHEMA, "strict": True},
}
TOOL: Any = {"type": "function", "name": "Report", "parameters": SCHEMA, "strict": True}


def test_chat_completions_are_parsed(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(
        model="demo", messages=ASK, response_format=Report, temperature=0, max_tokens=100
    )
    assert parsed.choices[0].message.parsed == Report(colour="red")
    called = client.chat.completions.parse(
        model="demo",
        messages=ASK,
        tools=[openai.pydantic_function_tool(Report)],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=200,
    )
    assert called.choices[0].finish_reason == "tool_calls"
    (call,) = called.choices[0].message.tool_calls or ()
    assert isinstance(call.function.parsed_arguments, Report)


def test_chat_completions_are_streamed(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="demo",
        messages=ASK,
        response_format=Report,
        temperature=0,
        max_tokens=100,
        stream_options={"include_usage": True},
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.parsed == Report(colour="red")
    assert final.usage is not None
    assert final.usage.prompt_tokens > 64


def test_a_tool_s_result_goes_back(client: openai.OpenAI) -> None:
    options: Any = {"model": "demo", "temperature": 0, "max_tokens": 200, "tools": [CHAT_TOOL]}
    asked = client.chat.completions.create(messages=ASK, tool_choice="required", **options)
    message = asked.choices[0].message
    answers: Any = [
        {"role": "tool", "tool_call_id": call.id, "content": "noted"}
        for call in message.tool_calls or ()
    ]
    assert answers
    final = client.chat.completions.create(messages=[*ASK, message, *answers], **options)
    assert final.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_responses_are_created_and_continued(client: openai.OpenAI) -> None:
    first = client.responses.create(model="demo", input=INPUT, temperature=0, max_output_tokens=40)
    assert "red" in first.output_text
    assert first.usage is not None
    assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens
    second = client.responses.create(
        model="demo", previous_response_id=first.id, input=QUESTION, temperature=0
    )
    assert "red" in second.output_text
    assert client.responses.retrieve(second.id).output_text == second.output_text
    listed = client.responses.input_items.list(first.id)
    assert [item.type for item in listed] == ["message"]
    counted = client.responses.input_tokens.count(model="demo", input=INPUT)
    assert counted.input_tokens == first.usage.input_tokens
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(first.id)


def test_responses_are_parsed(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(
        model="demo", input=INPUT, text_format=Report, temperature=0, max_output_tokens=100
    )
    assert parsed.output_parsed == Report(colour="red")
    called = client.responses.create(
        model="demo",
        input=INPUT,
        tools=[TOOL],
        tool_choice={"type": "function", "name": "Report"},
        parallel_tool_calls=False,
        temperature=0,
        max_output_tokens=200,
    )
    (item,) = called.output
    assert item.type == "function_call"
    Report.model_validate_json(item.arguments)
    result: Any = {"type": "function_call_output", "call_id": item.call_id, "output": "noted"}
    final = client.responses.create(
        model="demo", previous_response_id=called.id, input=[result], max_output_tokens=30
    )
    assert final.output[0].type == "message"


def test_responses_are_streamed(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model="demo", input=INPUT, text_format=Report, temperature=0, max_output_tokens=100
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert "response.output_text.delta" in kinds
    assert final.output_parsed == Report(colour="red")
    with client.responses.stream(
        model="demo",
        input=INPUT,
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=200,
    ) as stream:
        kinds = [event.type for event in stream]
        (called,) = stream.get_final_response().output
    assert "response.function_call_arguments.delta" in kinds
    assert called.type == "function_call"
    assert set(called.parsed_arguments or {}) == {"colour"}


def test_responses_tell_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model="demo",
        input=INPUT,
        temperature=0,
        include=["message.output_text.logprobs"],
        top_logprobs=2,
    )
    assert answer.output[0].type == "message"
    part = answer.output[0].content[0]
    assert part.type == "output_text"
    assert part.logprobs
    assert "".join(each.token for each in part.logprobs).strip() == part.text.strip()
    assert all(len(each.top_logprobs) == 2 for each in part.logprobs)


def test_files_and_models(client: openai.OpenAI) -> None:
    png = base64.b64decode(data_url(shape("circle", BLUE)).partition(",")[2])
    file = client.files.create(file=("circle.png", png), purpose="vision")
    image: Any = {"type": "input_image", "file_id": file.id, "detail": "auto"}
    asked: Any = [{"role": "user", "content": [image, INPUT[0]["content"][1]]}]
    answer = client.responses.create(model="demo", input=asked, temperature=0)
    assert "blue" in answer.output_text
    client.files.delete(file.id)
    assert [model.id for model in client.models.list()] == ["demo"]


def test_errors_are_raised(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="demo", input="x", background=True)
    assert refused.value.param == "background"
    assert refused.value.code == "unsupported_parameter"


def test_the_async_client_does_the_same(demo: LiveServer) -> None:
    async def go() -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{demo.url}/v1", api_key="unused", max_retries=0
        ) as client:
            parsed, response, streamed, chunks = await asyncio.gather(
                client.chat.completions.parse(
                    model="demo", messages=ASK, response_format=Report, temperature=0
                ),
                client.responses.parse(
                    model="demo", input=INPUT, text_format=Report, temperature=0
                ),
                stream_response(client),
                stream_chat(client),
            )
            assert parsed.choices[0].message.parsed == Report(colour="red")
            assert response.output_parsed == Report(colour="red")
            assert "red" in streamed
            assert "red" in chunks

    asyncio.run(go())


async def stream_response(client: openai.AsyncOpenAI) -> str:
    async with client.responses.stream(model="demo", input=INPUT, temperature=0) as stream:
        return (await stream.get_final_response()).output_text


async def stream_chat(client: openai.AsyncOpenAI) -> str:
    async with client.chat.completions.stream(model="demo", messages=ASK, temperature=0) as stream:
        async for _ in stream:
            pass
        return (await stream.get_final_completion()).choices[0].message.content or ""
