"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import TypeAdapter

from server.api.answer import begin
from server.api.answers.chat import ChatCompletion, ChatEvent
from server.api.body import read_body
from server.api.chat_dialog import read_chat
from server.api.chat_reply import ChatReply, images
from server.api.chat_schema import ChatRequest, parse_chat
from server.api.connection import EventStream, while_connected
from server.api.engine import require_ready
from server.api.generation import Generation
from server.api.openapi import operation
from server.api.services import Services
from server.api.streams import guarded
from server.api.timings import timings

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
            events=TypeAdapter(ChatEvent),
            engine=True,
            example=EXAMPLE,
        ),
    )
    async def chat_completions(request: Request) -> Response:
        arrival = time.monotonic()
        ready = require_ready(services.engine)
        body = await read_body(request, services.options.max_body_bytes, parse_chat)
        reply = ChatReply(f"chatcmpl-{uuid.uuid4().hex}", services.served_name(ready.model))
        begun = begin(
            services, ready, read_chat(body), body.sampling(), request_id=reply.id, arrival=arrival
        )
        answer = await while_connected(request.receive, begun)
        if body.stream:
            events = guarded(
                _events(reply, answer.generation, body.include_usage), services, request
            )
            return EventStream(events, answer.aclose, services.options.sse_ping_interval)
        return await while_connected(request.receive, _whole(reply, answer.generation))

    return router


async def _whole(reply: ChatReply, generation: Generation) -> Response:
    texts: list[str] = []
    reason = ""
    try:
        async for output in generation:
            texts.append(output.text)
            reason = output.finish_reason.value if output.finish_reason else ""
    finally:
        await generation.aclose()
    return JSONResponse(reply.whole("".join(texts), reason, generation))


async def _events(
    reply: ChatReply, generation: Generation, include_usage: bool
) -> AsyncIterator[bytes]:
    yield reply.delta({"role": "assistant", "content": ""})
    async for output in generation:
        if output.text:
            yield reply.delta({"content": output.text})
        if output.finish_reason:
            last = {} if include_usage else timings(generation)
            yield reply.delta({}, output.finish_reason.value, **images(generation), **last)
    if include_usage:
        yield reply.usage_chunk(generation)
