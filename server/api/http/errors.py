"""Every error in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException

from server.api.http.connection import ClientGone
from server.api.http.record import current_record
from server.errors import AuthenticationError, LlavaError, RequestError, UnsupportedParameter
from server.metrics import Metrics

RETRY_SECONDS = 2
_COME_BACK = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
# nginx's status for a client that left before the answer; seen only in our log.
CLIENT_CLOSED_REQUEST = 499
# Union members' names, which pydantic puts among the fields, begin with this.
TAG = "@"


def error_body(error: LlavaError) -> dict[str, Any]:
    """What an error looks like on the wire."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def internal_error(request_id: str) -> LlavaError:
    """For what nobody foresaw: the log knows more under this id, the client need not."""
    return LlavaError(f"internal server error; request {request_id}", code="internal_error")


def error_response(error: LlavaError) -> JSONResponse:
    """The HTTP answer to an error, which is put on record."""
    current_record().error = error.code or ""
    headers: dict[str, str] = {}
    if error.status in _COME_BACK:
        headers["retry-after"] = str(error.retry_after or RETRY_SECONDS)
    if isinstance(error, AuthenticationError):
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)


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


def validation_error(errors: Sequence[Mapping[str, Any]]) -> RequestError:
    """The first of pydantic's errors, as ours."""
    first = errors[0]
    param = field_path(first["loc"])
    message = f"{param}: {first['msg']}" if param else str(first["msg"])
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
        where = f"{request.method} {request.url.path}"
        error = RequestError(f"{status.phrase}: {where}", code=status.name.lower())
        headers = dict(exc.headers or {})
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers = {"allow": ", ".join(_allowed(request))}
        return JSONResponse(error_body(error), status_code=status, headers=headers)

    @app.exception_handler(ClientGone)
    async def on_client_gone(_: Request, __: ClientGone) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)


def _allowed(request: Request) -> list[str]:
    """The methods of all routes at this path; the router names the first one's alone."""
    methods: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.path_regex.match(request.scope["path"]):
            methods |= route.methods or set()
    return sorted(methods)
