"""ResponseStore: responses that may be asked for again, or continued."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request

from server.api.fields.policy import refuse_fields
from server.api.http.body import validated
from server.api.http.openapi import operation
from server.api.http.pagination import PageQuery, page
from server.api.http.record import caller
from server.api.shapes.responses import ResponseDeleted, ResponseItems, ResponseObject
from server.errors import NotFoundError, RequestError


@dataclass(slots=True, frozen=True)
class StoredResponse:
    """A response, its input items, and the items of the whole conversation up to its end.

    All are as they are on the wire. ``size`` is the conversation's and the response's, in bytes.
    """

    response: dict[str, Any]
    input_items: tuple[dict[str, Any], ...]
    conversation: tuple[dict[str, Any], ...]
    size: int

    @classmethod
    def of(
        cls,
        response: dict[str, Any],
        before: tuple[dict[str, Any], ...],
        items: tuple[dict[str, Any], ...],
    ) -> StoredResponse:
        """``items`` are the request's own, ``before`` those of the responses before it."""
        conversation = (*before, *items, *response["output"])
        size = len(json.dumps(response)) + len(json.dumps(conversation))
        return cls(response, items, conversation, size)


class ResponseStore:
    """Keeps the responses that were used last, as many as fit ``max_count`` and ``max_bytes``.

    Each one holds its whole conversation, so that the loss of one never breaks another. It
    belongs to the key that it was made with; other keys do not find it. By hand, since cachetools
    bounds either the count or the bytes, and this both.
    """

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[str, str], StoredResponse] = OrderedDict()
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, stored: StoredResponse) -> bool:
        """Keep one; those that were used longest ago make room. False where it is too large."""
        if self._max_count == 0 or stored.size > self._max_bytes:
            return False
        self._kept[_key(stored.response["id"])] = stored
        self.n_bytes += stored.size
        while len(self._kept) > self._max_count or self.n_bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.n_bytes -= oldest.size
        return True

    def find(self, response_id: str) -> StoredResponse | None:
        """A response, which is now the one used last; None where there is none."""
        stored = self._kept.get(_key(response_id))
        if stored is not None:
            self._kept.move_to_end(_key(response_id))
        return stored

    def get(self, response_id: str) -> StoredResponse:
        """As ``find``, but raises NotFoundError."""
        stored = self.find(response_id)
        if stored is None:
            raise NotFoundError(
                f"no response {response_id[:100]!r} here: it was never stored, or made room for"
                " newer ones",
                param="response_id",
                code="response_not_found",
            )
        return stored

    def items(self) -> dict[str, dict[str, Any]]:
        """The items of all conversations of this caller, by their ids."""
        return {
            item["id"]: item
            for (owner, _), stored in self._kept.items()
            if owner == caller.get()
            for item in stored.conversation
            if isinstance(item.get("id"), str)
        }

    def delete(self, response_id: str) -> None:
        """Forget a response. Raises NotFoundError."""
        self.n_bytes -= self.get(response_id).size
        del self._kept[_key(response_id)]


def _key(response_id: str) -> tuple[str, str]:
    return caller.get(), response_id


def _refuse_stream(query: dict[str, str]) -> None:
    """Raise UnsupportedParameter where a stored response is to be streamed again."""
    asked = {**query, "stream": None if query.get("stream") == "false" else query.get("stream")}
    refuse_fields(asked, "a stored response comes in one piece", "stream", "starting_after")


def stored_router(store: ResponseStore) -> APIRouter:
    """The endpoints of stored responses."""
    router = APIRouter()
    path = "/v1/responses/{response_id}"

    @router.get(
        path, **operation("Stored response", "responses", answer=ResponseObject, errors=[404])
    )
    async def retrieve_response(response_id: str, request: Request) -> dict[str, Any]:
        _refuse_stream(dict(request.query_params))
        return store.get(response_id).response

    @router.delete(
        path, **operation("Forget a response", "responses", answer=ResponseDeleted, errors=[404])
    )
    async def delete_response(response_id: str) -> ResponseDeleted:
        store.delete(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    @router.post(
        f"{path}/cancel",
        **operation("Cancel a response", "responses", answer=ResponseObject, errors=[400, 404]),
    )
    async def cancel_response(response_id: str) -> dict[str, Any]:
        store.get(response_id)
        raise RequestError(
            "only a response that runs in the background can be cancelled; end any other one"
            " by closing its connection",
            param="response_id",
            code="invalid_value",
        )

    _add_input_items(router, store, path)
    return router


def _add_input_items(router: APIRouter, store: ResponseStore, path: str) -> None:
    @router.get(
        f"{path}/input_items",
        **operation(
            "A response's input", "responses", query=PageQuery, answer=ResponseItems, errors=[404]
        ),
    )
    async def list_input_items(response_id: str, request: Request) -> ResponseItems:
        stored = store.get(response_id)
        query = dict(request.query_params)
        _refuse_stream(query)
        found = page(stored.input_items, validated(PageQuery, query), lambda item: str(item["id"]))
        return {
            "object": "list",
            "data": found.items,
            "first_id": found.first_id,
            "last_id": found.last_id,
            "has_more": found.has_more,
        }
