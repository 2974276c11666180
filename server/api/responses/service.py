"""From a request to its answer, with what came before it taken from the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from anyio import to_thread
from pydantic import TypeAdapter

from server.api.dialog import Dialog
from server.api.responses.conversation import read_dialog
from server.api.responses.items import Item, parts_of
from server.api.responses.reply import ResponseReply
from server.api.responses.schema import InputRequest
from server.api.responses.store import ResponseStore, StoredResponse
from server.errors import RequestError
from server.tools.call import new_call_id

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


async def dialog_of(request: InputRequest, before: Items) -> Dialog:
    """The whole conversation. Raises RequestError, naming the field."""
    # Pictures from before may be many megabytes.
    earlier = await to_thread.run_sync(_parsed, before) if before else ()
    return read_dialog(request, earlier)


def _parsed(items: Items) -> Sequence[Any]:
    return _ITEMS.validate_python(list(items))


async def keep(
    store: ResponseStore, reply: ResponseReply, response: dict[str, Any], before: Items
) -> None:
    """Keep a response that has ended, unless the client said not to."""
    if reply.request.store is False:
        return
    store.add(await to_thread.run_sync(_stored, reply.request, response, before))


def _stored(request: InputRequest, response: dict[str, Any], before: Items) -> StoredResponse:
    return StoredResponse.of(response, before, input_items(request))


def input_items(request: InputRequest) -> Items:
    """The request's own items as they are on the wire, each with an id."""
    if isinstance(request.input, str):
        text = {"type": "input_text", "text": request.input}
        given: list[dict[str, Any]] = [{"type": "message", "role": "user", "content": [text]}]
    else:
        given = [_item(item) for item in request.input or ()]
    return tuple({"id": _new_id(item["type"]), "status": "completed", **item} for item in given)


def _item(item: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "message", **item.model_dump(exclude_none=True)}
    if found["type"] == "message":
        found["content"] = [part.model_dump(exclude_none=True) for part in parts_of(item.content)]
    return found


def _new_id(kind: str) -> str:
    return f"{_PREFIXES.get(kind, 'msg')}_{new_call_id()}"
