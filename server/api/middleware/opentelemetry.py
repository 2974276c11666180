"""OpenTelemetry traces, for those who installed the extra ``otel`` and name a collector.

Nothing is measured for a trace's sake: a request's record is exported as spans at its end. So
there is no cost where tracing is off, and next to none in a request's way where it is on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server import __version__
from server.api.http.record import Answered, RequestRecord
from server.api.middleware.tracing import Trace, TraceContext

_PROPAGATOR = TraceContextTextMapPropagator()
_STAGES = ("fetch", "decode", "resize")


@dataclass(slots=True, frozen=True)
class _Stretch:
    """A child span to be; ``time.monotonic()`` seconds."""

    name: str
    start: float
    end: float
    attributes: dict[str, Any] = field(default_factory=dict)
    failed: bool = False


class OpenTelemetry:
    """Exports a span for each request, with its stages as children."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("llava-server", __version__)

    def begin(self, record: RequestRecord, headers: Mapping[str, str]) -> Trace:
        """The span of the whole request; it continues the trace of ``traceparent``."""
        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        span = self._tracer.start_span(
            record.method,
            context=_PROPAGATOR.extract(carrier, Context()),
            kind=SpanKind.SERVER,
            start_time=_epoch(record.start),
        )
        ours = span.get_span_context()
        trace_id, span_id = f"{ours.trace_id:032x}", f"{ours.span_id:016x}"
        return Trace(TraceContext(trace_id, span_id, f"{int(ours.trace_flags):02x}"), span)

    def end(self, record: RequestRecord, trace: Trace) -> None:
        """Tells the record's stages as the span's children, and ends it."""
        span = trace.span
        if span.is_recording():
            parent = set_span_in_context(span, Context())
            for each in _stretches(record):
                child = self._tracer.start_span(
                    each.name,
                    context=parent,
                    start_time=_epoch(each.start),
                    attributes=each.attributes,
                )
                if each.failed:
                    child.set_status(Status(StatusCode.ERROR))
                child.end(_epoch(each.end))
            span.update_name(f"{record.method} {record.route}")
            span.set_attributes(_attributes(record))
            if record.status >= 500:
                span.set_status(Status(StatusCode.ERROR, record.error or None))
        span.end(_epoch(record.end))

    def close(self) -> None:
        """Sends what was not sent yet. Blocks, as long as the exporter's timeout at most."""
        self._provider.shutdown()


def otlp(endpoint: str | None) -> OpenTelemetry:
    """Spans go to a collector by OTLP over HTTP: to ``endpoint``, such as
    ``http://localhost:4318``, or to where the standard's variables point (OTEL_EXPORTER_OTLP_*).
    """
    url = f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None
    return OpenTelemetry(OTLPSpanExporter(endpoint=url))


def _resource() -> Resource:
    found = Resource.create({"service.version": __version__})
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES are the operator's to set.
    if str(found.attributes["service.name"]).startswith("unknown_service"):
        found = found.merge(Resource({"service.name": "llava-server"}))
    return found


def _stretches(record: RequestRecord) -> Iterator[_Stretch]:
    for stage in record.stages:
        failed = stage.result == "failed"
        yield _Stretch(f"image.{stage.name}", stage.start, stage.end, failed=failed)
    for answer in record.answers:
        yield from _answered(answer)


def _answered(answer: Answered) -> Iterator[_Stretch]:
    times = answer.timings
    if times is None:
        return
    yield _Stretch("queue", times.queued, times.started)
    for image in answer.images:
        encoded = image.encoded
        if encoded.encode_start:
            end = encoded.encode_start + encoded.encode_seconds
            attributes = {"llava.image.tokens": encoded.tokens}
            yield _Stretch("image.encode", encoded.encode_start, end, attributes)
    computed = {"llava.prompt.cached_tokens": answer.cached_tokens}
    yield _Stretch("prefill", times.started, times.first_token, computed)
    if times.finished:
        yield _Stretch("decode", times.first_token, times.finished)


def _attributes(record: RequestRecord) -> dict[str, Any]:
    """Named as OpenTelemetry's semantic conventions for HTTP and generative AI name them."""
    found: dict[str, Any] = {
        "http.request.method": record.method,
        "http.route": record.route,
        "http.response.status_code": record.status,
        "url.path": record.path,
        "llava.request_id": record.request_id,
    }
    if record.error:
        found["error.type"] = record.error
    prompts = [one for one in record.answers if one.first]
    if prompts:
        found |= {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": record.model,
            "gen_ai.usage.input_tokens": sum(one.prompt_tokens for one in prompts),
            "gen_ai.usage.output_tokens": sum(one.completion_tokens for one in record.answers),
            "gen_ai.response.finish_reasons": [one.finish for one in record.answers],
            "llava.images": sum(len(one.images) for one in prompts),
            "llava.image_tokens": sum(one.image_tokens for one in prompts),
        }
    return found


def _epoch(monotonic: float) -> int:
    """Nanoseconds since 1970 of a moment of ``time.monotonic()``."""
    return time.time_ns() - round((time.monotonic() - monotonic) * 1e9)
