"""Tracing: the seam to OpenTelemetry, which is optional; see server.otel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from server.api.record import RequestRecord
from server.api.trace_context import TraceContext


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
