"""RequestRecord: what is known of one request at its end, for one log line and for its trace.

The middleware makes it and puts it where all that works for the request finds it, in whatever
task or thread: a context variable. What nobody fills in stays empty.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from server.api.image_report import ImageReport
from server.messages import RequestTimings


@dataclass(slots=True, frozen=True)
class Stage:
    """A stretch of a request's time, ``time.monotonic()`` seconds, and how it ended."""

    name: str
    start: float
    end: float
    result: str = "ok"


class Generated(Protocol):
    """What a generation tells of itself; see server.api.generation."""

    first: bool
    prompt_tokens: int
    image_tokens: int
    completion_tokens: int
    cached_tokens: int
    images: tuple[ImageReport, ...]
    timings: RequestTimings | None
    finish: str


@dataclass(slots=True)
class Content:
    """Prompts as the model reads them, pictures left out, and what it answered."""

    prompts: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request. ``start`` and ``end`` are ``time.monotonic()``.

    ``content`` is None unless the operator wants it in the log (--log-content).
    """

    request_id: str = ""
    trace_id: str = ""
    method: str = ""
    path: str = ""
    route: str = ""
    key: str = ""
    model: str = ""
    status: int = 0
    error: str = ""
    start: float = field(default_factory=time.monotonic)
    end: float = 0.0
    generations: list[Generated] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    content: Content | None = None


_CURRENT: ContextVar[RequestRecord] = ContextVar("request_record")


def current_record() -> RequestRecord:
    """The record of the request that is being worked for; one that nobody reads outside of any."""
    return _CURRENT.get(None) or RequestRecord()


def set_record(record: RequestRecord) -> None:
    """Makes it the current one of this task, and of the tasks and threads that it starts."""
    _CURRENT.set(record)


def seconds_of(stages: Sequence[Stage], *names: str) -> float:
    """The time that stages of these names took together."""
    return sum(stage.end - stage.start for stage in stages if stage.name in names)
