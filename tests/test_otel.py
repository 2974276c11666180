"""Traces: spans of a request's stages, to a collector that speaks OTLP over HTTP."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from asking import RED, shape, user
from fakes import FakeEngine, call, chat, image_part
from live import ROOT, LiveServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from server.api.app import create_app
from server.api.middleware.opentelemetry import OpenTelemetry
from server.api.options import ApiOptions
from server.errors import EngineError

CHAT = "/v1/chat/completions"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Takes what is exported over HTTP, as a collector of OpenTelemetry does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        taken = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    attributes = resource.resource.attributes
                    taken.resources.append({a.key: a.value.string_value for a in attributes})
                    for scope in resource.scope_spans:
                        taken.spans += scope.spans
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_a_live_server_tells_every_stage_and_continues_the_trace(
    collector: Collector, tmp_path: Path
) -> None:
    flags = ("--otlp-endpoint", collector.url, "--log-format", "json")
    body = {"messages": [user(shape("circle", RED), "What colour?")], "max_tokens": 4}
    header = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "traced"}
    with LiveServer(tmp_path, *flags) as server:
        response = httpx.post(f"{server.url}{CHAT}", json=body, headers=header)
        assert response.status_code == 200
        assert server.stop() == 0, "what was not sent yet is sent on the way out"
        log = server.log
    spans = {span.name: span for span in collector.spans if span.trace_id.hex() == TRACE}
    root = spans.pop(f"POST {CHAT}")
    assert root.parent_span_id.hex() == PARENT
    assert response.headers["traceparent"] == f"00-{TRACE}-{root.span_id.hex()}-01"
    assert set(spans) == {
        "image.decode", "image.resize", "queue", "image.encode", "prefill", "decode",
    }  # fmt: skip
    assert all(span.parent_span_id == root.span_id for span in spans.values())
    order = [spans[name] for name in ("image.decode", "image.resize", "queue", "prefill", "decode")]
    for before, after in pairwise(order):
        assert before.end_time_unix_nano <= after.start_time_unix_nano + 1_000_000
    for span in spans.values():
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        assert root.start_time_unix_nano <= span.start_time_unix_nano + 1_000_000
        assert span.end_time_unix_nano <= root.end_time_unix_nano + 1_000_000
    attributes = {a.key: a.value for a in root.attributes}
    usage = response.json()["usage"]
    assert attributes["gen_ai.usage.input_tokens"].int_value == usage["prompt_tokens"]
    assert attributes["gen_ai.usage.output_tokens"].int_value == usage["completion_tokens"]
    assert attributes["llava.image_tokens"].int_value == 64
    assert collector.resources[0]["service.name"] == "llava-server"
    lines = [json.loads(line) for line in log.splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "traced"]
    assert line["trace_id"] == TRACE
    assert line["completion_tokens"] == usage["completion_tokens"]
    assert min(line["encode_ms"], line["prefill_ms"], line["decode_ms"], line["image_ms"]) > 0
    assert {each["logger"].split(".")[1] for each in lines} >= {"api", "engine"}, "both processes"


def finished(exporter: InMemorySpanExporter, tracing: OpenTelemetry) -> dict[str, Any]:
    tracing.close()
    return {span.name: span for span in exporter.get_finished_spans()}


def test_errors_are_marked() -> None:
    exporter = InMemorySpanExporter()
    tracing = OpenTelemetry(exporter)
    engine = FakeEngine(error=EngineError("no"))
    app = create_app(engine, ApiOptions(), tracing)
    call(app, "POST", CHAT, json=chat([image_part()]))
    bad = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    call(app, "POST", CHAT, json=chat([bad]))
    call(app, "GET", "/nothing")
    tracing.close()
    server, picture, other = (span for span in exporter.get_finished_spans() if span.parent is None)
    assert not server.status.is_ok
    assert server.attributes["error.type"] == "engine_error"
    assert (picture.attributes["error.type"], picture.status.is_unset) == (
        "unsupported_image_format",
        True,
    )
    assert other.name == "GET other", "a path that is no route is not a span's name"
    failed = [span for span in exporter.get_finished_spans() if span.name == "image.decode"]
    assert [span.status.is_unset for span in failed] == [True, False]


def test_a_trace_that_its_caller_does_not_record_is_not_recorded() -> None:
    exporter = InMemorySpanExporter()
    tracing = OpenTelemetry(exporter)
    app = create_app(FakeEngine(), ApiOptions(), tracing)
    header = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    response = call(app, "POST", CHAT, json=chat(), headers=header)
    assert response.headers["traceparent"].startswith(f"00-{TRACE}-")
    assert finished(exporter, tracing) == {}


def test_a_collector_that_does_not_answer_holds_up_nobody(tmp_path: Path) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    with LiveServer(tmp_path, env=env) as server:
        body = {"messages": [user("Hello")], "max_tokens": 2}
        assert httpx.post(f"{server.url}{CHAT}", json=body).status_code == 200
        assert server.stop() == 0


def test_nothing_of_it_is_loaded_when_it_is_off() -> None:
    found = "any('opentelemetry.sdk' in m for m in sys.modules)"
    code = f"import sys, server.serve.web_process; print({found})"
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, check=True
    )
    assert done.stdout.strip() == b"False", done.stderr


def test_without_the_packages_the_flag_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from server.errors import ConfigError
    from server.serve.wiring import tracing
    from server.settings.settings import Settings

    monkeypatch.setitem(sys.modules, "server.api.middleware.opentelemetry", None)
    with pytest.raises(ConfigError, match=r"llava-server\[otel\]"):
        tracing(Settings(otlp_endpoint="http://localhost:4318"))
    assert tracing(Settings()) is None
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracing(Settings(otlp_endpoint="http://localhost:4318")) is None
