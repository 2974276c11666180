"""RequestRecord: what is known of one request at its end, for one log line and for its trace.

The middleware makes it and puts it where all that works for the request finds it, in whatever
task or thread: a context variable. Fields that nothing fills in stay empty. Who asks is known in
the same way.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol

from starlette.types import Scope

from server.api.shapes.pictures import PictureReport, Size
from server.errors import LlavaError
from server.messages import EncodedImage, ImageInput, PromptPart, RequestTimings
from server.metrics.requests import CACHED, FAILED, OK, PictureMetrics

log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class ImageReport:
    """``image`` as the web process prepared it, ``encoded`` as the engine saw it."""

    image: ImageInput
    encoded: EncodedImage

    @property
    def tiles(self) -> int:
        """How often the tower ran: for the squares that we cut, or for libmtmd's pieces."""
        return max(self.image.n_squares, self.encoded.tiles)

    @property
    def line(self) -> str:
        """The line of the log."""
        image, encoded = self.image, self.encoded
        what = (
            f"encoded image to {encoded.tokens} tokens"
            f" ({image.source_width}x{image.source_height}"
            f" -> {image.encoded_width}x{image.encoded_height},"
            f" {encoded.grid_width}x{encoded.grid_height} grid,"
            f" {self.tiles} tile{'s' if self.tiles > 1 else ''})"
        )
        if encoded.cached:
            return f"{what} before; taken from the cache"
        return f"{what} in {encoded.encode_seconds * 1000:.0f} ms"

    @property
    def json(self) -> PictureReport:
        """The item of the reply's list ``images``; sizes in pixels, the grid's in tokens."""
        image, encoded = self.image, self.encoded
        return {
            "source": _size(image.source_width, image.source_height),
            "resized": _size(image.resized_width, image.resized_height),
            "encoded": _size(image.encoded_width, image.encoded_height),
            "tiles": self.tiles,
            "grid": _size(encoded.grid_width, encoded.grid_height),
            "tokens": encoded.tokens,
            "detail": "low" if image.detail == "low" else "high",
            "cached": encoded.cached,
            "decode_ms": _milliseconds(image.decode_seconds),
            "encode_ms": _milliseconds(encoded.encode_seconds),
        }


def pictures_of(parts: Sequence[PromptPart]) -> tuple[ImageInput, ...]:
    """The pictures of a prompt in order, without their pixels, which need not be kept."""
    return tuple(replace(part, rgb=b"", tiles=()) for part in parts if isinstance(part, ImageInput))


def _size(width: int, height: int) -> Size:
    return {"width": width, "height": height}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


@dataclass(slots=True, frozen=True)
class Stage:
    """A stretch of a request's time, ``time.monotonic()`` seconds, and how it ended."""

    name: str
    start: float
    end: float
    result: str = "ok"


class Answered(Protocol):
    """What is known of one answer; see server.api.generate.answer."""

    first: bool
    prompt_tokens: int
    image_tokens: int
    completion_tokens: int
    cached_tokens: int
    images: tuple[ImageReport, ...]
    timings: RequestTimings | None
    finish: str

    @property
    def timings_so_far(self) -> RequestTimings | None:
        """``timings`` as if the last token received were the end."""


@dataclass(slots=True)
class LoggedContent:
    """Prompts as the model reads them, pictures left out, and what it answered."""

    prompts: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request. ``start`` and ``end`` are ``time.monotonic()``.

    ``ignored`` are the names of fields that change nothing, in order (server.api.fields.policy).
    ``failed``: the server is at fault, in a stream too. ``content`` is None unless the operator
    wants it in the log (--log-content). ``relaxed`` are
    the places of what cannot be enforced of the client's schemas.
    """

    request_id: str = ""
    trace_id: str = ""
    method: str = ""
    path: str = ""
    route: str = ""
    key: str = ""
    model: str = ""
    client: str = ""
    status: int = 0
    error: str = ""
    param: str = ""
    failed: bool = False
    start: float = field(default_factory=time.monotonic)
    end: float = 0.0
    answers: list[Answered] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    ignored: dict[str, None] = field(default_factory=dict)
    content: LoggedContent | None = None
    relaxed: tuple[str, ...] = ()

    def fail(self, error: LlavaError) -> None:
        """It is answered with an error, or its stream ends with one."""
        self.error, self.param = error.code, error.param or ""
        self.failed = error.status >= HTTPStatus.INTERNAL_SERVER_ERROR

    @property
    def speaks_anthropic(self) -> bool:
        """Whether its path belongs to the Messages API, which has errors and headers of its own."""
        return self.path == "/v1/messages" or self.path.startswith("/v1/messages/")


_CURRENT: ContextVar[RequestRecord] = ContextVar("request_record")


def current_record() -> RequestRecord:
    """The record of the request at hand; outside of any request a new one, which is not read."""
    return _CURRENT.get(None) or RequestRecord()


def set_record(record: RequestRecord) -> None:
    """Makes it the current one of this task, and of the tasks and threads that it starts."""
    _CURRENT.set(record)


# Empty where no key is needed. What a caller keeps here belongs to the name, not to the key, so
# that a key can be exchanged for a new one.
caller: ContextVar[str] = ContextVar("caller", default="")


def account_of(scope: Scope) -> str:
    """The account of a request that came through ``Access``."""
    name = caller.get()
    return f"key {name}" if name else address_of(scope)


def address_of(scope: Scope) -> str:
    """The client's address; of IPv6 the network of 64 bits, which is what one household gets."""
    client = scope.get("client")
    try:
        address = ipaddress.ip_address(client[0]) if client else None
    except ValueError:
        return str(client)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def note_relaxed(places: tuple[str, ...]) -> None:
    """Records what of the client's schemas is not enforced; logged once for the same schemas."""
    if places:
        current_record().relaxed = places
        _log_relaxed(places)


@lru_cache(maxsize=256)
def _log_relaxed(places: tuple[str, ...]) -> None:
    listed = ", ".join(places[:20]) + (f" and {len(places) - 20} more" if places[20:] else "")
    log.warning("these parts of JSON schemas cannot be enforced and are ignored: %s", listed)


def seconds_of(stages: Sequence[Stage], *names: str) -> float:
    """The time that stages of these names took together."""
    return sum(stage.end - stage.start for stage in stages if stage.name in names)


@contextmanager
def stage(metrics: PictureMetrics, name: str) -> Iterator[None]:
    """Times what is inside, such as a picture's fetch. May be used in any thread.

    What is cancelled because the client left has neither succeeded nor failed: it is not counted.
    """
    start = time.monotonic()
    with failing(metrics, name):
        yield
    _took(metrics, Stage(name, start, time.monotonic(), OK))


@contextmanager
def failing(metrics: PictureMetrics, name: str) -> Iterator[None]:
    """The beginning of a stage, which is timed by itself only where it fails."""
    start = time.monotonic()
    try:
        yield
    except Exception:
        _took(metrics, Stage(name, start, time.monotonic(), FAILED))
        raise


def stages_took(metrics: PictureMetrics, **seconds: float) -> None:
    """Stages that just ended, one after the other, in another process."""
    end = time.monotonic()
    start = end - sum(seconds.values())
    for name, took in seconds.items():
        _took(metrics, Stage(name, start, start + took, OK))
        start += took


def spared(metrics: PictureMetrics, name: str, start: float) -> None:
    """A stage that began at ``start`` and needed no work: what it makes was there already."""
    _took(metrics, Stage(name, start, time.monotonic(), CACHED))


def _took(metrics: PictureMetrics, done: Stage) -> None:
    metrics.took(done.name, done.result, done.end - done.start)
    current_record().stages.append(done)
