"""The log line of a request, its id, and its place in a trace."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from fakes import FakeEngine, call, chat, image_part, text_part
from hypothesis import given
from hypothesis import strategies as st

from server.api.app import create_app
from server.api.http.record import current_record
from server.api.middleware.request_log import text
from server.api.middleware.tracing import TraceContext, read_trace
from server.api.options import ApiOptions
from server.errors import ContextLengthExceeded, EngineError
from server.logs import JsonLines
from server.messages import FinishReason

CHAT = "/v1/chat/completions"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"

BROKEN = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if hasattr(record, "fields")]


@pytest.fixture(autouse=True)
def _all_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "server.api.middleware.request_log")


@pytest.mark.parametrize("stream", [False, True])
def test_a_generation_tells_its_tokens_pictures_and_end(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(FakeEngine(finish=FinishReason.LENGTH), ApiOptions(model_alias="m"))
    body = chat([image_part(), text_part("What?")], stream=stream)
    assert call(app, "POST", CHAT, json=body, headers={"x-request-id": "one"}).status_code == 200
    (line,) = logged(caplog)
    expected = {
        "request_id": "one", "method": "POST", "path": CHAT, "status": 200, "model": "m",
        "pictures": 1, "image_tokens": 64, "prompt_tokens": 74, "cached_tokens": 0,
        "completion_tokens": 3, "finish": "length",
    }  # fmt: skip
    assert expected.items() <= line.items()
    assert line["image_ms"] > 0
    assert line["ms"] >= line["image_ms"]
    assert "prompt" not in line
    assert "What?" not in caplog.text


def test_content_is_logged_when_it_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(FakeEngine(), ApiOptions(log_content=True))
    call(app, "POST", CHAT, json=chat([image_part(), text_part('a "quoted"\nline')]))
    (line,) = logged(caplog)
    assert 'a "quoted"\nline' in line["prompt"]
    assert "base64" not in line["prompt"]
    assert line["answer"] == "A red circle."
    assert "\n" not in text(line)


def test_errors_are_told_by_their_code(caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(FakeEngine(), ApiOptions())
    call(
        app,
        "POST",
        CHAT,
        json=chat([image_part(), BROKEN]),
    )
    broken = create_app(FakeEngine(error=EngineError("no"), error_after=1), ApiOptions())
    call(broken, "POST", CHAT, json=chat(stream=True))
    refused, failed = logged(caplog)
    assert (refused["status"], refused["error"]) == (400, "unsupported_image_format")
    assert refused["param"] == "messages[0].content[1].image_url.url"
    assert "completion_tokens" not in refused
    assert (failed["status"], failed["error"], failed["finish"]) == (200, "engine_error", "error")
    assert failed["completion_tokens"] == 1


def test_only_failures_of_the_server_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    call(create_app(FakeEngine(), ApiOptions()), "POST", CHAT, json={"messages": []})
    broken = create_app(FakeEngine(error=EngineError("no")), ApiOptions())
    call(broken, "POST", CHAT, json=chat())
    levels = [r.levelname for r in caplog.records if r.name.endswith("request_log")]
    assert levels == ["INFO", "WARNING"]
    caplog.clear()
    later = create_app(FakeEngine(error=EngineError("no"), error_after=1), ApiOptions())
    assert call(later, "POST", CHAT, json=chat(stream=True)).status_code == 200
    levels = [r.levelname for r in caplog.records if r.name.endswith("request_log")]
    assert levels == ["WARNING"], "a stream that failed, though its status is 200"


def test_a_picture_s_line_bears_the_request_s_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    app = create_app(FakeEngine(), ApiOptions())
    call(app, "POST", CHAT, json=chat([image_part()]), headers={"x-request-id": "mine"})
    assert any(m.startswith("mine encoded image to ") for m in caplog.messages)


def test_requests_that_generate_nothing_have_a_short_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = create_app(FakeEngine(), ApiOptions())
    call(app, "GET", "/v1/models")
    call(app, "GET", "/health")
    call(app, "GET", "/metrics")
    (line,) = logged(caplog)
    assert set(line) == {"request_id", "method", "path", "status", "ms", "client"}


def test_the_trace_of_a_request_is_continued(caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(FakeEngine(), ApiOptions())
    response = call(app, "POST", CHAT, json=chat(), headers={"traceparent": PARENT})
    ours = read_trace(response.headers["traceparent"])
    assert ours is not None
    assert (ours.trace_id, ours.flags) == (TRACE, "01")
    assert ours.span_id != "00f067aa0ba902b7"
    assert logged(caplog)[0]["trace_id"] == TRACE
    assert "traceparent" not in call(app, "POST", CHAT, json=chat()).headers
    assert "trace_id" not in logged(caplog)[1]


@pytest.mark.parametrize(
    "header",
    [
        "", "x", f"00-{TRACE}-00f067aa0ba902b7", f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-{TRACE}-{'0' * 16}-01", f"{PARENT}-more",
        PARENT.upper(), f"{PARENT}\nx-evil: 1",
    ],
)  # fmt: skip
def test_a_traceparent_that_is_none_is_ignored(header: str) -> None:
    assert read_trace(header) is None


def test_later_versions_of_traceparent_are_read() -> None:
    later = read_trace(f"01-{TRACE}-00f067aa0ba902b7-01-something")
    assert later == TraceContext(TRACE, "00f067aa0ba902b7", "01")
    assert read_trace(f" {PARENT} ") == later


def test_records_do_not_outlive_their_request() -> None:
    app = create_app(FakeEngine(), ApiOptions())
    call(app, "POST", CHAT, json=chat([image_part()]))
    assert current_record().stages == []


@given(st.text(), st.text())
def test_no_value_breaks_a_line(one: str, other: str) -> None:
    line = text(
        {
            "request_id": "r",
            "method": "GET",
            "path": "/",
            "status": 200,
            "ms": 1,
            "a": one,
            "b": other,
        }
    )
    assert line.isprintable()
    assert line.splitlines() == [line]
    record = logging.LogRecord("server", logging.INFO, "", 0, "%s", (line,), None)
    record.fields = {"a": one, "b": other}
    found = JsonLines().format(record)
    assert "\n" not in found
    assert {"a": one, "b": other}.items() <= json.loads(found).items()


def test_json_lines_tell_exceptions_and_times() -> None:
    try:
        raise ValueError("bad\nthing")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("server.x", logging.ERROR, "", 0, "failed: %d", (3,), info)
    record.created, record.msecs = 0.25, 250
    line = json.loads(JsonLines().format(record))
    assert (line["time"], line["level"], line["logger"]) == (
        "1970-01-01T00:00:00.250Z", "error", "server.x",
    )  # fmt: skip
    assert line["message"] == "failed: 3"
    assert "ValueError: bad" in line["exception"]


def test_what_is_turned_away_at_the_door_says_why(caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(FakeEngine(), ApiOptions())
    call(app, "POST", CHAT, content=b"{}", headers={"content-length": str(2**40)})
    (line,) = logged(caplog)
    assert (line["status"], line["error"]) == (413, "request_too_large")


def test_a_prompt_counts_once_however_many_answers_it_gets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = create_app(FakeEngine(), ApiOptions())
    assert call(app, "POST", CHAT, json=chat([image_part()], n=2)).status_code == 200
    (line,) = logged(caplog)
    assert (line["pictures"], line["image_tokens"], line["prompt_tokens"]) == (1, 64, 74)
    assert (line["completion_tokens"], line["finish"]) == (6, "stop")


def test_a_prompt_that_does_not_fit_ends_in_an_error(caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(FakeEngine(error=ContextLengthExceeded("too long")), ApiOptions())
    call(app, "POST", CHAT, json=chat())
    (line,) = logged(caplog)
    assert (line["error"], line["finish"]) == ("context_length_exceeded", "error")


def test_the_key_s_name_is_told_and_never_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    app = create_app(FakeEngine(), ApiOptions(api_keys=("a-long-secret",)))
    header = {"authorization": "Bearer a-long-secret"}
    assert call(app, "POST", CHAT, json=chat(), headers=header).status_code == 200
    assert call(app, "POST", CHAT, json=chat()).status_code == 401
    known, unknown = logged(caplog)
    assert known["key"] == "api-key-1"
    assert (unknown["status"], unknown["error"]) == (401, "invalid_api_key")
    assert "key" not in unknown
    assert "a-long-secret" not in caplog.text
