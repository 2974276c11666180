"""Every error on the Messages API's paths in Anthropic's shape."""

from __future__ import annotations

import json
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.http.errors import error_body
from server.errors import LlavaError

PREFIX = "/v1/messages"
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error(status: int, error: dict[str, Any], request_id: str) -> dict[str, Any]:
    """An error in Anthropic's shape; ``error`` is ours. Its param and code are kept beside."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    detail = {**error, "type": kind}
    if error.get("param") == "thread":
        # Anthropic's clients then send the whole conversation, as they do without threads.
        detail["details"] = {"error_code": "thread_unsupported_request", "unsupported": []}
    return {"type": "error", "error": detail, "request_id": request_id}


def told_error(error: LlavaError, request_id: str) -> dict[str, Any]:
    """An error that is raised inside a stream."""
    return anthropic_error(error.status, error_body(error)["error"], request_id)


class AnthropicErrors:
    """Rewrites the errors of the Messages API's paths, whoever answered with them.

    Errors come from the router, from the key's guard, from limits and from the endpoints; all of
    them are OpenAI's shape until they pass here. Also repeats the request's id under the name
    that Anthropic's clients read.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope.get("path", "")
        if scope["type"] == "http" and (path == PREFIX or path.startswith(f"{PREFIX}/")):
            await self._app(scope, receive, _Rewriter(send))
        else:
            await self._app(scope, receive, send)


class _Rewriter:
    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["request-id"] = headers.get("x-request-id", "")
            if message["status"] >= 400:
                self._start = message
                return
        if self._start is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            await self._finish(self._start)

    async def _finish(self, start: Message) -> None:
        body = _rewritten(start, self._body)
        MutableHeaders(scope=start)["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})


def _rewritten(start: Message, body: bytes) -> bytes:
    headers = Headers(scope=start)
    try:
        error = json.loads(body)["error"]
    except (ValueError, TypeError, KeyError):
        return body  # not one of ours: a client that left gets an empty answer
    return json.dumps(
        anthropic_error(start["status"], error, headers.get("request-id", ""))
    ).encode()
