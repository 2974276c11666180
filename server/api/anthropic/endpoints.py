"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from server.api.anthropic.conversation import read_dialog
from server.api.anthropic.reply import PING, MessageReply, event
from server.api.anthropic.request import CountRequest, MessagesRequest, parse_count, parse_messages
from server.api.generate.answer import Answer
from server.api.generate.choices import begin
from server.api.generate.dialog import prepare, prompt_of
from server.api.generate.events import EventStream
from server.api.generate.services import ServedModel, Services
from server.api.http.body import read_body, while_connected
from server.api.http.errors import anthropic_error
from server.api.http.openapi import operation
from server.api.shapes.anthropic import AnthropicError, AnthropicEvent, AnthropicMessage, Counted
from server.fair_queue import in_turn
from server.grammar import schema_grammar
from server.tools.tool import new_call_id

EXAMPLE = {
    "model": "demo",
    "max_tokens": 100,
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
                {"type": "text", "text": "What is in the picture?"},
            ],
        }
    ],
}


def anthropic_router(services: Services) -> APIRouter:
    """The endpoints of Anthropic's Messages API."""
    router = APIRouter()
    _add_messages(router, services)
    _add_count(router, services)
    return router


def _add_messages(router: APIRouter, services: Services) -> None:
    @router.post(
        "/v1/messages",
        **operation(
            "Message",
            "anthropic",
            body=MessagesRequest,
            answer=AnthropicMessage,
            events=AnthropicEvent,
            engine=True,
            example=EXAMPLE,
            error_answer=AnthropicError,
        ),
    )
    async def messages(request: Request) -> Response:
        arrival = time.monotonic()
        services.models.check()
        body = await read_body(request, services.body_limits, parse_messages)
        model = services.models[body.model]
        name = model.name
        reply = MessageReply(f"msg_{new_call_id()}", name, body.max_tokens)
        started = _start(services, model, body, reply.id, arrival)
        answer = await while_connected(request.receive, started)
        if body.stream:
            request_id = request.state.request_id
            return EventStream(
                reply.events(answer),
                answer.aclose,
                services,
                on_error=lambda error: event(anthropic_error(error, request_id)),
                ping=lambda: event(PING),
            )
        return await while_connected(request.receive, _whole(reply, answer))


def _add_count(router: APIRouter, services: Services) -> None:
    @router.post(
        "/v1/messages/count_tokens",
        **operation(
            "Count a message's tokens",
            "anthropic",
            body=CountRequest,
            answer=Counted,
            engine=True,
            error_answer=AnthropicError,
        ),
    )
    async def count_tokens(request: Request) -> Counted:
        services.models.check()
        body = await read_body(request, services.body_limits, parse_count)
        model = services.models[body.model]

        async def work() -> Counted:
            dialog = await in_turn(partial(read_dialog, body))
            parts = await prompt_of(services, model, dialog)
            return {"input_tokens": (await model.engine.count(parts)).prompt_tokens}

        return await while_connected(request.receive, work())


async def _start(
    services: Services, model: ServedModel, body: MessagesRequest, request_id: str, arrival: float
) -> Answer:
    dialog = await in_turn(partial(read_dialog, body))
    sampling = body.sampling()
    form = body.format_and_field
    if form is not None:
        grammar = await in_turn(partial(schema_grammar, form[0].json_schema, form[1]))
        sampling = replace(sampling, grammar=grammar)
    prepared = await prepare(services, model, dialog, sampling)
    return await begin(services, prepared, request_id=request_id, arrival=arrival)


async def _whole(reply: MessageReply, answer: Answer) -> Response:
    try:
        return JSONResponse(await reply.whole(answer))
    finally:
        await answer.aclose()
