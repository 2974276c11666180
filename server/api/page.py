"""GET /: the page to try the server with; plain files of server/page, nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter
from fastapi.responses import FileResponse

FOLDER: Final = Path(__file__).resolve().parents[1] / "page"
_KINDS: Final = {
    "page.css": "text/css",
    "api.js": "text/javascript",
    "chat.js": "text/javascript",
    "pictures.js": "text/javascript",
}
# Paths that are served without a key: the page asks for one itself.
PAGE_PATHS: Final = frozenset({"/", *(f"/page/{name}" for name in _KINDS)})
_HEADERS: Final = {
    # Scripts and styles from these files alone; pictures from the user's own files.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    # A browser asks whether they changed: an upgrade shows at once.
    "cache-control": "no-cache",
}


def page_router() -> APIRouter:
    """The page and its files."""
    router = APIRouter()
    router.add_api_route("/", _file("index.html", "text/html"), include_in_schema=False)
    for name, kind in _KINDS.items():
        router.add_api_route(f"/page/{name}", _file(name, kind), include_in_schema=False)
    return router


def _file(name: str, kind: str) -> Any:
    async def send() -> FileResponse:
        return FileResponse(FOLDER / name, media_type=kind, headers=_HEADERS)

    return send
