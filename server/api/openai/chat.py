"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from server.api.fields.output_format import with_grammar
from server.api.generate.answer import Step
from server.api.generate.choices import Choices, begin_choices
from server.api.generate.dialog import prompt_of
from server.api.generate.events import EventStream, guarded
from server.api.generate.reply_parts import chat_logprobs, images, input_tokens_of, timings
from server.api.generate.services import Services
from server.api.http.body import read_body
from server.api.http.connection import while_connected
from server.api.http.openapi import operation
from server.api.openai.chat_reply import ChatReply, MessageWriter, delta_of
from server.api.openai.chat_request import ChatRequest, parse_chat, read_chat
from server.api.shapes.openai import ChatCompletion, ChatEvent, InputTokens
from server.engine_client.interface import require_ready
from server.messages import EngineReady, TokenLogprob
from server.tools.parse import Content

EXAMPLE = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}},
                {"type": "text", "text": "What is in the picture?"},
            ],
        }
    ],
    "max_tokens": 100,
}


def chat_router(services: Services) -> APIRouter:
    """The chat endpoint."""
    router = APIRouter()

    @router.post(
        "/v1/chat/completions",
        **operation(
            "Chat completion",
            "chat",
            body=ChatRequest,
            answer=ChatCompletion,
            events=ChatEvent,
            engine=True,
            example=EXAMPLE,
        ),
    )
    async def chat_completions(request: Request) -> Response:
        arrival = time.monotonic()
        ready = require_ready(services.engine)
        body = await read_body(request, services.body_limits, parse_chat)
        reply = ChatReply(f"chatcmpl-{uuid.uuid4().hex}", services.served_name(ready.model))
        started = _start(services, ready, body, reply.id, arrival)
        choices = await while_connected(request.receive, started)
        if body.stream:
            events = guarded(_events(reply, choices, body.include_usage), services, request)
            interval = body.ping_interval(services.options.sse_ping_interval)
            return EventStream(events, choices.aclose, interval)
        whole = _whole(reply, choices, bool(body.logprobs))
        return await while_connected(request.receive, whole)

    return router


async def _start(
    services: Services, ready: EngineReady, body: ChatRequest, request_id: str, arrival: float
) -> Choices:
    sampling = await with_grammar(body.sampling(), body, body.response_format)
    dialog = read_chat(body)
    return await begin_choices(
        services, ready, dialog, sampling, body.n or 1, request_id=request_id, arrival=arrival
    )


@dataclass(slots=True)
class _Whole:
    """A choice while it grows."""

    writer: MessageWriter = field(default_factory=MessageWriter)
    tokens: list[TokenLogprob] = field(default_factory=list)
    reason: str = ""


async def _whole(reply: ChatReply, choices: Choices, with_logprobs: bool) -> Response:
    wholes = [_Whole() for _ in choices.answers]
    try:
        async for index, step in choices:
            whole = wholes[index]
            for piece in step.pieces:
                whole.writer.add(piece)
            whole.tokens += step.logprobs
            whole.reason = step.finish_reason or ""
    finally:
        await choices.aclose()
    told = [
        reply.choice(
            index,
            whole.writer.message,
            whole.reason,
            chat_logprobs(whole.tokens) if with_logprobs else None,
        )
        for index, whole in enumerate(wholes)
    ]
    return JSONResponse(reply.whole(told, choices))


async def _events(reply: ChatReply, choices: Choices, include_usage: bool) -> AsyncIterator[bytes]:
    for index, answer in enumerate(choices.answers):
        content = None if answer.may_call else ""
        yield reply.delta({"role": "assistant", "content": content}, index=index)
    async for index, step in choices:
        for chunk in _chunks(reply, step, index):
            yield chunk
        if step.finish_reason:
            last = {} if include_usage else timings(choices)
            seen = {} if index else images(choices)
            yield reply.delta({}, step.finish_reason, index=index, **seen, **last)
    if include_usage:
        yield reply.usage_chunk(choices)


def _chunks(reply: ChatReply, step: Step, index: int) -> Iterator[bytes]:
    if not step.logprobs and all(isinstance(piece, Content) for piece in step.pieces):
        if step.pieces:
            yield reply.text(step.text, index)
        return
    logprobs = chat_logprobs(step.logprobs) if step.logprobs else None
    deltas = [delta for piece in step.pieces if (delta := delta_of(piece)) is not None]
    if logprobs is not None and not deltas:
        deltas = [{"content": ""}]
    for delta in deltas:
        told = logprobs if "content" in delta else None
        yield reply.delta(delta, logprobs=told, index=index)
        logprobs = None if told else logprobs


def input_tokens_router(services: Services) -> APIRouter:
    """The counting endpoint; its body is a chat completion's."""
    router = APIRouter()

    @router.post(
        "/v1/chat/completions/input_tokens",
        **operation(
            "Tokens of a chat completion's prompt",
            "chat",
            body=ChatRequest,
            answer=InputTokens,
            engine=True,
            example=EXAMPLE,
        ),
    )
    async def input_tokens(request: Request) -> dict[str, Any]:
        ready = require_ready(services.engine)
        body = await read_body(request, services.body_limits, parse_chat)

        async def work() -> dict[str, Any]:
            parts = await prompt_of(services, ready, read_chat(body))
            counted = await services.engine.count(parts)
            return input_tokens_of(counted)

        return await while_connected(request.receive, work())

    return router
