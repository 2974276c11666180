"""Every error in OpenAI's shape, or in Anthropic's on the paths of the Messages API.

OpenAI's: {"error": {"message", "type", "param", "code"}}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException

from server.api.http.record import current_record
from server.api.shapes.anthropic import AnthropicError, AnthropicErrorDetail
from server.api.shapes.base import ErrorAnswer
from server.errors import AuthenticationError, LlavaError, RequestError, UnsupportedParameter
from server.metrics import Metrics

RETRY_SECONDS = 2
_COME_BACK = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
# nginx's status for a client that left before the answer; seen only in our log.
CLIENT_CLOSED_REQUEST = 499
# Union members' names, which pydantic puts among the fields, begin with this.
TAG = "@"
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
# Paths that clients of other servers ask, and what they will find here.
_INSTEAD = {
    "/api/chat": "POST /v1/chat/completions",
    "/api/generate": "POST /v1/completions",
    "/api/tags": "GET /v1/models",
    "/api/show": "GET /props",
    "/api/embed": "POST /v1/embeddings",
    "/api/embeddings": "POST /v1/embeddings",
    "/api/version": "GET /props",
    "/api/v1/chat": "POST /v1/chat/completions",
    "/completion": "POST /v1/completions",
    "/generate": "POST /v1/completions",
    "/generate_stream": "POST /v1/completions",
    "/v1/complete": "POST /v1/messages",
    "/v1/chat": "POST /v1/chat/completions",
    "/v1": "POST /v1/chat/completions",
    "/slots": "GET /metrics",
    "/v1/health": "GET /health",
    "/healthz": "GET /health/live",
    "/livez": "GET /health/live",
    "/readyz": "GET /health/ready",
}


class ClientGone(Exception):  # noqa: N818 - it is no error, there is only no client to answer
    """The client closed the connection."""


def error_body(error: LlavaError) -> ErrorAnswer:
    """What an error looks like on the wire."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def anthropic_error(error: LlavaError, request_id: str) -> AnthropicError:
    """An error in Anthropic's shape; ``param`` and ``code`` are kept beside."""
    other = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _ANTHROPIC_TYPES.get(error.status, other)
    detail: AnthropicErrorDetail = {
        "message": error.message,
        "type": kind,
        "param": error.param,
        "code": error.code,
    }
    if error.param == "thread":
        # Anthropic's clients then send the whole conversation, as they do without threads.
        detail["details"] = {"error_code": "thread_unsupported_request", "unsupported": []}
    return {"type": "error", "error": detail, "request_id": request_id}


def internal_error(request_id: str) -> LlavaError:
    """For an exception that is none of ours: the log has it under this id, the client does not."""
    return LlavaError(f"internal server error; request {request_id}", code="internal_error")


def error_response(error: LlavaError) -> JSONResponse:
    """The HTTP answer to an error, in the shape of the path's API; it is put on record."""
    record = current_record()
    record.fail(error)
    headers: dict[str, str] = {}
    if error.status in _COME_BACK:
        headers["retry-after"] = str(error.retry_after or RETRY_SECONDS)
    if isinstance(error, AuthenticationError):
        headers["www-authenticate"] = "Bearer"
    anthropic = record.speaks_anthropic
    body = anthropic_error(error, record.request_id) if anthropic else error_body(error)
    return JSONResponse(body, status_code=error.status, headers=headers)


def field_path(location: Sequence[str | int]) -> str | None:
    """``messages[0].content[1].image_url.url`` for pydantic's location."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith(TAG):
            path += f".{step}" if path else step
    # The names of a metadata field's members are the client's own, and may be long.
    return path[:200] or None


# Where pydantic names our classes, or counts a text's characters as items.
_MESSAGES = {
    "model_type": "Input should be an object",
    "model_attributes_type": "Input should be an object",
    "string_too_short": "Input should not be empty",
}


def validation_error(errors: Sequence[Mapping[str, Any]]) -> RequestError:
    """The first of pydantic's errors, as ours."""
    first = errors[0]
    param = field_path(first["loc"])
    said = _MESSAGES.get(first["type"]) or str(first["msg"])
    message = f"{param}: {said}" if param else said
    if first["type"] == UnsupportedParameter.default_code:
        return UnsupportedParameter(message, param=param)
    missing = first["type"] == "missing"
    code = "missing_required_parameter" if missing else "invalid_value"
    return RequestError(message, param=param, code=code)


def install(app: FastAPI, metrics: Metrics) -> None:
    """Answer all errors that reach the router in one shape, and count them."""

    def answer(error: LlavaError) -> JSONResponse:
        metrics.failed(error.status, error.code)
        return error_response(error)

    @app.exception_handler(LlavaError)
    async def on_llava_error(_: Request, exc: LlavaError) -> Response:
        return answer(exc)

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(_: Request, exc: RequestValidationError) -> Response:
        # Parameters that FastAPI reads from path and query; its locations begin with which.
        return answer(validation_error([{**e, "loc": e["loc"][1:]} for e in exc.errors()]))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, exc: HTTPException) -> Response:
        # The router's own 404 and 405; not counted, or scanners would fill the metrics.
        status = HTTPStatus(exc.status_code)
        answer = error_response(_router_error(request, status))
        answer.headers.update(exc.headers or {})
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            answer.headers["allow"] = ", ".join(_allowed(request))
        return answer

    @app.exception_handler(ClientGone)
    async def on_client_gone(_: Request, __: ClientGone) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)


class _RouterError(RequestError):
    """No route has taken a request; its ``status`` is the router's."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message, code=status.name.lower())
        self.status = status  # type: ignore[misc]


def _router_error(request: Request, status: HTTPStatus) -> LlavaError:
    path = request.url.path
    message = f"{status.phrase}: {request.method} {path}"
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        message += f"; send {' or '.join(_allowed(request))}"
    elif instead := _INSTEAD.get(path):
        message += f"; this server has {instead}"
    elif status is HTTPStatus.NOT_FOUND:
        message += "; GET /docs shows what there is"
    return _RouterError(status, message)


def _allowed(request: Request) -> list[str]:
    """The methods of all routes at this path; the router names the first one's alone."""
    methods: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.path_regex.match(request.scope["path"]):
            methods |= route.methods or set()
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))
