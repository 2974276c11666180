"""/openapi.json, and /docs, which shows it without asking the internet for anything."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response

from server.api.openapi import document, operation

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
