"""Tracing: the seam to OpenTelemetry, which is optional; see opentelemetry.py beside this file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from server.api.http.record import RequestRecord

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(slots=True, frozen=True)
class TraceContext:
    """Where a request stands in a trace: hexadecimal ids of 16 and 8 bytes, and the flags."""

    trace_id: str
    span_id: str
    flags: str = "00"

    @property
    def header(self) -> str:
        """The header's value."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"

    def child(self) -> TraceContext:
        """The same trace, with an id of our own."""
        return TraceContext(self.trace_id, os.urandom(8).hex(), self.flags)


def read_trace(header: str) -> TraceContext | None:
    """The context in a header's value; None if there is none, or it must be ignored."""
    found = _HEADER.fullmatch(header.strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    # Later versions may append fields; version 0 has none, and ff is forbidden.
    if version == "ff" or (version == "00" and more):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, flags)


@dataclass(slots=True, frozen=True)
class Trace:
    """A request's place in its trace; ``span`` is whatever ``begin`` wants back in ``end``."""

    context: TraceContext
    span: Any = None


class Tracing(Protocol):
    """Makes spans of requests' records."""

    def begin(self, record: RequestRecord, headers: Mapping[str, str]) -> Trace:
        """A request came; its headers may continue a trace."""

    def end(self, record: RequestRecord, trace: Trace) -> None:
        """It ended, and its record is complete."""
