"""POST /v1/responses and /v1/responses/input_tokens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import TypeAdapter

from server.api.fields.output_format import with_grammar
from server.api.generate.answer import Answer
from server.api.generate.choices import begin
from server.api.generate.dialog import Dialog, prepare, prompt_of
from server.api.generate.events import EventStream
from server.api.generate.reply_parts import input_tokens_of
from server.api.generate.services import Services
from server.api.http.body import read_body, while_connected
from server.api.http.openapi import operation
from server.api.responses.conversation import read_dialog
from server.api.responses.items import Item, ItemReference, LeftOut, parts_of
from server.api.responses.reply import ResponseReply, ResponseWriter, encoded
from server.api.responses.request import (
    Body,
    InputRequest,
    ResponsesRequest,
    parse_input,
    parse_response,
)
from server.api.responses.store import ResponseStore, StoredResponse, stored_router
from server.api.shapes.openai import InputTokens
from server.api.shapes.responses import ResponseEvent, ResponseObject
from server.errors import RequestError
from server.fair_queue import in_turn
from server.tools.tool import new_call_id

_ITEMS: TypeAdapter[list[Any]] = TypeAdapter(list[Annotated[Item, "an item"]])
_PREFIXES = {"function_call": "fc", "function_call_output": "fco"}

Items = tuple[dict[str, Any], ...]


def items_before(store: ResponseStore, request: InputRequest) -> Items:
    """The conversation that the request goes on with. Raises RequestError if it is gone."""
    previous = request.previous_response_id
    if previous is None:
        return ()
    stored = store.find(previous)
    if stored is None:
        raise RequestError(
            f"previous_response_id: no response {previous[:100]!r} here: it was never stored,"
            " or made room for newer ones",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return stored.conversation


def resolved(store: ResponseStore, request: Body) -> Body:
    """The request with the items that it refers to. Raises RequestError where one is gone."""
    items = request.input
    if not isinstance(items, list) or not any(isinstance(i, ItemReference) for i in items):
        return request
    known, found = store.items(), []
    for number, item in enumerate(items):
        if not isinstance(item, ItemReference):
            found.append(item)
        elif item.id in known:
            found += _ITEMS.validate_python([known[item.id]])
        elif not item.id.startswith("rs_"):  # thoughts, which are left out anyway
            raise RequestError(
                f"input[{number}].id: no item {item.id[:100]!r} here; send the item itself",
                param=f"input[{number}].id",
                code="item_not_found",
            )
    return request.model_copy(update={"input": found})


async def dialog_of(request: InputRequest, before: Items) -> Dialog:
    """The whole conversation. Raises RequestError, naming the field."""
    # Pictures from before may be many megabytes.
    earlier = await in_turn(partial(_parsed, before)) if before else ()
    return read_dialog(request, earlier)


def _parsed(items: Items) -> Sequence[Any]:
    return _ITEMS.validate_python(list(items))


async def keep(
    store: ResponseStore, reply: ResponseReply, response: dict[str, Any], before: Items
) -> None:
    """Keep a response that has ended, unless the client said not to."""
    if reply.request.store is False:
        return
    store.add(await in_turn(partial(_stored, reply.request, response, before)))


def _stored(request: InputRequest, response: dict[str, Any], before: Items) -> StoredResponse:
    return StoredResponse.of(response, before, input_items(request))


def input_items(request: InputRequest) -> Items:
    """The request's own items as they are on the wire, each with an id."""
    if isinstance(request.input, str):
        text = {"type": "input_text", "text": request.input}
        given: list[dict[str, Any]] = [{"type": "message", "role": "user", "content": [text]}]
    else:
        given = [_item(item) for item in request.input or () if not isinstance(item, LeftOut)]
    return tuple({"id": _new_id(item["type"]), "status": "completed", **item} for item in given)


def _item(item: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "message", **item.model_dump(exclude_none=True)}
    if found["type"] == "message":
        found["content"] = [part.model_dump(exclude_none=True) for part in parts_of(item.content)]
    return found


def _new_id(kind: str) -> str:
    return f"{_PREFIXES.get(kind, 'msg')}_{new_call_id()}"


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
        services.models.check()
        body = await read_body(request, services.body_limits, parse_response)
        model = services.models[body.model]
        body = resolved(store, body)
        before = items_before(store, body)
        reply = ResponseReply(body, model.name)

        async def start() -> Answer:
            dialog = await dialog_of(body, before)
            form = body.text.format if body.text else None
            sampling = await with_grammar(body.sampling(), body, form)
            prepared = await prepare(services, model, dialog, sampling)
            return await begin(services, prepared, request_id=reply.id, arrival=arrival)

        answer = await while_connected(request.receive, start())
        writer = ResponseWriter(reply, answer)
        events = _kept(writer, reply, store, before)
        if body.stream:
            return _stream(services, body, writer, events, answer)
        return await while_connected(request.receive, _whole(events, answer))


def _stream(
    services: Services,
    body: ResponsesRequest,
    writer: ResponseWriter,
    events: AsyncIterator[dict[str, Any]],
    answer: Answer,
) -> Response:
    return EventStream(
        (encoded(event) async for event in events),
        answer.aclose,
        services,
        ping_interval=body.ping_interval(services.options.sse_ping_interval),
        on_error=lambda error: b"".join(map(encoded, writer.failed(error))),
        ping=lambda: encoded(writer.in_progress()),
    )


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
    async def input_tokens(request: Request) -> InputTokens:
        services.models.check()
        body = resolved(store, await read_body(request, services.body_limits, parse_input))
        model = services.models[body.model]

        async def work() -> InputTokens:
            dialog = await dialog_of(body, items_before(store, body))
            counted = await model.engine.count(await prompt_of(services, model, dialog))
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
