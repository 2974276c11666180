"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator

from anyio import fail_after, to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import TypeAdapter

from server.api.answers.chat import ChatCompletion, ChatEvent
from server.api.body import read_body
from server.api.chat_reply import ChatReply, images
from server.api.chat_schema import ChatRequest, parse_chat
from server.api.connection import EventStream, while_connected
from server.api.engine import require_ready
from server.api.generation import Generation
from server.api.image_report import pictures_of
from server.api.openapi import operation
from server.api.pictures import read_turns
from server.api.services import Services
from server.api.streams import guarded
from server.api.timings import timings
from server.errors import LlavaError
from server.messages import EngineReady, ImageInput
from server.prompt import ChatTemplate, Part, Picture, Turn

# A template checks its own time now and then; this is for one that never gets that far.
_TEMPLATE_SECONDS = 5.0


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
        generation = await while_connected(
            request.receive, _begin(services, ready, body, reply.id, arrival)
        )
        if body.stream:
            events = guarded(_events(reply, generation, body.include_usage), services, request)
            return EventStream(events, generation.aclose, services.options.sse_ping_interval)
        return await while_connected(request.receive, _whole(reply, generation))

    return router


async def _begin(
    services: Services, ready: EngineReady, body: ChatRequest, request_id: str, arrival: float
) -> Generation:
    parts = await prompt_of(services, ready, body)
    outputs = services.engine.generate(parts, body.sampling(), request_id)
    generation = Generation(outputs, services.metrics, arrival, pictures_of(parts))
    await generation.admit()
    return generation


async def prompt_of(
    services: Services, ready: EngineReady, body: ChatRequest
) -> tuple[str | ImageInput, ...]:
    """The request as the engine reads it: the template's text, with the pictures in place."""
    turns, sources = read_turns(body.messages)
    pictures = await services.pictures.read(sources, ready.vision)
    template = await services.templates.get(ready.model)
    return _fill(await _render(template, turns), pictures)


async def _render(template: ChatTemplate, turns: list[Turn]) -> tuple[Part, ...]:
    try:
        with fail_after(_TEMPLATE_SECONDS):
            return await to_thread.run_sync(template.parts, turns, abandon_on_cancel=True)
    except TimeoutError as exc:
        raise LlavaError("the model's chat template takes too long") from exc


def _fill(
    parts: tuple[Part, ...], pictures: tuple[ImageInput, ...]
) -> tuple[str | ImageInput, ...]:
    return tuple(pictures[part.index] if isinstance(part, Picture) else part for part in parts)


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
