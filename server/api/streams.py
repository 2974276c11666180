"""Server-sent events as OpenAI's clients read them."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any, Final

from fastapi import Request

from server.api.errors import error_body, internal_error
from server.api.record import current_record
from server.api.services import Services
from server.errors import LlavaError

log = logging.getLogger(__name__)

DONE: Final = b"data: [DONE]\n\n"
# Made once: json.dumps with separators makes an encoder each time.
compact: Final = json.JSONEncoder(separators=(",", ":")).encode


def event(payload: dict[str, Any]) -> bytes:
    """A server-sent event. ASCII alone: some clients end lines at U+2028."""
    return b"data: " + compact(payload).encode("ascii") + b"\n\n"


async def guarded(
    events: AsyncIterator[bytes], services: Services, request: Request
) -> AsyncIterator[bytes]:
    """The events, then [DONE]; an error on the way becomes an event that OpenAI's SDKs raise."""
    try:
        async for each in events:
            yield each
    except Exception as exc:
        yield event(error_body(told(exc, services, request)))
    yield DONE


def told(error: Exception, services: Services, request: Request) -> LlavaError:
    """The error as the client may see it; counted, and logged when nobody foresaw it."""
    if not isinstance(error, LlavaError):
        request_id = request.state.request_id
        log.error("request %s failed in its stream", request_id, exc_info=error)
        error = internal_error(request_id)
    services.metrics.failed(error.status, error.code)
    current_record().error = error.code or ""
    return error
