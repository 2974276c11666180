"""The OpenAPI document: what each endpoint takes and answers, from the models that validate it.

Bodies are validated by our own hands, so FastAPI cannot see them. Each endpoint says with
``operation`` which models it uses; ``document`` gathers them all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, TypeAdapter

from server.api.shapes.base import ErrorAnswer

JSON: Final = "application/json"
FORM: Final = "multipart/form-data"
EVENTS: Final = "text/event-stream"
# Any path that is known may answer with these.
_ALWAYS: Final = (401, 500)
_WITH_BODY: Final = (400, 413, 415)
_WITH_ENGINE: Final = (400, 429, 503)
_PACKED: Final = "$comment"
_REF: Final = "#/components/schemas/{model}"

# A model, a union of some, or any other type that pydantic knows.
Model = Any


def operation(
    summary: str,
    tag: str,
    *,
    answer: Model | None = None,
    body: Model | None = None,
    form: Model | None = None,
    query: type[BaseModel] | None = None,
    events: Model | None = None,
    text: str | None = None,
    errors: Sequence[int] = (),
    engine: bool = False,
    example: Mapping[str, Any] | None = None,
    error_answer: Model = ErrorAnswer,
    others: Mapping[int, Model] | None = None,
) -> dict[str, Any]:
    """What to hand to ``@router.post(path, **operation(...))``.

    ``answer`` is the JSON of status 200, ``events`` what each server-sent event holds, ``text``
    the media type of an answer that is not JSON. ``body`` and ``form`` are what is sent,
    ``example`` one of them. ``engine``: it may find the queue full, or the engine gone.
    ``others`` are answers of other statuses that do not look like ``error_answer``.
    """
    statuses = {*_ALWAYS, *errors}
    for concerned, more in ((body or form, _WITH_BODY), (query, (400,)), (engine, _WITH_ENGINE)):
        statuses |= {*more} if concerned else set()
    models = {**dict.fromkeys(sorted(statuses), error_answer), **(others or {})}
    found: dict[str, Any] = {
        "summary": summary,
        "tags": [tag],
        "response_model": None,
        "responses": {
            200: {"description": "Success", "content": _contents(answer, events, text)},
            **{status: _other(status, model) for status, model in models.items()},
        },
        "openapi_extra": {**_request_body(body, form, example), **_parameters(query)},
    }
    # FastAPI would add JSON to it.
    return found if answer is not None else {**found, "response_class": Response}


def _contents(answer: Model | None, events: Model | None, text: str | None) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for kind, model in ((JSON, answer), (EVENTS, events)):
        if model is not None:
            kinds[kind] = {"schema": _packed(model)}
    if text is not None:
        kinds[text] = {"schema": {"type": "string"}}
    return kinds


def schema_of(model: Model) -> dict[str, Any]:
    """JSON Schema, with references into the document's components and its own ``$defs``."""
    return TypeAdapter[Any](model).json_schema(ref_template=_REF)


def _packed(model: Model) -> dict[str, Any]:
    # FastAPI would make floats of all integers on the way to the document.
    return {_PACKED: _dumped(model)}


@cache
def _dumped(model: Model) -> str:
    # The error shapes stand with every endpoint, and tests make hundreds of apps. By the type, so
    # that no adapter has to be kept for it.
    return json.dumps(schema_of(model))


def _other(status: int, model: Model) -> dict[str, Any]:
    phrase = HTTPStatus(status).phrase
    return {"description": phrase, "content": {JSON: {"schema": _packed(model)}}}


def _request_body(
    body: Model | None, form: Model | None, example: Mapping[str, Any] | None
) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for kind, model in ((JSON, body), (FORM, form)):
        if model is not None:
            kinds[kind] = {"schema": _packed(model)}
    if not kinds:
        return {}
    if example is not None:
        next(iter(kinds.values()))["example"] = dict(example)
    return {"requestBody": {"required": True, "content": kinds}}


def _parameters(query: type[BaseModel] | None) -> dict[str, Any]:
    if query is None:
        return {}
    properties = json.loads(_dumped(query)).get("properties", {})
    return {
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": False,
                "schema": {_PACKED: json.dumps(schema)},
            }
            for name, schema in properties.items()
        ]
    }


def document(app: FastAPI, *, keys: bool) -> dict[str, Any]:
    """The whole document. ``keys``: requests need an API key.

    Raises ValueError where two different models bear the same name.
    """
    found = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas: dict[str, Any] = {}
    for methods in found["paths"].values():
        for each in methods.values():
            _hoist(each, schemas)
            # FastAPI's own; we answer 400, in OpenAI's shape.
            each["responses"].pop("422", None)
            for answer in each["responses"].values():
                answer["headers"] = {"x-request-id": {"$ref": "#/components/headers/x-request-id"}}
    components = {"schemas": dict(sorted(schemas.items())), "headers": _HEADERS}
    if keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
    found["components"] = components
    return found


_HEADERS: Final[dict[str, Any]] = {
    "x-request-id": {
        "description": "The request's id in the log: the client's own, or a new one.",
        "schema": {"type": "string", "maxLength": 128},
    }
}


def _hoist(value: Any, schemas: dict[str, Any]) -> None:
    """Move every model into the components."""
    if isinstance(value, list):
        for item in value:
            _hoist(item, schemas)
    if not isinstance(value, dict):
        return
    for name, schema in value.pop("$defs", {}).items():
        _hoist(schema, schemas)
        _add(name, schema, schemas)
    for key, packed in list(value.items()):
        item = packed
        if isinstance(item, dict) and _PACKED in item:
            value[key] = item = json.loads(item[_PACKED])
        _hoist(item, schemas)
        if key == "schema" and isinstance(item, dict) and _is_model(item):
            _add(item["title"], item, schemas)
            value[key] = {"$ref": _REF.format(model=item["title"])}


def _is_model(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "object" and "title" in schema and "properties" in schema


def _add(name: str, schema: dict[str, Any], schemas: dict[str, Any]) -> None:
    if schemas.setdefault(name, schema) != schema:
        raise ValueError(f"two models of the API are named {name}")


OPENAPI: Final = "/openapi.json"
# The one part of the package that is used: Swagger UI's own files.
_FILES: Final = Path(str(files("fastapi_offline"))) / "static"
_KINDS: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
_OPERATION: Final = operation("This document", "server", answer=dict[str, Any])


def docs_router(app: FastAPI, *, keys: bool) -> APIRouter:
    """The document of ``app``, and the page. ``keys``: its requests need an API key."""
    router = APIRouter()
    made: dict[str, Any] = {}

    @router.get(OPENAPI, **_OPERATION)
    async def openapi() -> Response:
        if not made:
            made.update(document(app, keys=keys))
        return JSONResponse(made)

    @router.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{app.title} {app.version}",
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="docs/favicon.png",
        )

    for name, kind in _KINDS.items():
        router.add_api_route(f"/docs/{name}", _file(name, kind), include_in_schema=False)
    return router


def _file(name: str, kind: str) -> Any:
    async def send() -> FileResponse:
        return FileResponse(_FILES / name, media_type=kind)

    return send
