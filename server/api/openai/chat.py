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
from server.api.generate.answer import Delta
from server.api.generate.choices import Choices, begin_choices
from server.api.generate.dialog import prepare, prompt_of
from server.api.generate.events import DONE, EventStream
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
            events = _events(reply, choices, body.include_usage)
            interval = body.ping_interval(services.options.sse_ping_interval)
            return EventStream(events, choices.aclose, services, ping_interval=interval, last=DONE)
        whole = _whole(reply, choices, body.with_logprobs)
        return await while_connected(request.receive, whole)

    return router


async def _start(
    services: Services, ready: EngineReady, body: ChatRequest, request_id: str, arrival: float
) -> Choices:
    sampling = await with_grammar(body.sampling(), body, body.response_format)
    prepared = await prepare(services, ready, read_chat(body), sampling)
    return await begin_choices(
        services, [prepared], body.choices, request_id=request_id, arrival=arrival
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
        async for delta in choices:
            whole = wholes[delta.index]
            for piece in delta.pieces:
                whole.writer.add(piece)
            whole.tokens += delta.logprobs
            whole.reason = delta.finish_reason or ""
    finally:
        await choices.aclose()
    made = [
        reply.choice(
            index,
            whole.writer.message,
            whole.reason,
            chat_logprobs(whole.tokens) if with_logprobs else None,
        )
        for index, whole in enumerate(wholes)
    ]
    return JSONResponse(reply.whole(made, choices))


async def _events(reply: ChatReply, choices: Choices, include_usage: bool) -> AsyncIterator[bytes]:
    for index, answer in enumerate(choices.answers):
        content = None if answer.may_call else ""
        yield reply.delta({"role": "assistant", "content": content}, index=index)
    async for delta in choices:
        for chunk in _chunks(reply, delta):
            yield chunk
        if delta.finish_reason:
            index = delta.index
            last = {} if include_usage else timings(choices)
            seen = {} if index else images(choices)
            yield reply.delta({}, delta.finish_reason, index=index, **seen, **last)
    if include_usage:
        yield reply.usage_chunk(choices)


def _chunks(reply: ChatReply, delta: Delta) -> Iterator[bytes]:
    pieces, index = delta.pieces, delta.index
    if not delta.logprobs and all(isinstance(piece, Content) for piece in pieces):
        if pieces:
            yield reply.text(delta.text, index)
        return
    logprobs = chat_logprobs(delta.logprobs) if delta.logprobs else None
    changes = [change for piece in pieces if (change := delta_of(piece)) is not None]
    if logprobs is not None and not changes:
        changes = [{"content": ""}]
    for change in changes:
        own = logprobs if "content" in change else None
        yield reply.delta(change, logprobs=own, index=index)
        logprobs = None if own else logprobs


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
