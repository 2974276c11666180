"""GET, DELETE and cancel of a response that was stored, and its input items."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.api.answers.responses import ResponseDeleted, ResponseItems, ResponseObject
from server.api.errors import validation_error
from server.api.openapi import operation
from server.api.responses.store import ResponseStore
from server.api.unsupported import refuse_fields
from server.errors import RequestError

_REFUSED: dict[str, tuple[object, ...]] = {
    "stream": ("false",),
    "include_obfuscation": ("false",),
    "starting_after": (),
    "include": (),
    "include[]": (),
}


class ItemsPage(BaseModel):
    """The query of a listing."""

    model_config = ConfigDict(extra="ignore")

    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"


def stored_router(store: ResponseStore) -> APIRouter:
    """The endpoints of stored responses."""
    router = APIRouter()
    path = "/v1/responses/{response_id}"

    @router.get(
        path, **operation("Stored response", "responses", answer=ResponseObject, errors=[404])
    )
    async def retrieve_response(response_id: str, request: Request) -> dict[str, Any]:
        refuse_fields(dict(request.query_params), _REFUSED)
        return store.get(response_id).response

    @router.delete(
        path, **operation("Forget a response", "responses", answer=ResponseDeleted, errors=[404])
    )
    async def delete_response(response_id: str) -> dict[str, Any]:
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
            "A response's input", "responses", query=ItemsPage, answer=ResponseItems, errors=[404]
        ),
    )
    async def list_input_items(response_id: str, request: Request) -> dict[str, Any]:
        stored = store.get(response_id)
        query = dict(request.query_params)
        refuse_fields(query, _REFUSED)
        return _page(list(stored.input_items), query)


def _page(items: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    try:
        page = ItemsPage.model_validate(query)
    except ValidationError as exc:
        raise validation_error(exc.errors(include_url=False, include_input=False)) from exc
    if page.order == "desc":
        items.reverse()
    if page.after is not None:
        ids = [item["id"] for item in items]
        if page.after not in ids:
            raise RequestError("after: no such item", param="after", code="invalid_value")
        items = items[ids.index(page.after) + 1 :]
    shown = items[: page.limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(items) > len(shown),
    }
