"""RequestRecord: what is known of one request at its end, for one log line and for its trace.

The middleware makes it and puts it where all that works for the request finds it, in whatever
task or thread: a context variable. What nobody fills in stays empty.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from server.messages import EncodedImage, RequestTimings


@dataclass(slots=True, frozen=True)
class Stage:
    """A stretch of a request's time, ``time.monotonic()`` seconds, and how it ended."""

    name: str
    start: float
    end: float
    result: str = "ok"


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request. Times are seconds, ``start`` is ``time.monotonic()``."""

    request_id: str = ""
    method: str = ""
    path: str = ""
    start: float = field(default_factory=time.monotonic)
    model: str = ""
    pictures: int = 0
    image_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_token: float = 0.0
    finish: str = ""
    timings: RequestTimings | None = None
    encodes: tuple[EncodedImage, ...] = ()
    stages: list[Stage] = field(default_factory=list)


_CURRENT: ContextVar[RequestRecord] = ContextVar("request_record")


def current_record() -> RequestRecord:
    """The record of the request that is being worked for; one that nobody reads outside of any."""
    return _CURRENT.get(None) or RequestRecord()


def set_record(record: RequestRecord) -> None:
    """Makes it the current one of this task, and of the tasks and threads that it starts."""
    _CURRENT.set(record)
