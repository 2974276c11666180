"""POST /v1/responses and /v1/responses/input_tokens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from server.api.answer import Answer, begin
from server.api.answers.chat import InputTokens
from server.api.answers.responses import ResponseEvent, ResponseObject
from server.api.body import read_body
from server.api.connection import EventStream, while_connected
from server.api.dialog import prompt_of
from server.api.engine import require_ready
from server.api.grammars import with_grammar
from server.api.input_tokens import input_tokens_of
from server.api.openapi import operation
from server.api.responses.events import ResponseWriter, encoded
from server.api.responses.reply import ResponseReply
from server.api.responses.schema import InputRequest, ResponsesRequest, parse_input, parse_response
from server.api.responses.service import Items, dialog_of, items_before, keep
from server.api.responses.store import ResponseStore
from server.api.responses.stored import stored_router
from server.api.services import Services
from server.api.streams import told

EXAMPLE = {
    "model": "demo",
    "input": [
        {
            "role": "user",
            "content": [
                {"type": "input_image", "image_url": "data:image/png;base64,..."},
                {"type": "input_text", "text": "What is in the picture?"},
            ],
        }
    ],
    "max_output_tokens": 100,
}


def responses_router(services: Services) -> APIRouter:
    """The endpoints of OpenAI's Responses API."""
    router = APIRouter()
    options = services.options
    store = ResponseStore(options.responses_max_count, options.responses_max_bytes)
    _add_create(router, services, store)
    _add_count(router, services, store)
    router.include_router(stored_router(store))
    return router


def _add_create(router: APIRouter, services: Services, store: ResponseStore) -> None:
    @router.post(
        "/v1/responses",
        **operation(
            "Response",
            "responses",
            body=ResponsesRequest,
            answer=ResponseObject,
            events=ResponseEvent,
            engine=True,
            example=EXAMPLE,
        ),
    )
    async def create_response(request: Request) -> Response:
        arrival = time.monotonic()
        ready = require_ready(services.engine)
        body = await read_body(request, services.body_limits, parse_response)
        before = items_before(store, body)
        reply = ResponseReply(body, services.served_name(ready.model))

        async def start() -> Answer:
            dialog = await dialog_of(body, before)
            form = body.text.format if body.text else None
            sampling = await with_grammar(body.sampling(), body, form)
            return await begin(
                services, ready, dialog, sampling, request_id=reply.id, arrival=arrival
            )

        answer = await while_connected(request.receive, start())
        writer = ResponseWriter(reply, answer)
        events = _kept(writer, reply, store, before)
        if body.stream:
            sent = _encoded(events, writer, services, request)
            return EventStream(sent, answer.aclose, services.options.sse_ping_interval)
        return await while_connected(request.receive, _whole(events, answer))


def _add_count(router: APIRouter, services: Services, store: ResponseStore) -> None:
    @router.post(
        "/v1/responses/input_tokens",
        **operation(
            "Count a response's input tokens",
            "responses",
            body=InputRequest,
            answer=InputTokens,
            engine=True,
        ),
    )
    async def input_tokens(request: Request) -> dict[str, Any]:
        ready = require_ready(services.engine)
        body = await read_body(request, services.body_limits, parse_input)

        async def work() -> dict[str, Any]:
            dialog = await dialog_of(body, items_before(store, body))
            counted = await services.engine.count(await prompt_of(services, ready, dialog))
            return input_tokens_of(counted)

        return await while_connected(request.receive, work())


async def _kept(
    writer: ResponseWriter, reply: ResponseReply, store: ResponseStore, before: Items
) -> AsyncIterator[dict[str, Any]]:
    """The events; the response is kept before the last one is sent, so that it can be used."""
    async for event in writer.events():
        if reply.status != "in_progress" and event["type"] == f"response.{reply.status}":
            await keep(store, reply, event["response"], before)
        yield event


async def _whole(events: AsyncIterator[dict[str, Any]], answer: Answer) -> Response:
    last: dict[str, Any] = {}
    try:
        async for event in events:
            last = event
    finally:
        await answer.aclose()
    return JSONResponse(last["response"])


async def _encoded(
    events: AsyncIterator[dict[str, Any]],
    writer: ResponseWriter,
    services: Services,
    request: Request,
) -> AsyncIterator[bytes]:
    try:
        async for event in events:
            yield encoded(event)
    except Exception as exc:
        yield encoded(writer.error(told(exc, services, request)))
