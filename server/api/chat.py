"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import TypeAdapter

from server.api.answer import Answer, begin
from server.api.answers.chat import ChatCompletion, ChatEvent
from server.api.body import read_body
from server.api.chat_dialog import read_chat
from server.api.chat_reply import ChatReply, images
from server.api.chat_schema import ChatRequest, parse_chat
from server.api.connection import EventStream, while_connected
from server.api.engine import require_ready
from server.api.generation import Generation
from server.api.grammars import with_grammar
from server.api.logprobs import chat_logprobs
from server.api.openapi import operation
from server.api.services import Services
from server.api.streams import guarded
from server.api.timings import timings
from server.messages import EngineReady, TokenLogprob

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
        started = _start(services, ready, body, reply.id, arrival)
        answer = await while_connected(request.receive, started)
        if body.stream:
            events = guarded(
                _events(reply, answer.generation, body.include_usage), services, request
            )
            return EventStream(events, answer.aclose, services.options.sse_ping_interval)
        return await while_connected(
            request.receive, _whole(reply, answer.generation, bool(body.logprobs))
        )

    return router


async def _start(
    services: Services, ready: EngineReady, body: ChatRequest, request_id: str, arrival: float
) -> Answer:
    sampling = await with_grammar(body.sampling(), body, body.response_format)
    dialog = read_chat(body)
    return await begin(services, ready, dialog, sampling, request_id=request_id, arrival=arrival)


async def _whole(reply: ChatReply, generation: Generation, with_logprobs: bool) -> Response:
    texts: list[str] = []
    tokens: list[TokenLogprob] = []
    reason = ""
    try:
        async for output in generation:
            texts.append(output.text)
            tokens += output.logprobs
            reason = output.finish_reason.value if output.finish_reason else ""
    finally:
        await generation.aclose()
    logprobs = chat_logprobs(tokens) if with_logprobs else None
    return JSONResponse(reply.whole("".join(texts), reason, generation, logprobs))


async def _events(
    reply: ChatReply, generation: Generation, include_usage: bool
) -> AsyncIterator[bytes]:
    yield reply.delta({"role": "assistant", "content": ""})
    async for output in generation:
        if output.text or output.logprobs:
            logprobs = chat_logprobs(output.logprobs) if output.logprobs else None
            yield reply.delta({"content": output.text}, logprobs=logprobs)
        if output.finish_reason:
            last = {} if include_usage else timings(generation)
            yield reply.delta({}, output.finish_reason.value, **images(generation), **last)
    if include_usage:
        yield reply.usage_chunk(generation)
