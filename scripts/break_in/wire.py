"""Two requests that look like one, and what a client says put into headers and logs."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from urllib.parse import quote

from scripts.break_in.target import ALICE, Attempts, Target

_KEY = f"authorization: Bearer {ALICE}\r\n"
_BODY = b'{"content": "Hi"}'


def _head(*lines: str, line: str = "POST /tokenize HTTP/1.1", end: str = "\r\n") -> bytes:
    rows = [line, "host: x", _KEY.strip(), "content-type: application/json", *lines, "", ""]
    return end.join(rows).encode("latin-1")


def _inner(number: int) -> bytes:
    """The request that is hidden, by its path, with the key, so that it would be served."""
    head = f"GET /v1/models/smuggled-{number} HTTP/1.1\r\nhost: x\r\n{_KEY}\r\n"
    return head.encode()


_LENGTHS = (
    *("+{}", "-{}", "0x{:x}", " {} ", "{}, {}", "{}, 0", "0{}", "{}.0", "{}e0", "{};", '"{}"'),
    *("\t{}", "{}\x0b", "{}\x00", "\u00b2", "99999999999999999999", "{} {}", "{},", "0,{}"),
)
_CODINGS = (
    *("chunked", "Chunked", "identity", "identity, chunked", "chunked, identity", "xchunked"),
    *(
        "chunked, chunked",
        " chunked",
        "\tchunked",
        "chunked\x0b",
        '"chunked"',
        "chunked;q=1",
        "gzip",
    ),
    *("gzip, chunked", "x\r\n chunked", ",chunked", "chunked\x00", "chun\x00ked", "cow", ""),
)
_NAMES = (
    *("transfer-encoding", "Transfer-Encoding ", " transfer-encoding", "transfer_encoding"),
    *("transfer-encoding\x0b", "transfer\x00-encoding", "x\r\ntransfer-encoding"),
)
# Of chunks that end in one way only, whatever else stands in their line, the next request is one.
_CHUNKS = (
    *("0x{:x}\r\n", "+{:x}\r\n", "{:x}\n", "{:x}\r\r\n", " {:x}\r\n", "{:x};\n", "-{:x}\r\n"),
    *("00000000000000000000{:x}\r\n", "1000000000000000{:x}\r\n", "{:x}\x00\r\n", "{:x}_0\r\n"),
    *(
        "\r\n{:x}\r\n",
        "{:x},\r\n",
        "{:x}.0\r\n",
        "0{:x}g\r\n",
        "{:x}\x0b\r\n",
        "{:x}\r",
        "\u0661{:x}\r\n",
    ),
)


def _ambiguous() -> Iterator[tuple[bytes, bytes]]:
    """Heads with bodies whose end can be read in two ways. What follows the body as the other side
    reads it is the hidden request.
    """
    zero = b"0\r\n\r\n"
    for coding, name in itertools.product(_CODINGS, _NAMES):
        # A proxy that goes by the length passes on the hidden request as a body.
        yield _head("content-length: {}", f"{name}: {coding}"), zero
        yield _head(f"{name}: {coding}", "content-length: {}"), zero
    for length in _LENGTHS:
        yield _head(f"content-length: {length}"), _BODY
        yield _head(f"content-length: {length}", "content-length: {}"), _BODY
        yield _head("content-length: {}", f"content-length: {length}"), _BODY
    for size in _CHUNKS:
        chunk = size.format(len(_BODY)).encode() + _BODY + b"\r\n"
        yield _head("transfer-encoding: chunked"), chunk + zero
    for end in ("\n", "\r", "\r\r\n", "\n\r"):
        yield _head("content-length: {}", end=end), _BODY
    for line in (
        *("POST /tokenize HTTP/1.0", "POST /tokenize", "POST /tokenize HTTP/2.0", "GET / HTTP/0.9"),
        *("POST  /tokenize HTTP/1.1", "POST /tokenize\tHTTP/1.1", "POST /tokenize HTTP/1.1 x"),
        *(
            "PRI * HTTP/2.0",
            "POST /tokenize http/1.1",
            "POST /a b HTTP/1.1",
            "\r\n\r\nPOST / HTTP/1.1",
        ),
        *("GET /health HTTP/1.1", "HEAD /health HTTP/1.1", "OPTIONS * HTTP/1.1"),
    ):
        yield _head("transfer-encoding: chunked", "content-length: {}", line=line), zero
    for row in (
        "a",
        "a b: c",
        ": x",
        "a\x00: b",
        "a: b\x00",
        " a: b",
        "a: b\r\n c",
        "a: \x7f",
        "\xe9: x",
    ):
        yield _head(row, "content-length: {}"), _BODY
    for row in (
        "upgrade: h2c\r\nconnection: upgrade",
        "expect: 100-continue",
        "connection: x, close",
    ):
        yield _head(row, "content-length: {}"), _BODY
    for row in (
        "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: AAAA",
        "te: trailers",
    ):
        yield _head(row, "content-length: {}"), _BODY
    for trailer in ("content-length: 3", "transfer-encoding: chunked", "host: y", "GET / HTTP/1.1"):
        last = f"{len(_BODY):x}\r\n".encode() + _BODY + f"\r\n0\r\n{trailer}\r\n".encode()
        yield _head("transfer-encoding: chunked"), last


def smuggling(server: Target, attempts: Attempts) -> None:
    """That a server answers a request that was hidden in another's body is a success.

    It is hidden where a proxy that reads the first request by its length sees a body. A server that
    reads it otherwise must refuse, or close the connection behind its answer.
    """
    plain = _head(f"content-length: {len(_BODY)}") + _BODY
    answer = server.raw(plain + _inner(0), 5.0)
    both = answer.count(b"HTTP/1.1 ") == 2 and "smuggled-0 404" in server.live.log
    attempts.permitted(both, "two requests behind each other are two")
    number = 0
    for head, body in _ambiguous():
        number += 1
        if not attempts.due:
            continue
        inner = _inner(number)
        # The length covers the hidden request, as a proxy would pass it on.
        whole = head.replace(b"{}", str(len(body) + len(inner)).encode()) + body + inner
        answer = server.raw(whole, 0.3)
        served = f"GET /v1/models/smuggled-{number} 404" in server.live.log
        attempts.note(served, (whole[:400], answer[:400]))


_MARK = "injected-by-a-client"
_BREAKS = (
    *(
        "\r\n",
        "\n",
        "\r",
        "%0d%0a",
        "%0a",
        "\\r\\n",
        "\u2028",
        "\u0085",
        "\x0b",
        "\x0c",
        "\x1b[2K\r",
    ),
    *("\u560d\u560a", "\x00\r\n", "%E5%98%8A%E5%98%8D", "\ud800\r\n", "\x1b]0;title\x07", "\x9b2J"),
)
_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_HEADERS = (
    *("x-request-id", "traceparent", "tracestate", "user-agent", "origin", "referer", "host"),
    *("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "accept", "anthropic-version"),
    *("anthropic-beta", "openai-organization", "cookie", "forwarded", "if-none-match", "range"),
    *("access-control-request-headers", "content-type", "authorization", "x-api-key"),
)


def _said(breaks: str) -> Iterator[tuple[str, str, bytes, tuple[str, ...]]]:
    """Method, path, body and further header lines, each with the mark behind a line break."""
    said = f"a{breaks}x-injected: {_MARK}{breaks}{breaks}2026-01-01 00:00:00 ERROR {_MARK}"
    for path in (
        "/v1/models/{}",
        "/v1/files/{}",
        "/v1/responses/{}",
        "/{}",
        "/docs/{}",
        "/v1/files?a={}",
    ):
        yield "GET", path.format(quote(said.encode("utf-8", "surrogatepass"), safe="%")), b"", ()
    for name in _HEADERS:
        yield "GET", "/v1/models", b"", (f"{name}: {said}",)
        yield "OPTIONS", "/v1/models", b"", ("origin: http://a", f"{name}: {said}")
    message = [{"role": "user", "content": "Hi"}]
    chat = {"messages": message, "max_tokens": 1}
    for field in ("user", "model", "safety_identifier", "prompt_cache_key", "service_tier", said):
        body = json.dumps({**chat, field: said}).encode()
        yield "POST", "/v1/chat/completions", body, ()
    for bad in ({"role": said}, {"role": "user", "content": [{"type": said}]}):
        yield "POST", "/v1/chat/completions", json.dumps({"messages": [bad]}).encode(), ()
    schema = {
        "type": "object",
        "properties": {said: {"type": "string", "maxProperties": 1, said: 1}},
    }
    named = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    yield (
        "POST",
        "/v1/chat/completions",
        json.dumps({**chat, "response_format": named}).encode(),
        (),
    )
    for url in (f"http://{said}/", f"file:///{said}", f"data:{said},", said):
        yield "POST", "/v1/images/inspect", json.dumps({"url": url}).encode(), ()
    yield (
        "POST",
        "/v1/responses",
        json.dumps({"input": "Hi", "previous_response_id": said}).encode(),
        (),
    )
    yield (
        "POST",
        "/v1/responses",
        json.dumps({"input": "Hi", "metadata": {said: said}}).encode(),
        (),
    )


def injection(server: Target, attempts: Attempts) -> None:
    """A header of an answer, or a line of the log, that a client has made is a success."""
    server.raw(_head(line="GET /v1/models HTTP/1.1"), 5.0)
    attempts.permitted("GET /v1/models 200" in server.live.log, "a line of the log")
    seen = len(server.live.log)
    for breaks in _BREAKS:
        for method, path, body, lines in _said(breaks):
            if not attempts.due:
                continue
            _, answer = server.exchange(f"{method} {path} HTTP/1.1", (_KEY.strip(), *lines), body)
            log = server.live.log
            wrong = _in_head(answer) or _in_log(log[seen:])
            seen = len(log)
            attempts.note(wrong, (method, path, lines, body, answer[:600]))
    _uploads(server, attempts)


def _uploads(server: Target, attempts: Attempts) -> None:
    """Names of files come back in a header when the file is read."""
    for breaks in _BREAKS:
        name = f'a"{breaks}x-injected: {_MARK}{breaks}"; filename="b'.replace('"', "%22")
        part = (
            f'content-disposition: form-data; name="file"; filename="{name}"\r\n\r\nx\r\n--b--\r\n'
        )
        content = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nvision\r\n--b\r\n'
        content += part.encode("utf-8", "surrogatepass")
        if not attempts.due:
            continue
        with server.client(ALICE) as client:
            kind = {"content-type": "multipart/form-data; boundary=b"}
            answer = client.post("/v1/files", content=content, headers=kind)
            wrong = "x-injected" in answer.headers
            if answer.status_code == 200:
                back = client.get(f"/v1/files/{answer.json()['id']}/content")
                wrong = wrong or "x-injected" in back.headers
        attempts.note(wrong or _in_log(server.live.log), (breaks, answer.text))


def _in_head(answer: bytes) -> bool:
    head = answer.split(b"\r\n\r\n", 1)[0].lower()
    return any(row.startswith(b"x-injected") for row in re.split(rb"[\r\n]", head))


def _in_log(text: str) -> bool:
    """Whether a line is not one of ours, or would move a terminal's cursor."""
    lines = [line for line in text.split("\n") if line]
    return any(_CONTROLS.search(line) or not _LINE.match(line) for line in lines if _MARK in line)
