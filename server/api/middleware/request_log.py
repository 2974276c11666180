"""RequestLog: gives each request an id and a record, and logs one line for it."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.http.errors import error_response, internal_error
from server.api.http.record import Answered, LoggedContent, RequestRecord, seconds_of, set_record
from server.api.middleware.tracing import Trace, Tracing, read_trace
from server.api.options import ApiOptions
from server.metrics import Metrics


def fields(record: RequestRecord) -> dict[str, Any]:
    """What is logged, in order; times in milliseconds. What there is nothing of is left out."""
    found: dict[str, Any] = {
        "request_id": record.request_id,
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "ms": _ms(record.end - record.start),
    }
    optional = {
        "client": record.client,
        "trace_id": record.trace_id,
        "key": record.key,
        "error": record.error,
        "param": record.param,
    }
    found |= {name: value for name, value in optional.items() if value}
    stages = record.stages
    if stages:
        found["fetch_ms"] = _ms(seconds_of(stages, "fetch"))
        found["image_ms"] = _ms(seconds_of(stages, "decode", "resize"))
    if record.answers:
        found |= {"model": record.model, **_answered(record.answers)}
    if record.content is not None and record.content.prompts:
        found["prompt"] = "".join(record.content.prompts)
        found["answer"] = "".join(record.content.answers)
    return found


def _answered(answers: list[Answered]) -> dict[str, Any]:
    # A prompt counts once, however many answers it gets.
    prompts = [one for one in answers if one.first]
    found: dict[str, Any] = {
        "pictures": sum(len(one.images) for one in prompts),
        "image_tokens": sum(one.image_tokens for one in prompts),
        "prompt_tokens": sum(one.prompt_tokens for one in prompts),
        "cached_tokens": sum(one.cached_tokens for one in prompts),
        "completion_tokens": sum(one.completion_tokens for one in answers),
        "finish": ",".join(dict.fromkeys(one.finish for one in answers)),
    }
    # Several choices run side by side: their times are those of the slowest.
    # An answer that was cut off has decoded until then.
    timings = [times for one in answers if (times := one.timings_so_far) is not None]
    if timings:
        encodes = (image.encoded for one in answers for image in one.images)
        found["queue_ms"] = _ms(max(one.queue_seconds for one in timings))
        found["encode_ms"] = _ms(sum(image.encode_seconds for image in encodes))
        found["prefill_ms"] = _ms(max(one.prefill_seconds for one in timings))
        found["decode_ms"] = _ms(max(one.decode_seconds for one in timings))
    return found


def text(found: dict[str, Any]) -> str:
    """One line: id, method, path, status and time, then name=value. No value can break it."""
    rest = dict(found)
    head = " ".join(str(rest.pop(name)) for name in ("request_id", "method", "path", "status"))
    took = rest.pop("ms")
    pairs = (f"{name}={_plain(value)}" for name, value in rest.items())
    return " ".join([head, f"{took:.0f} ms", *pairs])


def _plain(value: object) -> str:
    if isinstance(value, str) and (not value or not value.isascii() or set(value) & set(' "=\n\r')):
        return json.dumps(value)
    if isinstance(value, str) and not value.isprintable():
        return json.dumps(value)
    return str(value)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


log = logging.getLogger(__name__)

QUIET_PATHS = frozenset({"/health", "/health/ready", "/health/live", "/metrics"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Of requests that no route took: their paths are the client's own, and without number.
_NO_ROUTE = "other"
# A place has 200 characters at most, and proxies take headers of some kilobytes.
_MOST_PLACES = 16


class RequestLog:
    """Also answers where an exception was not caught. ``tracing`` is None when there is no trace.

    Answers of 5xx are logged as warnings. An answer of the Messages API has the request's id under
    the name that Anthropic's clients read as well.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        model: str,
        tracing: Tracing | None,
        options: ApiOptions,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._model = model
        self._tracing = tracing
        self._log_content = options.log_content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record, headers = self._record(scope), Headers(scope=scope)
        trace = self._trace(record, headers)
        scope.setdefault("state", {})["request_id"] = record.request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                ours = MutableHeaders(scope=message)
                ours["x-request-id"] = record.request_id
                if record.relaxed:
                    ours["x-llava-relaxed"] = header_of(record.relaxed)
                if record.speaks_anthropic:
                    ours["request-id"] = record.request_id
                if record.ignored:
                    ours["x-llava-ignored"] = ", ".join(record.ignored)
                if trace is not None:
                    ours["traceparent"] = trace.context.header
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            log.exception("request %s failed", record.request_id)
            record.failed = True
            if record.status:
                raise
            error = internal_error(record.request_id)
            self._metrics.failed(error.status, error.code)
            await error_response(error)(scope, receive, send_with_id)
        finally:
            self._end(scope, record, trace)

    def _record(self, scope: Scope) -> RequestRecord:
        record = RequestRecord(
            request_id=_request_id(Headers(scope=scope).get("x-request-id", "")),
            method=scope["method"],
            path=quote(scope["path"]),
            client=str(scope["client"][0]) if scope.get("client") else "",
            model=self._model,
            content=LoggedContent() if self._log_content else None,
        )
        set_record(record)
        return record

    def _trace(self, record: RequestRecord, headers: Headers) -> Trace | None:
        trace: Trace | None = None
        if self._tracing is not None:
            trace = self._tracing.begin(record, headers)
        elif (parent := headers.get("traceparent")) and (context := read_trace(parent)):
            trace = Trace(context.child())
        record.trace_id = trace.context.trace_id if trace else ""
        return trace

    def _end(self, scope: Scope, record: RequestRecord, trace: Trace | None) -> None:
        record.end = time.monotonic()
        record.route = getattr(scope.get("route"), "path", _NO_ROUTE)
        record.key = str(scope["state"].get("key_name") or "")
        self._metrics.http.answered(record.route, record.status)
        # Probes and scrapes come every few seconds; they would bury the rest.
        level = logging.DEBUG if record.path in QUIET_PATHS else _level(record)
        if log.isEnabledFor(level):
            found: dict[str, Any] = fields(record)
            log.log(level, "%s", text(found), extra={"fields": found})
        if self._tracing is not None and trace is not None:
            self._tracing.end(record, trace)


def header_of(places: tuple[str, ...]) -> str:
    """A list of places for a header: names of properties may hold any character."""
    shown = [quote(place, safe="[]$.") for place in places[:_MOST_PLACES]]
    return ", ".join([*shown, "..."] if places[_MOST_PLACES:] else shown)


def _level(record: RequestRecord) -> int:
    return logging.WARNING if record.failed else logging.INFO


def _request_id(given: str) -> str:
    return given if _REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
